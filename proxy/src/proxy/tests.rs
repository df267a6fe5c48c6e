//! What the proxy tells its backend, and how little of it when little changes.

use std::sync::Arc;

use thalweg_abi::Proto;
use thalweg_cluster::{Change, ServiceCidr};

use super::*;
use crate::plan::host_ports::HostPort;
use crate::plan::tests::words::{name, node, service, slice, view};

/// Remembers what it is told.
#[derive(Default)]
struct Told {
    set: Vec<ServicePlan>,
    removed: Vec<Name>,
    ranges: Vec<Vec<IpNetwork>>,
    retained: usize,
}

impl Backend for Told {
    fn set(&mut self, plan: ServicePlan) {
        self.set.push(plan);
    }

    fn remove(&mut self, name: &Name) {
        self.removed.push(name.clone());
    }

    fn set_service_ranges(&mut self, ranges: &[IpNetwork]) {
        self.ranges.push(ranges.to_vec());
    }

    fn retain_only_known(&mut self) {
        self.retained += 1;
    }

    fn apply(&mut self, _: Instant) -> Result<Applied, thalweg_loader::Error> {
        Ok(Applied { stages: vec![("slots", std::time::Duration::ZERO)], ..Applied::default() })
    }

    fn next_deadline(&self) -> Option<Instant> {
        None
    }
}

/// A world, and the proxy that follows it.
struct Case {
    world: World,
    dirty: Dirty,
    proxy: Proxy<Told>,
}

impl Case {
    fn new() -> Self {
        let proxy = Proxy::new(Told::default(), view(std::iter::empty()));
        let mut case = Self { world: World::default(), dirty: Dirty::default(), proxy };
        case.node("n1", Some(["node", "node6"]));
        case.node("n2", Some(["172.30.0.12", "2001:db8::12"]));
        case
    }

    fn service(&mut self, full_name: &str, words: Option<&str>) {
        let object = words.map(|words| Arc::new(service(full_name, words.split(' '))));
        self.world.apply(Change::Service(name(full_name), object), &mut self.dirty);
    }

    fn slice(&mut self, index: usize, full_name: &str, line: &str) {
        let slice = slice(index, &name(full_name), line);
        self.world.apply(Change::EndpointSlice(slice.name.clone(), Some(Arc::new(slice))), &mut self.dirty);
    }

    fn node(&mut self, name: &str, addresses: Option<[&str; 2]>) {
        let object = addresses.map(|addresses| Arc::new(node(name, addresses)));
        self.world.apply(Change::Node(name.into(), object), &mut self.dirty);
    }

    fn range(&mut self, name: &str, cidrs: &[&str]) {
        let cidrs: Vec<IpNetwork> = cidrs.iter().map(|cidr| cidr.parse().expect("range")).collect();
        let object = (!cidrs.is_empty()).then(|| Arc::new(ServiceCidr { name: name.into(), cidrs, ready: true }));
        self.world.apply(Change::ServiceCidr(name.into(), object), &mut self.dirty);
    }

    /// Updates, and returns what the backend was told: the names of services that were set, and of those removed.
    #[track_caller]
    fn update(&mut self) -> (Vec<String>, Vec<String>) {
        let dirty = std::mem::take(&mut self.dirty);
        self.proxy.update(&self.world, &dirty).expect("update");
        let told = self.proxy.backend_mut();
        let set = std::mem::take(&mut told.set).iter().map(|plan| plan.name.to_string()).collect();
        (set, std::mem::take(&mut told.removed).iter().map(Name::to_string).collect())
    }

    /// The endpoints of a service's only set, as it is planned now.
    fn endpoints(&mut self) -> String {
        let dirty = std::mem::take(&mut self.dirty);
        self.proxy.update(&self.world, &dirty).expect("update");
        let plan = self.proxy.backend_mut().set.pop().expect("a plan");
        let set = plan.sets.iter().find(|set| !set.endpoints.is_empty()).expect("a set");
        set.endpoints.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }
}

