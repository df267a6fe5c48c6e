//! The upstreams of one `forward` line: in which order they are asked, what becomes of those that fail.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use super::exchange::{Failure, Manner, exchange};
use super::question::Question;
use super::reply::Reply;
use super::upstream::{Upstream, UpstreamReport};
use crate::corefile::{Forward, Policy};
use crate::name;
use crate::query::{Rcode, rtype};

/// What one attempt gets, and what the whole question gets: clients give up after five seconds.
pub const ATTEMPT: Duration = Duration::from_secs(2);
pub const WHOLE: Duration = Duration::from_millis(4500);
const CHECK: Duration = Duration::from_secs(1);
/// Attempts for one question when nothing else is said.
const ATTEMPTS: usize = 6;
/// Questions under way at once when nothing else is said.
const CONCURRENT: usize = 4096;

pub struct Group {
    pub options: Forward,
    pub upstreams: Vec<Arc<Upstream>>,
    turn: AtomicUsize,
    permits: Semaphore,
    pub counters: Counters,
}

/// Since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// All upstreams were down, and one was asked all the same.
    pub broken: AtomicU64,
    /// Questions beyond those that may be under way.
    pub rejected: AtomicU64,
    /// A second upstream was asked since the first took long.
    pub hedges: AtomicU64,
    /// An upstream was not asked since this machine had no socket for it.
    pub unsent: AtomicU64,
}

/// What a group and its upstreams did since it was made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupReport {
    /// The zone that is forwarded.
    pub from: String,
    pub broken: u64,
    pub rejected: u64,
    pub hedges: u64,
    /// Questions that were not sent to an upstream since this machine had no descriptor or port left for them.
    pub unsent: u64,
    pub upstreams: Vec<UpstreamReport>,
}

// === impl Group ===

impl Group {
    pub fn new(options: Forward, upstreams: impl IntoIterator<Item = SocketAddr>) -> Self {
        let concurrent = match options.max_concurrent {
            0 => CONCURRENT,
            most => (most as usize).min(Semaphore::MAX_PERMITS),
        };
        Self {
            options,
            upstreams: upstreams.into_iter().map(|address| Arc::new(Upstream::new(address))).collect(),
            turn: AtomicUsize::new(rand::random_range(0..1 << 16)),
            permits: Semaphore::new(concurrent),
            counters: Counters::default(),
        }
    }

    pub fn report(&self) -> GroupReport {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        GroupReport {
            from: name::display(&self.options.from),
            broken: read(&self.counters.broken),
            rejected: read(&self.counters.rejected),
            hedges: read(&self.counters.hedges),
            unsent: read(&self.counters.unsent),
            upstreams: self.upstreams.iter().map(|upstream| upstream.report(self.options.max_fails)).collect(),
        }
    }

    /// Whether this line is for a name.
    pub fn takes(&self, name: &[u8]) -> bool {
        name::is_within(name, &self.options.from) && !self.options.except.iter().any(|zone| name::is_within(name, zone))
    }

    /// What an upstream says, within [`WHOLE`].
    ///
    /// # Errors
    /// What the client is told when none says anything, which is nothing that may be remembered: REFUSED when too much is
    /// under way, SERVFAIL when nobody answers.
    pub async fn ask(self: &Arc<Self>, question: &Question) -> Result<Box<Reply>, Rcode> {
        let Ok(_permit) = self.permits.try_acquire() else {
            self.counters.rejected.fetch_add(1, Ordering::Relaxed);
            return Err(Rcode::Refused);
        };
        let mut waiting = self.attempts().into_iter();
        let mut running = FuturesUnordered::new();
        let mut last = None;
        let deadline = Instant::now() + WHOLE;
        let mut hedge = Instant::now();
        let mut started = 0;
        loop {
            // The next one begins when none is running, or the one that is takes longer than it should.
            if (running.is_empty() || Instant::now() >= hedge)
                && let Some(upstream) = waiting.next()
            {
                self.counters.hedges.fetch_add(u64::from(!running.is_empty()), Ordering::Relaxed);
                started += 1;
                hedge = Instant::now() + upstream.hedge() * started;
                running.push(self.attempt(upstream, question));
            }
            let more = waiting.len() > 0;
            tokio::select! {
                finished = running.next() => match finished {
                    None => return last.ok_or(Rcode::ServFail),
                    Some(Ok(Some(reply))) if !self.options.failover.contains(&reply.rcode()) => return Ok(reply),
                    Some(reply) => {
                        last = reply.ok().flatten().or(last);
                        // Nobody is waited for while another can be asked.
                        hedge = Instant::now();
                    }
                },
                () = sleep_until(hedge), if more => {}
                () = sleep_until(deadline) => return last.ok_or(Rcode::ServFail),
            }
        }
    }

