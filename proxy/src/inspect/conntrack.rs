//! `thalweg conntrack`: every translated flow, both directions in one row.

use std::collections::HashMap;
use std::net::SocketAddr;

use serde::Serialize;
use thalweg_abi::{CtDirection, CtEntry, CtFlags, CtState, ServiceName, Tuple};

use super::{Row, name_of, names, protocol};

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
    pub service: String,
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

/// Rows in the order of protocol, client, frontend. `now`: seconds since boot, the clock of `CtEntry::last_seen`.
pub fn conntrack(entries: &[(Tuple, CtEntry)], service_names: &[(u32, ServiceName)], now: u32) -> Vec<ConntrackRow> {
    let names = names(service_names);
    let all: HashMap<Tuple, &CtEntry> = entries.iter().map(|(key, entry)| (*key, entry)).collect();
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
            service: name_of(&names, entry.service),
            traits: traits(entry.flags, to_backend.is_none() || to_client.is_none()),
            idle_seconds: now.saturating_sub(last_seen),
            packets_to_backend: to_backend.map_or(0, |entry| entry.packets),
            bytes_to_backend: to_backend.map_or(0, |entry| entry.bytes),
            packets_to_client: to_client.map_or(0, |entry| entry.packets),
            bytes_to_client: to_client.map_or(0, |entry| entry.bytes),
        });
    }
    rows.sort_by(|a, b| (&a.protocol, a.client, a.frontend, a.backend).cmp(&(&b.protocol, b.client, b.frontend, b.backend)));
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

impl Row for ConntrackRow {
    const COLUMNS: &'static [&'static str] =
        &["PROTO", "STATE", "CLIENT", "FRONTEND", "BACKEND", "SERVICE", "TRAITS", "IDLE", "PACKETS", "BYTES"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.protocol.clone(),
            self.state.to_owned(),
            self.client.to_string(),
            self.frontend.to_string(),
            self.backend.to_string(),
            self.service.clone(),
            if self.traits.is_empty() { "-".to_owned() } else { self.traits.join(",") },
            format!("{}s", self.idle_seconds),
            format!("{}/{}", self.packets_to_backend, self.packets_to_client),
            format!("{}/{}", self.bytes_to_backend, self.bytes_to_client),
        ]
    }
}
