//! Services, Endpoints and EndpointSlices. Whether an address or port is free is [`crate::admit::alloc`]'s to say.

use std::collections::HashSet;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::{IMMUTABLE, cidr, ip_address, is_empty, list, meta, one_of, port_number, port_or_name, text};
use crate::admit::{Causes, Path, names};

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const POLICIES: [&str; 2] = ["Cluster", "Local"];
const MAX_ENDPOINTS: usize = 1000;
const MAX_ADDRESSES: usize = 100;
const MAX_PORTS: usize = 20_000;

pub(crate) fn service(service: &Value, causes: &mut Causes) {
    let (spec, at) = (&service["spec"], Path::Root.field("spec"));
    let kind = text(&spec["type"]);
    let headless = spec["clusterIP"] == "None";
    let node_ports = matches!(kind, "NodePort" | "LoadBalancer");

    if list(&spec["ports"]).is_empty() && !headless && kind != "ExternalName" {
        causes.required(&at.field("ports"), "");
    }
    match kind {
        "ExternalName" => {
            for field in ["clusterIP", "clusterIPs"] {
                if !is_empty(&spec[field]) {
                    causes.forbidden(&at.field(field), "may not be set when `type` is 'ExternalName'");
                }
            }
            match text(&spec["externalName"]).trim_end_matches('.') {
                "" => causes.required(&at.field("externalName"), ""),
                name => causes.all_invalid(&at.field("externalName"), text(&spec["externalName"]), names::dns_subdomain(name)),
            }
        }
        "LoadBalancer" | "NodePort" if headless => {
            causes.invalid(&at.field("clusterIPs").index(0), "None", format!("may not be set to 'None' for {kind} services"));
        }
        _ => {}
    }
    one_of(&spec["type"], &TYPES, &at.field("type"), causes);
    ports(&spec["ports"], kind, node_ports, &at.field("ports"), causes);
    meta::labels(&spec["selector"], &at.field("selector"), causes);
    affinity(spec, &at, causes);
    cluster_ips(spec, &at, causes);

    let external = at.field("externalIPs");
    for (i, ip) in list(&spec["externalIPs"]).iter().enumerate() {
        if let Some(ip) = ip_address(ip, &external.index(i), causes) {
            not_special(ip, &external.index(i), causes);
        }
    }
    policies(spec, kind, &at, causes);

    let ranges = at.field("loadBalancerSourceRanges");
    if kind != "LoadBalancer" && !list(&spec["loadBalancerSourceRanges"]).is_empty() {
        causes.forbidden(&ranges, "may only be used when `type` is 'LoadBalancer'");
    }
    for (i, range) in list(&spec["loadBalancerSourceRanges"]).iter().enumerate() {
        cidr(range, &ranges.index(i), causes);
    }
    if kind != "LoadBalancer" {
        for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if !spec[field].is_null() {
                causes.forbidden(&at.field(field), "may only be used when `type` is 'LoadBalancer'");
            }
        }
    }
}

fn ports(ports: &Value, kind: &str, node_ports: bool, at: &Path<'_>, causes: &mut Causes) {
    let ports = list(ports);
    let (mut seen_names, mut seen_ports, mut seen_node_ports) = (HashSet::new(), HashSet::new(), HashSet::new());
    for (i, port) in ports.iter().enumerate() {
        let at = at.index(i);
        let (name, protocol) = (text(&port["name"]), text(&port["protocol"]));
        if name.is_empty() {
            if ports.len() > 1 {
                causes.required(&at.field("name"), "");
            }
        } else {
            causes.all_invalid(&at.field("name"), name, names::dns_label(name));
            if !seen_names.insert(name) {
                causes.duplicate(&at.field("name"), name);
            }
        }
        port_number(&port["port"], &at.field("port"), causes);
        one_of(&port["protocol"], &PROTOCOLS, &at.field("protocol"), causes);
        if !port["targetPort"].is_null() {
            port_or_name(&port["targetPort"], &at.field("targetPort"), causes);
        }
        if let Some(protocol) = port["appProtocol"].as_str() {
            causes.all_invalid(&at.field("appProtocol"), protocol, names::qualified_name(protocol));
        }
        let number = port["port"].as_i64().unwrap_or(0);
        if !seen_ports.insert((number, protocol)) {
            causes.duplicate(&at, json!({ "port": number, "protocol": protocol }));
        }
        let node_port = port["nodePort"].as_i64().unwrap_or(0);
        if node_port != 0 {
            if !node_ports {
                causes.forbidden(&at.field("nodePort"), format!("may not be used when `type` is '{kind}'"));
            } else if !seen_node_ports.insert((node_port, protocol)) {
                causes.duplicate(&at.field("nodePort"), node_port);
            }
        }
    }
}

