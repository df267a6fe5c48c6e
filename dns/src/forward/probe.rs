//! Loops: a server whose upstreams lead back to it asks itself until its clients give up.
//!
//! At the start each upstream is asked for a name that nobody else knows. When that question arrives here, the upstream
//! that it was sent to leads back, and is not asked any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::exchange::{Manner, exchange};
use super::question::Question;
use super::{Forwarder, Group};
use crate::name;
use crate::plan::Plan;
use crate::query::Query;

/// Host information: hardly anybody asks for it.
const HINFO: u16 = 13;
/// Times that each upstream is asked: packets get lost.
const TIMES: usize = 3;
const PATIENCE: Duration = Duration::from_secs(2);

/// Hexadecimal digits of the secret in the first label.
const SECRET: usize = 16;

pub struct Probe {
    /// Of this process, at random.
    secret: u64,
    found: AtomicU64,
}

// === impl Probe ===

impl Default for Probe {
    fn default() -> Self {
        Self { secret: rand::random(), found: AtomicU64::new(0) }
    }
}

impl Probe {
    /// `<secret>.<group>-<upstream>.<zone>`, or less when the zone leaves no room.
    fn name(&self, group: usize, upstream: usize, zone: &[u8]) -> Option<name::WireName> {
        let below = name::child(&format!("{group}-{upstream}"), zone)?;
        name::child(&format!("{:0SECRET$x}", self.secret), &below)
    }

    /// Whether the query is one that we sent; then its upstream is not asked again.
    pub fn is_ours(&self, query: &Query<'_>, plan: &Plan) -> bool {
        if query.rtype != HINFO {
            return false;
        }
        let wire = query.name.wire();
        let label = std::str::from_utf8(name::first_label(wire)).ok();
        let secret = label.filter(|label| label.len() == SECRET).and_then(|label| u64::from_str_radix(label, 16).ok());
        if secret != Some(self.secret) {
            return false;
        }
        let place = name::parent(wire).map(name::first_label).and_then(|label| std::str::from_utf8(label).ok());
        let place = place.and_then(|label| label.split_once('-'));
        let place = place.and_then(|(group, upstream)| Some((group.parse::<usize>().ok()?, upstream.parse::<usize>().ok()?)));
        let upstream = place.and_then(|(group, upstream)| plan.groups().nth(group)?.upstreams.get(upstream));
        if let Some(upstream) = upstream.filter(|upstream| !upstream.loops()) {
            upstream.set_loops();
            self.found.fetch_add(1, Ordering::Relaxed);
            tracing::error!(
                upstream = %upstream.address,
                "what this name server is asked comes back here; it is not asked any more: name another one in the forward line"
            );
        }
        true
    }
}

/// Asks each upstream of the blocks that look for loops, in the background.
pub fn send(forwarder: &Arc<Forwarder>) {
    let groups: Vec<(usize, Arc<Group>)> = forwarder.plan.groups().cloned().enumerate().collect();
    for (number, group) in groups {
        if !forwarder.plan.detects_loops(&group) {
            continue;
        }
        for (index, upstream) in group.upstreams.iter().enumerate() {
            let Some(name) = forwarder.probe.name(number, index, &group.options.from) else { continue };
            let (upstream, tcp) = (upstream.clone(), group.options.force_tcp);
            forwarder.runtime.spawn(async move {
                let question = Question::plain(&name, HINFO);
                for _ in 0..TIMES {
                    let manner = Manner { tcp, recursion_desired: true, patience: PATIENCE };
                    // Only whether it arrives here matters. An answer: it does not, or has been seen.
                    if exchange(upstream.address, &question, manner).await.result.is_ok() {
                        return;
                    }
                }
            });
        }
    }
}
