//! Tables of slices before and after.

use serde_json::json;

use super::*;

/// Endpoints `first..end` of one port.
fn endpoints(numbers: impl IntoIterator<Item = usize>) -> Vec<Endpoint> {
    let endpoint = |number: usize| {
        let address = format!("10.{}.{}.{}", number / 40_000, number / 200, number % 200);
        serde_json::from_value(json!({"addresses": [address], "conditions": {"ready": true}})).unwrap()
    };
    numbers.into_iter().map(endpoint).collect()
}

fn port(number: i32) -> Vec<Port> {
    vec![Port { name: "p".to_owned(), protocol: "TCP".to_owned(), number, app_protocol: None }]
}

fn service() -> Service {
    serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "n"}, "spec": {}})).unwrap()
}

/// The slices after `pack`, and what it wrote: `create`, `edit NAME`, `remove NAME`, each with the endpoints after it.
fn apply(groups: Vec<(Vec<Port>, Vec<Endpoint>)>, slices: &mut Vec<Arc<EndpointSlice>>) -> Vec<String> {
    let mut told = Vec::new();
    for action in pack(&service(), Family::V4, groups, slices) {
        match action {
            Action::Slice(Op::Create(mut slice)) => {
                slice.metadata.name = Some(format!("s{}", slices.len()));
                told.push(format!("create {}", slice.endpoints.as_ref().unwrap().len()));
                slices.push(Arc::from(slice));
            }
            Action::Slice(Op::Edit { key, patch, .. }) => {
                let slice = slices.iter_mut().find(|slice| slice.metadata.name.as_deref() == Some(&key.name)).unwrap();
                let mut after = EndpointSlice::clone(slice);
                if let Some(list) = patch.get("endpoints") {
                    after.endpoints = serde_json::from_value(list.clone()).unwrap();
                }
                if let Some(list) = patch.get("ports") {
                    after.ports = serde_json::from_value(list.clone()).unwrap();
                }
                told.push(format!("edit {} {}", key.name, after.endpoints.as_ref().map_or(0, Vec::len)));
                *slice = Arc::new(after);
            }
            Action::Slice(Op::Remove { key, .. }) => {
                told.push(format!("remove {}", key.name));
                slices.retain(|slice| slice.metadata.name.as_deref() != Some(&key.name));
            }
            other => panic!("{other}"),
        }
    }
    told
}

/// Packs first `before`, then `after`, and expects what the second pass wrote.
#[track_caller]
fn check(before: Vec<Endpoint>, after: Vec<Endpoint>, expected: &[&str]) {
    let mut slices = Vec::new();
    apply(vec![(port(80), before)], &mut slices);
    let count = after.len();
    let told = apply(if after.is_empty() { Vec::new() } else { vec![(port(80), after)] }, &mut slices);
    assert_eq!(told, expected);
    assert_eq!(slices.iter().map(|slice| slice.endpoints.iter().flatten().count()).sum::<usize>(), count);
    assert!(slices.iter().all(|slice| slice.endpoints.iter().flatten().count() <= CAPACITY));
}

#[test]
fn slices_are_filled_and_written_as_little_as_possible() {
    let upto = |end| endpoints(0..end);
    check(upto(0), upto(3), &["edit s0 3"]);
    check(upto(3), upto(3), &[]);
    check(upto(3), upto(250), &["edit s0 50", "create 100", "create 100"]);
    // One more finds room in the slice that is not full; the full ones are left alone.
    check(upto(250), upto(251), &["edit s2 51"]);
    check(upto(200), upto(201), &["create 1"]);
    // One less and one more: one write.
    check(upto(250), endpoints((0..20).chain(21..251)), &["edit s0 100"]);
    check(upto(150), endpoints(50..150), &["edit s0 50"]);
    // A slice that is left empty goes; the last one stays, empty.
    check(upto(150), upto(100), &["remove s1"]);
    check(upto(150), upto(0), &["edit s0 0", "remove s1"]);
    check(upto(3), upto(0), &["edit s0 0"]);
}

#[test]
fn the_rest_goes_together_into_the_fullest_slice_that_takes_it() {
    let slice = |name: &str, range: std::ops::Range<usize>| {
        let ports: Vec<EndpointPort> = port(80).iter().map(EndpointPort::from).collect();
        let slice = json!({"metadata": {"name": name, "labels": labels(&service())}, "addressType": "IPv4", "endpoints": endpoints(range), "ports": ports});
        Arc::new(serde_json::from_value(slice).unwrap())
    };
    let check = |more: usize, expected: &[&str]| {
        let mut slices = vec![slice("low", 0..30), slice("high", 100..190), slice("middle", 200..270)];
        let wanted = endpoints((0..30).chain(100..190).chain(200..270).chain(300..300 + more));
        assert_eq!(apply(vec![(port(80), wanted)], &mut slices), expected, "{more}");
    };
    check(5, &["edit high 95"]);
    check(20, &["edit middle 90"]);
    check(60, &["edit low 90"]);
    check(80, &["create 80"]);
}

#[test]
fn a_slice_changes_its_ports_rather_than_being_replaced() {
    let mut slices = Vec::new();
    assert_eq!(apply(vec![], &mut slices), ["create 0"], "none is said by an empty slice");
    assert_eq!(apply(vec![], &mut slices), [""; 0]);
    assert_eq!(apply(vec![(port(80), endpoints(0..2))], &mut slices), ["edit s0 2"]);
    assert_eq!(apply(vec![(port(90), endpoints(0..2))], &mut slices), ["edit s0 2"]);
    assert_eq!(slices[0].ports.as_ref().unwrap()[0].port, Some(90));
    assert_eq!(apply(vec![(port(90), endpoints(0..1)), (port(91), endpoints(1..2))], &mut slices), ["edit s0 1", "create 1"]);
    assert_eq!(apply(vec![(port(91), endpoints(0..2))], &mut slices), ["edit s1 2", "remove s0"]);
}

#[test]
fn an_endpoint_that_changes_stays_in_its_place() {
    let mut slices = Vec::new();
    apply(vec![(port(80), endpoints(0..3))], &mut slices);
    let mut changed = endpoints(0..3);
    changed.reverse();
    assert_eq!(apply(vec![(port(80), changed.clone())], &mut slices), [""; 0], "order says nothing");
    changed[2].conditions.as_mut().unwrap().ready = Some(false);
    assert_eq!(apply(vec![(port(80), changed)], &mut slices), ["edit s0 3"]);
    assert_eq!(slices[0].endpoints.as_ref().unwrap()[0].conditions.as_ref().unwrap().ready, Some(false));
}
