//! `thalweg affinity`: which backend a client keeps, and for how long yet.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;
use thalweg_abi::{Affinity, AffinityKey, Backend, BackendState, ServiceName};

use super::{Filter, Filtered, Row, name_of, names, protocol};

/// One client of one service port.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct AffinityRow {
    pub service: String,
    /// The service's own port.
    pub port: u16,
    pub protocol: String,
    /// An address; `netns N`: a network namespace of which no address is known, by its cookie.
    pub client: String,
    /// `cluster`, or `local`: kept among this node's endpoints by a Local policy.
    pub set: &'static str,
    /// `None` when the backend is gone: the client's next connection gets another.
    pub backend: Option<SocketAddr>,
    /// `kept`; `expired`: its time is over; `gone`, `draining`: the backend takes no new connections.
    pub state: &'static str,
    /// Seconds since the client's last new connection.
    pub idle_seconds: u32,
    /// How long the client may be idle.
    pub timeout_seconds: u32,
    pub backend_id: u32,
}

/// Rows in the order of service, port, client. `now`: seconds since boot.
pub fn affinity(
    entries: &[(AffinityKey, Affinity)],
    backends: &[(u32, Backend)],
    service_names: &[(u32, ServiceName)],
    now: u32,
) -> Vec<AffinityRow> {
    let names = names(service_names);
    let backends: HashMap<u32, &Backend> = backends.iter().map(|(id, backend)| (*id, backend)).collect();
    let mut rows: Vec<AffinityRow> = entries
        .iter()
        .map(|(key, value)| {
            let backend = backends.get(&value.backend).filter(|backend| backend.generation == value.generation);
            let idle_seconds = thalweg_abi::flow::idle(value.last_seen, now);
            AffinityRow {
                service: name_of(&names, key.service),
                port: key.port.to_host(),
                protocol: protocol(key.proto),
                client: client(key),
                set: if key.local == 0 { "cluster" } else { "local" },
                backend: backend.map(|backend| SocketAddr::new(backend.addr.into(), backend.port.to_host())),
                state: match backend.map(|backend| backend.state) {
                    _ if idle_seconds > value.seconds => "expired",
                    Some(BackendState::READY) => "kept",
                    Some(BackendState::DRAINING) => "draining",
                    _ => "gone",
                },
                idle_seconds,
                timeout_seconds: value.seconds,
                backend_id: value.backend,
            }
        })
        .collect();
    rows.sort_by_cached_key(|row| row.order());
    rows
}

/// A namespace without an address is written by the kernel programs as a multicast address around its cookie.
fn client(key: &AffinityKey) -> String {
    match key.client.0 {
        [u32::MAX, u32::MAX, high, low] => format!("netns {}", u64::from(high) << 32 | u64::from(low)),
        _ => IpAddr::from(key.client).to_string(),
    }
}

// === impl AffinityRow ===

impl AffinityRow {
    fn order(&self) -> impl Ord + use<> {
        (self.service.clone(), self.port, self.protocol.clone(), self.client.clone(), self.set)
    }
}

impl Filtered for AffinityRow {
    /// A client keeps its backend over all addresses of a service port: there is no VIP to judge by.
    fn is_wanted(&self, filter: &Filter) -> bool {
        filter.wants_service(&self.service) && filter.wants_protocol(&self.protocol)
    }
}

impl Row for AffinityRow {
    const COLUMNS: &'static [&'static str] = &["SERVICE", "PORT", "CLIENT", "BACKEND", "STATE", "IDLE", "TIMEOUT"];
    const WIDE: &'static [&'static str] = &["SET", "ID"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.service.clone(),
            format!("{}/{}", self.port, self.protocol),
            self.client.clone(),
            self.backend.map_or_else(|| "-".to_owned(), |backend| backend.to_string()),
            self.state.to_owned(),
            format!("{}s", self.idle_seconds),
            format!("{}s", self.timeout_seconds),
        ]
    }

    fn wide_cells(&self) -> Vec<String> {
        vec![self.set.to_owned(), self.backend_id.to_string()]
    }
}
