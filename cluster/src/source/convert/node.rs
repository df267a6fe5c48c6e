//! What belongs to nodes and to the cluster's addresses: Node, Pod and ServiceCIDR, field by field.

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::networking::v1 as networking;

use super::{Context, ConvertError, bare_name, label, name};
use crate::intern::intern;
use crate::model::{Node, Pod, ServiceCidr};

/// Label of a node: its zone.
const ZONE: &str = "topology.kubernetes.io/zone";
/// Annotation that repeats the whole object: larger than all that we keep of it.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// # Errors
/// Names the first field that makes no sense.
pub fn node(object: core::Node) -> Result<Node, ConvertError> {
    let name = bare_name("Node", &object.metadata)?;
    let context = Context { kind: "Node", name: name.to_string() };
    let spec = object.spec.unwrap_or_default();
    let mut addresses = Vec::new();
    for (index, address) in object.status.and_then(|status| status.addresses).unwrap_or_default().into_iter().enumerate() {
        if address.type_ == "InternalIP" {
            addresses.push(context.address(|| format!("status.addresses[{index}].address"), &address.address)?);
        }
    }
    let mut cidrs = spec.pod_cidrs.unwrap_or_default();
    if cidrs.is_empty() {
        cidrs.extend(spec.pod_cidr);
    }
    cidrs.retain(|cidr| !cidr.is_empty());
    Ok(Node {
        name,
        addresses,
        pod_cidrs: context.cidrs("spec.podCIDRs", &cidrs)?,
        zone: label(&object.metadata, ZONE).filter(|zone| !zone.is_empty()),
        deleting: object.metadata.deletion_timestamp.is_some(),
        taints: spec.taints.unwrap_or_default().iter().map(|taint| format!("{}:{}", taint.key, taint.effect).into()).collect(),
    })
}

/// `None` when the pod is on no node, or over: its address may already be another's.
///
/// # Errors
/// Names the first field that makes no sense.
pub fn pod(object: core::Pod) -> Result<Option<Pod>, ConvertError> {
    let name = name("Pod", &object.metadata)?;
    let context = Context { kind: "Pod", name: name.to_string() };
    let spec = object.spec.unwrap_or_default();
    let status = object.status.unwrap_or_default();
    let Some(node) = spec.node_name.filter(|node| !node.is_empty()) else { return Ok(None) };
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return Ok(None);
    }
    let mut ips: Vec<String> = status.pod_ips.unwrap_or_default().into_iter().map(|entry| entry.ip).collect();
    if ips.is_empty() {
        ips.extend(status.pod_ip);
    }
    ips.retain(|ip| !ip.is_empty());
    Ok(Some(Pod {
        addresses: context.addresses("status.podIPs", &ips)?,
        uid: object.metadata.uid.unwrap_or_default().into(),
        node: intern(&node),
        host_network: spec.host_network.unwrap_or_default(),
        runtime_class: spec.runtime_class_name.filter(|class| !class.is_empty()).map(Into::into),
        annotations: object
            .metadata
            .annotations
            .unwrap_or_default()
            .into_iter()
            .filter(|(key, _)| key != LAST_APPLIED)
            .map(|(key, value)| (key.into(), value.into()))
            .collect(),
        name,
    }))
}

/// # Errors
/// Names the first field that makes no sense.
pub fn service_cidr(object: networking::ServiceCIDR) -> Result<ServiceCidr, ConvertError> {
    let name = bare_name("ServiceCIDR", &object.metadata)?;
    let context = Context { kind: "ServiceCIDR", name: name.to_string() };
    let cidrs = object.spec.and_then(|spec| spec.cidrs).unwrap_or_default();
    if cidrs.is_empty() {
        return Err(context.error("spec.cidrs", "holds no CIDR"));
    }
    let conditions = object.status.and_then(|status| status.conditions).unwrap_or_default();
    Ok(ServiceCidr {
        cidrs: context.cidrs("spec.cidrs", &cidrs)?,
        // The API server counts a range without the condition as ready too: no controller may be there to set it.
        ready: conditions
            .iter()
            .find(|condition| condition.type_ == "Ready")
            .is_none_or(|condition| condition.status == "True"),
        name,
    })
}
