//! The query log: which queries are logged, and never more of them a second than somebody could read.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::corefile::{LogClass, ServerBlock};
use crate::name::{self, WireName};
use crate::query::{Query, Transport, be16};
use crate::traffic::RCODES;

/// Lines a second.
const BUDGET: u32 = 100;

#[derive(Default)]
pub struct QueryLog {
    /// Zones with the classes that are logged there, none for all.
    rules: Vec<(WireName, Vec<LogClass>)>,
    budget: Mutex<Budget>,
}

#[derive(Default)]
struct Budget {
    second: u64,
    used: u32,
    omitted: u64,
}

// === impl QueryLog ===

impl QueryLog {
    pub fn new(servers: &[ServerBlock]) -> Self {
        let mut rules = Vec::new();
        for server in servers {
            let own: Vec<WireName> = server.keys.iter().map(|key| key.zone.clone()).collect();
            for log in &server.log {
                let zones = if log.zones.is_empty() { &own } else { &log.zones };
                rules.extend(zones.iter().map(|zone| (zone.clone(), log.classes.clone())));
            }
        }
        Self { rules, budget: Mutex::default() }
    }

    pub fn is_off(&self) -> bool {
        self.rules.is_empty()
    }

    /// Logs a query with what it was told, unless nobody wants to know or too much is logged. `now` is the time since any
    /// fixed moment.
    pub fn note(&self, packet: &[u8], reply: &[u8], transport: Transport, client: SocketAddr, now: Duration) {
        if self.is_off() {
            return;
        }
        let Ok(query) = Query::parse(packet, transport) else { return };
        let Some(omitted) = self.wants(query.name.wire(), reply).then(|| self.admit(now)).flatten() else { return };
        let rcode = RCODES[usize::from(reply.get(3).map_or(0, |flags| flags & 15))];
        tracing::info!(
            target: "thalweg_dns::query",
            %client,
            name = %name::display(query.name.wire()),
            rtype = query.rtype,
            transport = if transport == Transport::Tcp { "tcp" } else { "udp" },
            rcode,
            octets = reply.len(),
            omitted,
            "query"
        );
    }

    fn wants(&self, name: &[u8], reply: &[u8]) -> bool {
        let class = class(reply);
        let wanted = |classes: &[LogClass]| classes.is_empty() || classes.contains(&LogClass::All) || classes.contains(&class);
        self.rules.iter().any(|(zone, classes)| name::is_within(name, zone) && wanted(classes))
    }

    /// How many lines were left out since the last; `None`: this one is, too.
    fn admit(&self, now: Duration) -> Option<u64> {
        let mut budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
        if budget.second != now.as_secs() {
            (budget.second, budget.used) = (now.as_secs(), 0);
        }
        if budget.used == BUDGET {
            budget.omitted += 1;
            return None;
        }
        budget.used += 1;
        Some(std::mem::take(&mut budget.omitted))
    }
}

fn class(reply: &[u8]) -> LogClass {
    let rcode = reply.get(3).map_or(0, |flags| flags & 15);
    match (rcode, be16(reply, 6)) {
        (0, Some(1..)) => LogClass::Success,
        (0 | 3, _) => LogClass::Denial,
        _ => LogClass::Error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corefile;

    fn log(corefile: &str) -> QueryLog {
        QueryLog::new(&corefile::parse(corefile, &|_| None).expect("a Corefile").servers)
    }

    fn wants(log: &QueryLog, name: &str, rcode: u8, answers: u8) -> bool {
        log.wants(&name::encode(name).expect("a name"), &[0, 0, 0x80, rcode, 0, 1, 0, answers])
    }

    #[test]
    fn zones_and_classes() {
        assert!(log(". {\n}").is_off());
        let all = log("a.org {\nlog\n}");
        assert!(wants(&all, "x.a.org", 0, 1) && wants(&all, "a.org", 2, 0) && !wants(&all, "b.org", 0, 1));
        let some = log(". {\nlog a.org {\nclass denial error\n}\n}");
        assert!(wants(&some, "a.org", 3, 0) && wants(&some, "a.org", 0, 0) && wants(&some, "a.org", 5, 0));
        assert!(!wants(&some, "a.org", 0, 1) && !wants(&some, "b.org", 3, 0));
        assert!(wants(&log(". {\nlog {\nclass all\n}\n}"), "b.org", 0, 1));
    }

    #[test]
    fn each_line_is_for_its_own_zones_and_classes() {
        let log = log("org {\nlog a.org {\nclass denial\n}\nlog b.org\nlog {\nclass error\n}\n}");
        assert!(wants(&log, "a.org", 3, 0) && !wants(&log, "a.org", 0, 1));
        assert!(wants(&log, "b.org", 3, 0) && wants(&log, "b.org", 0, 1));
        assert!(wants(&log, "c.org", 2, 0) && !wants(&log, "c.org", 3, 0) && !wants(&log, "c.net", 2, 0));
    }

    #[test]
    fn no_more_lines_than_can_be_read_and_what_is_left_out_is_counted() {
        let log = log(". {\nlog\n}");
        let second = |second| Duration::from_secs(second);
        assert_eq!((0..1000).filter(|_| log.admit(second(1)).is_some()).count(), BUDGET as usize);
        assert_eq!(log.admit(second(2)), Some(1000 - u64::from(BUDGET)));
        assert_eq!(log.admit(second(2)), Some(0));
    }
}
