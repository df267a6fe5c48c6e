//! Endpoints into slices: at most a hundred each, every endpoint staying where it is, with the fewest writes.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::endpoint::{Family, Port};
use super::{HEADLESS, MANAGED_BY, MANAGER, SERVICE_NAME, headless};
use crate::action::{Action, Op};
use crate::meta;
use crate::selector::Labels;

/// Endpoints in one slice.
pub const CAPACITY: usize = 100;

/// A slice as it is to be; `index` says which existing one it is.
struct Plan {
    index: Option<usize>,
    ports: Vec<Port>,
    endpoints: Vec<Endpoint>,
    changed: bool,
}

/// The writes that bring `existing` to `groups`: the endpoints of one service and family, by the ports that they have.
pub fn pack(
    service: &Service,
    family: Family,
    groups: Vec<(Vec<Port>, Vec<Endpoint>)>,
    existing: &[Arc<EndpointSlice>],
) -> Vec<Action> {
    let mut free: Vec<usize> = (0..existing.len()).collect();
    let mut plans: Vec<Plan> = Vec::new();
    for (ports, endpoints) in groups {
        let (same, rest): (Vec<usize>, Vec<usize>) = free.into_iter().partition(|index| ports_of(&existing[*index]) == ports);
        free = rest;
        plans.extend(pack_group(&ports, endpoints, existing, &same));
    }
    // Slices that lost everything, and slices of ports that nobody has any more.
    let (emptied, mut plans): (Vec<Plan>, Vec<Plan>) = plans.into_iter().partition(|plan| plan.endpoints.is_empty());
    free.extend(emptied.into_iter().filter_map(|plan| plan.index));
    free.sort_unstable();
    // A service without endpoints keeps one empty slice, so that one can tell "none" from "not known yet".
    if plans.is_empty() {
        plans.push(Plan { index: None, ports: Vec::new(), endpoints: Vec::new(), changed: true });
    }
    // A slice that would be removed serves for one that would be made.
    let mut free = free.into_iter();
    for plan in plans.iter_mut().filter(|plan| plan.index.is_none()) {
        plan.index = free.next();
    }
    let removed = free.map(|index| Op::remove(existing[index].as_ref(), None).into());
    let written: Vec<Action> = plans.into_iter().filter_map(|plan| write(service, family, plan, existing)).collect();
    written.into_iter().chain(removed).collect()
}

/// Endpoints of the same ports into the slices of these ports.
fn pack_group(ports: &[Port], endpoints: Vec<Endpoint>, existing: &[Arc<EndpointSlice>], slices: &[usize]) -> Vec<Plan> {
    let mut order: Vec<String> = endpoints.iter().map(identity).collect();
    let mut wanted: HashMap<String, Endpoint> = order.iter().cloned().zip(endpoints).collect();
    let mut plans: Vec<Plan> = Vec::new();
    for &index in slices {
        let mut plan = Plan { index: Some(index), ports: ports.to_vec(), endpoints: Vec::new(), changed: false };
        for current in existing[index].endpoints.iter().flatten() {
            match wanted.remove(&identity(current)) {
                Some(endpoint) => {
                    plan.changed |= endpoint != *current;
                    plan.endpoints.push(endpoint);
                }
                None => plan.changed = true,
            }
        }
        plans.push(plan);
    }
    order.retain(|identity| wanted.contains_key(identity));
    let mut left: Vec<Endpoint> = order.iter().filter_map(|identity| wanted.remove(identity)).collect();

    // Into slices that are written anyhow; then into the fullest one that takes all of the rest; before that, as long as none
    // does, into full new ones.
    for plan in plans.iter_mut().filter(|plan| plan.changed) {
        fill(plan, &mut left);
    }
    while !left.is_empty() {
        let fits = |plan: &&mut Plan| plan.endpoints.len() + left.len() <= CAPACITY;
        if let Some(plan) = plans.iter_mut().filter(fits).max_by_key(|plan| plan.endpoints.len()) {
            fill(plan, &mut left);
            break;
        }
        let mut plan = Plan { index: None, ports: ports.to_vec(), endpoints: Vec::new(), changed: true };
        fill(&mut plan, &mut left);
        plans.push(plan);
    }
    plans
}

fn fill(plan: &mut Plan, left: &mut Vec<Endpoint>) {
    let room = CAPACITY.saturating_sub(plan.endpoints.len()).min(left.len());
    plan.changed |= room > 0;
    plan.endpoints.extend(left.drain(..room));
}

/// What makes two endpoints the same one at different times.
fn identity(endpoint: &Endpoint) -> String {
    let uid = endpoint.target_ref.as_ref().and_then(|target| target.uid.as_deref()).unwrap_or_default();
    format!("{uid} {}", endpoint.addresses.join(","))
}

fn ports_of(slice: &EndpointSlice) -> Vec<Port> {
    let mut ports: Vec<Port> = slice.ports.iter().flatten().map(Port::from).collect();
    ports.sort();
    ports
}

fn write(service: &Service, family: Family, plan: Plan, existing: &[Arc<EndpointSlice>]) -> Option<Action> {
    let ports: Vec<EndpointPort> = plan.ports.iter().map(EndpointPort::from).collect();
    let labels = labels(service);
    let Some(index) = plan.index else {
        let slice = EndpointSlice {
            metadata: ObjectMeta {
                generate_name: Some(format!("{}-", meta::name(&service.metadata))),
                namespace: service.metadata.namespace.clone(),
                labels: Some(labels),
                owner_references: Some(vec![meta::managed_by(service)]),
                ..ObjectMeta::default()
            },
            address_type: family.name().to_owned(),
            endpoints: Some(plan.endpoints),
            ports: Some(ports),
        };
        return Some(Op::Create(Box::new(slice)).into());
    };
    let old = existing[index].as_ref();
    let mut new = old.clone();
    if plan.changed {
        set_list(&mut new.endpoints, plan.endpoints);
        if ports_of(old) != plan.ports {
            set_list(&mut new.ports, ports);
        }
    }
    new.metadata.labels = Some(labels);
    Op::edit(old, &new).map(Into::into)
}

/// An empty list and a missing one are the same: not worth a write.
fn set_list<T>(field: &mut Option<Vec<T>>, list: Vec<T>) {
    if !(list.is_empty() && field.as_ref().is_none_or(Vec::is_empty)) {
        *field = Some(list);
    }
}

/// Labels of the service's slices: the service's own, and ours.
fn labels(service: &Service) -> Labels {
    let mut labels = meta::labels(&service.metadata).clone();
    labels.remove(HEADLESS);
    if headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels.insert(SERVICE_NAME.to_owned(), meta::name(&service.metadata).to_owned());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    labels
}

#[cfg(test)]
mod tests;
