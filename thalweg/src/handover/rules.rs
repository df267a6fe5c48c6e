//! What is left of iptables mode once eBPF serves: the rules go at once, but for one that no packet meets. With it the
//! kernel goes on translating the node's own connections that the rules began; it goes when there are none any more, or
//! when the time is over. `thalweg_proxy::iptables::drain_installed` says why.

use std::collections::HashSet;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use thalweg_cluster::Family;
use thalweg_loader::Maps;
use thalweg_proxy::iptables::{self, Executor, Flow, Programs, Variant, translated_flows};

use super::{is_frontend, own_addresses};

/// How often the kernel's table is looked at.
const LOOK: Duration = Duration::from_secs(5);

/// Removes the rules, on a thread of its own: programs are run, and connections are waited for. To be called whenever eBPF
/// begins to serve: an earlier proxy may have been killed in the middle. `maps`: to know the connections of services.
pub fn drain_rules(maps: Maps, timeout: Duration) {
    let work = move || {
        let deadline = Instant::now() + timeout;
        let attempt = |what: &'static str, work: fn() -> Result<bool, iptables::Error>| attempt(what, deadline, LOOK, work);
        match attempt("remove the rules that iptables mode has left", iptables::drain_installed) {
            Some(true) => tracing::info!("removed the rules that iptables mode had left; the kernel goes on with their flows"),
            // An earlier proxy may have come as far as this.
            Some(false) if !is_something_left() => return,
            Some(false) | None => {}
        }
        wait(deadline, LOOK, || has_flows(&maps));
        if attempt("remove the last rule of iptables mode", iptables::cleanup_installed) == Some(true) {
            tracing::info!("iptables mode is drained and removed");
        }
    };
    if let Err(error) = thread::Builder::new().name("tw-rules".into()).spawn(work) {
        tracing::warn!("rules that iptables mode has left stay (`thalweg cleanup` removes them): no thread: {error}");
    }
}

/// Tries until it succeeds or the time is over; `None` then.
fn attempt(what: &str, deadline: Instant, pause: Duration, work: impl Fn() -> Result<bool, iptables::Error>) -> Option<bool> {
    let mut is_said = false;
    loop {
        match work() {
            Ok(found) => return Some(found),
            Err(error) if Instant::now() >= deadline => {
                tracing::warn!("{what}: {error}; `thalweg cleanup` does it when that is mended");
                return None;
            }
            Err(error) => {
                if !is_said {
                    tracing::warn!("{what}: {error}; trying again");
                    is_said = true;
                }
                thread::sleep(pause);
            }
        }
    }
}

fn wait(deadline: Instant, pause: Duration, is_needed: impl Fn() -> bool) {
    while is_needed() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            tracing::warn!("the time to drain is over: connections of this node that iptables mode began may break");
            return;
        }
        thread::sleep(pause.min(left));
    }
}

/// Whether there is a chain of ours, such as the one that stays.
fn is_something_left() -> bool {
    let has_ours = |listing: String| listing.lines().any(|line| line.starts_with(":TW-"));
    let is_left = |variant, family| Programs::new(variant).save(family).is_ok_and(has_ours);
    [Variant::Nft, Variant::Legacy]
        .into_iter()
        .any(|variant| [Family::V4, Family::V6].into_iter().any(|family| is_left(variant, family)))
}

/// Whether the kernel translates connections of the node's own to services. Those of others have been taken over; what the
/// kernel remembers of them nobody needs.
fn has_flows(maps: &Maps) -> bool {
    let own = own_addresses();
    match translated_flows(&|protocol, dialled| is_frontend(maps, protocol, dialled)) {
        Ok(flows) => flows.iter().any(|flow| is_own(flow, &own)),
        // Who cannot know waits.
        Err(error) => {
            tracing::debug!("flows of iptables mode: {error}");
            true
        }
    }
}

fn is_own(flow: &Flow, own: &HashSet<IpAddr>) -> bool {
    own.contains(&flow.original.0.ip())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use thalweg_abi::Proto;

    use super::*;

    #[test]
    fn only_the_nodes_own_connections_are_waited_for() {
        let own = HashSet::from([IpAddr::from([172, 30, 0, 11])]);
        let check = |client: &str, expected: bool| {
            let at = |text: &str| text.parse().expect(text);
            let reply = (at("10.244.0.5:8080"), at("172.30.0.11:40000"));
            let flow = Flow { protocol: Proto::TCP, original: (at(client), at("10.96.0.7:80")), reply };
            assert_eq!(is_own(&flow, &own), expected, "{client}");
        };
        check("172.30.0.11:40000", true);
        check("10.244.0.9:40000", false);
    }

    #[test]
    fn what_fails_is_tried_again_until_the_time_is_over() {
        let tries = Cell::new(0);
        let fails = |times: u32| {
            let tries = &tries;
            move || {
                tries.set(tries.get() + 1);
                let fault = || iptables::Error::Options { fault: "a test".to_owned() };
                if tries.get() > times { Ok(true) } else { Err(fault()) }
            }
        };
        let soon = Duration::from_millis(1);
        assert_eq!(attempt("x", Instant::now() + Duration::from_secs(60), soon, fails(2)), Some(true));
        assert_eq!(tries.replace(0), 3);
        assert_eq!(attempt("x", Instant::now(), soon, fails(2)), None);
        assert_eq!(tries.get(), 1);
    }

    #[test]
    fn waiting_ends_with_the_need_or_with_the_time() {
        let asked = Cell::new(0);
        let needed = |times: u32| {
            let asked = &asked;
            move || asked.replace(asked.get() + 1) < times
        };
        wait(Instant::now() + Duration::from_secs(60), Duration::from_millis(1), needed(3));
        assert_eq!(asked.replace(0), 4);
        wait(Instant::now(), Duration::from_secs(60), needed(3));
        assert_eq!(asked.get(), 1);
    }
}
