//! The eBPF backend on maps in memory: the smallest difference, order, adoption, full maps, reuse.

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;

use support::{Kernel, Node, plan};
use thalweg_abi::BackendState;
use thalweg_proxy::Backend as _;

fn large() -> Node {
    Node::new(Kernel::large())
}

#[test]
fn the_smallest_difference() {
    let mut node = large();
    node.set(plan("web", &[(1, 80, &[1, 2]), (1, 81, &[1, 2]), (2, 80, &[1])], &[]));
    // Two ranges: one shared by both ports, one of one endpoint. Five frontends with the wildcards of two VIPs.
    node.check((5, 3, 2, 0));
    assert_eq!(
        (node.answers(1, 80), node.answers(1, 81), node.answers(2, 80)),
        (Some(vec![1, 2]), Some(vec![1, 2]), Some(vec![1]))
    );
    node.set(plan("web", &[(1, 80, &[1, 2]), (1, 81, &[1, 2]), (2, 80, &[1])], &[]));
    node.check((0, 0, 0, 0));
    // One endpoint more on two frontends: one fresh range, two flips, one backend.
    node.set(plan("web", &[(1, 80, &[1, 2, 3]), (1, 81, &[1, 2, 3]), (2, 80, &[1])], &[]));
    node.check((2, 3, 1, 0));
    // A port less: its frontend goes, nothing else.
    node.set(plan("web", &[(1, 80, &[1, 2, 3]), (2, 80, &[1])], &[]));
    node.check((0, 0, 0, 1));
    // A port that takes a set the service already has writes no slots.
    node.set(plan("web", &[(1, 80, &[1, 2, 3]), (2, 80, &[1, 2, 3])], &[]));
    node.check((1, 0, 0, 0));
    node.remove("web");
    node.check((0, 0, 3, 4));
    assert!(node.kernel.lock().services.map.is_empty());
    node.check((0, 0, 0, 0));
}

#[test]
fn a_name_is_kept_once_however_the_service_was_found() {
    let mut node = large();
    // How often the very string of the plan is kept.
    let mut shares = |restart: bool| {
        if restart {
            node.restart();
        }
        let plan = plan("web", &[(1, 80, &[1])], &[]);
        let name = plan.name.name.clone();
        node.set(plan);
        assert!(node.apply().failed.is_empty());
        Arc::strong_count(&name)
    };
    let fresh = shares(false);
    assert!(fresh > 2, "{fresh}: not only here and in the plan");
    assert_eq!(shares(true), fresh);
}

#[test]
fn frontends_of_one_service_may_swap_their_sets() {
    let mut node = large();
    node.set(plan("web", &[(1, 80, &[1, 2]), (1, 81, &[])], &[]));
    node.check((3, 2, 2, 0));
    node.set(plan("web", &[(1, 80, &[]), (1, 81, &[1, 2])], &[]));
    node.check((2, 0, 0, 0));
    node.set(plan("web", &[(1, 80, &[3]), (1, 81, &[1, 2])], &[]));
    node.check((1, 1, 1, 0));
    node.set(plan("web", &[(1, 80, &[1, 2]), (1, 81, &[3])], &[]));
    node.check((2, 0, 0, 0));
    assert_eq!((node.answers(1, 80), node.answers(1, 81)), (Some(vec![1, 2]), Some(vec![3])));
}

#[test]
fn scaling_to_zero_and_back() {
    let mut node = large();
    node.set(plan("web", &[(1, 80, &[1])], &[]));
    node.check((2, 1, 1, 0));
    node.set(plan("web", &[(1, 80, &[])], &[]));
    node.check((1, 0, 1, 0));
    assert_eq!((node.answers(1, 80), node.state(1)), (Some(vec![]), None));
    // It comes back before its id has rested: the same id, without a new generation.
    node.set(plan("web", &[(1, 80, &[1])], &[]));
    node.check((1, 1, 1, 0));
    let generations: Vec<u32> = node.kernel.lock().backends.map.values().map(|backend| backend.generation).collect();
    assert_eq!(generations, [1]);
    // The rest that began before it came back does not take the id away from it.
    node.kernel.advance(20);
    node.set(plan("web", &[(1, 80, &[1, 2])], &[]));
    node.check((1, 2, 1, 0));
    assert_eq!(node.kernel.lock().backends.map.len(), 2);
}

#[test]
fn backends_drain_while_anybody_lets_them() {
    let mut node = large();
    node.set(plan("web", &[(1, 80, &[1, 2])], &[]));
    node.set(plan("api", &[(2, 80, &[2])], &[]));
    node.apply();
    node.set(plan("web", &[(1, 80, &[1])], &[2]));
    node.apply();
    assert_eq!(node.state(2), Some(BackendState::READY), "another service chooses it");
    node.set(plan("api", &[(2, 80, &[])], &[]));
    node.check((1, 0, 1, 0));
    assert_eq!(node.state(2), Some(BackendState::DRAINING));
    node.set(plan("web", &[(1, 80, &[1])], &[]));
    node.check((0, 0, 1, 0));
    assert_eq!(node.state(2), None);
    // What was never chosen is not announced for draining, nor is what was already gone.
    node.set(plan("web", &[(1, 80, &[1])], &[2, 9]));
    node.check((0, 0, 0, 0));
}

