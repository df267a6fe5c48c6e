//! Allocation: what services get, and what they are refused in Kubernetes' words.

use serde_json::json;

use super::*;

fn allocator() -> ServiceAllocator {
    ServiceAllocator::new("10.96.0.0/16".parse().unwrap(), (30000, 32767))
}

fn service(spec: Value) -> Value {
    json!({ "metadata": { "name": "web", "namespace": "default" }, "spec": spec })
}

fn create(allocator: &mut ServiceAllocator, spec: Value) -> Result<Value, String> {
    let mut service = service(spec);
    let allocated = allocator.allocate_for_create(&mut service).map_err(|e| e.to_string())?;
    allocator.commit(allocated);
    Ok(service["spec"].clone())
}

fn ports(spec: &Value) -> Vec<i64> {
    spec["ports"].as_array().unwrap().iter().map(|p| p["nodePort"].as_i64().unwrap_or(0)).collect()
}

fn port(port: u16, protocol: &str) -> Value {
    json!({ "port": port, "protocol": protocol })
}

#[test]
fn addresses_come_from_the_upper_band_one_after_the_other() {
    let mut allocator = allocator();
    let first = create(&mut allocator, json!({ "type": "ClusterIP" })).unwrap();
    assert_eq!(first["clusterIP"], "10.96.1.1");
    assert_eq!(first["clusterIPs"], json!(["10.96.1.1"]));
    assert_eq!((&first["ipFamilies"], &first["ipFamilyPolicy"]), (&json!(["IPv4"]), &json!("SingleStack")));
    assert_eq!(create(&mut allocator, json!({ "type": "ClusterIP" })).unwrap()["clusterIP"], "10.96.1.2");
    allocator.release(&service(first));
    assert_eq!(create(&mut allocator, json!({ "type": "ClusterIP" })).unwrap()["clusterIP"], "10.96.1.3");
}

#[test]
fn chosen_addresses_are_checked() {
    let mut allocator = allocator();
    let mut check = |address: &str, expected: Result<&str, &str>| {
        let found = create(&mut allocator, json!({ "type": "ClusterIP", "clusterIP": address }));
        let found = found.map(|spec| text(&spec["clusterIPs"][0]).to_owned());
        assert_eq!(found.as_deref().map_err(String::as_str), expected);
    };
    check("10.96.0.10", Ok("10.96.0.10"));
    check(
        "10.96.0.10",
        Err(
            "spec.clusterIPs: Invalid value: [\"10.96.0.10\"]: failed to allocate IP 10.96.0.10: provided IP is already allocated",
        ),
    );
    check(
        "10.97.0.1",
        Err(
            "spec.clusterIPs: Invalid value: [\"10.97.0.1\"]: failed to allocate IP 10.97.0.1: the provided IP (10.97.0.1) is not in \
             the valid range. The range of valid IPs is 10.96.0.0/16",
        ),
    );
    check(
        "10.96.0.1",
        Err(
            "spec.clusterIPs: Invalid value: [\"10.96.0.1\"]: failed to allocate IP 10.96.0.1: provided IP is already allocated",
        ),
    );
    check(
        "10.96.255.255",
        Err("spec.clusterIPs: Invalid value: [\"10.96.255.255\"]: failed to allocate IP 10.96.255.255: the provided IP \
             (10.96.255.255) is not in the valid range. The range of valid IPs is 10.96.0.0/16"),
    );
    check("None", Ok("None"));

    let mut first = json!({
        "metadata": { "name": "kubernetes", "namespace": "default" }, "spec": { "type": "ClusterIP", "clusterIP": "10.96.0.1" },
    });
    assert!(allocator.allocate_for_create(&mut first).is_ok());
    assert_eq!(allocator.first_address().to_string(), "10.96.0.1");
}

