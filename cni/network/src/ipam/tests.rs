//! Tables, and properties: no address is ever held twice, none comes back before its quarantine is over.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const QUARANTINE: Duration = Duration::from_secs(30);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn cidr(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn ipam(cidrs: &[&str]) -> Ipam {
    let mut ipam = Ipam::new(QUARANTINE);
    ipam.set_cidrs(&cidrs.iter().map(|text| cidr(text)).collect::<Vec<_>>());
    ipam
}

#[track_caller]
fn check_range(cidrs: &[&str], capacity: usize, first: &str, last: &str) {
    let mut ipam = ipam(cidrs);
    let now = Instant::now();
    let given: Vec<IpAddr> = std::iter::from_fn(|| ipam.allocate(&[], now).ok()).flatten().collect();
    assert_eq!((given.len(), given.first().copied(), given.last().copied()), (capacity, Some(ip(first)), Some(ip(last))));
    assert_eq!(given.iter().collect::<BTreeSet<_>>().len(), capacity, "no address twice");
}

#[test]
fn ranges() {
    check_range(&["10.244.1.0/24"], 254, "10.244.1.1", "10.244.1.254");
    check_range(&["10.244.1.0/30"], 2, "10.244.1.1", "10.244.1.2");
    check_range(&["10.244.1.0/31"], 2, "10.244.1.0", "10.244.1.1");
    check_range(&["10.244.1.9/32"], 1, "10.244.1.9", "10.244.1.9");
    check_range(&["10.0.0.0/8"], 65536, "10.0.0.1", "10.1.0.0");
    check_range(&["0.0.0.0/0"], 65536, "0.0.0.1", "0.1.0.0");
    check_range(&["fd00::/64"], 65536, "fd00::1", "fd00::1:0");
    check_range(&["fd00::/120"], 255, "fd00::1", "fd00::ff");
    check_range(&["::/0"], 65536, "::1", "::1:0");
    check_range(&["255.255.255.0/24"], 254, "255.255.255.1", "255.255.255.254");
    check_range(&["10.1.0.0/30", "10.2.0.0/30"], 4, "10.1.0.1", "10.2.0.2");
    // A CIDR with host bits set is the network it lies in.
    check_range(&["10.244.1.77/24"], 254, "10.244.1.1", "10.244.1.254");
}

#[test]
fn both_families_or_neither() {
    let mut ipam = ipam(&["fd00::/64", "10.244.1.0/30"]);
    let now = Instant::now();
    assert_eq!(ipam.allocate(&[], now), Ok(vec![ip("10.244.1.1"), ip("fd00::1")]));
    assert_eq!(ipam.allocate(&[], now), Ok(vec![ip("10.244.1.2"), ip("fd00::2")]));
    assert!(matches!(ipam.allocate(&[], now), Err(IpamError::Exhausted { family: "IPv4", .. })));

    let mut narrow = ipam_of_one_v6();
    assert!(narrow.allocate(&[], now).is_ok());
    assert!(matches!(narrow.allocate(&[], now), Err(IpamError::Exhausted { family: "IPv6", .. })));
    let usage = narrow.usage(now);
    assert_eq!((usage[0].in_use, usage[0].quarantined), (1, 0), "the IPv4 address went back at once");
}

fn ipam_of_one_v6() -> Ipam {
    ipam(&["10.244.1.0/24", "fd00::7/128"])
}

#[test]
fn requested() {
    let mut ipam = ipam(&["10.244.1.0/24"]);
    let now = Instant::now();
    assert_eq!(ipam.allocate(&[ip("10.244.1.7")], now), Ok(vec![ip("10.244.1.7")]));
    assert_eq!(ipam.allocate(&[ip("10.244.1.7")], now), Err(IpamError::Taken(ip("10.244.1.7"))));
    assert_eq!(ipam.allocate(&[ip("10.244.1.0")], now), Err(IpamError::Taken(ip("10.244.1.0"))), "the network's own");
    assert_eq!(ipam.allocate(&[ip("10.244.2.7")], now), Err(IpamError::NotInCidr(ip("10.244.2.7"))));
    assert_eq!(ipam.allocate(&[ip("fd00::7")], now), Err(IpamError::NotInCidr(ip("fd00::7"))));
    assert!(ipam.release(ip("10.244.1.7"), now));
    assert_eq!(ipam.allocate(&[ip("10.244.1.7")], now), Ok(vec![ip("10.244.1.7")]), "an explicit wish ends the quarantine");
}