#[test]
fn backend_ids_are_reused_with_a_new_generation_after_a_rest() {
    let mut node = Node::new(Kernel::new(16, 64, 4, 16));
    node.set(plan("web", &[(1, 80, &[1, 2, 3])], &[]));
    node.check((2, 3, 3, 0));
    node.set(plan("web", &[(1, 80, &[4])], &[]));
    node.apply_full("BACKENDS");
    assert_eq!(node.answers(1, 80), Some(vec![1, 2, 3]), "the old state stays");
    node.set(plan("web", &[(1, 80, &[1])], &[]));
    node.check((1, 1, 2, 0));
    node.set(plan("web", &[(1, 80, &[1, 4])], &[]));
    node.kernel.advance(4);
    node.apply_full("BACKENDS");
    node.kernel.advance(1);
    node.check((1, 2, 1, 0));
    let generations: BTreeSet<u32> = node.kernel.lock().backends.map.values().map(|backend| backend.generation).collect();
    assert_eq!(generations, BTreeSet::from([1, 2]));
}

// cilium#28726, cilium#23551
#[test]
fn full_slots_keep_the_old_state_of_one_service_and_others_apply() {
    let mut node = Node::new(Kernel::new(16, 6, 64, 16));
    node.set(plan("a", &[(1, 80, &[1, 2])], &[]));
    node.check((2, 2, 2, 0));
    node.set(plan("a", &[(1, 80, &[1, 2, 3, 4, 5])], &[]));
    node.set(plan("b", &[(2, 80, &[6])], &[]));
    let applied = node.apply();
    Node::assert_full(&applied, "SLOTS");
    assert_eq!((node.answers(1, 80), node.answers(2, 80)), (Some(vec![1, 2]), Some(vec![6])));
    assert_eq!(node.state(3), None, "nothing is announced of a set that did not fit");
    assert!(node.backend.next_deadline().is_some(), "asks to be called again");
    node.set(plan("a", &[(1, 80, &[1, 2, 3])], &[]));
    node.check((1, 3, 1, 0));
}

#[test]
fn full_frontends_keep_the_old_state_until_there_is_room() {
    let mut node = Node::new(Kernel::new(4, 64, 64, 16));
    node.set(plan("a", &[(1, 80, &[1])], &[]));
    node.set(plan("b", &[(2, 80, &[2])], &[]));
    node.check((4, 2, 2, 0));
    node.set(plan("a", &[(1, 80, &[3]), (1, 81, &[3])], &[]));
    node.apply_full("FRONTENDS");
    assert_eq!(node.answers(1, 80), Some(vec![1]), "not even the port that would fit has flipped");
    node.remove("b");
    node.check((0, 0, 1, 2));
    node.retry();
    node.check((2, 1, 2, 0));
    assert_eq!((node.answers(1, 80), node.answers(1, 81)), (Some(vec![3]), Some(vec![3])));
}

#[test]
fn full_names_keep_a_service_out() {
    let mut node = Node::new(Kernel::new(16, 16, 16, 1));
    node.set(plan("a", &[(1, 80, &[1])], &[]));
    node.check((2, 1, 1, 0));
    node.set(plan("b", &[(2, 80, &[2])], &[]));
    node.apply_full("SERVICES");
    node.remove("a");
    node.apply();
    node.retry();
    node.check((2, 1, 1, 0));
    assert_eq!(node.answers(2, 80), Some(vec![2]));
}

#[test]
fn ranges_rest_before_they_are_written_again() {
    let mut node = Node::new(Kernel::new(16, 4, 64, 16));
    node.set(plan("a", &[(1, 80, &[1, 2])], &[]));
    node.check((2, 2, 2, 0));
    node.set(plan("a", &[(1, 80, &[1, 3])], &[]));
    node.check((1, 2, 2, 0));
    node.set(plan("a", &[(1, 80, &[1, 2])], &[]));
    node.apply_full("SLOTS");
    node.kernel.advance(5);
    node.check((1, 2, 2, 0));
}

