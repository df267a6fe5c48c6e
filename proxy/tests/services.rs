//! What belongs to a service besides its endpoints: whom it admits, who keeps a backend, its number; and full maps.

mod support;

use std::time::Duration;

use support::{Kernel, Node, dual, endpoint, name, plan, restricted, sticky};
use thalweg_abi::{BackendState, Be32, FrontendFlags, Proto, ServiceStats};
use thalweg_proxy::Backend as _;
use thalweg_proxy::ebpf::{Gone, Pressure};
use thalweg_proxy::plan::PlannedFrontend;

const CHECK: u32 = FrontendFlags::CHECK_SOURCE;

fn large() -> Node {
    Node::new(Kernel::large())
}

fn pressure(node: &Node, table: &str) -> Pressure {
    node.backend.pressure().into_iter().find(|pressure| pressure.table == table).expect("a table of that name")
}

#[test]
fn source_ranges_are_written_by_the_smallest_difference() {
    let mut node = large();
    let web = || plan("web", &[(1, 80, &[1])], &[]);
    node.set(restricted(web(), &["10.0.0.0/8", "fd00::/16"]));
    node.check((2, 1, 1, 0));
    assert_eq!(node.admitted("web"), ["fd00::/16", "10.0.0.0/8"]);
    node.kernel.take_writes();
    node.set(restricted(web(), &["10.0.0.0/8", "192.0.2.7/32"]));
    node.check((0, 0, 0, 0));
    assert_eq!(
        (node.kernel.take_writes(), node.admitted("web")),
        (2, vec!["10.0.0.0/8".to_owned(), "192.0.2.7/32".to_owned()])
    );

    // A restart adopts them: nothing to write, and what went meanwhile goes.
    let plans = node.plans.clone();
    node.restart();
    plans.into_iter().for_each(|plan| node.set(plan));
    node.backend.retain_only_known();
    node.kernel.take_writes();
    node.check((0, 0, 0, 0));
    assert_eq!(node.kernel.take_writes(), 0);
    node.restart();
    node.set(web());
    node.check((1, 0, 0, 0));
    assert_eq!(node.admitted("web").len(), 2, "nothing is removed before everything is known");
    node.backend.retain_only_known();
    node.check((0, 0, 0, 0));
    assert_eq!(node.admitted("web").len(), 0);
}

#[test]
fn a_service_whose_source_ranges_find_no_room_is_shut_and_nobody_else() {
    let mut node = large();
    node.kernel.lock().source_ranges.capacity = 2;
    node.set(restricted(plan("a", &[(1, 80, &[1])], &[]), &["10.1.0.0/16"]));
    node.set(plan("web", &[(2, 80, &[2])], &[]));
    node.check((4, 2, 2, 0));
    // Two ranges want room where there is one; the service goes on with its new endpoints, closed to everybody.
    node.set(restricted(plan("web", &[(2, 80, &[2, 3])], &[]), &["10.2.0.0/16", "10.3.0.0/16"]));
    node.set(restricted(plan("z", &[(3, 80, &[4])], &[]), &["10.4.0.0/16"]));
    node.apply_full("SOURCE_RANGES");
    assert!(node.frontend(2, 80).is_some_and(|frontend| frontend.flags.has(CHECK)));
    assert_eq!((node.answers(2, 80), node.admitted("web").len()), (Some(vec![2, 3]), 0));
    assert_eq!((node.answers(3, 80), node.admitted("z").len()), (Some(vec![4]), 1), "others do not suffer");
    let full = pressure(&node, "SOURCE_RANGES");
    assert_eq!((full.used, full.capacity, full.refused, full.waiting), (2, 2, 1, 1));
    node.remove("a");
    node.remove("z");
    node.apply();
    node.retry();
    node.check((0, 0, 0, 0));
    assert_eq!(node.admitted("web"), ["10.2.0.0/16", "10.3.0.0/16"]);
    assert_eq!(pressure(&node, "SOURCE_RANGES").waiting, 0);
}

