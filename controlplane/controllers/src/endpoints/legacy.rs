//! Endpoints, the older form: one object per service, addresses grouped by ports.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::endpoint::{self, Family, Port};
use super::{HEADLESS, View, headless, tolerant};
use crate::action::{Action, Op};
use crate::selector::Labels;
use crate::{meta, pod};

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Addresses in one object.
const CAPACITY: usize = 1000;

/// Made by us, not by hand.
pub fn ours(endpoints: &Endpoints) -> bool {
    meta::labels(&endpoints.metadata).get(MANAGED_BY).is_some_and(|by| by == MANAGER)
}

pub fn reconcile(view: &View, service: &Service, family: Family) -> Option<Action> {
    let (subsets, truncated) = subsets(view, service, family);
    let subsets = Some(subsets).filter(|subsets| !subsets.is_empty());
    let Some(old) = view.endpoints.as_deref() else {
        let mut metadata = ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels(service)),
            ..ObjectMeta::default()
        };
        note(&mut metadata, truncated);
        return Some(Op::Create(Box::new(Endpoints { metadata, subsets })).into());
    };
    let mut new = old.clone();
    new.metadata.labels = Some(labels(service));
    note(&mut new.metadata, truncated);
    new.subsets = subsets;
    Op::edit(old, &new).map(Into::into)
}

fn note(metadata: &mut ObjectMeta, truncated: bool) {
    if truncated {
        meta::annotate(metadata, OVER_CAPACITY, "truncated");
    } else if let Some(annotations) = &mut metadata.annotations {
        annotations.remove(OVER_CAPACITY);
    }
}

/// The pods' addresses by the ports they have, each list sorted; and whether some were left out.
fn subsets(view: &View, service: &Service, family: Family) -> (Vec<EndpointSubset>, bool) {
    let tolerant = tolerant(service);
    let mut groups: BTreeMap<Vec<Port>, (Vec<EndpointAddress>, Vec<EndpointAddress>)> = BTreeMap::new();
    let usable = |one: &Pod| !pod::finished(one) && (tolerant || !meta::deleting(&one.metadata));
    for one in view.pods.iter().filter(|one| usable(one)) {
        let Some(address) = endpoint::address(one, family) else { continue };
        let mut target = meta::reference(one.as_ref());
        target.api_version = None;
        let address = EndpointAddress {
            ip: address.to_owned(),
            hostname: endpoint::hostname(service, one),
            node_name: Some(pod::node(one).to_owned()).filter(|node| !node.is_empty()),
            target_ref: Some(target),
        };
        let (ready, waiting) = groups.entry(endpoint::ports(service, one)).or_default();
        if tolerant || pod::ready(one) { ready.push(address) } else { waiting.push(address) }
    }
    let mut room = CAPACITY;
    let mut truncated = false;
    let mut take = |mut addresses: Vec<EndpointAddress>| {
        addresses.sort_by(|a, b| a.ip.cmp(&b.ip));
        truncated |= addresses.len() > room;
        addresses.truncate(room);
        room -= addresses.len();
        Some(addresses).filter(|addresses| !addresses.is_empty())
    };
    // Those that can be used find room first.
    let ready: Vec<_> = groups.into_iter().map(|(ports, (ready, waiting))| (ports, take(ready), waiting)).collect();
    let subsets = ready.into_iter().map(|(ports, addresses, waiting)| EndpointSubset {
        addresses,
        not_ready_addresses: take(waiting),
        ports: Some(ports.iter().map(port).collect::<Vec<_>>()).filter(|ports| !ports.is_empty()),
    });
    let subsets = subsets.filter(|subset| subset.addresses.is_some() || subset.not_ready_addresses.is_some()).collect();
    (subsets, truncated)
}

fn port(port: &Port) -> EndpointPort {
    EndpointPort {
        name: Some(port.name.clone()).filter(|name| !name.is_empty()),
        protocol: Some(port.protocol.clone()),
        port: port.number,
        app_protocol: port.app_protocol.clone(),
    }
}

/// Labels of the service's Endpoints: the service's own, and ours.
fn labels(service: &Service) -> Labels {
    let mut labels = meta::labels(&service.metadata).clone();
    labels.remove(HEADLESS);
    if headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    labels
}