fn names(words: &str) -> Vec<String> {
    words.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn nothing_is_told_before_everything_is_listed() {
    let mut case = Case::new();
    case.service("a/a", Some("10.96.0.1 80/tcp"));
    case.range("kubernetes", &["10.96.0.0/12"]);
    assert_eq!(case.update(), (names(""), names("")));
    assert!(case.proxy.backend().ranges.is_empty());
    assert_eq!(case.proxy.backend().retained, 0);
    case.proxy.synced();
    assert_eq!(case.update(), (names("a/a"), names("")));
    assert_eq!((case.proxy.backend().ranges.len(), case.proxy.backend().retained), (1, 1));
    assert_eq!(case.update(), (names(""), names("")));
    assert_eq!(case.proxy.backend().retained, 1);
}

#[test]
fn another_backend_is_told_everything_again() {
    let mut case = Case::new();
    case.service("a/a", Some("10.96.0.1 80/tcp"));
    case.range("kubernetes", &["10.96.0.0/12"]);
    case.proxy.synced();
    case.update();
    *case.proxy.backend_mut() = Told::default();
    case.proxy.start_over();
    assert_eq!(case.update(), (names("a/a"), names("")));
    assert_eq!((case.proxy.backend().ranges.len(), case.proxy.backend().retained), (1, 1));
    assert_eq!(case.update(), (names(""), names("")));
}

// kubernetes#139513, kubernetes#135639: what a change costs does not grow with the cluster.
#[test]
fn only_what_changed_is_planned() {
    let mut case = Case::new();
    for index in 0..300 {
        case.service(&format!("n/s{index}"), Some(&format!("10.96.1.{} {}/tcp:30080", index % 250, 80 + index)));
    }
    case.service("n/alias", Some("10.96.2.1 80/tcp external~172.30.0.13"));
    case.proxy.synced();
    assert_eq!(case.update().0.len(), 301);

    case.slice(0, "n/s7", "80/tcp | 1.5");
    assert_eq!(case.update(), (names("n/s7"), names("")));
    case.service("n/s8", None);
    assert_eq!(case.update(), (names(""), names("n/s8")));
    // Another node matters to those that use its address, and to nobody else.
    case.node("n3", Some(["172.30.0.13", "2001:db8::13"]));
    assert_eq!(case.update(), (names("n/alias"), names("")));
    case.node("n3", None);
    assert_eq!(case.update(), (names("n/alias"), names("")));
    case.node("n2", None);
    assert_eq!(case.update(), (names(""), names("")));
    // This node's own address matters to all with a node port or an address from outside.
    case.node("n1", Some(["node", "172.30.0.99"]));
    assert_eq!(case.update().0.len(), 300);
}

#[test]
fn an_external_address_that_becomes_a_node_s_is_not_refused_any_more() {
    let mut case = Case::new();
    case.service("n/alias", Some("vip 80/tcp external~172.30.0.13"));
    case.proxy.synced();
    let wildcards = |case: &mut Case| {
        let dirty = std::mem::take(&mut case.dirty);
        case.proxy.update(&case.world, &dirty).expect("update");
        let plan = case.proxy.backend_mut().set.pop().expect("a plan");
        plan.frontends.iter().filter(|frontend| frontend.port == 0).count()
    };
    assert_eq!(wildcards(&mut case), 2);
    case.node("n3", Some(["172.30.0.13", "2001:db8::13"]));
    assert_eq!(wildcards(&mut case), 1);
    case.node("n3", None);
    assert_eq!(wildcards(&mut case), 2);
}

#[test]
fn another_zone_plans_everything_again_and_removes_what_went_meanwhile() {
    let mut case = Case::new();
    case.service("a/a", Some("10.96.0.1 80/tcp"));
    case.service("a/b", Some("10.96.0.2 80/tcp"));
    case.proxy.synced();
    case.update();
    let moved = thalweg_cluster::Node { zone: Some("z9".into()), ..node("n1", ["node", "node6"]) };
    case.world.apply(Change::Node("n1".into(), Some(Arc::new(moved))), &mut case.dirty);
    case.service("a/b", None);
    assert_eq!(case.update(), (names("a/a"), names("a/b")));
}

#[test]
fn a_new_view_takes_effect_with_the_next_update() {
    let mut case = Case::new();
    case.service("a/a", Some("10.96.0.1 80/tcp:30080"));
    case.service("a/b", Some("10.96.0.2 80/tcp"));
    case.proxy.synced();
    case.update();
    case.proxy.set_view(view(["localhost"].into_iter()));
    assert_eq!(case.update(), (names("a/a"), names("")));
    case.proxy.set_view(view(["localhost"].into_iter()));
    assert_eq!(case.update(), (names(""), names("")));
}

// kubernetes#121362: after any sequence of changes all endpoints of all slices are there.
#[test]
fn endpoints_are_those_of_all_slices_after_every_change() {
    let mut case = Case::new();
    case.service("a/a", Some("vip 80/tcp"));
    case.slice(0, "a/a", "80/tcp | 1.1");
    case.proxy.synced();
    assert_eq!(case.endpoints(), "10.244.1.1:80");
    case.slice(1, "a/a", "80/tcp | 1.2");
    assert_eq!(case.endpoints(), "10.244.1.1:80 10.244.1.2:80");
    case.slice(0, "a/a", "80/tcp |");
    assert_eq!(case.endpoints(), "10.244.1.2:80");
    case.slice(0, "a/a", "80/tcp | 1.3");
    assert_eq!(case.endpoints(), "10.244.1.2:80 10.244.1.3:80");
}

#[test]
fn service_ranges_are_told_when_they_change() {
    let mut case = Case::new();
    case.proxy.synced();
    case.update();
    assert!(case.proxy.backend().ranges.is_empty(), "nothing is known of any range");
    case.range("kubernetes", &["fd00:96::/112", "10.96.0.7/12"]);
    case.range("more", &["10.200.0.0/16"]);
    case.update();
    case.range("same", &["10.200.0.0/16"]);
    case.update();
    case.range("kubernetes", &[]);
    case.update();
    let told: Vec<String> = case.proxy.backend().ranges.iter().map(|ranges| format!("{ranges:?}")).collect();
    let list =
        |ranges: &[&str]| format!("{:?}", ranges.iter().map(|range| range.parse().expect("range")).collect::<Vec<IpNetwork>>());
    assert_eq!(told, [list(&["10.96.0.0/12", "10.200.0.0/16", "fd00:96::/112"]), list(&["10.200.0.0/16"])]);
}

#[test]
fn stages_are_the_backend_s_between_plan_and_total() {
    let mut case = Case::new();
    case.service("a/a", Some("10.96.0.1 80/tcp"));
    case.proxy.synced();
    let applied = case.proxy.update(&case.world, &Dirty::default()).expect("update");
    let stages: Vec<&str> = applied.stages.iter().map(|(stage, _)| *stage).collect();
    assert_eq!(stages, ["plan", "slots", "total"]);
    assert!(stages.iter().all(|stage| crate::STAGES.contains(stage)));
}

#[test]
fn services_without_endpoints_here_are_counted() {
    let mut case = Case::new();
    case.service("a/in", Some("vip vip6 80/tcp internal-local"));
    case.slice(0, "a/in", "80/tcp | 2.6");
    case.slice(1, "a/in", "80/tcp | 6.2.6");
    case.service("a/out", Some("10.96.0.8 a=80/tcp b=81/tcp lb~lb external-local"));
    case.slice(2, "a/out", "a=80/tcp b=81/tcp | 2.6");
    // Nobody anywhere: that is another thing.
    case.service("a/none", Some("10.96.0.9 80/tcp internal-local"));
    case.proxy.synced();
    case.update();
    assert_eq!(case.proxy.no_local_endpoints(), NoLocal { internal: [1, 1], external: [1, 0] });
    case.slice(0, "a/in", "80/tcp | 2.6 1.5");
    case.service("a/out", None);
    case.update();
    assert_eq!(case.proxy.no_local_endpoints(), NoLocal { internal: [0, 1], external: [0, 0] });
}

#[test]
fn the_cause_of_a_change_is_told_once() {
    let mut case = Case::new();
    let cause = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_795_180_869);
    let caused = |line: &str| {
        let slice = slice(0, &name("a/a"), line);
        let slice = thalweg_cluster::EndpointSlice { last_change: Some(cause), ..slice };
        Change::EndpointSlice(slice.name.clone(), Some(Arc::new(slice)))
    };
    let told = |case: &mut Case, change| {
        case.world.apply(change, &mut case.dirty);
        std::mem::take(&mut case.dirty).triggered
    };
    assert_eq!(told(&mut case, caused("80/tcp | 1.5")), [(thalweg_cluster::Family::V4, cause)]);
    // As when everything is listed again.
    assert_eq!(told(&mut case, caused("80/tcp | 1.5")), []);
    assert_eq!(told(&mut case, caused("80/tcp | 6.1.5")), [(thalweg_cluster::Family::V6, cause)]);
}