#[test]
fn a_service_that_cannot_move_closes_all_the_same() {
    let mut node = Node::new(Kernel::new(16, 2, 16, 16));
    node.set(plan("web", &[(1, 80, &[1, 2])], &[]));
    node.check((2, 2, 2, 0));
    node.set(restricted(plan("web", &[(1, 80, &[3])], &[]), &["10.1.0.0/16"]));
    node.apply_full("SLOTS");
    let frontend = node.frontend(1, 80).expect("the old frontend");
    assert!(frontend.flags.has(CHECK));
    assert_eq!((node.answers(1, 80), node.admitted("web")), (Some(vec![1, 2]), vec!["10.1.0.0/16".to_owned()]));
    // Another range, another failure: who is admitted follows at once.
    node.set(restricted(plan("web", &[(1, 80, &[3])], &[]), &["10.9.0.0/16"]));
    node.apply_full("SLOTS");
    assert_eq!(node.admitted("web"), ["10.9.0.0/16"]);
    // It may open again only when it has moved.
    node.set(plan("web", &[(1, 80, &[3])], &[]));
    node.apply_full("SLOTS");
    assert!(node.frontend(1, 80).is_some_and(|frontend| frontend.flags.has(CHECK)));
    node.set(plan("web", &[(1, 80, &[1, 2])], &[]));
    node.check((1, 0, 0, 0));
    assert_eq!((node.frontend(1, 80).map(|frontend| frontend.flags.0), node.admitted("web").len()), (Some(0), 0));
}

#[test]
fn service_ranges_are_written_once() {
    let mut node = large();
    let ranges = ["10.96.0.0/12", "fd00:96::/112"].map(|text| text.parse().expect("a network"));
    node.backend.set_service_ranges(&ranges);
    node.kernel.take_writes();
    node.apply();
    node.apply();
    assert_eq!(node.kernel.take_writes(), 1);
    node.restart();
    node.backend.set_service_ranges(&ranges);
    node.backend.retain_only_known();
    node.apply();
    assert_eq!(node.kernel.take_writes(), 0, "they are adopted");
    let entry = node.kernel.lock().service_ranges.map[&0];
    assert_eq!((entry.used, entry.used6), (1, 1));
    assert!(
        entry.v4[0].contains(Be32::from_octets([10, 111, 1, 1])) && !entry.v4[0].contains(Be32::from_octets([10, 112, 1, 1]))
    );
}

// cilium#26709, cilium#35254
#[test]
fn affinity_begins_anew_whenever_it_is_switched_on() {
    let mut node = large();
    let web = || plan("web", &[(1, 80, &[1, 2])], &[]);
    node.set(sticky(web(), 60));
    node.set(sticky(plan("api", &[(2, 80, &[3])], &[]), 60));
    node.apply();
    node.kernel.serve(1);
    let kept = |node: &Node, service: &str| {
        let number = node.number(service);
        node.kernel.lock().affinity.map.keys().filter(|key| Some(key.service) == number).count()
    };
    // Off: the frontends say so, in one flip; nothing is searched.
    node.set(web());
    node.check((1, 0, 0, 0));
    assert_eq!(node.frontend(1, 80).map(|frontend| frontend.affinity_seconds), Some(0));
    assert_eq!((kept(&node, "web"), kept(&node, "api")), (1, 1));
    // On: what is left of the last time is gone before the first frontend says so; others keep theirs.
    node.set(sticky(web(), 60));
    node.check((1, 0, 0, 0));
    assert_eq!((kept(&node, "web"), kept(&node, "api")), (0, 1));
    // Another time-out is no beginning.
    node.kernel.serve(1);
    node.set(sticky(web(), 90));
    node.check((1, 0, 0, 0));
    assert_eq!(kept(&node, "web"), 1);
    // Nor is a restart.
    let plans = node.plans.clone();
    node.restart();
    plans.into_iter().for_each(|plan| node.set(plan));
    node.backend.retain_only_known();
    node.check((0, 0, 0, 0));
    assert_eq!((kept(&node, "web"), kept(&node, "api")), (1, 1));
}

#[test]
fn a_number_is_given_to_another_service_without_a_trace_of_the_last() {
    let mut node = Node::new(Kernel::new(64, 64, 64, 2));
    let shape = |service: &str, vip: u8| restricted(sticky(plan(service, &[(vip, 80, &[vip])], &[]), 60), &["10.0.0.0/8"]);
    node.set(shape("a", 1));
    node.apply();
    let number = node.number("a").expect("a number");
    // The witness looks at what every service begins with.
    for round in 0..5 {
        node.kernel.serve(1);
        node.remove(if round == 0 { "a" } else { "b" });
        node.apply();
        node.kernel.advance(10);
        node.set(shape("b", 2));
        node.apply();
    }
    node.remove("b");
    node.apply();
    node.set(dual(shape("c", 3)));
    node.apply();
    let state = node.kernel.lock();
    let stats = state.service_stats.map.get(&number).copied().unwrap_or_default();
    assert_eq!(stats, ServiceStats::default(), "two numbers for seven services: they came around");
}