    /// Whom to ask, one after another.
    fn attempts(&self) -> Vec<Arc<Upstream>> {
        let up: Vec<bool> = self.upstreams.iter().map(|upstream| upstream.is_up(self.options.max_fails)).collect();
        let most = match self.options.max_attempts {
            0 => ATTEMPTS,
            most => most as usize,
        };
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut order = order(self.options.policy, &up, turn, &mut |below| rand::random_range(0..below));
        if order.is_empty() && !self.options.failfast {
            // Whatever the checks say: one of them may answer. Those that lead back here never do.
            self.counters.broken.fetch_add(1, Ordering::Relaxed);
            let up: Vec<bool> = self.upstreams.iter().map(|upstream| !upstream.loops()).collect();
            order = super::group::order(Policy::Random, &up, turn, &mut |below| rand::random_range(0..below));
        }
        // Each is asked twice before the question is given up: a packet may be lost.
        let twice = order.len() * 2;
        order.into_iter().cycle().take(twice.min(most)).map(|index| self.upstreams[index].clone()).collect()
    }

    /// `None` when there was no answer. It goes on when nobody waits any more, so that an upstream that does not answer is
    /// noticed also when another one was faster.
    fn attempt(self: &Arc<Self>, upstream: Arc<Upstream>, question: &Question) -> JoinHandle<Option<Box<Reply>>> {
        let manner = Manner { tcp: self.options.force_tcp, recursion_desired: true, patience: ATTEMPT };
        let (group, question) = (self.clone(), *question);
        tokio::spawn(async move {
            let before = Instant::now();
            let exchange = exchange(upstream.address, &question, manner).await;
            if upstream.record(&exchange, before.elapsed()) {
                group.check(&upstream);
            }
            if let Err(Failure::Local(error)) = &exchange.result
                && group.counters.unsent.fetch_add(1, Ordering::Relaxed) == 0
            {
                tracing::warn!(%error, "upstreams cannot be asked: raise the limit of open files, if that is what it says");
            }
            exchange
                .result
                .inspect_err(|error| tracing::debug!(upstream = %upstream.address, ?question, %error, "upstream"))
                .ok()
        })
    }

    /// Begins to check an upstream, until it answers or the group is gone.
    fn check(self: &Arc<Self>, upstream: &Arc<Upstream>) {
        if self.options.max_fails == 0 || !upstream.begin_checks() {
            return;
        }
        tokio::spawn(check(Arc::downgrade(self), upstream.clone(), self.options.health_check.interval));
    }
}

async fn check(group: Weak<Group>, upstream: Arc<Upstream>, interval: Duration) {
    loop {
        // At once the first time: the failure may have been a single lost packet.
        let Some(group) = group.upgrade() else { return };
        let options = &group.options;
        let question = Question::plain(&options.health_check.domain, rtype::NS);
        let recursion_desired = options.health_check.recursion_desired;
        let manner = Manner { tcp: options.force_tcp, recursion_desired, patience: CHECK };
        let answer = exchange(upstream.address, &question, manner).await;
        let was_up = upstream.is_up(options.max_fails);
        if upstream.checked(&answer) {
            upstream.end_checks();
            return;
        }
        if was_up && !upstream.is_up(options.max_fails) {
            tracing::warn!(upstream = %upstream.address, "this name server does not answer; others are asked until it does");
        }
        drop(group);
        sleep(interval).await;
    }
}

/// The upstreams that are up, in the order of the policy. `below(n)` draws a number from 0 to n - 1.
fn order(policy: Policy, up: &[bool], turn: usize, below: &mut dyn FnMut(usize) -> usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..up.len()).filter(|&index| up[index]).collect();
    match policy {
        Policy::Sequential => {}
        Policy::RoundRobin => {
            let length = order.len().max(1);
            order.rotate_left(turn % length);
        }
        Policy::Random => (1..order.len()).rev().for_each(|index| order.swap(index, below(index + 1))),
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies() {
        let order = |policy, up: &[bool], turn| order(policy, up, turn, &mut |_| 0);
        let (all, some) = ([true, true, true], [true, false, true]);
        assert_eq!(order(Policy::Sequential, &all, 7), [0, 1, 2]);
        assert_eq!(order(Policy::Sequential, &some, 7), [0, 2]);
        assert_eq!(order(Policy::RoundRobin, &all, 0), [0, 1, 2]);
        assert_eq!(order(Policy::RoundRobin, &all, 4), [1, 2, 0]);
        assert_eq!(order(Policy::RoundRobin, &some, 1), [2, 0]);
        assert_eq!(order(Policy::Random, &all, 0), [1, 2, 0]);
        assert!(order(Policy::RoundRobin, &[false; 3], 1).is_empty() && order(Policy::Random, &[], 1).is_empty());
    }

    #[test]
    fn a_random_order_puts_each_upstream_first_now_and_then() {
        let mut first = [0; 4];
        for _ in 0..400 {
            first[super::order(Policy::Random, &[true; 4], 0, &mut |below| rand::random_range(0..below))[0]] += 1;
        }
        assert!(first.iter().all(|&times| times > 20), "{first:?}");
    }

    #[test]
    fn names_and_exceptions() {
        let zone = |text: &str| name::encode(text).expect("a name");
        let mut options = Forward::new(1, zone("example.org"), Vec::new());
        options.except.push(zone("a.example.org"));
        let group = Group::new(options, []);
        for (name, takes) in [("example.org", true), ("b.example.org", true), ("x.a.example.org", false), ("org", false)] {
            assert_eq!(group.takes(&zone(name)), takes, "{name}");
        }
    }
}
