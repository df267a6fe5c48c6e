//! `thalweg services`: every frontend with who answers it.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;
use thalweg_abi::{Backend, BackendState, Frontend, FrontendFlags, FrontendKey, Scope, ServiceName, Slot};

use super::{Filter, Filtered, Row, name_of, names, protocol, words};

/// One frontend. Wildcards are left out: they say nothing that the others do not.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ServiceRow {
    pub service: String,
    pub address: SocketAddr,
    pub protocol: String,
    /// `inside`: dialled by pods and the node; `outside`: arrived at the uplink.
    pub from: &'static str,
    /// `nodeport`, `local` (only this node's endpoints), `keeps-source`, `affinity`, `source-ranges`, `drop` or `refuse`.
    pub traits: Vec<&'static str>,
    /// 0 without affinity.
    pub affinity_seconds: u32,
    /// The service's own port, whatever the frontend's.
    pub service_port: u16,
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

/// Rows of the frontends of one family, in the order of services, then addresses.
pub fn services<A: Copy + Into<IpAddr>>(
    frontends: &[(FrontendKey<A>, Frontend)],
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
            service_port: value.service_port.to_host(),
            generation: value.generation,
            endpoints: (0..value.count)
                .filter_map(|offset| slots.get(&value.base.checked_add(offset)?))
                .map(|slot| endpoint(slot, backends.get(&slot.backend).copied()))
                .collect(),
        })
        .collect();
    rows.sort_by_cached_key(|row| row.order());
    rows
}

fn traits(value: &Frontend) -> Vec<&'static str> {
    let drops = value.flags.has(FrontendFlags::DROP_WHEN_EMPTY);
    [
        (value.flags.has(FrontendFlags::NODE_PORT), "nodeport"),
        (value.flags.has(FrontendFlags::LOCAL_SET), "local"),
        (value.flags.has(FrontendFlags::LOCAL_ONLY), "keeps-source"),
        (value.flags.has(FrontendFlags::AFFINITY), "affinity"),
        (value.flags.has(FrontendFlags::CHECK_SOURCE), "source-ranges"),
        (value.count == 0 && drops, "drop"),
        (value.count == 0 && !drops, "refuse"),
    ]
    .into_iter()
    .filter_map(|(has, word)| has.then_some(word))
    .collect()
}

/// What a slot points at, and whether that still is who it was.
pub(super) fn endpoint(slot: &Slot, backend: Option<&Backend>) -> EndpointRow {
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

impl ServiceRow {
    /// By which rows are sorted, those of both families together.
    pub fn order(&self) -> impl Ord + use<> {
        (self.service.clone(), self.address, self.protocol.clone(), self.from)
    }
}

impl Filtered for ServiceRow {
    fn is_wanted(&self, filter: &Filter) -> bool {
        filter.wants_service(&self.service) && filter.wants_vip(self.address.ip()) && filter.wants_protocol(&self.protocol)
    }
}

impl Row for ServiceRow {
    const COLUMNS: &'static [&'static str] = &["SERVICE", "FRONTEND", "FROM", "TRAITS", "GENERATION", "BACKENDS"];
    const WIDE: &'static [&'static str] = &["IDS", "AFFINITY", "SERVICE-PORT"];

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
            words(&self.traits),
            self.generation.to_string(),
            if backends.is_empty() { "-".to_owned() } else { backends.join("\n") },
        ]
    }

    fn wide_cells(&self) -> Vec<String> {
        let ids: Vec<String> = self.endpoints.iter().map(|at| format!("{}.{}", at.backend, at.generation)).collect();
        vec![
            if ids.is_empty() { "-".to_owned() } else { ids.join("\n") },
            if self.affinity_seconds == 0 { "-".to_owned() } else { format!("{}s", self.affinity_seconds) },
            self.service_port.to_string(),
        ]
    }
}