// cilium#28726, cilium#23551, cilium#31069
#[test]
fn a_full_map_refuses_what_is_new_and_holds_nobody_else_up() {
    let mut node = Node::new(Kernel::new(8, 64, 64, 64));
    for n in 1..=9 {
        node.set(plan(&format!("s{n}"), &[(n, 80, &[n])], &[]));
    }
    let applied = node.apply();
    let refused: Vec<String> = applied.failed.iter().map(|failure| failure.service.name.to_string()).collect();
    assert_eq!(refused, ["s5", "s6", "s7", "s8", "s9"], "in the order of names");
    let full = pressure(&node, "FRONTENDS");
    assert_eq!((full.used, full.capacity, full.refused, full.waiting), (8, 8, 5, 5));
    // A change elsewhere does not wait while five services are refused once more.
    node.set(plan("s1", &[(1, 80, &[1, 2])], &[]));
    let applied = node.apply();
    assert_eq!((applied.services, applied.frontends_written, applied.failed.len()), (1, 1, 0));
    // Tried again and again, they count once.
    for _ in 0..3 {
        node.retry();
        assert_eq!(node.apply().failed.len(), 5);
    }
    assert_eq!(pressure(&node, "FRONTENDS").refused, 5);
    // Room for one: the first by name has it, and the next change says so.
    node.remove("s2");
    node.apply();
    node.retry();
    let applied = node.apply();
    assert_eq!(applied.recovered, [name("s5")]);
    assert_eq!((node.answers(5, 80), applied.failed.len(), pressure(&node, "FRONTENDS").waiting), (Some(vec![5]), 4, 4));
    for n in 6..=9 {
        node.remove(&format!("s{n}"));
    }
    node.check((0, 0, 0, 0));
    assert_eq!(pressure(&node, "FRONTENDS").waiting, 0);
    node.kernel.advance(10);
    node.apply();
    assert_eq!(node.backend.next_deadline(), None, "nothing is left to try");
}

// cilium#28820, cilium#48096
#[test]
fn backends_that_are_gone_are_told_once() {
    let mut node = large();
    node.set(plan("web", &[(1, 80, &[1, 2, 3])], &[]));
    node.apply();
    assert_eq!(node.backend.take_gone(), []);
    let id = |n: u8| {
        let state = node.kernel.lock();
        let found = state.backends.map.iter().find(|(_, backend)| backend.addr == endpoint(n).ip().into());
        found.map(|(id, backend)| Gone { backend: *id, generation: backend.generation }).expect("a backend")
    };
    let (second, third) = (id(2), id(3));
    node.set(plan("web", &[(1, 80, &[1])], &[2]));
    node.apply();
    assert_eq!(node.state(2), Some(BackendState::DRAINING));
    assert_eq!(node.backend.take_gone(), [third], "who drains is not gone");
    node.set(plan("web", &[(1, 80, &[1])], &[]));
    node.apply();
    assert_eq!((node.backend.take_gone(), node.backend.take_gone()), (vec![second], vec![]));
    // Gone and back before anybody asked: nothing is to be destroyed.
    node.set(plan("web", &[(1, 80, &[])], &[]));
    node.apply();
    node.set(plan("web", &[(1, 80, &[1])], &[]));
    node.apply();
    assert_eq!(node.backend.take_gone(), []);
}