fn affinity(spec: &Value, at: &Path<'_>, causes: &mut Causes) {
    one_of(&spec["sessionAffinity"], &["ClientIP", "None"], &at.field("sessionAffinity"), causes);
    if spec["sessionAffinity"] == "ClientIP" {
        let seconds = &spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"];
        let config = at.field("sessionAffinityConfig");
        let path = config.field("clientIP");
        match seconds.as_i64() {
            None => causes.required(&path.field("timeoutSeconds"), ""),
            Some(number) if !(1..=86_400).contains(&number) => {
                causes.invalid(&path.field("timeoutSeconds"), number, "must be greater than 0 and less than 86400");
            }
            Some(_) => {}
        }
    }
}

fn cluster_ips(spec: &Value, at: &Path<'_>, causes: &mut Causes) {
    let (ips, path) = (list(&spec["clusterIPs"]), at.field("clusterIPs"));
    let first = text(&spec["clusterIP"]);
    if let Some(primary) = ips.first() {
        if first.is_empty() && !text(primary).is_empty() {
            causes.invalid(&path, spec["clusterIPs"].clone(), "must be empty when `clusterIP` is not specified");
        } else if first != text(primary) {
            causes.invalid(&path, spec["clusterIPs"].clone(), "first value must match `clusterIP`");
        }
    }
    if ips.len() > 2 {
        causes.invalid(&path, spec["clusterIPs"].clone(), "may only hold up to 2 values");
    }
    for (i, ip) in ips.iter().enumerate() {
        match text(ip) {
            "None" if i == 0 && ips.len() == 1 => {}
            "None" => causes.invalid(&path.index(i), "None", "'None' must be the first and only value"),
            "" => {}
            _ => {
                ip_address(ip, &path.index(i), causes);
            }
        }
    }
    if ips.is_empty() && !matches!(first, "" | "None") {
        ip_address(&spec["clusterIP"], &at.field("clusterIP"), causes);
    }
    let families = at.field("ipFamilies");
    for (i, family) in list(&spec["ipFamilies"]).iter().enumerate() {
        one_of(family, &["IPv4", "IPv6"], &families.index(i), causes);
    }
    if spec["ipFamilyPolicy"].is_string() {
        let supported = ["PreferDualStack", "RequireDualStack", "SingleStack"];
        one_of(&spec["ipFamilyPolicy"], &supported, &at.field("ipFamilyPolicy"), causes);
    }
}

fn policies(spec: &Value, kind: &str, at: &Path<'_>, causes: &mut Causes) {
    let external = &spec["externalTrafficPolicy"];
    let reachable =
        matches!(kind, "NodePort" | "LoadBalancer") || (kind == "ClusterIP" && !list(&spec["externalIPs"]).is_empty());
    if reachable {
        one_of(external, &POLICIES, &at.field("externalTrafficPolicy"), causes);
    } else if !is_empty(external) {
        let message = "may only be set for externally-accessible services";
        causes.invalid(&at.field("externalTrafficPolicy"), external.clone(), message);
    }
    if !is_empty(&spec["internalTrafficPolicy"]) {
        one_of(&spec["internalTrafficPolicy"], &POLICIES, &at.field("internalTrafficPolicy"), causes);
    }
    let health = spec["healthCheckNodePort"].as_i64().unwrap_or(0);
    if health != 0 && !(kind == "LoadBalancer" && *external == "Local") {
        let message = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        causes.invalid(&at.field("healthCheckNodePort"), health, message);
    }
}

/// Addresses that never name a machine elsewhere.
fn not_special(ip: IpAddr, at: &Path<'_>, causes: &mut Causes) {
    let local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let wrong = match () {
        () if ip.is_unspecified() => format!("may not be unspecified ({ip})"),
        () if ip.is_loopback() => "may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned(),
        () if local => "may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned(),
        () if ip.is_multicast() => "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned(),
        () => return,
    };
    causes.invalid(at, ip.to_string(), wrong);
}