#[test]
fn reuse_is_first_in_first_out_after_the_quarantine() {
    let mut ipam = ipam(&["10.244.1.0/29"]);
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    for last in 1..=4 {
        assert_eq!(ipam.allocate(&[], at(0)), Ok(vec![ip(&format!("10.244.1.{last}"))]));
    }
    ipam.release(ip("10.244.1.3"), at(1));
    ipam.release(ip("10.244.1.1"), at(2));
    assert_eq!(ipam.allocate(&[], at(3)), Ok(vec![ip("10.244.1.5")]), "a fresh one before one that rests");
    assert_eq!(ipam.allocate(&[], at(3)), Ok(vec![ip("10.244.1.6")]));
    let error = ipam.allocate(&[], at(3)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no IPv4 address is free: 10.244.1.0/29: 4 of 6 in use, 2 in quarantine (the next is free in 29 s)"
    );
    assert_eq!(ipam.allocate(&[], at(31)), Ok(vec![ip("10.244.1.3")]));
    assert!(ipam.allocate(&[], at(31)).is_err());
    assert_eq!(ipam.allocate(&[], at(32)), Ok(vec![ip("10.244.1.1")]));
}

/// A request that fails for want of the other family leaves the address it asked for at rest.
#[test]
fn a_failed_request_does_not_end_the_quarantine() {
    let mut ipam = ipam(&["10.244.1.0/30", "fd00::6/127"]);
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let (first, second) = (vec![ip("10.244.1.1"), ip("fd00::6")], vec![ip("10.244.1.2"), ip("fd00::7")]);
    assert_eq!(ipam.allocate(&[], at(0)), Ok(first.clone()));
    assert_eq!(ipam.allocate(&[], at(0)), Ok(second.clone()));
    second.iter().for_each(|address| assert!(ipam.release(*address, at(0))));
    first.iter().for_each(|address| assert!(ipam.release(*address, at(10))));
    let before = ipam.usage(at(11));
    let error = ipam.allocate(&[ip("10.244.1.1")], at(11)).unwrap_err();
    assert!(matches!(error, IpamError::Exhausted { family: "IPv6", .. }), "{error}");
    assert_eq!(ipam.usage(at(11)), before, "10.244.1.1 rests as if nobody had asked for it");
    assert_eq!(ipam.allocate(&[], at(30)), Ok(second), "not 10.244.1.1, released 20 s ago");
    assert!(ipam.allocate(&[], at(39)).is_err());
    assert_eq!(ipam.allocate(&[], at(40)), Ok(first));
}

#[test]
fn without_a_cidr() {
    let mut ipam = Ipam::new(QUARANTINE);
    assert_eq!(ipam.allocate(&[], Instant::now()), Err(IpamError::NoCidr));
}

#[test]
fn what_was_held_or_rested_before_the_cidr_is_known() {
    let now = Instant::now();
    let mut ipam = Ipam::new(QUARANTINE);
    assert!(ipam.hold(ip("10.244.1.1")));
    assert!(!ipam.hold(ip("10.244.1.1")), "held twice");
    ipam.rest(ip("10.244.1.2"), now);
    ipam.set_cidrs(&[cidr("10.244.1.0/30")]);
    assert!(ipam.allocate(&[], now).is_err());
    assert_eq!(ipam.allocate(&[], now + QUARANTINE), Ok(vec![ip("10.244.1.2")]));
}

#[test]
fn a_cidr_changes_under_running_pods() {
    let now = Instant::now();
    let mut ipam = ipam(&["10.244.1.0/30"]);
    ipam.allocate(&[], now).unwrap();
    ipam.allocate(&[], now).unwrap();
    ipam.set_cidrs(&[cidr("10.244.2.0/30")]);
    assert_eq!(ipam.allocate(&[], now), Ok(vec![ip("10.244.2.1")]));
    assert!(ipam.release(ip("10.244.1.1"), now), "an address of the old CIDR");
    assert!(!ipam.release(ip("10.244.1.1"), now));
    ipam.set_cidrs(&[cidr("10.244.1.0/30")]);
    assert!(ipam.allocate(&[], now).is_err(), ".1 rests, .2 is held");
    assert_eq!(ipam.allocate(&[], now + QUARANTINE), Ok(vec![ip("10.244.1.1")]));
}

