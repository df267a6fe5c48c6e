//! Names that are not ours go to the upstreams, off the path of those that are.
//!
//! A worker looks into the cache itself; what is not there it hands over and goes on. Equal questions that are under way
//! at once are asked once. A bounded number of clients waits, each with a place from before it is handed over: beyond it,
//! whoever waits longest is told SERVFAIL, since that client is the first to have given up. Whoever comes when too many are
//! still to be told so is told SERVFAIL at once.
//!
//! - [`question`], [`reply`], [`ask`]: pure. What is asked, what comes back, and whether to believe it.
//! - [`exchange`], [`upstream`], [`group`]: one question to one server; what is known of the server; which one is asked.
//! - [`probe`]: finds out whether upstreams lead back here. [`resolv_conf`]: where upstreams may be listed.

mod ask;
mod exchange;
mod flights;
mod group;
mod probe;
mod question;
mod reply;
pub mod resolv_conf;
mod upstream;
mod waiting;

use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, ResponseCode};
use tokio::runtime::Handle;

use crate::answer::last_target;
use crate::cache::{Cache, Hit, State};
use crate::plan::{Block, Plan};
use crate::query::{MAX_UDP, Query, Rcode, Transport};
pub use ask::decode_name;
use flights::{Answer, Flights};
pub use group::{Group, GroupReport};
pub use question::Question;
pub use reply::{Kind, Reply};
pub use upstream::UpstreamReport;
pub use waiting::{Place, Waiting};

/// How long a client waits for the upstreams when there is a stale answer (RFC 8767 section 5).
const STALE_PATIENCE: Duration = Duration::from_millis(1800);

pub struct Forwarder {
    plan: Plan,
    flights: Flights,
    probe: probe::Probe,
    runtime: Handle,
    /// Times of the cache count from here.
    started: Instant,
}

/// A query that waits for its answer from upstream.
pub struct Pending {
    pub packet: Vec<u8>,
    /// A reply that holds an alias, to be completed with its target.
    pub partial: Option<Vec<u8>>,
    pub transport: Transport,
}

/// An answer with the TTL to write into it.
struct Answered {
    reply: Arc<Reply>,
    ttl: Option<u32>,
}

// === impl Forwarder ===

impl Forwarder {
    /// Begins to look for loops, where that is asked for; sends nothing else yet. Caches that an earlier plan began go on
    /// in `plan` if they are there; their times count from `started`.
    pub fn new(plan: Plan, runtime: Handle, started: Instant) -> Arc<Self> {
        let forwarder = Arc::new(Self { plan, flights: Flights::default(), probe: probe::Probe::default(), runtime, started });
        probe::send(&forwarder);
        forwarder
    }

    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Writes the answer if nobody needs to be asked for it; false: it must be submitted.
    pub fn answer_at_once(self: &Arc<Self>, query: &Query<'_>, out: &mut Vec<u8>) -> bool {
        if self.probe.is_ours(query, &self.plan) {
            return false;
        }
        let question = Question::of(query);
        let Some(cache) = self.plan.block(question.name()).and_then(|block| block.cache.as_ref()) else { return false };
        let Some(hit) = cache.get(&question, self.now()) else { return false };
        match hit.state {
            State::Fresh | State::StaleForNow => {}
            State::Stale { verify: true } => return false,
            State::Ending | State::Stale { verify: false } => self.refresh(question),
        }
        cache.hit(&hit);
        hit.reply.write(query, hit.ttl, self.most(query.transport), out);
        true
    }

    /// Looks up in the background and calls `reply` with the query and the whole answer.
    pub fn submit(self: &Arc<Self>, pending: Pending, place: Place, reply: impl FnOnce(&[u8], &[u8]) + Send + 'static) {
        let forwarder = self.clone();
        self.runtime.spawn(async move {
            if let Some(bytes) = forwarder.complete(&pending, place).await {
                reply(&pending.packet, &bytes);
            }
        });
    }

    /// The answer to a query; `None` when the packet is none.
    pub async fn complete(self: &Arc<Self>, pending: &Pending, place: Place) -> Option<Vec<u8>> {
        let query = Query::parse(&pending.packet, pending.transport).ok()?.bounded(self.plan.bufsize);
        let mut question = Question::of(&query);
        if self.probe.is_ours(&query, &self.plan) {
            let mut out = Vec::new();
            Reply::bare(Rcode::Refused as u8, &question).write(&query, None, MAX_UDP, &mut out);
            return Some(out);
        }
        if let Some(target) = pending.partial.as_deref().and_then(|partial| last_target(partial, &query)) {
            question = question.about(&target);
        }
        let answered = place.until_shed(self.look_up(&question)).await;
        let answered = answered.unwrap_or_else(|| Answered::failure(Rcode::ServFail, &question));
        match &pending.partial {
            Some(partial) => completed(partial, &query, &answered),
            None => {
                let mut out = Vec::with_capacity(MAX_UDP);
                answered.reply.write(&query, answered.ttl, self.most(pending.transport), &mut out);
                Some(out)
            }
        }
    }

