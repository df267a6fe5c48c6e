//! `thalweg services`: every frontend with who answers it.

use std::collections::HashMap;
use std::net::SocketAddr;

use serde::Serialize;
use thalweg_abi::{Backend, BackendState, Frontend, FrontendFlags, FrontendKey, Scope, ServiceName, Slot};

use super::{Row, name_of, names, protocol};

/// One frontend. Wildcards are left out: they say nothing that the others do not.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ServiceRow {
    pub service: String,
    pub address: SocketAddr,
    pub protocol: String,
    /// `inside`: dialled by pods and the node; `outside`: arrived at the uplink.
    pub from: &'static str,
    /// `nodeport`, `local` (keeps the source, only this node's endpoints), `affinity`, `drop` or `refuse`.
    pub traits: Vec<&'static str>,
    /// 0 without affinity.
    pub affinity_seconds: u32,
    /// How often the frontend has been replaced.
    pub generation: u32,
    pub endpoints: Vec<EndpointRow>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct EndpointRow {
    pub address: SocketAddr,
    /// `ready`, `draining`, or `gone`: which a frontend must never point at for longer than a moment.
    pub state: &'static str,
    pub backend: u32,
    pub generation: u32,
}

/// Rows in the order of services, then addresses.
pub fn services(
    frontends: &[(FrontendKey, Frontend)],
    slots: &[(u32, Slot)],
    backends: &[(u32, Backend)],
    service_names: &[(u32, ServiceName)],
) -> Vec<ServiceRow> {
    let names = names(service_names);
    let slots: HashMap<u32, &Slot> = slots.iter().map(|(index, slot)| (*index, slot)).collect();
    let backends: HashMap<u32, &Backend> = backends.iter().map(|(id, backend)| (*id, backend)).collect();
    let mut rows: Vec<ServiceRow> = frontends
        .iter()
        .filter(|(_, value)| !value.flags.has(FrontendFlags::WILDCARD))
        .map(|(key, value)| ServiceRow {
            service: name_of(&names, value.service),
            address: SocketAddr::new(key.vip.into(), key.port.to_host()),
            protocol: protocol(key.proto),
            from: if key.scope == Scope::EXTERNAL { "outside" } else { "inside" },
            traits: traits(value),
            affinity_seconds: value.affinity_seconds,
            generation: value.generation,
            endpoints: (0..value.count)
                .filter_map(|offset| slots.get(&value.base.checked_add(offset)?))
                .map(|slot| endpoint(slot, backends.get(&slot.backend).copied()))
                .collect(),
        })
        .collect();
    rows.sort_by(|a, b| (&a.service, a.address, &a.protocol, a.from).cmp(&(&b.service, b.address, &b.protocol, b.from)));
    rows
}

fn traits(value: &Frontend) -> Vec<&'static str> {
    let drops = value.flags.has(FrontendFlags::DROP_WHEN_EMPTY);
    [
        (value.flags.has(FrontendFlags::NODE_PORT), "nodeport"),
        (value.flags.has(FrontendFlags::LOCAL_ONLY), "local"),
        (value.flags.has(FrontendFlags::AFFINITY), "affinity"),
        (value.count == 0 && drops, "drop"),
        (value.count == 0 && !drops, "refuse"),
    ]
    .into_iter()
    .filter_map(|(has, word)| has.then_some(word))
    .collect()
}

fn endpoint(slot: &Slot, backend: Option<&Backend>) -> EndpointRow {
    let state = match backend {
        Some(backend) if backend.generation != slot.generation => "gone",
        Some(backend) if backend.state == BackendState::READY => "ready",
        Some(backend) if backend.state == BackendState::DRAINING => "draining",
        _ => "gone",
    };
    EndpointRow {
        address: SocketAddr::new(slot.addr.into(), slot.port.to_host()),
        state,
        backend: slot.backend,
        generation: slot.generation,
    }
}

// === impl ServiceRow ===

impl Row for ServiceRow {
    const COLUMNS: &'static [&'static str] = &["SERVICE", "FRONTEND", "FROM", "TRAITS", "GENERATION", "BACKENDS"];

    fn cells(&self) -> Vec<String> {
        let backends: Vec<String> = self
            .endpoints
            .iter()
            .map(|endpoint| match endpoint.state {
                "ready" => endpoint.address.to_string(),
                state => format!("{} ({state})", endpoint.address),
            })
            .collect();
        vec![
            self.service.clone(),
            format!("{}/{}", self.address, self.protocol),
            self.from.to_owned(),
            if self.traits.is_empty() { "-".to_owned() } else { self.traits.join(",") },
            self.generation.to_string(),
            if backends.is_empty() { "-".to_owned() } else { backends.join("\n") },
        ]
    }
}
