//! `thalweg conntrack`: every translated flow, both directions in one row.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;
use thalweg_abi::{CtDirection, CtEntry, CtFlags, CtState, ServiceName, Tuple};

use super::{Filter, Filtered, Row, name_of, names, protocol, words};

/// One flow.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ConntrackRow {
    pub protocol: String,
    pub state: &'static str,
    pub client: SocketAddr,
    /// What the client dialled.
    pub frontend: SocketAddr,
    /// The source that the backend sees.
    pub source: SocketAddr,
    pub backend: SocketAddr,
    /// `-` for a direct connection.
    pub service: String,
    /// Index into BACKENDS.
    pub backend_id: u32,
    /// `snat`, `hairpin`, `external`, `direct` (to a backend itself, kept apart from a service's flow), `picked-up` (seen in
    /// the middle), `contended` (met another connection at its backend); `half` when one of the two directions has no entry.
    pub traits: Vec<&'static str>,
    /// Seconds since the last packet in either direction.
    pub idle_seconds: u32,
    pub packets_to_backend: u32,
    pub bytes_to_backend: u64,
    pub packets_to_client: u32,
    pub bytes_to_client: u64,
}

/// Rows of the flows of one family, in the order of protocol, client, frontend. `now`: seconds since boot, the clock of
/// `CtEntry::last_seen`.
pub fn conntrack<A: Copy + Eq + Hash + Into<IpAddr>>(
    entries: &[(Tuple<A>, CtEntry<A>)],
    service_names: &[(u32, ServiceName)],
    now: u32,
) -> Vec<ConntrackRow> {
    let names = names(service_names);
    let all: HashMap<Tuple<A>, &CtEntry<A>> = entries.iter().map(|(key, entry)| (*key, entry)).collect();
    let mut rows = Vec::new();
    for (key, entry) in entries {
        let other = all.get(&entry.to.reversed()).copied().filter(|other| other.to.reversed() == *key);
        let (dialled, to_backend, to_client) = match entry.direction {
            CtDirection::FORWARD => (*key, Some(entry), other),
            // A reply is shown with its forward entry; alone only when that is missing.
            _ if other.is_some() => continue,
            _ => (entry.to.reversed(), None, Some(entry)),
        };
        let translated = to_backend.map_or(key.reversed(), |entry| entry.to);
        let last_seen = to_backend.into_iter().chain(to_client).map(|entry| entry.last_seen).max().unwrap_or_default();
        rows.push(ConntrackRow {
            protocol: protocol(key.proto),
            state: state(to_backend.into_iter().chain(to_client).map(|entry| entry.state).max().unwrap_or_default()),
            client: SocketAddr::new(dialled.src.into(), dialled.sport.to_host()),
            frontend: SocketAddr::new(dialled.dst.into(), dialled.dport.to_host()),
            source: SocketAddr::new(translated.src.into(), translated.sport.to_host()),
            backend: SocketAddr::new(translated.dst.into(), translated.dport.to_host()),
            service: match entry.flags.has(CtFlags::DIRECT) {
                true => "-".to_owned(),
                false => name_of(&names, entry.service),
            },
            backend_id: entry.backend,
            traits: traits(entry.flags, to_backend.is_none() || to_client.is_none()),
            idle_seconds: now.saturating_sub(last_seen),
            packets_to_backend: to_backend.map_or(0, |entry| entry.packets),
            bytes_to_backend: to_backend.map_or(0, |entry| entry.bytes),
            packets_to_client: to_client.map_or(0, |entry| entry.packets),
            bytes_to_client: to_client.map_or(0, |entry| entry.bytes),
        });
    }
    rows.sort_by_cached_key(|row| row.order());
    rows
}

fn traits(flags: CtFlags, half: bool) -> Vec<&'static str> {
    [
        (flags.has(CtFlags::SNAT), "snat"),
        (flags.has(CtFlags::HAIRPIN), "hairpin"),
        (flags.has(CtFlags::EXTERNAL), "external"),
        (flags.has(CtFlags::DIRECT), "direct"),
        (flags.has(CtFlags::PICKED_UP), "picked-up"),
        (flags.has(CtFlags::CONTENDED), "contended"),
        (half, "half"),
    ]
    .into_iter()
    .filter_map(|(has, word)| has.then_some(word))
    .collect()
}

fn state(state: CtState) -> &'static str {
    match state {
        CtState::NEW => "new",
        CtState::ESTABLISHED => "established",
        CtState::CLOSING => "closing",
        _ => "closed",
    }
}

// === impl ConntrackRow ===

impl ConntrackRow {
    /// By which rows are sorted, those of both families together.
    pub fn order(&self) -> impl Ord + use<> {
        (self.protocol.clone(), self.client, self.frontend, self.backend)
    }
}

impl Filtered for ConntrackRow {
    fn is_wanted(&self, filter: &Filter) -> bool {
        filter.wants_service(&self.service) && filter.wants_vip(self.frontend.ip()) && filter.wants_protocol(&self.protocol)
    }
}

impl Row for ConntrackRow {
    const COLUMNS: &'static [&'static str] =
        &["PROTO", "STATE", "CLIENT", "FRONTEND", "BACKEND", "SERVICE", "TRAITS", "IDLE", "PACKETS", "BYTES"];
    const WIDE: &'static [&'static str] = &["SOURCE", "ID"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.protocol.clone(),
            self.state.to_owned(),
            self.client.to_string(),
            self.frontend.to_string(),
            self.backend.to_string(),
            self.service.clone(),
            words(&self.traits),
            format!("{}s", self.idle_seconds),
            format!("{}/{}", self.packets_to_backend, self.packets_to_client),
            format!("{}/{}", self.bytes_to_backend, self.bytes_to_client),
        ]
    }

    fn wide_cells(&self) -> Vec<String> {
        vec![self.source.to_string(), self.backend_id.to_string()]
    }
}
