//! Services and EndpointSlices, field by field.

use std::net::IpAddr;
use std::time::SystemTime;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;

use super::{Context, ConvertError, label, name};
use crate::intern::intern;
use crate::model::{
    Condition, Endpoint, EndpointPort, EndpointSlice, External, Family, Hints, LoadBalancerAddress, Name, Port, Service,
    ServiceType,
};

/// Label of a slice: the service it belongs to.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Annotation of a slice: when its writer learned of the change that it was written for.
const LAST_CHANGE: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// Label of a service that another proxy serves.
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// Label of a service that no proxy serves, whatever its addresses.
const HEADLESS: &str = "service.kubernetes.io/headless";
/// ClientIP affinity without a time-out of its own: three hours.
const DEFAULT_AFFINITY_SECONDS: u32 = 10_800;

/// # Errors
/// Names the first field that makes no sense.
pub fn service(object: core::Service) -> Result<Service, ConvertError> {
    let name = name("Service", &object.metadata)?;
    let context = Context { kind: "Service", name: name.to_string() };
    let spec = object.spec.ok_or_else(|| context.error("spec", "is missing"))?;
    let service_type = match spec.type_.as_deref().unwrap_or("ClusterIP") {
        "ClusterIP" => ServiceType::ClusterIp,
        "NodePort" => ServiceType::NodePort,
        "LoadBalancer" => ServiceType::LoadBalancer,
        "ExternalName" => ServiceType::ExternalName,
        other => return Err(context.error("spec.type", format!("{other:?} is no type of service"))),
    };

    // Old objects carry only clusterIP; both fields say "None" for headless and nothing before allocation.
    let mut ips = spec.cluster_ips.unwrap_or_default();
    if ips.is_empty() {
        ips.extend(spec.cluster_ip);
    }
    ips.retain(|ip| !ip.is_empty());
    let headless = ips.iter().any(|ip| ip == "None");
    let cluster_ips = match service_type {
        ServiceType::ExternalName => Vec::new(),
        _ if headless => Vec::new(),
        _ => context.addresses("spec.clusterIPs", &ips)?,
    };

    let listed = spec.ports.unwrap_or_default();
    let mut ports = Vec::with_capacity(listed.len());
    for (index, port) in listed.into_iter().enumerate() {
        let node_port = match port.node_port.unwrap_or_default() {
            0 => 0,
            number => context.port(|| format!("spec.ports[{index}].nodePort"), number)?,
        };
        ports.push(Port {
            name: port.name.as_deref().map(intern).unwrap_or_default(),
            protocol: context.protocol(|| format!("spec.ports[{index}].protocol"), port.protocol.as_deref())?,
            port: context.port(|| format!("spec.ports[{index}].port"), port.port)?,
            node_port,
        });
    }

    let mut load_balancer = Vec::new();
    let ingress = object.status.and_then(|status| status.load_balancer).and_then(|status| status.ingress).unwrap_or_default();
    for (index, entry) in ingress.into_iter().enumerate() {
        let Some(ip) = entry.ip.filter(|ip| !ip.is_empty()) else { continue };
        let ip = context.address(|| format!("status.loadBalancer.ingress[{index}].ip"), &ip)?;
        load_balancer.push(LoadBalancerAddress { ip, proxied: entry.ip_mode.as_deref() == Some("Proxy") });
    }

    let affinity_seconds = match spec.session_affinity.as_deref().unwrap_or_default() {
        "" | "None" => None,
        "ClientIP" => {
            let seconds =
                spec.session_affinity_config.and_then(|config| config.client_ip).and_then(|config| config.timeout_seconds);
            match seconds {
                None => Some(DEFAULT_AFFINITY_SECONDS),
                Some(seconds) => Some(u32::try_from(seconds).ok().filter(|seconds| *seconds > 0).ok_or_else(|| {
                    context.error("spec.sessionAffinityConfig.clientIP.timeoutSeconds", format!("{seconds} is not a time-out"))
                })?),
            }
        }
        other => return Err(context.error("spec.sessionAffinity", format!("{other:?} is neither ClientIP nor None"))),
    };

    let external = External {
        ips: context.addresses("spec.externalIPs", &spec.external_ips.unwrap_or_default())?,
        load_balancer,
        source_ranges: context.cidrs("spec.loadBalancerSourceRanges", &spec.load_balancer_source_ranges.unwrap_or_default())?,
    };

    Ok(Service {
        service_type,
        cluster_ips,
        headless,
        ports,
        external: (external != External::default()).then(|| Box::new(external)),
        affinity_seconds,
        internal_policy: context.policy("spec.internalTrafficPolicy", spec.internal_traffic_policy.as_deref())?,
        external_policy: context.policy("spec.externalTrafficPolicy", spec.external_traffic_policy.as_deref())?,
        health_check_node_port: match spec.health_check_node_port.unwrap_or_default() {
            0 => 0,
            number => context.port(|| "spec.healthCheckNodePort".into(), number)?,
        },
        publish_not_ready: spec.publish_not_ready_addresses.unwrap_or_default(),
        external_name: spec.external_name.filter(|name| !name.is_empty()).map(Into::into),
        proxy_name: label(&object.metadata, PROXY_NAME).or_else(|| label(&object.metadata, HEADLESS).map(|_| HEADLESS.into())),
        name,
    })
}