    fn most(&self, transport: Transport) -> usize {
        if transport == Transport::Udp { self.plan.bufsize } else { usize::from(u16::MAX) }
    }

    async fn look_up(self: &Arc<Self>, question: &Question) -> Answered {
        let Some(block) = self.plan.block(question.name()) else { return Answered::failure(Rcode::Refused, question) };
        let Some(cache) = &block.cache else { return Answered::new(self.fetch(question, block).get().await) };
        let Some(hit) = cache.get(question, self.now()) else {
            cache.miss();
            return Answered::kept(self.fetch(question, block).get().await, question, cache);
        };
        match hit.state {
            State::Fresh | State::StaleForNow => {}
            State::Ending | State::Stale { verify: false } => self.refresh(*question),
            State::Stale { verify: true } => {
                // The question goes on without this client, so that the answer is there for the next.
                if let Ok(reply) = tokio::time::timeout(STALE_PATIENCE, self.fetch(question, block).get()).await
                    && reply.kind() != Kind::Failure
                {
                    cache.miss();
                    return Answered::kept(reply, question, cache);
                }
            }
        }
        cache.hit(&hit);
        hit.into()
    }

    /// Asks the upstreams, or waits for the answer to the same question that is under way, and keeps the answer.
    fn fetch(self: &Arc<Self>, question: &Question, block: &Block) -> Answer {
        let answer = self.flights.join(question);
        let Some(group) = block.group(question.name()) else {
            // Nobody is to be asked about this name.
            self.flights.land(question, &Arc::new(Reply::bare(Rcode::Refused as u8, question)));
            return answer;
        };
        if answer.is_first() {
            let (forwarder, group, cache, question) = (self.clone(), group.clone(), block.cache.clone(), *question);
            self.runtime.spawn(async move {
                // Lands in any case, also when asking panics: others wait.
                let landing = forwarder.flights.landing(&question);
                let asked = group.ask(&question).await.map(Arc::<Reply>::from);
                if let Some(cache) = cache {
                    forwarder.remember(&cache, &question, &asked);
                }
                landing.with(&asked.unwrap_or_else(|rcode| Arc::new(Reply::bare(rcode as u8, &question))));
            });
        }
        answer
    }

    /// Keeps what an upstream said. That none said anything is true of this moment only; what is stale then stays good for
    /// a while, unless none was asked at all.
    fn remember(&self, cache: &Cache, question: &Question, asked: &Result<Arc<Reply>, Rcode>) {
        let failed = match asked {
            Ok(reply) => reply.kind() == Kind::Failure,
            Err(rcode) => *rcode == Rcode::ServFail,
        };
        if failed {
            cache.failed(question, self.now());
        }
        if let Ok(reply) = asked {
            cache.put(question, reply, self.now());
        }
    }

    /// Asks again, for whoever comes next.
    fn refresh(self: &Arc<Self>, question: Question) {
        if let Some(block) = self.plan.block(question.name()) {
            // Dropping the answer does not end the question.
            drop(self.fetch(&question, block));
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }
}

// === impl Answered ===

impl Answered {
    fn new(reply: Arc<Reply>) -> Self {
        Self { reply, ttl: None }
    }

    /// As the cache has it now.
    fn kept(reply: Arc<Reply>, question: &Question, cache: &Cache) -> Self {
        Self { ttl: cache.ttl(question, &reply), reply }
    }

    fn failure(rcode: Rcode, question: &Question) -> Self {
        Self::new(Arc::new(Reply::bare(rcode as u8, question)))
    }
}

impl From<Hit> for Answered {
    fn from(hit: Hit) -> Self {
        Self { reply: hit.reply, ttl: hit.ttl }
    }
}

/// A reply that holds an alias, with what the upstreams say of its target.
fn completed(partial: &[u8], query: &Query<'_>, answered: &Answered) -> Option<Vec<u8>> {
    let mut message = Message::from_vec(partial).ok()?;
    message.metadata.recursion_available = true;
    message.metadata.authoritative = false;
    let with_ttl = |mut record: hickory_proto::rr::Record| {
        record.ttl = answered.ttl.unwrap_or(record.ttl);
        record
    };
    match answered.reply.kind() {
        Kind::Success => {
            message.add_answers(answered.reply.answers().into_iter().map(with_ttl));
        }
        Kind::NoData | Kind::NxDomain => {
            message.metadata.response_code = ResponseCode::from_low(answered.reply.rcode());
            message.add_answers(answered.reply.answers().into_iter().map(with_ttl));
            message.add_authorities(answered.reply.authorities().into_iter().map(with_ttl));
        }
        // The alias alone is still an answer.
        Kind::Failure => {}
    }
    if let Some(edns) = query.edns {
        let mut ours = Edns::new();
        ours.set_max_payload(query.max_udp as u16).set_dnssec_ok(edns.dnssec_ok);
        message.set_edns(ours);
    }
    let bytes = message.to_vec().ok()?;
    if bytes.len() <= query.limit() { Some(bytes) } else { message.truncate().to_vec().ok() }
}

#[cfg(test)]
mod script;
#[cfg(test)]
mod tests;
