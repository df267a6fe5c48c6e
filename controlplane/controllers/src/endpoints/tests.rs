//! Endpoints of pods: conditions, ports, names, families; and both forms in which they are published.

use serde_json::{Value, json};

use super::*;

fn service(extra: &Value) -> Service {
    let mut spec = json!({"clusterIP": "10.96.0.5", "ipFamilies": ["IPv4"], "selector": {"app": "web"},
        "ports": [{"name": "http", "port": 80, "targetPort": "http"}]});
    spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    serde_json::from_value(
        json!({"metadata": {"name": "web", "namespace": "n", "uid": "s", "labels": {"team": "red"}}, "spec": spec}),
    )
    .unwrap()
}

/// A pod from words: `ready`, `leaving`, `done`, `young` (no address), `dual`, `sub` (a host name under the service), and a
/// number: the container port called `http`.
fn pod(name: &str, words: &str) -> Arc<Pod> {
    let has = |word: &str| words.split(' ').any(|one| one == word);
    let port = words.split(' ').find_map(|word| word.parse::<i32>().ok());
    let ports: Vec<Value> = port.map(|port| json!({"name": "http", "containerPort": port})).into_iter().collect();
    let number = name.trim_start_matches(char::is_alphabetic);
    let mut ips = vec![json!({"ip": format!("10.244.0.{number}")})];
    if has("dual") {
        ips.push(json!({"ip": format!("fd00::{number}")}));
    }
    let pod = json!({
        "metadata": {"name": name, "uid": name, "namespace": "n", "deletionTimestamp": if has("leaving") { json!("2030-01-01T00:00:00Z") } else { Value::Null }},
        "spec": {"containers": [{"name": "c", "ports": ports}], "nodeName": "a",
            "hostname": if has("sub") { json!("host") } else { Value::Null }, "subdomain": if has("sub") { json!("web") } else { Value::Null }},
        "status": {"phase": if has("done") { "Succeeded" } else { "Running" },
            "podIP": if has("young") { Value::Null } else { ips[0]["ip"].clone() }, "podIPs": if has("young") { json!([]) } else { json!(ips) },
            "conditions": [{"type": "Ready", "status": if has("ready") { "True" } else { "False" }}]},
    });
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn view(service: Service, pods: &[(&str, &str)]) -> View {
    View {
        service: Some(Arc::new(service)),
        pods: pods.iter().map(|(name, words)| pod(name, words)).collect(),
        zones: [("a".to_owned(), "west".to_owned())].into(),
        slices: Vec::new(),
        endpoints: None,
    }
}

fn made(actions: &[Action]) -> (Vec<Value>, Value) {
    let slices = actions.iter().filter_map(|action| match action {
        Action::Slice(Op::Create(slice)) => Some(serde_json::to_value(slice).unwrap()),
        _ => None,
    });
    let endpoints = actions.iter().find_map(|action| match action {
        Action::Endpoints(Op::Create(endpoints)) => Some(serde_json::to_value(endpoints).unwrap()),
        _ => None,
    });
    (slices.collect(), endpoints.unwrap_or_default())
}

#[test]
fn conditions() {
    // ready, serving, terminating; and in Endpoints: used, waiting, or left out.
    let check = |publish: bool, words: &str, expected: Option<(bool, bool, bool)>, legacy: &str| {
        let view = view(service(&json!({"publishNotReadyAddresses": publish})), &[("p1", &format!("{words} 8080"))]);
        let (slices, endpoints) = made(&reconcile(&view));
        let found = slices[0]["endpoints"].as_array().unwrap().first().map(|endpoint| {
            let flag = |name: &str| endpoint["conditions"][name].as_bool().unwrap();
            (flag("ready"), flag("serving"), flag("terminating"))
        });
        assert_eq!(found, expected, "{publish} {words}");
        let subset = &endpoints["subsets"][0];
        let found = if subset["addresses"].is_array() {
            "used"
        } else if subset["notReadyAddresses"].is_array() {
            "waiting"
        } else {
            ""
        };
        assert_eq!(found, legacy, "{publish} {words}");
    };
    check(false, "ready", Some((true, true, false)), "used");
    check(false, "", Some((false, false, false)), "waiting");
    check(false, "ready leaving", Some((false, true, true)), "");
    check(false, "leaving", Some((false, false, true)), "");
    check(false, "ready done", None, "");
    check(false, "ready young", None, "");
    check(true, "", Some((true, false, false)), "used");
    check(true, "leaving", Some((true, false, true)), "used");
}

#[test]
fn an_endpoint_says_where_and_who() {
    let (slices, _) = made(&reconcile(&view(service(&json!({})), &[("p1", "ready sub 8080")])));
    let expected = json!([{"addresses": ["10.244.0.1"], "conditions": {"ready": true, "serving": true, "terminating": false}, "hostname": "host",
        "nodeName": "a", "zone": "west", "targetRef": {"kind": "Pod", "name": "p1", "namespace": "n", "uid": "p1"}}]);
    assert_eq!(slices[0]["endpoints"], expected);
    assert_eq!(slices[0]["ports"], json!([{"name": "http", "port": 8080, "protocol": "TCP"}]));
    let metadata = &slices[0]["metadata"];
    assert_eq!(metadata["generateName"], "web-");
    assert_eq!(metadata["labels"], json!({"team": "red", SERVICE_NAME: "web", MANAGED_BY: MANAGER}));
    assert_eq!(
        (&metadata["ownerReferences"][0]["kind"], &metadata["ownerReferences"][0]["uid"]),
        (&json!("Service"), &json!("s"))
    );
}

#[test]
fn pods_of_different_ports_are_kept_apart() {
    let (slices, endpoints) = made(&reconcile(&view(
        service(&json!({})),
        &[("p1", "ready 8080"), ("p2", "ready 9090"), ("p3", "ready 8080"), ("p4", "ready")],
    )));
    let shown: Vec<_> =
        slices.iter().map(|slice| (slice["ports"][0]["port"].clone(), slice["endpoints"].as_array().unwrap().len())).collect();
    assert_eq!(
        shown,
        [(json!(8080), 2), (json!(9090), 1), (json!(null), 1)],
        "the last one lacks the port that the service names"
    );
    assert_eq!(endpoints["subsets"].as_array().unwrap().len(), 3);
}

#[test]
fn ports() {
    let check = |ports: Value, words: &str, expected: &[(&str, i32)]| {
        let ports = endpoint::ports(&service(&json!({"ports": ports})), &pod("p1", words));
        assert_eq!(ports.iter().map(|port| (port.name.as_str(), port.number)).collect::<Vec<_>>(), expected);
    };
    check(json!([{"port": 80}]), "", &[("", 80)]);
    check(json!([{"port": 80, "targetPort": 8080}]), "", &[("", 8080)]);
    check(json!([{"port": 80, "targetPort": "http"}]), "9090", &[("", 9090)]);
    check(json!([{"port": 80, "targetPort": "http"}]), "", &[]);
    check(json!([{"port": 80, "targetPort": "http", "protocol": "UDP"}]), "9090", &[]);
    check(json!([{"name": "b", "port": 80}, {"name": "a", "port": 81}]), "", &[("a", 81), ("b", 80)]);
    check(Value::Null, "", &[]);
}

#[test]
fn each_family_has_its_slices() {
    let check = |extra: Value, expected: &[(&str, &str)]| {
        let (slices, _) = made(&reconcile(&view(service(&extra), &[("p1", "ready dual 80")])));
        let shown: Vec<_> = slices
            .iter()
            .map(|slice| (slice["addressType"].as_str().unwrap(), slice["endpoints"][0]["addresses"][0].as_str().unwrap()))
            .collect();
        assert_eq!(shown, expected, "{extra}");
    };
    check(json!({}), &[("IPv4", "10.244.0.1")]);
    check(json!({"ipFamilies": ["IPv6", "IPv4"]}), &[("IPv6", "fd00::1"), ("IPv4", "10.244.0.1")]);
    check(json!({"ipFamilies": null, "clusterIP": "fd00:10::1"}), &[("IPv6", "fd00::1")]);
    check(json!({"ipFamilies": null, "clusterIP": "None"}), &[("IPv4", "10.244.0.1")]);
}

#[test]
fn headless_services_are_marked() {
    let (slices, endpoints) =
        made(&reconcile(&view(service(&json!({"clusterIP": "None", "ports": null})), &[("p1", "ready")])));
    assert_eq!(slices[0]["metadata"]["labels"][HEADLESS], "");
    assert_eq!(endpoints["metadata"]["labels"][HEADLESS], "");
    assert_eq!((slices[0]["ports"].clone(), slices[0]["endpoints"].as_array().unwrap().len()), (json!([]), 1));
    assert_eq!(
        endpoints["subsets"],
        json!([{"addresses": [{"ip": "10.244.0.1", "nodeName": "a", "targetRef": {"kind": "Pod", "name": "p1", "namespace": "n", "uid": "p1"}}]}])
    );
}

#[test]
fn traffic_stays_near_where_it_is_wanted() {
    let check = |preference: &str, words: &str, expected: Value| {
        let (slices, _) = made(&reconcile(&view(service(&json!({"trafficDistribution": preference})), &[("p1", words)])));
        assert_eq!(slices[0]["endpoints"][0]["hints"], expected, "{preference} {words}");
    };
    check("PreferClose", "ready 80", json!({"forZones": [{"name": "west"}]}));
    check("PreferSameZone", "ready 80", json!({"forZones": [{"name": "west"}]}));
    check("PreferSameNode", "ready 80", json!({"forZones": [{"name": "west"}], "forNodes": [{"name": "a"}]}));
    check("PreferClose", "80", Value::Null);
}

#[test]
fn what_is_none_of_our_business() {
    let check = |extra: Value| {
        assert!(reconcile(&view(service(&extra), &[("p1", "ready")])).is_empty(), "{extra}");
    };
    check(json!({"selector": null}));
    check(json!({"selector": {}}));
    check(json!({"type": "ExternalName"}));
    let mut going = service(&json!({}));
    going.metadata.deletion_timestamp = Some(meta::time(jiff::Timestamp::UNIX_EPOCH));
    assert!(reconcile(&view(going, &[])).is_empty());
}

#[test]
fn endpoints_of_a_service_that_is_gone() {
    let check = |labels: Value, annotations: Value, by_us: &[&str], lost: &[&str]| {
        let endpoints: Endpoints = serde_json::from_value(
            json!({"metadata": {"name": "web", "uid": "e", "labels": labels, "annotations": annotations}}),
        )
        .unwrap();
        let view =
            View { service: None, pods: vec![], zones: HashMap::new(), slices: vec![], endpoints: Some(Arc::new(endpoints)) };
        let text = |actions: Vec<Action>| actions.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            (text(reconcile(&view)), text(reconcile_lost(&view))),
            (by_us.iter().map(ToString::to_string).collect(), lost.iter().map(ToString::to_string).collect())
        );
    };
    let removal = ["Endpoints remove web"];
    check(json!({"endpoints.kubernetes.io/managed-by": "endpoint-controller"}), json!({}), &removal, &removal);
    check(json!({}), json!({}), &[], &removal);
    check(json!({}), json!({LEADER: "x"}), &[], &[]);
}

/// What has been published is left alone as long as it is right.
#[test]
fn nothing_new_nothing_written() {
    let mut view = view(service(&json!({})), &[("p1", "ready 80"), ("p2", "80")]);
    for action in reconcile(&view) {
        match action {
            Action::Slice(Op::Create(slice)) => view.slices.push(Arc::from(slice)),
            Action::Endpoints(Op::Create(endpoints)) => view.endpoints = Some(Arc::from(endpoints)),
            other => panic!("{other}"),
        }
    }
    assert!(reconcile(&view).is_empty());
    view.pods[1] = pod("p2", "ready 80");
    let text: Vec<_> =
        reconcile(&view).iter().map(|action| action.to_string().split(' ').take(2).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(text, ["EndpointSlice edit", "Endpoints edit"]);
}
