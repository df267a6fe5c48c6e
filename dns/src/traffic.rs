//! Queries and replies, counted as CoreDNS's metrics have them. Each worker counts on its own; reading adds up.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::histogram::{Counts, Histogram};
use crate::query::{HEADER, Transport, be16, skip_name};

/// Types that are told apart; the rest is `other`.
pub const TYPES: [(u16, &str); 18] = [
    (1, "A"),
    (28, "AAAA"),
    (5, "CNAME"),
    (48, "DNSKEY"),
    (43, "DS"),
    (65, "HTTPS"),
    (15, "MX"),
    (35, "NAPTR"),
    (2, "NS"),
    (47, "NSEC"),
    (50, "NSEC3"),
    (12, "PTR"),
    (46, "RRSIG"),
    (6, "SOA"),
    (33, "SRV"),
    (64, "SVCB"),
    (16, "TXT"),
    (255, "ANY"),
];
pub const OTHER: &str = "other";

/// Response codes by the names that metrics have for them.
pub const RCODES: [&str; 16] = [
    "NOERROR",
    "FORMERR",
    "SERVFAIL",
    "NXDOMAIN",
    "NOTIMP",
    "REFUSED",
    "YXDOMAIN",
    "YXRRSET",
    "NXRRSET",
    "NOTAUTH",
    "NOTZONE",
    "DSOTYPENI",
    "RCODE12",
    "RCODE13",
    "RCODE14",
    "RCODE15",
];

/// By transport (UDP, TCP), family (IPv4, IPv6), type.
type ByType<T> = [[[T; TYPES.len() + 1]; 2]; 2];

#[derive(Default)]
#[repr(align(128))]
pub struct Traffic {
    requests: ByType<AtomicU64>,
    responses: [AtomicU64; RCODES.len()],
    duration: Histogram,
    /// Turned away by access lists, and by the rate.
    blocked: AtomicU64,
    limited: AtomicU64,
}

/// What all workers counted since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    pub requests: ByType<u64>,
    pub responses: [u64; RCODES.len()],
    pub duration: Counts,
    pub blocked: u64,
    pub limited: u64,
}

// === impl Traffic ===

impl Traffic {
    pub fn request(&self, packet: &[u8], transport: Transport, client: IpAddr) {
        let rtype = skip_name(packet, HEADER).and_then(|at| be16(packet, at));
        let kind = TYPES.iter().position(|&(known, _)| Some(known) == rtype).unwrap_or(TYPES.len());
        let by_family = &self.requests[usize::from(transport == Transport::Tcp)];
        let family = usize::from(client.to_canonical().is_ipv6());
        by_family[family][kind].fetch_add(1, Ordering::Relaxed);
    }

    pub fn response(&self, reply: &[u8], took: Duration) {
        let rcode = reply.get(3).map_or(0, |flags| flags & 15);
        self.responses[usize::from(rcode)].fetch_add(1, Ordering::Relaxed);
        self.duration.observe(took);
    }

    pub fn blocked(&self) {
        self.blocked.fetch_add(1, Ordering::Relaxed);
    }

    pub fn limited(&self) {
        self.limited.fetch_add(1, Ordering::Relaxed);
    }

    pub fn add_to(&self, totals: &mut Totals) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let requests = self.requests.iter().flatten().flatten();
        totals.requests.iter_mut().flatten().flatten().zip(requests).for_each(|(sum, counter)| *sum += read(counter));
        totals.responses.iter_mut().zip(&self.responses).for_each(|(sum, counter)| *sum += read(counter));
        totals.duration.add(&self.duration.read());
        totals.blocked += read(&self.blocked);
        totals.limited += read(&self.limited);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::packet;

    #[test]
    fn types_families_and_codes() {
        let traffic = Traffic::default();
        let [v4, mapped, v6] = ["10.0.0.1", "::ffff:10.0.0.1", "fd00::1"].map(|ip| ip.parse::<IpAddr>().expect("an address"));
        traffic.request(&packet("a.org", "AAAA", None), Transport::Udp, v4);
        traffic.request(&packet("a.org", "AAAA", Some(512)), Transport::Udp, mapped);
        traffic.request(&packet("a.org", "TSIG", None), Transport::Tcp, v6);
        traffic.request(b"rubbish", Transport::Udp, v4);
        traffic.response(&[0, 0, 0x80, 0x83], Duration::from_millis(1));
        traffic.response(&[], Duration::from_millis(1));
        traffic.blocked();
        let mut totals = Totals::default();
        traffic.add_to(&mut totals);
        traffic.add_to(&mut totals);
        assert_eq!(totals.requests[0][0][1], 4);
        assert_eq!((totals.requests[1][1][TYPES.len()], totals.requests[0][0][TYPES.len()]), (2, 2));
        assert_eq!((totals.responses[3], totals.responses[0], totals.duration.total()), (2, 2, 4));
        assert_eq!((totals.blocked, totals.limited), (2, 0));
    }
}