/// A pod with these host ports.
fn pod_with(pod: &str, ports: &[u16]) -> PodHostPorts {
    let port = |port: &u16| HostPort { ip: None, port: *port, target: 80, protocol: Proto::TCP };
    PodHostPorts {
        pod: name(pod),
        addresses: vec!["10.244.1.5".parse().expect("address")],
        ports: ports.iter().map(port).collect(),
    }
}

#[test]
fn host_ports_come_and_go_with_their_pods() {
    let mut case = Case::new();
    case.service("a/a", Some("10.96.0.1 80/tcp:30080"));
    case.proxy.set_host_ports(vec![pod_with("default/web", &[8080]), pod_with("default/none", &[])]);
    assert_eq!(case.update(), (names(""), names("")), "nothing is listed yet");
    case.proxy.synced();
    // Services first; and both before what is not known goes.
    assert_eq!(case.update(), (names("a/a hostport/default.web"), names("")));
    assert_eq!(case.proxy.backend().retained, 1);
    assert_eq!(case.update(), (names(""), names("")));

    case.proxy.set_host_ports(vec![pod_with("default/web", &[8080]), pod_with("default/dns.0", &[53])]);
    assert_eq!(case.update(), (names("hostport/default.dns.0"), names("")));
    // The addresses of the node matter to them.
    case.node("n1", Some(["node", "172.30.0.99"]));
    assert_eq!(case.update(), (names("a/a hostport/default.dns.0 hostport/default.web"), names("")));
    case.proxy.set_host_ports(vec![pod_with("default/dns.0", &[53, 54])]);
    assert_eq!(case.update(), (names("hostport/default.dns.0"), names("hostport/default.web")));
}

#[test]
fn host_ports_stay_when_everything_is_planned_again() {
    let mut case = Case::new();
    case.proxy.set_host_ports(vec![pod_with("default/web", &[8080])]);
    case.proxy.synced();
    case.update();
    let moved = thalweg_cluster::Node { zone: Some("z9".into()), ..node("n1", ["node", "node6"]) };
    case.world.apply(Change::Node("n1".into(), Some(Arc::new(moved))), &mut case.dirty);
    assert_eq!(case.update(), (names("hostport/default.web"), names("")));
    assert_eq!(case.proxy.backend().retained, 2);
}