#[test]
fn external_names_and_other_families() {
    let mut allocator = allocator();
    let external = create(&mut allocator, json!({ "type": "ExternalName", "externalName": "a.example" })).unwrap();
    assert_eq!(external, json!({ "type": "ExternalName", "externalName": "a.example" }));
    assert_eq!(
        create(&mut allocator, json!({ "type": "ClusterIP", "ipFamilies": ["IPv6"] })).unwrap_err(),
        "spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster"
    );
    assert!(create(&mut allocator, json!({ "type": "ClusterIP", "ipFamilyPolicy": "RequireDualStack" })).is_err());
    let prefer = create(&mut allocator, json!({ "type": "ClusterIP", "ipFamilyPolicy": "PreferDualStack" })).unwrap();
    assert_eq!(prefer["ipFamilyPolicy"], "PreferDualStack");

    let mut v6 = ServiceAllocator::new("fd00:1::/112".parse().unwrap(), (30000, 32767));
    let spec = create(&mut v6, json!({ "type": "ClusterIP" })).unwrap();
    assert_eq!((&spec["clusterIP"], &spec["ipFamilies"]), (&json!("fd00:1::101"), &json!(["IPv6"])));
}

#[test]
fn node_ports_are_given_and_checked() {
    let mut allocator = allocator();
    let node_port =
        |number: i64| json!({ "type": "NodePort", "ports": [{ "port": 80, "protocol": "TCP", "nodePort": number }] });
    assert_eq!(
        create(&mut allocator, node_port(80)).unwrap_err(),
        "spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767"
    );
    assert!(create(&mut allocator, node_port(70000)).unwrap_err().contains("Invalid value: 70000: provided port is not in"));
    assert_eq!(ports(&create(&mut allocator, node_port(30080)).unwrap()), [30080]);
    assert_eq!(
        create(&mut allocator, node_port(30080)).unwrap_err(),
        "spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated"
    );
    let spec = json!({ "type": "NodePort", "ports": [port(80, "TCP"), port(81, "TCP")] });
    assert_eq!(ports(&create(&mut allocator, spec).unwrap()), [30086, 30087]);
}

#[test]
fn a_refused_service_leaves_nothing_behind() {
    let mut allocator = allocator();
    let bad = json!({
        "type": "NodePort", "clusterIP": "10.96.0.20",
        "ports": [{ "port": 80, "protocol": "TCP", "nodePort": 31000 }, { "port": 81, "protocol": "TCP", "nodePort": 1 }],
    });
    assert!(create(&mut allocator, bad).is_err());
    assert!(allocator.addresses.is_empty() && allocator.ports.taken.is_empty());

    let mut dry = service(json!({ "type": "NodePort", "ports": [port(80, "TCP")] }));
    let allocated = allocator.allocate_for_create(&mut dry).unwrap();
    allocator.rollback(allocated);
    assert!(allocator.addresses.is_empty() && allocator.ports.taken.is_empty());
}

#[test]
fn tcp_and_udp_of_one_port_share_a_node_port() {
    let mut allocator = allocator();
    let spec = json!({ "type": "NodePort", "ports": [port(53, "UDP"), port(53, "TCP"), port(54, "TCP")] });
    assert_eq!(ports(&create(&mut allocator, spec).unwrap()), [30086, 30086, 30087]);
    let both = |number: u16| {
        let entry = |protocol: &str| json!({ "port": 53, "protocol": protocol, "nodePort": number });
        json!({ "type": "NodePort", "ports": [entry("UDP"), entry("TCP")] })
    };
    assert_eq!(ports(&create(&mut allocator, both(30053)).unwrap()), [30053, 30053]);
    assert!(create(&mut allocator, both(30053)).is_err(), "another service cannot share it");
}

#[test]
fn load_balancers_take_node_ports_unless_told_not_to() {
    let mut allocator = allocator();
    let spec = json!({ "type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": [port(80, "TCP")] });
    let spec = create(&mut allocator, spec).unwrap();
    assert_eq!((ports(&spec), spec["healthCheckNodePort"].as_i64()), (vec![30087], Some(30086)));
    let without = json!({ "type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": [port(80, "TCP")] });
    assert_eq!(ports(&create(&mut allocator, without).unwrap()), [0]);
}

