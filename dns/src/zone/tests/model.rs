//! What packed entries answer, against the simplest reading of the objects that they come from.

use hickory_proto::op::Message;
use thalweg_cluster::World;

use super::*;
use crate::answer::respond;
use crate::query::Transport;
use crate::testkit::packet;

/// A name's addresses and its ports: name, protocol and number.
type Host = (BTreeSet<IpAddr>, BTreeSet<(String, String, u16)>);

/// The ready endpoints of a service by label, as the specification says it.
fn hosts(world: &World, service: &Service) -> BTreeMap<String, Host> {
    let mut hosts: BTreeMap<String, Host> = BTreeMap::new();
    for slice in world.slices(&service.name) {
        for endpoint in slice.endpoints.iter().filter(|endpoint| endpoint.condition.ready || service.publish_not_ready) {
            let label = endpoint.hostname.as_deref().map_or_else(|| dashed(endpoint.address), Into::into);
            let (addresses, ports) = hosts.entry(label).or_default();
            addresses.insert(endpoint.address);
            let protocol = |protocol| format!("_{protocol:?}").to_lowercase();
            ports.extend(slice.ports.iter().map(|port| (port.name.to_string(), protocol(port.protocol), port.port)));
        }
    }
    hosts
}

/// The data of the answers to a question, whatever their order.
fn ask(zone: &Zone, name: &str, rtype: &str) -> BTreeSet<String> {
    let mut out = Vec::new();
    respond(&packet(name, rtype, None), Transport::Tcp, 1 << 30, zone, &mut out);
    let answers = Message::from_vec(&out).expect("a reply").answers;
    let data: Vec<String> = answers.iter().map(|record| record.data.to_string()).collect();
    let set: BTreeSet<String> = data.iter().cloned().collect();
    assert_eq!(set.len(), data.len(), "{name} {rtype} says something twice: {data:?}");
    set
}

fn both(zone: &Zone, name: &str) -> BTreeSet<IpAddr> {
    let all = ["A", "AAAA"].into_iter().flat_map(|rtype| ask(zone, name, rtype));
    all.map(|ip| ip.parse().expect("an address")).collect()
}

/// Without priority and weight.
fn targets(zone: &Zone, name: &str) -> BTreeSet<(u16, String)> {
    let all = ask(zone, name, "SRV").into_iter();
    let target = |data: String| {
        let fields: Vec<&str> = data.split(' ').collect();
        (fields[2].parse().expect("a port"), fields[3].into())
    };
    all.map(target).collect()
}

fn check(world: &World, zone: &Zone, service: &Service) {
    let base = format!("{}.{}.svc.cluster.local", service.name.name, service.name.namespace);
    let hosts = hosts(world, service);
    for (label, (addresses, _)) in &hosts {
        assert_eq!(both(zone, &format!("{label}.{base}")), *addresses, "{label}.{base}");
        for ip in addresses {
            let names = ask(zone, name::display(&name::reverse(*ip)).trim_end_matches('.'), "PTR");
            let fronts = world.services().filter(|other| other.cluster_ips.contains(ip));
            let fronts: Vec<String> =
                fronts.map(|at| format!("{}.{}.svc.cluster.local.", at.name.name, at.name.namespace)).collect();
            match fronts.is_empty() {
                true => assert!(names.contains(&format!("{label}.{base}.")), "{ip}: {names:?}"),
                false => assert_eq!(names, fronts.into_iter().collect(), "{ip}"),
            }
        }
    }
    if !service.headless {
        assert_eq!(both(zone, &base), service.cluster_ips.iter().copied().collect(), "{base}");
        return;
    }
    assert_eq!(both(zone, &base), hosts.values().flat_map(|(addresses, _)| addresses).copied().collect(), "{base}");
    let mut expected: BTreeMap<String, BTreeSet<(u16, String)>> = BTreeMap::new();
    for (label, (_, ports)) in &hosts {
        for (port, protocol, number) in ports {
            let target = (*number, format!("{label}.{base}."));
            expected.entry(base.clone()).or_default().insert(target.clone());
            expected.entry(format!("_{port}.{protocol}.{base}")).or_default().insert(target);
        }
    }
    for (name, expected) in expected {
        assert_eq!(targets(zone, &name), expected, "{name}");
    }
}

proptest! {
    #[test]
    fn entries_answer_what_their_objects_say(events in prop::collection::vec(event(), 1..40)) {
        let mut cluster = Cluster::new(false);
        events.iter().for_each(|event| happen(&mut cluster, event));
        let zone = cluster.synced();
        let services: Vec<_> = cluster.world.services().filter(|service| service.external_name.is_none()).cloned().collect();
        services.iter().for_each(|service| check(&cluster.world, &zone, service));
    }
}
