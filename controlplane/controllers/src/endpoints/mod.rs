//! EndpointSlices, and Endpoints for those who still read them: where the pods of a service are, and which may be used.

mod endpoint;
mod legacy;
pub mod pack;

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Endpoints, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

pub use self::endpoint::Family;
use self::endpoint::Port;
use crate::action::{Action, Op};
use crate::cache::State;
use crate::meta::{self, Key};
use crate::pod;
use crate::selector::{Labels, contains};

pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";
/// Annotation of Endpoints that are not a service's but a lock.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";

/// What there is to one service.
pub struct View {
    pub service: Option<Arc<Service>>,
    /// The pods that its selector matches.
    pub pods: Vec<Arc<Pod>>,
    /// Zones of nodes that have one.
    pub zones: HashMap<String, String>,
    /// The slices that we made for it.
    pub slices: Vec<Arc<EndpointSlice>>,
    pub endpoints: Option<Arc<Endpoints>>,
}

// === impl View ===

impl View {
    pub fn of(state: &State, key: &Key) -> Self {
        let service = state.services.get(key).cloned();
        let pods: Vec<_> = match service.as_deref().and_then(selector) {
            Some(wanted) => {
                state.pods.within(&key.namespace).filter(|one| contains(wanted, meta::labels(&one.metadata))).cloned().collect()
            }
            None => Vec::new(),
        };
        let zone_of = |one: &Arc<Pod>| {
            let node = pod::node(one);
            Some((node.to_owned(), zone(state.nodes.get(&Key::new("", node))?)?.to_owned()))
        };
        let ours = |slice: &&Arc<EndpointSlice>| {
            let labels = meta::labels(&slice.metadata);
            labels.get(SERVICE_NAME) == Some(&key.name) && labels.get(MANAGED_BY).is_some_and(|by| by == MANAGER)
        };
        Self {
            zones: pods.iter().filter_map(zone_of).collect(),
            service,
            pods,
            slices: state.slices.within(&key.namespace).filter(ours).cloned().collect(),
            endpoints: state.endpoints.get(key).cloned(),
        }
    }
}

/// The selector by which a service gets its endpoints from us; `None` when somebody else writes them, or nobody.
pub fn selector(service: &Service) -> Option<&Labels> {
    let spec = service.spec.as_ref().filter(|spec| spec.type_.as_deref() != Some("ExternalName"))?;
    spec.selector.as_ref().filter(|selector| !selector.is_empty())
}

pub fn zone(node: &Node) -> Option<&str> {
    meta::labels(&node.metadata).get("topology.kubernetes.io/zone").map(String::as_str)
}

fn headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None")
}

/// Publishes pods that are not ready as if they were.
fn tolerant(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses) == Some(true)
}

/// Brings slices and Endpoints to what the pods are.
pub fn reconcile(view: &View) -> Vec<Action> {
    let Some(service) = view.service.as_deref() else {
        // Slices go by their owner. Endpoints have none: they are removed here, if they were ours.
        let ours = view.endpoints.iter().filter(|endpoints| legacy::ours(endpoints));
        return ours.map(|endpoints| Op::remove(endpoints.as_ref(), None).into()).collect();
    };
    if selector(service).is_none() || meta::deleting(&service.metadata) {
        return Vec::new();
    }
    let families = endpoint::families(service, &view.pods);
    let mut actions = Vec::new();
    for family in &families {
        let mut groups: Vec<(Vec<Port>, Vec<_>)> = Vec::new();
        for one in &view.pods {
            let Some(endpoint) = endpoint::endpoint(service, one, *family, &view.zones) else { continue };
            let ports = endpoint::ports(service, one);
            match groups.iter_mut().find(|(known, _)| *known == ports) {
                Some((_, endpoints)) => endpoints.push(endpoint),
                None => groups.push((ports, vec![endpoint])),
            }
        }
        let of_family = |slice: &&Arc<EndpointSlice>| slice.address_type == family.name();
        let existing: Vec<_> = view.slices.iter().filter(of_family).cloned().collect();
        actions.extend(pack::pack(service, *family, groups, &existing));
    }
    let stray = view.slices.iter().filter(|slice| families.iter().all(|family| family.name() != slice.address_type));
    actions.extend(stray.map(|slice| Op::remove(slice.as_ref(), None).into()));
    if let Some(family) = families.first() {
        actions.extend(legacy::reconcile(view, service, *family));
    }
    actions
}

/// Endpoints made by hand for a service without selector go with the service.
pub fn reconcile_lost(view: &View) -> Vec<Action> {
    let lost = view.endpoints.iter().filter(|endpoints| meta::annotation(&endpoints.metadata, LEADER).is_none());
    match view.service {
        Some(_) => Vec::new(),
        None => lost.map(|endpoints| Op::remove(endpoints.as_ref(), None).into()).collect(),
    }
}

#[cfg(test)]
mod tests;