#[test]
fn a_restart_with_the_same_services_writes_nothing() {
    let mut node = large();
    let plans = [plan("web", &[(1, 80, &[1, 2]), (1, 81, &[])], &[3]), plan("shop/api", &[(2, 80, &[2])], &[])];
    for plan in &plans {
        node.set(plan.clone());
    }
    node.apply();
    let before: Vec<_> =
        node.kernel.lock().services.map.iter().map(|(number, name)| (*number, name.as_str().to_owned())).collect();
    node.restart();
    for plan in &plans {
        node.set(plan.clone());
    }
    node.backend.retain_only_known();
    node.kernel.take_writes();
    node.check((0, 0, 0, 0));
    assert_eq!(node.kernel.take_writes(), 0);
    let after: Vec<_> =
        node.kernel.lock().services.map.iter().map(|(number, name)| (*number, name.as_str().to_owned())).collect();
    assert_eq!(before, after);
}

// cilium#27215, cilium#29667
#[test]
fn a_restart_removes_only_once_everything_is_known() {
    let mut node = large();
    node.set(plan("stays", &[(1, 80, &[1])], &[]));
    node.set(plan("goes", &[(2, 80, &[2])], &[3]));
    node.set(plan("drains", &[(3, 80, &[3])], &[]));
    node.apply();
    node.set(plan("drains", &[(3, 80, &[])], &[3]));
    node.apply();
    node.restart();
    node.set(plan("stays", &[(1, 80, &[1, 4])], &[]));
    {
        let mut state = node.kernel.lock();
        state.protected = state.frontends().into_keys().collect();
    }
    node.check((1, 2, 1, 0));
    assert_eq!(
        (node.answers(2, 80), node.state(2), node.state(3)),
        (Some(vec![2]), Some(BackendState::READY), Some(BackendState::DRAINING))
    );
    node.kernel.lock().protected.clear();
    node.backend.retain_only_known();
    node.check((0, 0, 2, 4));
    assert_eq!((node.answers(1, 80), node.state(2), node.state(3)), (Some(vec![1, 4]), None, None));
    assert_eq!(node.kernel.lock().services.map.len(), 1);
}

#[test]
fn a_service_that_takes_over_a_vip_leaves_no_gap() {
    let mut node = large();
    node.set(plan("old", &[(1, 80, &[1])], &[]));
    node.apply();
    node.remove("old");
    node.set(plan("new", &[(1, 80, &[2])], &[]));
    // Two flips in place: nothing is removed.
    node.check((2, 1, 2, 0));
    assert_eq!(node.answers(1, 80), Some(vec![2]));
}

#[test]
fn who_comes_first_keeps_a_frontend_and_who_waits_gets_it() {
    let mut node = large();
    node.set(plan("first", &[(1, 80, &[1])], &[]));
    node.apply();
    node.set(plan("second", &[(1, 80, &[2]), (1, 81, &[2])], &[]));
    node.check((1, 1, 1, 0));
    assert_eq!((node.answers(1, 80), node.answers(1, 81)), (Some(vec![1]), Some(vec![2])));
    node.set(plan("first", &[(3, 80, &[1])], &[]));
    // Its own two, and two that pass to who waited (the port and the wildcard), in one apply and in place.
    node.check((4, 0, 0, 0));
    assert_eq!((node.answers(1, 80), node.answers(3, 80)), (Some(vec![2]), Some(vec![1])));
    node.remove("second");
    node.check((0, 0, 1, 3));
}

#[test]
fn wreckage_is_adopted_kept_out_of_use_and_replaced() {
    let mut node = Node::new(Kernel::new(16, 16, 16, 16));
    node.set(plan("a", &[(1, 80, &[1, 2])], &[]));
    node.set(plan("b", &[(2, 80, &[3, 4])], &[]));
    node.apply();
    {
        let mut state = node.kernel.lock();
        let keys: Vec<_> = state.frontends.map.keys().copied().collect();
        for key in keys {
            let value = state.frontends.map.get_mut(&key).expect("just listed");
            match (key.vip.octets()[3], value.count) {
                // Overlaps a's range, and reaches beyond the map.
                (2, 2) => (value.base, value.count) = (1, 3),
                (1, 0) => value.service = 999,
                _ => {}
            }
        }
        state.frontends.map.insert(
            thalweg_abi::FrontendKey::wildcard(thalweg_abi::Be32::from_octets([10, 96, 0, 9])),
            thalweg_abi::Frontend { service: 77, generation: 1, base: 4_000_000, count: 4_000_000, ..Default::default() },
        );
        // The witness would stumble over it when it looks for overlaps; the check of the end state is what counts.
        state.violations.clear();
    }
    node.restart();
    node.set(plan("a", &[(1, 80, &[1, 2])], &[]));
    node.set(plan("b", &[(2, 80, &[3, 4])], &[]));
    node.backend.retain_only_known();
    let applied = node.backend.apply(node.kernel.now()).expect("no loose end");
    assert!(applied.failed.is_empty(), "{:?}", applied.failed);
    assert_eq!((node.answers(1, 80), node.answers(2, 80), node.answers(9, 0)), (Some(vec![1, 2]), Some(vec![3, 4]), None));
    assert!(node.kernel.lock().frontends.map.values().all(|value| value.service < 77));
}
