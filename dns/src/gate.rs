//! Who may ask what, before anything is looked up: access lists, and a rate for each client. Pure.

use std::net::IpAddr;
use std::time::Duration;

use crate::config::max_udp;
use crate::corefile::{Acl, AclAction, AclRule, ServerBlock};
use crate::forward::{Question, Reply};
use crate::name::{self, WireName};
use crate::query::{Query, Rcode, Transport};

mod limiter;

pub use limiter::Limiter;

/// What becomes of a query.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    Pass,
    /// Answered REFUSED.
    Refuse,
    /// Answered that there is nothing.
    Empty,
    /// Answered that it should come again over TCP, which no one with a forged address can.
    Cut,
    /// Beyond the client's rate, and not answered.
    Shed,
    Drop,
}

pub struct Gate {
    /// Lists of each block, longest zones first.
    lists: Vec<(WireName, Vec<Acl>)>,
    limiter: Option<Limiter>,
    /// The largest reply over UDP, in octets.
    max_udp: usize,
}

// === impl Gate ===

impl Gate {
    /// `rate`: queries a second from each client over UDP; 0: any number.
    pub fn new(servers: &[ServerBlock], rate: u32) -> Self {
        let mut lists: Vec<(WireName, Vec<Acl>)> =
            servers.iter().flat_map(|server| server.keys.iter().map(|key| (key.zone.clone(), server.acl.clone()))).collect();
        lists.sort_by_key(|(zone, _)| std::cmp::Reverse(zone.len()));
        if lists.iter().all(|(_, lists)| lists.is_empty()) {
            lists.clear();
        }
        Self { lists, limiter: (rate > 0).then(|| Limiter::new(rate)), max_udp: max_udp(servers) }
    }

    /// Whether everything passes.
    pub fn is_open(&self) -> bool {
        self.lists.is_empty() && self.limiter.is_none()
    }

    /// What becomes of a packet; one that is no query passes, and is told so. `now` is the time since any fixed moment.
    pub fn admit(&self, packet: &[u8], client: IpAddr, transport: Transport, now: Duration) -> Admission {
        let client = client.to_canonical();
        if transport == Transport::Udp
            && let Some(limiter) = &self.limiter
        {
            match limiter.admit(client, now) {
                Admission::Pass => {}
                other => return other,
            }
        }
        if self.lists.is_empty() {
            return Admission::Pass;
        }
        let Ok(query) = Query::parse(packet, transport) else { return Admission::Pass };
        match self.judge(query.name.wire(), query.rtype, client) {
            AclAction::Allow => Admission::Pass,
            AclAction::Block => Admission::Refuse,
            AclAction::Filter => Admission::Empty,
            AclAction::Drop => Admission::Drop,
        }
    }

    /// Writes what a query is told that does not pass; false: nothing. A packet that is no query is told nothing either.
    pub fn turn_away(&self, admission: Admission, packet: &[u8], transport: Transport, out: &mut Vec<u8>) -> bool {
        out.clear();
        let (rcode, cut) = match admission {
            Admission::Refuse => (Rcode::Refused, false),
            Admission::Empty => (Rcode::NoError, false),
            Admission::Cut => (Rcode::NoError, true),
            Admission::Pass | Admission::Shed | Admission::Drop => return false,
        };
        let Ok(query) = Query::parse(packet, transport).map(|query| query.bounded(self.max_udp)) else { return false };
        Reply::bare(rcode as u8, &Question::of(&query)).write(&query, None, self.max_udp, out);
        if cut {
            out[2] |= 2;
        }
        true
    }

    fn judge(&self, name: &[u8], rtype: u16, client: IpAddr) -> AclAction {
        let block = self.lists.iter().find(|(zone, _)| name::is_within(name, zone));
        let lists = block.map_or(&[][..], |(_, lists)| lists);
        let concerned = |list: &&Acl| list.zones.is_empty() || list.zones.iter().any(|zone| name::is_within(name, zone));
        let said =
            lists.iter().filter(concerned).filter_map(|list| list.rules.iter().find(|rule| applies(rule, rtype, client)));
        said.map(|rule| rule.action).find(|action| *action != AclAction::Allow).unwrap_or(AclAction::Allow)
    }
}

fn applies(rule: &AclRule, rtype: u16, client: IpAddr) -> bool {
    (rule.types.is_empty() || rule.types.contains(&rtype))
        && (rule.sources.is_empty() || rule.sources.iter().any(|network| network.contains(client)))
}

#[cfg(test)]
mod tests;
