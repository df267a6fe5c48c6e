//! Many pods at once.

mod kit;

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::thread;
use std::time::{Duration, Instant};

use kit::{DUAL, Node, Outcome, Pod, knock};

const PODS: usize = 100;

fn all(pods: &[Pod], work: impl Fn(&Pod) -> Outcome + Sync) -> (Vec<Outcome>, Duration) {
    let start = Instant::now();
    let outcomes = thread::scope(|scope| {
        let threads: Vec<_> = pods.iter().map(|pod| scope.spawn(|| work(pod))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    (outcomes, start.elapsed())
}

/// Median and slowest.
fn times(outcomes: &[Outcome]) -> String {
    let mut times: Vec<Duration> = outcomes.iter().map(|outcome| outcome.took).collect();
    times.sort();
    format!("p50 {:?}, slowest {:?}", times[times.len() / 2], times[times.len() - 1])
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_hundred_at_once() {
    check_many("many", &["10.244.1.0/24"]);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_hundred_of_both_families_at_once() {
    check_many("many6", &DUAL);
}

fn check_many(test: &str, cidrs: &[&str]) {
    let node = Node::new(test, cidrs);
    let pods: Vec<Pod> = (0..PODS).map(|number| Pod::new(test, number)).collect();
    let addresses_wanted = PODS * cidrs.len();

    let (added, took) = all(&pods, |pod| node.add(pod));
    println!("{PODS} ADDs at once in {took:?}: {}", times(&added));
    let addresses: BTreeSet<_> = added.iter().flat_map(Outcome::addresses).collect();
    assert_eq!(addresses.len(), addresses_wanted, "no address twice");
    assert_eq!((node.in_use() as usize, node.host_links().len()), (addresses_wanted, PODS));
    for outcome in added.iter().step_by(9) {
        for address in outcome.addresses() {
            assert_eq!(knock(&pods[1].netns, address), ErrorKind::ConnectionRefused, "{address} from another pod");
            assert_eq!(knock(&node.netns, address), ErrorKind::ConnectionRefused, "{address} from the node");
        }
    }
    assert!(added.iter().all(|outcome| outcome.took < Duration::from_secs(12)));

    let (removed, took) = all(&pods, |pod| node.del(pod));
    println!("{PODS} DELs at once in {took:?}: {}", times(&removed));
    removed.into_iter().for_each(|outcome| drop(outcome.succeeded()));
    assert_eq!((node.in_use(), node.host_links()), (0, vec![]));

    let (mut adds, mut dels) = (Vec::new(), Vec::new());
    for pod in &pods[..30] {
        adds.push(node.add(pod).succeeded());
        dels.push(node.del(pod).succeeded());
    }
    println!("one after the other: ADD {}; DEL {}", times(&adds), times(&dels));
}

/// ADDs and DELs of the same pods in a wild mix: in the end, what is there is what is known.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn adds_and_dels_cross() {
    let node = Node::new("cross", &["10.244.1.0/24"]);
    let pods: Vec<Pod> = (0..6).map(|number| Pod::new("cross", number)).collect();
    thread::scope(|scope| {
        for worker in 0..12 {
            let (node, pods) = (&node, &pods);
            scope.spawn(move || {
                for round in 0..10 {
                    let pod = &pods[(worker + round) % pods.len()];
                    if (worker + round / 2) % 2 == 0 { node.add(pod) } else { node.del(pod) }.succeeded();
                }
            });
        }
    });
    let known: BTreeSet<_> = node.network().pods().into_iter().map(|pod| pod.host_ifname).collect();
    assert_eq!(known, node.host_links().into_iter().collect());
    assert_eq!(known.len(), node.in_use() as usize);
    for pod in node.network().pods() {
        assert_eq!(knock(&node.netns, pod.addr.into()), ErrorKind::ConnectionRefused, "{pod:?}");
    }
    pods.iter().for_each(|pod| drop(node.del(pod).succeeded()));
    assert_eq!((node.in_use(), node.host_links()), (0, vec![]));
}