/// The cluster address stays as long as the type keeps one.
pub(crate) fn service_update(new: &Value, old: &Value, causes: &mut Causes) {
    let (new, old) = (&new["spec"], &old["spec"]);
    if new["type"] == "ExternalName" || old["type"] == "ExternalName" {
        return;
    }
    let first = |spec: &Value| list(&spec["clusterIPs"]).first().map_or(text(&spec["clusterIP"]), text).to_owned();
    if !first(old).is_empty() && first(new) != first(old) {
        let path = Path::Root.field("spec");
        causes.invalid(&path.field("clusterIPs").index(0), json!([first(new)]), "may not change once set");
    }
}

pub(crate) fn endpoints(endpoints: &Value, causes: &mut Causes) {
    let path = Path::Root.field("subsets");
    for (i, subset) in list(&endpoints["subsets"]).iter().enumerate() {
        let at = path.index(i);
        if list(&subset["addresses"]).is_empty() && list(&subset["notReadyAddresses"]).is_empty() {
            causes.required(&at, "must specify `addresses` or `notReadyAddresses`");
        }
        for field in ["addresses", "notReadyAddresses"] {
            let at = at.field(field);
            for (i, address) in list(&subset[field]).iter().enumerate() {
                if let Some(ip) = ip_address(&address["ip"], &at.index(i).field("ip"), causes) {
                    not_special(ip, &at.index(i).field("ip"), causes);
                }
            }
        }
        endpoint_ports(&subset["ports"], true, &at.field("ports"), causes);
    }
}

fn endpoint_ports(ports: &Value, number_required: bool, at: &Path<'_>, causes: &mut Causes) {
    let ports = list(ports);
    let mut seen = HashSet::new();
    for (i, port) in ports.iter().enumerate() {
        let at = at.index(i);
        let name = text(&port["name"]);
        if name.is_empty() && number_required && ports.len() > 1 {
            causes.required(&at.field("name"), "");
        } else if !name.is_empty() {
            causes.all_invalid(&at.field("name"), name, names::dns_label(name));
        }
        if !number_required && !seen.insert(name) {
            causes.duplicate(&at.field("name"), name);
        }
        if number_required || port["port"].is_number() {
            port_number(&port["port"], &at.field("port"), causes);
        }
        one_of(&port["protocol"], &PROTOCOLS, &at.field("protocol"), causes);
    }
}

pub(crate) fn endpoint_slice(slice: &Value, causes: &mut Causes) {
    let family = text(&slice["addressType"]);
    one_of(&slice["addressType"], &["FQDN", "IPv4", "IPv6"], &Path::Root.field("addressType"), causes);
    let (endpoints, path) = (list(&slice["endpoints"]), Path::Root.field("endpoints"));
    if endpoints.len() > MAX_ENDPOINTS {
        causes.too_many(&path, endpoints.len(), MAX_ENDPOINTS);
        return;
    }
    for (i, endpoint) in endpoints.iter().enumerate() {
        let at = path.index(i);
        let (addresses, at) = (list(&endpoint["addresses"]), at.field("addresses"));
        if addresses.is_empty() {
            causes.required(&at, "must contain at least 1 address");
        } else if addresses.len() > MAX_ADDRESSES {
            causes.too_many(&at, addresses.len(), MAX_ADDRESSES);
            continue;
        }
        for (i, address) in addresses.iter().enumerate() {
            let at = at.index(i);
            let word = text(address);
            match (family, word.parse::<IpAddr>()) {
                ("IPv4", Ok(IpAddr::V4(_))) | ("IPv6", Ok(IpAddr::V6(_))) => {
                    if let Ok(ip) = word.parse() {
                        not_special(ip, &at, causes);
                    }
                }
                ("IPv4", _) => causes.invalid(&at, word, "must be a valid IPv4 address"),
                ("IPv6", _) => causes.invalid(&at, word, "must be a valid IPv6 address"),
                _ => causes.all_invalid(&at, word, names::dns_subdomain(word)),
            }
        }
    }
    let ports = list(&slice["ports"]);
    if ports.len() > MAX_PORTS {
        causes.too_many(&Path::Root.field("ports"), ports.len(), MAX_PORTS);
        return;
    }
    endpoint_ports(&slice["ports"], false, &Path::Root.field("ports"), causes);
}

pub(crate) fn endpoint_slice_update(new: &Value, old: &Value, causes: &mut Causes) {
    if new["addressType"] != old["addressType"] {
        causes.invalid(&Path::Root.field("addressType"), new["addressType"].clone(), IMMUTABLE);
    }
}