#[test]
fn updates_keep_take_and_free() {
    let mut allocator = allocator();
    let update = |allocator: &mut ServiceAllocator, old: &Value, new: Value| {
        let mut new = service(new);
        let allocated = allocator.for_update(&service(old.clone()), &mut new).map_err(|e| e.to_string())?;
        allocator.commit(allocated);
        Ok::<Value, String>(new["spec"].clone())
    };
    let cluster = create(&mut allocator, json!({ "type": "ClusterIP", "ports": [port(80, "TCP")] })).unwrap();

    // A client that leaves the address out keeps it.
    let node = update(&mut allocator, &cluster, json!({ "type": "NodePort", "ports": [port(80, "TCP")] })).unwrap();
    assert_eq!(node["clusterIP"], cluster["clusterIP"]);
    assert_eq!(ports(&node), [30086]);

    // The node port stays with its port when another is added before it.
    let two =
        update(&mut allocator, &node, json!({ "type": "NodePort", "ports": [port(79, "TCP"), port(80, "TCP")] })).unwrap();
    assert_eq!(ports(&two), [30087, 30086]);

    // Back to ClusterIP as kubectl patches it: the node ports are still in the object, and go.
    let mut back = two.clone();
    back["type"] = "ClusterIP".into();
    let back = update(&mut allocator, &two, back).unwrap();
    assert_eq!(ports(&back), [0, 0]);
    assert!(allocator.ports.taken.is_empty());

    // ExternalName has no address.
    let mut external = back.clone();
    external["type"] = "ExternalName".into();
    let external = update(&mut allocator, &back, external).unwrap();
    assert!(external.get("clusterIP").is_none() && external.get("ipFamilies").is_none());
    assert!(allocator.addresses.is_empty());
    let again = update(&mut allocator, &external, json!({ "type": "ClusterIP", "ports": [port(80, "TCP")] })).unwrap();
    assert_eq!(again["clusterIP"], "10.96.1.2");
}

#[test]
fn loading_takes_what_is_stored_and_names_conflicts() {
    let mut allocator = allocator();
    let stored = service(json!({ "type": "NodePort", "clusterIP": "10.96.1.1", "clusterIPs": ["10.96.1.1"],
        "ports": [{ "port": 80, "protocol": "TCP", "nodePort": 30086 }] }));
    assert_eq!(allocator.load([&stored]), Vec::<String>::new());
    let spec = create(&mut allocator, json!({ "type": "NodePort", "ports": [port(80, "TCP")] })).unwrap();
    assert_eq!((text(&spec["clusterIP"]), ports(&spec)), ("10.96.1.2", vec![30087]));
    let conflicts = allocator.load([&stored]);
    assert_eq!(conflicts.len(), 2, "{conflicts:?}");
    assert!(conflicts[0].contains("default/web: 10.96.1.1 belongs to another service too"));
}

#[test]
fn a_small_range_is_used_up_and_then_full() {
    let mut allocator = ServiceAllocator::new("10.0.0.0/29".parse().unwrap(), (30000, 30001));
    let found: Vec<String> = (0..5)
        .map(|_| text(&create(&mut allocator, json!({ "type": "ClusterIP" })).unwrap()["clusterIP"]).to_owned())
        .collect();
    assert_eq!(found, ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]);
    let full = create(&mut allocator, json!({ "type": "ClusterIP" })).unwrap_err();
    assert_eq!(full, "spec.clusterIPs: Internal error: failed to allocate a serviceIP: range is full");
    allocator.addresses.remove(&"10.0.0.3".parse().unwrap());
    let ports = json!({ "type": "NodePort", "ports": [port(1, "TCP"), port(2, "TCP"), port(3, "TCP")] });
    let full = create(&mut allocator, ports).unwrap_err();
    assert_eq!(full, "spec.ports: Internal error: failed to allocate a nodePort: range is full");
}
