//! The columns of Endpoints and EndpointSlice: the first three addresses, and how many more there are.

use jiff::Timestamp;
use serde_json::Value;

use super::{items, text, with_more};

const SHOWN: usize = 3;

pub(super) fn endpoints(endpoints: &Value, _: Timestamp) -> Value {
    let mut list = Vec::new();
    for subset in items(&endpoints["subsets"]) {
        let (addresses, ports) = (items(&subset["addresses"]), items(&subset["ports"]));
        if ports.is_empty() {
            list.extend(addresses.iter().map(|a| text(&a["ip"]).to_owned()));
        }
        for port in ports {
            list.extend(addresses.iter().map(|a| host_port(text(&a["ip"]), port["port"].as_i64().unwrap_or(0))));
        }
    }
    if items(&endpoints["subsets"]).is_empty() { "<none>".into() } else { with_more(list, SHOWN).into() }
}

pub(super) fn slice_ports(slice: &Value, _: Timestamp) -> Value {
    let ports = items(&slice["ports"]).iter().map(|p| p["port"].as_i64().map_or("*".to_owned(), |n| n.to_string()));
    unset_or(ports.collect())
}

pub(super) fn slice_endpoints(slice: &Value, _: Timestamp) -> Value {
    let addresses = items(&slice["endpoints"]).iter().flat_map(|e| items(&e["addresses"])).map(|a| text(a).to_owned());
    unset_or(addresses.collect())
}

fn unset_or(list: Vec<String>) -> Value {
    if list.is_empty() { "<unset>".into() } else { with_more(list, SHOWN).into() }
}

fn host_port(ip: &str, port: i64) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}
