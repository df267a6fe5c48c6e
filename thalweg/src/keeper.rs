//! Work on the maps that must not hold up changes of services: expiry, fill levels, sockets whose backend is gone, and UDP
//! flows whose backend has left their service.
//! A thread of its own does it.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use thalweg_loader::{Maps, conntrack, sockets};
use thalweg_proxy::metrics::Metrics;

use crate::pressure::Alarm;

/// How often flows are expired.
const SWEEP: Duration = Duration::from_secs(5);
/// How often sockets are looked for at most: every namespace is entered for it.
const PAUSE: Duration = Duration::from_secs(1);

/// The thread's owner; it ends when this is dropped.
pub struct Keeper(Sender<News>);

enum News {
    /// Some backends are not any more who they were.
    Gone,
    /// Services, by number, have lost backends, by id, that others still have.
    Left(Vec<(u32, u32)>),
}

/// What is due when. Neither work keeps the other from its turn, however many backends go.
struct Turns {
    sweep: Instant,
    /// Not before.
    sockets: Instant,
    is_gone: bool,
    /// Whose flows are to end, at once.
    left: HashSet<(u32, u32)>,
    /// Whose sockets are to end, with those of backends that are gone.
    deserted: HashSet<(u32, u32)>,
}

// === impl Keeper ===

impl Keeper {
    /// `maps`: for the thread alone. `namespaces`: paths of pods' network namespaces, as far as they are known.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn start(maps: Maps, metrics: Metrics, namespaces: impl Fn() -> Vec<PathBuf> + Send + 'static) -> Result<Self> {
        let (sender, receiver) = mpsc::channel();
        // Namespaces of pods are entered from here, so it is no thread of the runtime.
        let work = move || keep(maps, &metrics, &receiver, &namespaces);
        thread::Builder::new().name("tw-keeper".into()).spawn(work).context("start a thread")?;
        Ok(Self(sender))
    }

    /// Backends have become free: whoever is connected to one waits in vain.
    pub fn backends_gone(&self) {
        // Fails when the thread has panicked, which has been logged.
        let _ = self.0.send(News::Gone);
    }

    /// Backends have left services and stay behind others: UDP flows between the two end, and UDP sockets. Numbers of
    /// services, ids of backends.
    pub fn backends_left(&self, pairs: Vec<(u32, u32)>) {
        // As above.
        let _ = self.0.send(News::Left(pairs));
    }
}

