//! `thalweg backends`: every backend id, who stands behind it, and which services send to it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;

use serde::Serialize;
use thalweg_abi::{Backend, BackendState};

use super::{Filter, Filtered, Row, ServiceRow};

/// One backend id in use.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct BackendRow {
    pub backend: u32,
    pub generation: u32,
    pub address: SocketAddr,
    /// `ready`; `draining`: keeps its flows and gets no new ones.
    pub state: &'static str,
    /// 0 unknown.
    pub zone: u16,
    pub weight: u16,
    /// Who sends to it; empty for one that only has old flows.
    pub services: Vec<String>,
    /// How many frontends do.
    pub frontends: usize,
    /// What those frontends serve.
    pub protocols: Vec<String>,
    /// Flows through tc that it has now. Connections translated at the socket are not among them.
    pub flows: usize,
}

/// Rows in the order of ids. `services` says who uses which; `flows`: how many each id has.
pub fn backends(backends: &[(u32, Backend)], services: &[ServiceRow], flows: &HashMap<u32, usize>) -> Vec<BackendRow> {
    #[derive(Default)]
    struct Users<'a> {
        services: BTreeSet<&'a str>,
        protocols: BTreeSet<&'a str>,
        frontends: usize,
    }
    let mut users: BTreeMap<(u32, u32), Users<'_>> = BTreeMap::new();
    for row in services {
        for endpoint in &row.endpoints {
            let of = users.entry((endpoint.backend, endpoint.generation)).or_default();
            of.services.insert(&row.service);
            of.protocols.insert(&row.protocol);
            of.frontends += 1;
        }
    }
    let texts = |words: &BTreeSet<&str>| words.iter().map(|word| (*word).to_owned()).collect();
    let mut rows: Vec<BackendRow> = backends
        .iter()
        .filter(|(_, backend)| backend.state != BackendState::FREE)
        .map(|(id, backend)| {
            let of = users.remove(&(*id, backend.generation)).unwrap_or_default();
            BackendRow {
                backend: *id,
                generation: backend.generation,
                address: SocketAddr::new(backend.addr.into(), backend.port.to_host()),
                state: if backend.state == BackendState::READY { "ready" } else { "draining" },
                zone: backend.zone,
                weight: backend.weight,
                services: texts(&of.services),
                frontends: of.frontends,
                protocols: texts(&of.protocols),
                flows: flows.get(id).copied().unwrap_or_default(),
            }
        })
        .collect();
    rows.sort_by_key(|row| row.backend);
    rows
}

// === impl BackendRow ===

impl Filtered for BackendRow {
    /// By who sends to it. What is dialled is not known here: give [`backends`] the frontends that are wanted.
    fn is_wanted(&self, filter: &Filter) -> bool {
        if filter.is_empty() {
            return true;
        }
        self.services.iter().any(|service| filter.wants_service(service))
            && self.protocols.iter().any(|protocol| filter.wants_protocol(protocol))
    }
}

impl Row for BackendRow {
    const COLUMNS: &'static [&'static str] = &["BACKEND", "STATE", "FLOWS", "SERVICES"];
    const WIDE: &'static [&'static str] = &["ID", "FRONTENDS", "PROTOCOLS", "ZONE", "WEIGHT"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.address.to_string(),
            self.state.to_owned(),
            self.flows.to_string(),
            if self.services.is_empty() { "-".to_owned() } else { self.services.join("\n") },
        ]
    }

    fn wide_cells(&self) -> Vec<String> {
        vec![
            format!("{}.{}", self.backend, self.generation),
            self.frontends.to_string(),
            if self.protocols.is_empty() { "-".to_owned() } else { self.protocols.join(",") },
            self.zone.to_string(),
            self.weight.to_string(),
        ]
    }
}