/// `None` when the slice belongs to no service, or holds names instead of addresses.
///
/// # Errors
/// Names the first field that makes no sense.
pub fn endpoint_slice(object: discovery::EndpointSlice) -> Result<Option<EndpointSlice>, ConvertError> {
    let name = name("EndpointSlice", &object.metadata)?;
    let context = Context { kind: "EndpointSlice", name: name.to_string() };
    let Some(service) = label(&object.metadata, SERVICE_NAME).filter(|service| !service.is_empty()) else { return Ok(None) };
    let family = match object.address_type.as_str() {
        "IPv4" => Family::V4,
        "IPv6" => Family::V6,
        "FQDN" => return Ok(None),
        other => return Err(context.error("addressType", format!("{other:?} is none of IPv4, IPv6, FQDN"))),
    };

    let listed = object.ports.unwrap_or_default();
    let mut ports = Vec::with_capacity(listed.len());
    for (index, port) in listed.into_iter().enumerate() {
        // A port without a number stands for "every port", which no service port can be matched with.
        let Some(number) = port.port else { continue };
        ports.push(EndpointPort {
            name: port.name.as_deref().map(intern).unwrap_or_default(),
            protocol: context.protocol(|| format!("ports[{index}].protocol"), port.protocol.as_deref())?,
            port: context.port(|| format!("ports[{index}].port"), number)?,
        });
    }

    let listed = object.endpoints.unwrap_or_default();
    let mut endpoints = Vec::with_capacity(listed.len());
    for (index, endpoint) in listed.into_iter().enumerate() {
        endpoints.push(self::endpoint(&context, family, index, endpoint)?);
    }
    let service = Name { namespace: name.namespace.clone(), name: service };
    let last_change = last_change(&object.metadata);
    Ok(Some(EndpointSlice { name, service, family, ports, endpoints, last_change }))
}

/// For a figure only: what cannot be read is left out.
fn last_change(metadata: &ObjectMeta) -> Option<SystemTime> {
    let text = metadata.annotations.as_ref()?.get(LAST_CHANGE)?;
    Some(text.parse::<Timestamp>().ok()?.into())
}

fn endpoint(context: &Context, family: Family, index: usize, object: discovery::Endpoint) -> Result<Endpoint, ConvertError> {
    let field = format!("endpoints[{index}].addresses");
    let addresses: Vec<IpAddr> = context.addresses(&field, &object.addresses)?;
    let Some(address) = addresses.first().copied() else { return Err(context.error(field, "holds no address")) };
    if let Some(stranger) = addresses.iter().find(|address| address.is_ipv4() != (family == Family::V4)) {
        return Err(context.error(field, format!("{stranger} is not of the slice's addressType")));
    }
    let conditions = object.conditions.unwrap_or_default();
    let hints = object.hints.unwrap_or_default();
    let hints = Hints {
        zones: hints.for_zones.unwrap_or_default().iter().map(|hint| intern(&hint.name)).collect(),
        nodes: hints.for_nodes.unwrap_or_default().iter().map(|hint| intern(&hint.name)).collect(),
    };
    let pod = object.target_ref.filter(|target| target.kind.as_deref() == Some("Pod")).and_then(|target| target.name);
    Ok(Endpoint {
        address,
        condition: Condition {
            ready: conditions.ready.unwrap_or(true),
            serving: conditions.serving.unwrap_or(true),
            terminating: conditions.terminating.unwrap_or(false),
        },
        node: object.node_name.as_deref().map(intern),
        hostname: object.hostname.filter(|hostname| !hostname.is_empty()).map(Into::into),
        pod: pod.map(Into::into),
        hints: (hints != Hints::default()).then(|| Box::new(hints)),
    })
}