#[test]
fn cidrs_that_overlap() {
    check_range(&["10.1.0.0/30", "10.1.0.0/30"], 2, "10.1.0.1", "10.1.0.2");
    check_range(&["10.1.0.0/30", "10.1.0.0/29"], 6, "10.1.0.1", "10.1.0.6");
    check_range(&["10.1.0.0/29", "10.1.0.4/30"], 6, "10.1.0.1", "10.1.0.6");
    check_range(&["10.1.0.1/30", "10.1.0.2/30"], 2, "10.1.0.1", "10.1.0.2");

    // A wider one is added to, and taken from, one that is in use.
    let now = Instant::now();
    let mut ipam = ipam(&["10.1.0.0/30"]);
    ipam.allocate(&[], now).unwrap();
    ipam.allocate(&[], now).unwrap();
    ipam.release(ip("10.1.0.1"), now);
    ipam.set_cidrs(&[cidr("10.1.0.0/30"), cidr("10.1.0.0/29")]);
    assert_eq!(ipam.cidrs().collect::<Vec<_>>(), [cidr("10.1.0.0/29")]);
    assert_eq!(ipam.allocate(&[], now), Ok(vec![ip("10.1.0.3")]), ".1 rests, .2 is held");
    ipam.set_cidrs(&[cidr("10.1.0.0/30")]);
    assert!(ipam.allocate(&[], now).is_err());
    assert_eq!(ipam.allocate(&[], now + QUARANTINE), Ok(vec![ip("10.1.0.1")]));
}

#[derive(Clone, Debug)]
enum Step {
    Allocate,
    Request(u8),
    /// Index into what is held.
    Release(usize),
    Wait(u64),
    Cidrs(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => Just(Step::Allocate),
        1 => any::<u8>().prop_map(Step::Request),
        4 => any::<usize>().prop_map(Step::Release),
        2 => (0..20u64).prop_map(Step::Wait),
        1 => (0..4u8).prop_map(Step::Cidrs),
    ];
    proptest::collection::vec(step, 1..200)
}

proptest! {
    #[test]
    fn never_twice_never_too_early(steps in steps()) {
        let sets = [
            vec![cidr("10.0.0.0/28")],
            vec![cidr("10.0.0.0/28"), cidr("10.0.0.16/28")],
            vec![cidr("10.0.0.16/28"), cidr("fd00::/125")],
            vec![cidr("10.0.0.0/28"), cidr("10.0.0.0/27")],
        ];
        let mut ipam = Ipam::new(QUARANTINE);
        ipam.set_cidrs(&sets[0]);
        let mut now = Instant::now();
        let mut held: Vec<IpAddr> = Vec::new();
        let mut released: BTreeMap<IpAddr, Instant> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Allocate | Step::Request(_) => {
                    let wanted: Vec<IpAddr> = match step {
                        Step::Request(last) => vec![IpAddr::from([10, 0, 0, last])],
                        _ => vec![],
                    };
                    let before = ipam.usage(now);
                    let Ok(given) = ipam.allocate(&wanted, now) else {
                        prop_assert_eq!(ipam.usage(now), before, "a failure takes nothing and frees nothing");
                        continue;
                    };
                    let mut families: Vec<bool> = ipam.cidrs().map(|cidr| cidr.is_ipv4()).collect();
                    families.sort_by_key(|v4| !v4);
                    families.dedup();
                    prop_assert_eq!(given.iter().map(IpAddr::is_ipv4).collect::<Vec<_>>(), families);
                    for address in given {
                        prop_assert!(!held.contains(&address), "{} is held twice", address);
                        prop_assert!(ipam.cidrs().any(|cidr| cidr.contains(address)));
                        if let Some(since) = released.get(&address).filter(|_| !wanted.contains(&address)) {
                            prop_assert!(now - *since >= QUARANTINE, "{} came back after {:?}", address, now - *since);
                        }
                        held.push(address);
                    }
                }
                Step::Release(index) if !held.is_empty() => {
                    let address = held.swap_remove(index % held.len());
                    prop_assert!(ipam.release(address, now));
                    prop_assert!(!ipam.release(address, now), "a second release frees nothing");
                    released.insert(address, now);
                }
                Step::Release(_) => {}
                Step::Wait(seconds) => now += Duration::from_secs(seconds),
                Step::Cidrs(set) => ipam.set_cidrs(&sets[usize::from(set)]),
            }
            for usage in ipam.usage(now) {
                let of_cidr = held.iter().filter(|address| usage.cidr.contains(**address)).count();
                prop_assert!(usage.in_use as usize <= of_cidr && usage.in_use + usage.quarantined <= usage.capacity);
            }
        }
        prop_assert!(held.iter().all(|address| ipam.is_held(*address)));
    }

    /// Whatever was allocated and released, everything comes back in the end.
    #[test]
    fn nothing_leaks(rounds in 1..40usize) {
        let mut ipam = Ipam::new(QUARANTINE);
        ipam.set_cidrs(&[cidr("10.0.0.0/28")]);
        let mut now = Instant::now();
        for _ in 0..rounds {
            let given: Vec<IpAddr> = std::iter::from_fn(|| ipam.allocate(&[], now).ok()).flatten().collect();
            prop_assert_eq!(given.len(), 14);
            given.iter().for_each(|address| { ipam.release(*address, now); });
            now += QUARANTINE;
        }
    }
}