// kubernetes#59368: datagrams of an old flow do not go on to who has left the service, whoever else has it.
#[test]
fn a_service_tells_which_backends_of_others_it_has_lost() {
    let udp = |service: &str, vip: u8, endpoints: &[u8], draining: &[u8]| {
        let mut plan = plan(service, &[(vip, 53, endpoints)], draining);
        plan.frontends.iter_mut().filter(|frontend| frontend.port != 0).for_each(|frontend| frontend.protocol = Proto::UDP);
        plan.frontends.sort_by_key(PlannedFrontend::key);
        plan
    };
    let mut node = large();
    node.set(udp("dns", 1, &[1, 2, 3], &[]));
    node.set(udp("other", 2, &[1, 2, 3, 4], &[]));
    node.set(plan("tcp", &[(3, 80, &[1, 2])], &[]));
    node.apply();
    assert_eq!(node.backend.take_left(), []);
    let dns = node.number("dns").expect("a number");
    let id = |node: &Node, n: u8| {
        let state = node.kernel.lock();
        state
            .backends
            .map
            .iter()
            .find(|(_, backend)| backend.addr == endpoint(n).ip().into())
            .map(|(id, _)| *id)
            .expect("an id")
    };
    let ids: Vec<u32> = (0..=4).map(|n| if n == 0 { 0 } else { id(&node, n) }).collect();
    // One goes at once, and one by draining, for as long as it lasts. TCP may finish.
    node.set(udp("dns", 1, &[1], &[3]));
    node.set(plan("tcp", &[(3, 80, &[1])], &[]));
    node.apply();
    assert_eq!((node.backend.take_left(), node.backend.take_left()), (vec![(dns, ids[2])], vec![]));
    node.set(udp("dns", 1, &[1], &[]));
    node.apply();
    assert_eq!(node.backend.take_left(), [(dns, ids[3])]);
    // Who stands behind nobody any more is gone, which is another word.
    node.set(udp("other", 2, &[1, 2, 3], &[]));
    node.apply();
    assert_eq!((node.backend.take_left(), node.backend.take_gone().len()), (vec![], 1));
    // Still behind another frontend of the same service.
    let mut two = udp("dns", 1, &[1], &[]);
    let second =
        PlannedFrontend { port: 54, ..two.frontends.iter().find(|frontend| frontend.port == 53).expect("one").clone() };
    two.frontends.push(second);
    two.frontends.sort_by_key(PlannedFrontend::key);
    node.set(two);
    node.apply();
    node.set(udp("dns", 1, &[1], &[]));
    node.apply();
    assert_eq!(node.backend.take_left(), []);
    // A service that is gone leaves all that others have.
    node.remove("dns");
    node.apply();
    assert_eq!(node.backend.take_left(), [(dns, ids[1])]);
}

// cilium#24027: a service of thousands of endpoints costs what its own range costs.
#[test]
fn one_endpoint_of_ten_thousand() {
    let mut node = large();
    node.kernel.lock().unwatched = true;
    let big = |count: u16| {
        let mut plan = plan("big", &[(1, 80, &[1])], &[]);
        let set = plan.sets.iter_mut().find(|set| !set.endpoints.is_empty()).expect("the set");
        set.endpoints = (0..count).map(|n| std::net::SocketAddr::from(([10, 200, (n >> 8) as u8, n as u8], 8080))).collect();
        plan
    };
    node.backend.set(big(10_000));
    let first = node.backend.apply(node.kernel.now()).expect("no loose end");
    assert_eq!((first.frontends_written, first.slots_written, first.backends_written), (2, 10_000, 10_000));
    node.backend.set(big(10_001));
    let more = node.backend.apply(node.kernel.now()).expect("no loose end");
    assert_eq!((more.frontends_written, more.slots_written, more.backends_written), (1, 10_001, 1));
    node.backend.set(big(9_999));
    let less = node.backend.apply(node.kernel.now()).expect("no loose end");
    assert_eq!((less.frontends_written, less.slots_written, less.backends_written), (1, 9_999, 2));
}

// kubernetes#139513, kubernetes#135639, cilium#32391
#[test]
fn one_change_among_many_services_costs_itself() {
    let mut node = large();
    let service = |n: u16, endpoints: &[u8]| {
        let mut plan = plan(&format!("s{n}"), &[(1, 80, endpoints)], &[]);
        plan.frontends.iter_mut().for_each(|frontend| frontend.vip = [10, 99, (n >> 8) as u8, n as u8].into());
        plan
    };
    for n in 0..2_000 {
        node.backend.set(service(n, &[1, 2]));
    }
    node.kernel.lock().unwatched = true;
    node.backend.apply(node.kernel.now()).expect("no loose end");
    node.kernel.take_writes();
    let mut best = Duration::MAX;
    for n in 0..20 {
        node.backend.set(service(n, &[1, 2, 3]));
        let applied = node.backend.apply(node.kernel.now()).expect("no loose end");
        assert_eq!((applied.services, applied.frontends_written, applied.slots_written), (1, 1, 3));
        best = best.min(applied.took);
    }
    assert_eq!(node.kernel.take_writes(), 20 * 4 + 1);
    // Without optimisation, on a busy machine; looking at every service would take many times as long.
    assert!(best < Duration::from_millis(1), "{best:?}");
}
