//! The rules for choosing endpoints and addresses, as tables; their language is in `words`.

mod external;
mod families;
mod node_ports;
mod oracle;
mod policies;
mod readiness;
mod scale;
mod served;
mod slices;
mod topology;
pub(crate) mod words;

use std::collections::BTreeSet;

use thalweg_cluster::{Change, Dirty};

use super::*;
use words::{name, node, service, short, slice, view};

/// One row: a service in words, its slices, and what is planned.
struct Case {
    /// The behaviour.
    name: &'static str,
    words: &'static str,
    slices: &'static [&'static str],
    /// The rendered lines in any order, separated by semicolons.
    expected: &'static str,
}

/// `"behaviour": "words", "slice", ... => "expected";`
macro_rules! cases {
    ($($(#[$doc:meta])* $name:literal: $words:literal $(, $slice:literal)* => $expected:literal;)*) => {
        pub(super) const CASES: &[super::Case] = &[
            $(super::Case { name: $name, words: $words, slices: &[$($slice),*], expected: $expected },)*
        ];

        #[test]
        fn table() {
            super::check(CASES);
        }
    };
}
use cases;

/// Plans every row and compares; all that fail are told, not only the first.
fn check(cases: &[Case]) {
    let failures: Vec<String> = cases.iter().filter_map(|case| case.run().err()).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

// === impl Case ===

impl Case {
    fn run(&self) -> Result<(), String> {
        let (about_node, about_service): (Vec<&str>, Vec<&str>) =
            self.words.split_whitespace().partition(|word| word.starts_with("view:"));
        let (full_name, words) = match about_service.split_first() {
            Some((first, rest)) if first.starts_with("kube-system/") => (*first, rest),
            _ => ("shop/web", &about_service[..]),
        };
        let object = service(full_name, words.iter().copied());
        let name = object.name.clone();
        let mut world = World::default();
        let dirty = &mut Dirty::default();
        world.apply(Change::Service(name.clone(), Some(Arc::new(object.clone()))), dirty);
        for (index, line) in self.slices.iter().enumerate() {
            let slice = slice(index, &name, line);
            world.apply(Change::EndpointSlice(slice.name.clone(), Some(Arc::new(slice))), dirty);
        }
        for (name, addresses) in [("n1", ["node", "node6"]), ("n2", ["172.30.0.12", "2001:db8::12"])] {
            world.apply(Change::Node(name.into(), Some(Arc::new(node(name, addresses)))), dirty);
        }
        let plan = plan(&world, &name, &view(about_node.iter().filter_map(|word| word.strip_prefix("view:"))));
        is_sound(&plan, &object);
        let seen: BTreeSet<String> = render(&plan, &object).into_iter().collect();
        let lines = self.expected.split(';').map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
        let wanted: BTreeSet<String> = lines.filter(|line| !line.is_empty()).collect();
        if seen == wanted {
            return Ok(());
        }
        let list = |lines: &BTreeSet<String>, other: &BTreeSet<String>| -> String {
            lines.iter().map(|line| format!("\n  {} {line}", if other.contains(line) { ' ' } else { '*' })).collect()
        };
        Err(format!("{}\n planned:{}\n expected:{}", self.name, list(&seen, &wanted), list(&wanted, &seen)))
    }
}

/// What holds for every plan, whatever the case is about.
#[track_caller]
fn is_sound(plan: &ServicePlan, service: &Service) {
    assert!(plan.frontends.is_sorted_by(|a, b| a.key() < b.key()), "frontends in order, each once: {plan:?}");
    assert!(plan.draining.is_sorted_by(|a, b| a < b), "{plan:?}");
    assert!(plan.source_ranges.is_sorted_by(|a, b| a < b), "{plan:?}");
    for (index, set) in plan.sets.iter().enumerate() {
        assert!(set.endpoints.is_sorted_by(|a, b| (a.ip(), a.port()) < (b.ip(), b.port())), "{plan:?}");
        assert!(plan.frontends.iter().any(|frontend| frontend.set == index), "set {index} is used by nobody: {plan:?}");
        assert!(!set.endpoints.iter().any(|endpoint| plan.draining.contains(endpoint)), "{plan:?}");
    }
    for frontend in &plan.frontends {
        let (flags, set) = (frontend.flags, &plan.sets[frontend.set].endpoints);
        assert!(set.iter().all(|endpoint| endpoint.is_ipv4() == frontend.vip.is_ipv4()), "one family: {frontend:?} {set:?}");
        let local = flags.has(FrontendFlags::LOCAL_SET);
        assert_eq!(flags.has(FrontendFlags::LOCAL_ONLY), local && frontend.scope == Scope::EXTERNAL, "{frontend:?}");
        assert!(!flags.has(FrontendFlags::DROP_WHEN_EMPTY) || (local && set.is_empty()), "{frontend:?}");
        assert_eq!(flags.has(FrontendFlags::AFFINITY), frontend.affinity_seconds > 0, "{frontend:?}");
        let wildcard = flags.has(FrontendFlags::WILDCARD);
        assert_eq!(wildcard, frontend.protocol == Proto::ANY, "{frontend:?}");
        assert_eq!(wildcard, (frontend.port, frontend.service_port) == (0, 0), "{frontend:?}");
        assert!(!wildcard || (set.is_empty() && frontend.scope == Scope::INTERNAL), "{frontend:?}");
    }
    for vip in &service.cluster_ips {
        let of = |wildcard: bool| {
            let mut frontends = plan.frontends.iter().filter(|frontend| frontend.vip == *vip);
            frontends.any(|frontend| frontend.flags.has(FrontendFlags::WILDCARD) == wildcard)
        };
        assert_eq!(of(true), of(false), "a cluster IP that is served is ours as a whole: {plan:?}");
    }
}

/// One line per frontend: what is dialled, `ext` from outside, what it has, `->` who answers. The wildcards of cluster
/// IPs are left out.
fn render(plan: &ServicePlan, service: &Service) -> Vec<String> {
    let endpoint = |address: &SocketAddr| format!("{}:{}", short(address.ip()), address.port());
    let list = |addresses: &[SocketAddr]| addresses.iter().map(endpoint).collect::<Vec<_>>().join(" ");
    let mut lines = Vec::new();
    for frontend in &plan.frontends {
        let (flags, vip) = (frontend.flags, short(frontend.vip));
        if flags.has(FrontendFlags::WILDCARD) {
            if !service.cluster_ips.contains(&frontend.vip) {
                lines.push(format!("ours {vip}"));
            }
            continue;
        }
        let protocol = match frontend.protocol {
            Proto::TCP => "tcp",
            Proto::UDP => "udp",
            Proto::SCTP => "sctp",
            other => panic!("{other:?}"),
        };
        let mut line = format!("{vip}:{}/{protocol}", frontend.port);
        let node_port = format!("nodeport {}", frontend.service_port);
        let affinity = format!("affinity {}", frontend.affinity_seconds);
        for (is, word) in [
            (frontend.scope == Scope::EXTERNAL, "ext"),
            (flags.has(FrontendFlags::NODE_PORT), &node_port),
            (flags.has(FrontendFlags::LOCAL_SET), "local"),
            (flags.has(FrontendFlags::DROP_WHEN_EMPTY), "drop"),
            (flags.has(FrontendFlags::CHECK_SOURCE), "checked"),
            (flags.has(FrontendFlags::AFFINITY), &affinity),
        ] {
            if is {
                line += &format!(" {word}");
            }
        }
        if !flags.has(FrontendFlags::NODE_PORT) {
            assert_eq!(frontend.port, frontend.service_port);
        }
        lines.push(format!("{line} -> {}", list(&plan.sets[frontend.set].endpoints)).trim().to_owned());
    }
    if !plan.draining.is_empty() {
        lines.push(format!("draining {}", list(&plan.draining)));
    }
    if !plan.source_ranges.is_empty() {
        let ranges: Vec<String> = plan.source_ranges.iter().map(ToString::to_string).collect();
        lines.push(format!("from {}", ranges.join(" ")));
    }
    lines
}

#[test]
fn the_tables_are_as_long_as_promised_and_every_name_is_there_once() {
    let tables = [
        external::CASES,
        families::CASES,
        node_ports::CASES,
        policies::CASES,
        readiness::CASES,
        served::CASES,
        slices::CASES,
        topology::CASES,
    ];
    let names: Vec<&str> = tables.into_iter().flatten().map(|case| case.name).collect();
    assert!(names.len() >= 150, "{} cases", names.len());
    let mut seen = BTreeSet::new();
    let twice: Vec<&&str> = names.iter().filter(|name| !seen.insert(**name)).collect();
    assert!(twice.is_empty(), "{twice:?}");
}

#[test]
fn an_unknown_service_is_planned_as_nothing() {
    let unknown = plan(&World::default(), &name("shop/web"), &view(std::iter::empty()));
    assert!(unknown.frontends.is_empty() && unknown.sets.is_empty() && unknown.draining.is_empty());
}

#[test]
fn what_depends_on_the_node() {
    for (words, expected) in [
        ("vip 80/tcp", false),
        ("vip 80/tcp:30080", true),
        ("vip 80/tcp external~lb", true),
        ("vip 80/tcp lb~lb", true),
        ("headless 80/tcp:30080", false),
    ] {
        assert_eq!(depends_on_node(&service("shop/web", words.split(' '))), expected, "{words}");
    }
}
