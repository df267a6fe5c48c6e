//! Random endpoints, planned here and by the rules written down a second time, as plainly as they can be said.

use std::collections::BTreeSet;

use proptest::prelude::*;
use thalweg_cluster::{Change, Dirty};

use super::super::*;
use super::words::{name, service, slice, view};

/// One endpoint as the rules see it.
#[derive(Clone, Debug)]
struct Seen {
    address: SocketAddr,
    /// In the language of the tables.
    word: String,
    ready: bool,
    serving: bool,
    terminating: bool,
    local: bool,
    node_hint: Option<u8>,
    zone_hint: Option<u8>,
}

/// What is random about an endpoint: its node, its state as a suffix, hints for a node and for a zone.
type Random = (u8, &'static str, Option<u8>, Option<u8>);

/// Sets for new flows, and whether there is anybody anywhere.
#[derive(PartialEq, Eq, Debug)]
struct Answers {
    cluster: BTreeSet<SocketAddr>,
    local: BTreeSet<SocketAddr>,
    anybody: bool,
}

/// On nodes n1 (this one) to n3, in zones z1 (ours) to z3.
fn endpoints() -> impl Strategy<Value = Vec<Seen>> {
    let hint = || prop_oneof![1 => Just(None), 3 => (1..=3_u8).prop_map(Some)];
    let one = (1..=3_u8, prop::sample::select(vec!["", "", "!", "~", "x", "+"]), hint(), hint());
    // All hinted, all with hints of one sort, or any: otherwise hints would hardly ever count.
    (prop::collection::vec(one, 0..7), any::<[bool; 2]>()).prop_map(|(all, [nodes, zones])| {
        let seen = |(index, (node, state, node_hint, zone_hint)): (usize, Random)| {
            let (node_hint, zone_hint) = (node_hint.filter(|_| nodes), zone_hint.filter(|_| zones));
            let hints = node_hint.map(|hint| format!("@n{hint}")).unwrap_or_default()
                + &zone_hint.map(|hint| format!("#z{hint}")).unwrap_or_default();
            Seen {
                address: format!("10.244.{node}.{}:80", index + 1).parse().expect("address"),
                word: format!("{node}.{}{hints}{state}", index + 1),
                ready: matches!(state, "" | "+"),
                serving: matches!(state, "" | "+" | "~"),
                terminating: matches!(state, "~" | "x" | "+"),
                local: node == 1,
                node_hint,
                zone_hint,
            }
        };
        all.into_iter().enumerate().map(seen).collect()
    })
}

fn by_the_rules(all: &[Seen]) -> Answers {
    let pick = |wanted: &dyn Fn(&Seen) -> bool| -> BTreeSet<SocketAddr> {
        all.iter().filter(|seen| wanted(seen)).map(|seen| seen.address).collect()
    };
    let ready: Vec<&Seen> = all.iter().filter(|seen| seen.ready).collect();
    let all_hinted = |hint: fn(&Seen) -> Option<u8>| {
        ready.iter().all(|seen| hint(seen).is_some()) && ready.iter().any(|seen| hint(seen) == Some(1))
    };
    let mut cluster = if all_hinted(|seen| seen.node_hint) {
        pick(&|seen| seen.ready && seen.node_hint == Some(1))
    } else if all_hinted(|seen| seen.zone_hint) {
        pick(&|seen| seen.ready && seen.zone_hint == Some(1))
    } else {
        pick(&|seen| seen.ready)
    };
    if ready.is_empty() {
        cluster = pick(&|seen| seen.serving && seen.terminating);
    }
    let mut local = pick(&|seen| seen.ready && seen.local);
    if local.is_empty() {
        local = pick(&|seen| seen.serving && seen.terminating && seen.local);
    }
    Answers { cluster, local, anybody: all.iter().any(|seen| seen.ready || (seen.serving && seen.terminating)) }
}

fn planned(words: &str, all: &[Seen]) -> ServicePlan {
    let mut world = World::default();
    let dirty = &mut Dirty::default();
    let web = name("shop/web");
    world.apply(Change::Service(web.clone(), Some(Arc::new(service("shop/web", words.split(' '))))), dirty);
    // Dealt out to two slices.
    for index in 0..2 {
        let words: Vec<&str> = all.iter().skip(index).step_by(2).map(|seen| seen.word.as_str()).collect();
        let slice = slice(index, &web, &format!("80/tcp 80/udp | {}", words.join(" ")));
        world.apply(Change::EndpointSlice(slice.name.clone(), Some(Arc::new(slice))), dirty);
    }
    plan(&world, &web, &view(["no-addresses", "address~node"].into_iter()))
}

/// The set behind an address, and whether it drops when it is empty.
fn answer(plan: &ServicePlan, port: u16, scope: Scope) -> (BTreeSet<SocketAddr>, bool) {
    let mut frontends = plan.frontends.iter();
    let frontend = frontends.find(|frontend| (frontend.port, frontend.scope) == (port, scope)).expect("a frontend");
    let set = plan.sets[frontend.set].endpoints.iter().copied().collect();
    (set, frontend.flags.has(FrontendFlags::DROP_WHEN_EMPTY))
}

proptest! {
    #[test]
    fn plans_are_by_the_rules(all in endpoints()) {
        let Answers { cluster, local, anybody } = by_the_rules(&all);
        let drops = local.is_empty() && anybody;

        let outside = planned("vip 80/tcp:30080 external-local", &all);
        prop_assert_eq!(answer(&outside, 80, Scope::INTERNAL), (cluster.clone(), false));
        prop_assert_eq!(answer(&outside, 30080, Scope::INTERNAL), (cluster.clone(), false));
        prop_assert_eq!(answer(&outside, 30080, Scope::EXTERNAL), (local.clone(), drops));
        let idle = |seen: &&Seen| !cluster.contains(&seen.address) && !local.contains(&seen.address);
        let left: BTreeSet<SocketAddr> = all.iter().filter(idle).map(|seen| seen.address).collect();
        prop_assert_eq!(outside.draining.iter().copied().collect::<BTreeSet<_>>(), left);

        let inside = planned("vip 80/udp internal-local", &all);
        prop_assert_eq!(answer(&inside, 80, Scope::INTERNAL), (local.clone(), drops));
        let idle = |seen: &&Seen| !local.contains(&seen.address) && (seen.ready || seen.serving);
        let left: BTreeSet<SocketAddr> = all.iter().filter(idle).map(|seen| seen.address).collect();
        prop_assert_eq!(inside.draining.iter().copied().collect::<BTreeSet<_>>(), left);
    }
}
