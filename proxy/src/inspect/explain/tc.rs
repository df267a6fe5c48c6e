//! tc: flows that are under way, and what a packet meets that no socket program has translated.

use std::net::{IpAddr, SocketAddr};

use thalweg_abi::{
    BackendState, Be32, Be128, CtDirection, CtFlags, CtState, DropReason, Frontend, FrontendFlags, Proto, Scope,
};
use thalweg_loader::Error;

use super::choice::{Choice, Client};
use super::{AnyEntry, Case, Hook, Lookup, Origin, Ruling, SHOWN, Source, Target, Verdict, frontend_text};
use crate::plan::Key;

const HOOK: Hook = Hook::Tc;

// === impl Case ===

impl<L: Lookup> Case<'_, L> {
    /// What the entry of the packet's flow says, if there is one that decides.
    pub(super) fn tracked(&mut self) -> Result<Option<Ruling>, Error> {
        if self.question.port.is_none() {
            return Ok(None);
        }
        let Some(port) = self.question.source_port else {
            self.under_way()?;
            return Ok(None);
        };
        let Some(entry) = self.tables.flow(&self.tuple(port))? else {
            self.say(HOOK, "conntrack", "no entry: a new connection, or one that was translated at its socket");
            return Ok(None);
        };
        if entry.direction == CtDirection::REPLY {
            return Ok(Some(self.answer(&entry)));
        }
        if self.from == Origin::Node {
            self.say(HOOK, "conntrack", "an entry, but what the node's own stack sends only has its answers translated");
            return Ok(None);
        }
        self.forward(&entry)
    }

    /// Flows of the client to the same destination, which go on whatever is found for new ones.
    fn under_way(&mut self) -> Result<(), Error> {
        let mut flows = self.tables.flows(&self.tuple(0))?;
        flows.retain(|(_, entry)| entry.direction == CtDirection::FORWARD && entry.state != CtState::CLOSED);
        flows.sort_by_key(|(port, _)| *port);
        if flows.is_empty() {
            return Ok(());
        }
        let shown: Vec<String> =
            flows.iter().take(SHOWN).map(|(port, entry)| format!(":{port} to {}", destination(entry))).collect();
        let dots = if flows.len() > SHOWN { ", …" } else { "" };
        let finding = format!(
            "{} of this client under way keep their backends ({}{dots}); what follows is for a new one",
            count(flows.len(), "flow"),
            shown.join(", ")
        );
        self.say(HOOK, "conntrack", finding);
        Ok(())
    }

    fn answer(&mut self, entry: &AnyEntry) -> Ruling {
        let (source, to) = (SocketAddr::new(entry.to.src.into(), entry.to.sport.to_host()), destination(entry));
        self.say(HOOK, "conntrack", format!("the answer of a backend to {to}, idle for {} s", self.idle(entry)));
        let because = format!("{to} dialled {source}, and must see its answer come from there");
        (Verdict::TranslatedBack { hook: HOOK, source, to }, because)
    }

    fn forward(&mut self, entry: &AnyEntry) -> Result<Option<Ruling>, Error> {
        let at = destination(entry);
        if entry.flags.has(CtFlags::DIRECT) {
            let finding = format!("a direct connection to {at} beside a service's flow from the same port");
            self.say(HOOK, "conntrack", finding);
            let to = vec![Target { address: at, source: Source::Port }];
            return Ok(Some((
                Verdict::Translated { hook: HOOK, to },
                "its answers must not be taken for the flow's".to_owned(),
            )));
        }
        let name = self.name(entry.service)?;
        let backend = self.tables.backend(entry.backend)?.filter(|backend| backend.generation == entry.generation);
        let state = backend.map_or(BackendState::FREE, |backend| backend.state);
        let idle = self.idle(entry);
        let word = if state == BackendState::DRAINING { " (draining: it keeps its flows)" } else { "" };
        if state == BackendState::FREE {
            let finding = format!("an entry of {name} to backend {at}, which is gone");
            self.say(HOOK, "conntrack", finding);
            if self.question.protocol != Proto::TCP {
                self.say(HOOK, "conntrack", "the flow gets another backend at once");
                return Ok(None);
            }
            let by = "TCP RST (counted as backend_gone)";
            let because = format!("the connection's backend {at} is gone; a new connection gets another");
            return Ok(Some((Verdict::Refused { hook: HOOK, by }, because)));
        }
        if entry.state == CtState::CLOSED {
            self.say(HOOK, "conntrack", format!("a connection of {name} to {at} that is over: what follows is for a new one"));
            return Ok(None);
        }
        let finding = format!("an entry of {name} to {at}{word}, {} packets, idle for {idle} s", entry.packets);
        self.say(HOOK, "conntrack", finding);
        let source = match entry.flags {
            flags if flags.has(CtFlags::HAIRPIN) => Source::Service,
            flags if flags.has(CtFlags::SNAT) => Source::Node,
            _ if Some(entry.to.sport.to_host()) != self.question.source_port => Source::Port,
            _ => Source::Kept,
        };
        let to = vec![Target { address: at, source }];
        Ok(Some((Verdict::Translated { hook: HOOK, to }, format!("the flow began with {at} and keeps it"))))
    }

    /// What a pod or the uplink has sent.
    pub(super) fn tc(&mut self) -> Result<Ruling, Error> {
        let destination = self.question.destination;
        let is_ours = self.from == Origin::Pod && self.tables.is_local_pod(self.question.source)?;
        if self.from == Origin::Pod && !is_ours && self.question.from.is_none() {
            self.say(HOOK, "source", "the pod's link is another program's: tc takes its packets as those from outside");
        }
        let outside = self.from == Origin::Outside || !is_ours && self.question.from.is_none();
        if self.tables.is_local_pod(destination)? {
            self.say(HOOK, "destination", format!("{destination} is a pod of this node"));
            return Ok((Verdict::Untouched, "pods are no services: it goes straight into the pod".to_owned()));
        }
        if self.question.port.is_none() {
            return self.without_ports();
        }
        let scopes: &[Scope] = if outside { &[Scope::EXTERNAL, Scope::INTERNAL] } else { &[Scope::INTERNAL] };
        for scope in scopes {
            if let Some(frontend) = self.frontend(*scope)? {
                let key = self.key(*scope);
                let name = self.name(frontend.service)?;
                self.say(HOOK, "frontend", frontend_text(&key, &frontend, &name));
                if outside && *scope == Scope::INTERNAL {
                    self.say(HOOK, "scope", "it has no frontend for outside: the one for inside serves it, through this node");
                }
                return self.serve(&key, &frontend, &name, outside);
            }
        }
        if let Some(wildcard) = self.wildcard()? {
            let name = self.name(wildcard.service)?;
            self.say(HOOK, "frontend", format!("none; but {destination} is an address of {name}"));
            return Ok((self.refused(), format!("{name} has no such port")));
        }
        self.nobody()
    }

    fn serve(&mut self, key: &Key, frontend: &Frontend, name: &str, outside: bool) -> Result<Ruling, Error> {
        if frontend.count == 0 {
            if frontend.flags.has(FrontendFlags::DROP_WHEN_EMPTY) {
                let because = format!("{name} has endpoints, but its Local policy allows none on this node");
                return Ok((dropped(DropReason::NoLocalEndpoint), because));
            }
            return Ok((self.refused(), format!("{name} has no endpoints")));
        }
        let client = Client::Known(self.question.source);
        if !self.admits(HOOK, frontend, client)? {
            let because = format!("loadBalancerSourceRanges of {name} do not admit {}", self.question.source);
            return Ok((dropped(DropReason::SourceRange), because));
        }
        let backends = match self.choose(HOOK, frontend, client)? {
            Choice::Among(backends) => backends,
            Choice::Defect => {
                return Ok((
                    dropped(DropReason::BadSlot),
                    "the frontend's slots do not exist: a defect, please report it".to_owned(),
                ));
            }
        };
        let mut to = Vec::with_capacity(backends.len());
        for address in backends {
            to.push(Target { address, source: self.source(frontend, address.ip(), outside)? });
        }
        self.say_source(&to);
        let because = format!("{} dials {name} at {}", self.question.source, SocketAddr::new(key.vip, key.port));
        Ok((Verdict::Translated { hook: HOOK, to }, because))
    }

    /// What becomes of the source on the way to a backend.
    fn source(&self, frontend: &Frontend, backend: IpAddr, outside: bool) -> Result<Source, Error> {
        if !outside {
            return Ok(if backend == self.question.source { Source::Service } else { Source::Kept });
        }
        let is_remote = !self.facts.node.contains(&backend) && !self.tables.is_local_pod(backend)?;
        Ok(if is_remote && !frontend.flags.has(FrontendFlags::LOCAL_ONLY) { Source::Node } else { Source::Kept })
    }

    fn say_source(&mut self, to: &[Target]) {
        let counted = |source: Source| to.iter().filter(|target| target.source == source).count();
        if counted(Source::Node) > 0 {
            let addr = self.facts.node.iter().find(|addr| addr.is_ipv4() == self.question.source.is_ipv4());
            let addr = addr.map_or_else(|| "the node's address".to_owned(), ToString::to_string);
            let backends = count(counted(Source::Node), "backend");
            self.say(
                HOOK,
                "source NAT",
                format!("to {addr} for {backends} elsewhere: the answer must come back through this node"),
            );
        } else if counted(Source::Service) > 0 {
            self.say(HOOK, "source NAT", "to the service's address if the pod meets itself: it would answer itself directly");
        } else {
            self.say(HOOK, "source NAT", "none: the backend sees the client's address");
        }
    }

    /// Protocols without ports: an address of services answers none.
    fn without_ports(&mut self) -> Result<Ruling, Error> {
        let destination = self.question.destination;
        match self.wildcard()? {
            Some(wildcard) => {
                let name = self.name(wildcard.service)?;
                self.say(HOOK, "frontend", format!("{destination} is an address of {name}"));
                Ok((self.refused(), "services have ports: nobody answers this protocol".to_owned()))
            }
            None => self.nobody(),
        }
    }

    /// What the node's own stack sends on its way out, and no socket program has translated.
    pub(super) fn leave_node(&mut self) -> Result<Ruling, Error> {
        let Some(wildcard) = self.wildcard()? else { return self.nobody() };
        let frontend = self.frontend(Scope::INTERNAL)?;
        if frontend.is_some_and(|frontend| frontend.count == 0 && frontend.flags.has(FrontendFlags::DROP_WHEN_EMPTY)) {
            let name = self.name(wildcard.service)?;
            let because = format!("{name} has endpoints, but its Local policy allows none on this node");
            return Ok((dropped(DropReason::NoLocalEndpoint), because));
        }
        self.say(HOOK, "destination", "a service's address, untranslated on its way out of the node");
        Ok((dropped(DropReason::NoFlow), "nobody outside could translate it any more".to_owned()))
    }

    /// No service has the destination.
    fn nobody(&mut self) -> Result<Ruling, Error> {
        let destination = self.question.destination;
        let ranges = self.tables.service_ranges()?;
        let inside = match destination {
            IpAddr::V4(addr) => ranges.v4.iter().take(ranges.used as usize).any(|range| range.contains(Be32::from(addr))),
            IpAddr::V6(addr) => ranges.v6.iter().take(ranges.used6 as usize).any(|range| range.contains(Be128::from(addr))),
        };
        if inside {
            self.say(HOOK, "service range", format!("{destination} is from the services' range, and no service has it"));
            return Ok((
                dropped(DropReason::NoService),
                "nobody has the address: forwarded, it would go in circles".to_owned(),
            ));
        }
        self.say(HOOK, "frontend", format!("no service has {destination}"));
        Ok((Verdict::Untouched, "not a service's: the kernel routes it".to_owned()))
    }

    fn refused(&self) -> Verdict {
        let by = match (self.question.protocol, self.question.destination.is_ipv4()) {
            (Proto::TCP, _) => "TCP RST",
            (Proto::UDP, true) => "ICMP port unreachable",
            (_, true) => "ICMP protocol unreachable",
            (Proto::UDP, false) => "ICMPv6 port unreachable",
            (_, false) => "ICMPv6 destination unreachable",
        };
        Verdict::Refused { hook: HOOK, by }
    }

    fn idle(&self, entry: &AnyEntry) -> u32 {
        thalweg_abi::flow::idle(entry.last_seen, self.now)
    }
}

fn dropped(reason: DropReason) -> Verdict {
    Verdict::Dropped { hook: HOOK, reason: reason.name() }
}

fn destination(entry: &AnyEntry) -> SocketAddr {
    SocketAddr::new(entry.to.dst.into(), entry.to.dport.to_host())
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