fn keep(mut maps: Maps, metrics: &Metrics, receiver: &Receiver<News>, namespaces: &dyn Fn() -> Vec<PathBuf>) {
    let mut alarm = Alarm::default();
    let mut turns = Turns::new(Instant::now());
    let (mut is_measured, mut is_blind) = (false, false);
    loop {
        match receiver.recv_timeout(turns.wait(Instant::now())) {
            Ok(news) => turns.take(news),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        // One look serves all that has been said until now.
        receiver.try_iter().for_each(|news| turns.take(news));
        forget_left(&mut maps, &mut turns.left);
        if turns.is_time_for_sockets(Instant::now()) {
            // A second try might meet sockets that have been given the backend again.
            let left = std::mem::take(&mut turns.deserted);
            end_sockets(&mut maps, &left, &namespaces(), &mut is_blind);
            // The first word comes when everything is written; later, each map is counted in its turn.
            if !is_measured {
                is_measured = maps.measure().map_err(|error| tracing::warn!("fill levels: {error}")).is_ok();
                metrics.maps(maps.pressure());
            }
        }
        if turns.is_time_for_sweep(Instant::now()) {
            sweep(&mut maps, metrics);
            metrics.maps(maps.pressure());
            let known = maps.pressure().into_iter();
            let full = known.filter_map(|map| Some((map.table, map.entries?.into(), map.capacity.into())));
            alarm.look(full).into_iter().for_each(crate::pressure::Turn::log);
        }
    }
}

fn sweep(maps: &mut Maps, metrics: &Metrics) {
    match conntrack::sweep(maps, conntrack::now()) {
        Ok(swept) => {
            if swept.expired + swept.strays > 0 {
                tracing::debug!(?swept, "flows expired");
            }
            metrics.swept(swept.kept, swept.expired);
        }
        Err(error) => tracing::warn!("expire flows: {error}"),
    }
}

/// Pairs stay until they are forgotten.
fn forget_left(maps: &mut Maps, left: &mut HashSet<(u32, u32)>) {
    match conntrack::forget(maps, left) {
        Ok(entries) => {
            if !left.is_empty() {
                tracing::debug!(pairs = left.len(), entries, "UDP flows of services that have lost their backend");
            }
            left.clear();
        }
        Err(error) => tracing::warn!("end UDP flows of services that have lost their backend: {error}"),
    }
}

/// A socket that is connected to a backend sends to it for ever, whatever becomes of the service: only its end makes the
/// program connect again.
fn end_sockets(maps: &mut Maps, left: &HashSet<(u32, u32)>, namespaces: &[PathBuf], is_blind: &mut bool) {
    match sockets::destroy(maps, left, namespaces) {
        Ok(ended) => {
            tracing::debug!(?ended, "sockets of backends that are gone");
            if ended.unseen > 0 && !std::mem::replace(is_blind, true) {
                tracing::warn!(
                    unseen = ended.unseen,
                    "some network namespaces cannot be looked at, so sockets in them stay connected to backends that are gone: \
                     run with the host's processes (hostPID), CAP_SYS_ADMIN and CAP_SYS_PTRACE"
                );
            }
        }
        Err(error) => tracing::warn!("end the sockets of backends that are gone: {error}"),
    }
}

// === impl Turns ===

impl Turns {
    fn new(now: Instant) -> Self {
        let (left, deserted) = Default::default();
        Self { sweep: now + SWEEP, sockets: now, is_gone: false, left, deserted }
    }

    fn take(&mut self, news: News) {
        match news {
            News::Gone => self.is_gone = true,
            News::Left(pairs) => {
                self.left.extend(&pairs);
                self.deserted.extend(pairs);
            }
        }
    }

    /// How long there is nothing to do but to listen.
    fn wait(&self, now: Instant) -> Duration {
        let next = if self.has_sockets_to_end() { self.sweep.min(self.sockets) } else { self.sweep };
        next.saturating_duration_since(now)
    }

    fn has_sockets_to_end(&self) -> bool {
        self.is_gone || !self.deserted.is_empty()
    }

    fn is_time_for_sockets(&mut self, now: Instant) -> bool {
        let is_time = self.has_sockets_to_end() && self.sockets <= now;
        if is_time {
            self.sockets = now + PAUSE;
            self.is_gone = false;
        }
        is_time
    }

    fn is_time_for_sweep(&mut self, now: Instant) -> bool {
        let is_time = self.sweep <= now;
        if is_time {
            self.sweep = now + SWEEP;
        }
        is_time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_that_go_all_the_time_keep_nobody_from_the_sweep() {
        let start = Instant::now();
        let mut turns = Turns::new(start);
        let (mut sweeps, mut looks) = (0, 0);
        for tenth in 0..=300 {
            let now = start + Duration::from_millis(tenth * 100);
            turns.is_gone = true;
            assert!(turns.wait(now) <= PAUSE);
            looks += u32::from(turns.is_time_for_sockets(now));
            sweeps += u32::from(turns.is_time_for_sweep(now));
        }
        assert_eq!((sweeps, looks), (6, 31), "in 30 s");
    }

    #[test]
    fn who_is_gone_is_looked_for_at_once_and_later_not_forgotten() {
        let start = Instant::now();
        let mut turns = Turns::new(start);
        assert!(!turns.is_time_for_sockets(start), "nobody is gone");
        assert_eq!(turns.wait(start), SWEEP);
        turns.is_gone = true;
        assert!(turns.wait(start).is_zero() && turns.is_time_for_sockets(start));
        turns.is_gone = true;
        assert!(!turns.is_time_for_sockets(start) && turns.wait(start) == PAUSE);
        assert!(turns.is_time_for_sockets(start + PAUSE) && !turns.is_time_for_sockets(start + PAUSE));
    }

    #[test]
    fn what_is_said_in_several_words_is_done_in_one_look() {
        let start = Instant::now();
        let mut turns = Turns::new(start);
        turns.take(News::Left(vec![(1, 2), (3, 4)]));
        turns.take(News::Left(vec![(1, 2), (5, 6)]));
        let all = HashSet::from([(1, 2), (3, 4), (5, 6)]);
        assert_eq!((&turns.left, &turns.deserted), (&all, &all));
        assert!(turns.wait(start).is_zero() && turns.is_time_for_sockets(start), "sockets are looked for");
        turns.deserted.clear();
        assert!(!turns.is_time_for_sockets(start + PAUSE), "and only once");
        turns.take(News::Gone);
        assert!(turns.is_time_for_sockets(start + PAUSE));
        assert_eq!(turns.left, all, "flows have been forgotten when they have been");
    }
}
