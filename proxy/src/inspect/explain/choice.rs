//! Who is served, and by whom: source ranges, affinity, the backends of a frontend. The rules that the socket load balancer
//! and tc share.

use std::net::{IpAddr, SocketAddr};

use thalweg_abi::{AffinityKey, BackendState, Be16, Be128, Frontend, FrontendFlags, flow::idle};
use thalweg_loader::Error;

use super::{Case, Hook, Lookup, SHOWN};
use crate::inspect::services::endpoint;

/// By what affinity and source ranges know a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Client {
    Known(IpAddr),
    /// A pod whose network namespace is not listed: it has an affinity of its own, and no source range admits it.
    Unknown,
}

/// Whom a frontend's range leaves to choose from.
pub(super) enum Choice {
    /// With the same chance for each; one alone is what the client keeps, or all there is.
    Among(Vec<SocketAddr>),
    /// The range lies outside the array.
    Defect,
}

// === impl Client ===

impl Client {
    fn address(self) -> Option<IpAddr> {
        match self {
            Self::Known(addr) => Some(addr),
            Self::Unknown => None,
        }
    }
}

// === impl Case ===

impl<L: Lookup> Case<'_, L> {
    /// Whether the service behind a frontend admits the client.
    pub(super) fn admits(&mut self, hook: Hook, frontend: &Frontend, client: Client) -> Result<bool, Error> {
        if !frontend.flags.has(FrontendFlags::CHECK_SOURCE) {
            return Ok(true);
        }
        let admitted = match client.address() {
            Some(addr) => self.tables.admits(frontend.service, addr)?,
            None => false,
        };
        let finding = match (client.address(), admitted) {
            (Some(addr), true) => format!("the service's source ranges admit {addr}"),
            (Some(addr), false) => format!("the service's source ranges do not admit {addr}"),
            (None, _) => "the service has source ranges, and the client's address is not known here".to_owned(),
        };
        self.say(hook, "source ranges", finding);
        Ok(admitted)
    }

    /// The backends of a frontend whose range is not empty, narrowed by the client's affinity.
    pub(super) fn choose(&mut self, hook: Hook, frontend: &Frontend, client: Client) -> Result<Choice, Error> {
        self.list(frontend)?;
        if self.candidates.len() < frontend.count as usize {
            let (base, end) = (frontend.base, u64::from(frontend.base) + u64::from(frontend.count));
            self.say(hook, "candidates", format!("slots {base} to {end} lie outside of SLOTS: a defect"));
            return Ok(Choice::Defect);
        }
        let shown: Vec<String> = self
            .candidates
            .iter()
            .take(SHOWN)
            .map(|at| match at.state {
                "ready" => at.address.to_string(),
                state => format!("{} ({state})", at.address),
            })
            .collect();
        let more = match self.candidates.len().saturating_sub(SHOWN) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let finding = format!("{} of slots from {}: {}{more}", self.candidates.len(), frontend.base, shown.join(", "));
        self.say(hook, "candidates", finding);
        if let Some(kept) = self.kept(hook, frontend, client)? {
            return Ok(Choice::Among(vec![kept]));
        }
        Ok(Choice::Among(self.candidates.iter().map(|at| at.address).collect()))
    }

    fn list(&mut self, frontend: &Frontend) -> Result<(), Error> {
        self.candidates.clear();
        for index in frontend.base..frontend.base.saturating_add(frontend.count) {
            let Some(slot) = self.tables.slot(index)? else { break };
            let backend = self.tables.backend(slot.backend)?;
            self.candidates.push(endpoint(&slot, backend.as_ref()));
        }
        Ok(())
    }

    /// The backend that the client keeps, if there is affinity and it may.
    fn kept(&mut self, hook: Hook, frontend: &Frontend, client: Client) -> Result<Option<SocketAddr>, Error> {
        if frontend.affinity_seconds == 0 {
            return Ok(None);
        }
        let Some(addr) = client.address() else {
            self.say(hook, "affinity", "the client is known by its network namespace alone: see `thalweg affinity`");
            return Ok(None);
        };
        let key = AffinityKey {
            client: Be128::from(addr),
            service: frontend.service,
            port: Be16::from_host(frontend.service_port.to_host()),
            proto: self.question.protocol,
            local: u8::from(frontend.flags.has(FrontendFlags::LOCAL_SET)),
        };
        let Some(was) = self.tables.affinity(&key)? else {
            self.say(hook, "affinity", format!("{addr} keeps no backend yet: it gets one now"));
            return Ok(None);
        };
        let seconds = idle(was.last_seen, self.now);
        let backend = self.tables.backend(was.backend)?.filter(|backend| backend.generation == was.generation);
        let slot = self.candidates.iter().find(|at| at.backend == was.backend && at.generation == was.generation);
        let (finding, kept) = match (backend, slot.map(|at| at.address)) {
            _ if seconds > frontend.affinity_seconds => {
                (format!("{addr} had a backend, but its time is over ({seconds} s of {})", frontend.affinity_seconds), None)
            }
            (Some(backend), _) if backend.state == BackendState::DRAINING => {
                (format!("{addr} had backend {}, which is draining: it gets another", was.backend), None)
            }
            (Some(backend), Some(at)) if backend.state == BackendState::READY => {
                let left = frontend.affinity_seconds - seconds;
                (format!("{addr} keeps {at}, for {left} s after this if it stays away"), Some(at))
            }
            (Some(_), None) => (format!("{addr} had backend {}, which is no candidate any more", was.backend), None),
            _ => (format!("{addr} had backend {}, which is gone: it gets another", was.backend), None),
        };
        self.say(hook, "affinity", finding);
        Ok(kept)
    }
}
