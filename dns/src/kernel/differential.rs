//! The kernel's programs against [`answer::respond`]: the same zone, the same queries, byte by byte. A query is let through, or
//! answered as here.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use thalweg_abi::{Be128, DnsOutcome, DnsServer, LocalPod};
use thalweg_lab::{
    netns::Netns,
    packet::{Packet, assert_frame},
};
use thalweg_loader::{Datapath, Injected, Maps, Options, Sizes, Table};

use super::{Follower, Settings};
use crate::answer::{self, Outcome};
use crate::query::Transport;
use crate::testkit::{config, packet, sample_with};
use crate::zone::{Zone, ZoneConfig};

/// To whom the program hands a packet back into the pod.
const REDIRECT: i32 = 7;
const FAMILIES: [(&str, &str); 2] = [("10.244.9.2", "10.96.0.10"), ("fd00:244::2", "fd00:96::a")];
/// Of what the machine has run for since its start, in years.
const FOREVER: Duration = Duration::from_secs(3_000_000_000);

/// A kernel that has a zone's tables.
struct Kernel {
    datapath: Datapath,
    maps: Maps,
    netns: Netns,
    /// Last: pins are in use until the data path is closed.
    _pins: Pins,
}

/// The folder of pins, removed with everything in it.
struct Pins(PathBuf);

impl Kernel {
    fn new(name: &str, zone: &Arc<Zone>) -> Result<Self> {
        let netns = Netns::create(name)?;
        let pins = Pins(PathBuf::from("/run").join(name));
        // What a killed run left.
        thalweg_loader::cleanup(&pins.0)?;
        let options = options(&pins, 1_024);
        let datapath = netns.enter(|| Datapath::open(&options))??;
        let mut kernel = Self { maps: datapath.maps()?, datapath, netns, _pins: pins };
        // The pod's link is the only one that there is.
        let pod = LocalPod { ifindex: 1, ..LocalPod::default() };
        for (pod_ip, server) in FAMILIES {
            let addr = Be128::from(server.parse::<std::net::IpAddr>()?);
            kernel.maps.dns_servers.update(&[(DnsServer { addr }, 0)])?;
            match pod_ip.parse()? {
                std::net::IpAddr::V4(ip) => kernel.maps.local_pods.update(&[(ip.into(), pod)])?,
                std::net::IpAddr::V6(ip) => kernel.maps.local_pods6.update(&[(ip.into(), pod)])?,
            }
        }
        let Maps { dns_names, dns_zones, .. } = kernel.datapath.maps()?;
        let settings = Settings { udp_size: 1232, may_answer: true, may_deny: true, lease: FOREVER };
        Follower::new(dns_names, dns_zones, settings).follow(zone, 0)?;
        Ok(kernel)
    }

    /// The reply's frame; `None` when the query was let through, as it came.
    fn ask(&self, query: &Packet) -> Result<Option<Vec<u8>>> {
        let program = if query.src.is_ipv4() { "tc_from_pod" } else { "tc_from_pod6" };
        let bytes = query.bytes();
        let input = Injected { packet: &bytes, ifindex: 1, ..Injected::default() };
        let out = self.netns.enter(|| self.datapath.test_run(program, &input))??;
        if out.verdict == REDIRECT {
            return Ok(Some(out.packet));
        }
        assert_frame("let through", &out.packet, query);
        Ok(None)
    }
}

/// With maps of so many entries.
fn options(pins: &Pins, entries: u32) -> Options {
    Options {
        pin_root: pins.0.clone(),
        cgroup: PathBuf::new(),
        node_addr: None,
        node_addr6: None,
        sizes: Sizes::uniform(entries),
        socket_lb: false,
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        if let Err(error) = thalweg_loader::cleanup(&self.0) {
            eprintln!("pins in {} stay behind: {error}", self.0.display());
        }
    }
}

/// Names of the sample and around them; `~` stands for the zone.
fn names(zone: &Zone) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for entry in zone.entries() {
        let key = crate::name::display(entry.key());
        let key = key.trim_end_matches('.');
        let written = key.to_ascii_uppercase();
        names.extend([format!("{key}.svc.~"), format!("{written}.SVC.~"), format!("{key}.pod.~")]);
        names.extend(["x", "db-0", "10-244-0-2", "_tcp", "_http._tcp"].map(|label| format!("{label}.{key}.svc.~")));
        names.push(format!("www.example.com.{key}.svc.~"));
    }
    for name in
        ["~", "svc.~", "pod.~", "dns.~", "ns.dns.~", "x.dns.~", "dns-version.~", "x.~", "www.example.com.~", "a.b.c.d.e.f.g.~"]
    {
        names.push(name.into());
    }
    names.extend(["example.com.", "local.", ".", "10.0.96.10.in-addr.arpa."].map(Into::into));
    names.push(format!("{}.default.svc.~", "x".repeat(63)));
    names
}

/// Every reply that user space may give: it takes turns.
fn replies(query: &[u8], zone: &Zone) -> (Outcome, Vec<Vec<u8>>) {
    let mut outcome = Outcome::Drop;
    let replies = (0..16_u32).map(|turn| {
        let mut reply = Vec::new();
        outcome = answer::respond(query, Transport::Udp, turn << 28, zone, &mut reply);
        reply
    });
    let replies = replies.collect();
    (outcome, replies)
}

/// Lets the kernel answer a message in both families, and holds what it says against what is said here.
fn check(kernel: &Kernel, zone: &Zone, message: &[u8], what: &str) -> Result<()> {
    let (outcome, expected) = replies(message, zone);
    for (pod, server) in FAMILIES {
        let (pod, server) = (SocketAddr::new(pod.parse()?, 4321), SocketAddr::new(server.parse()?, 53));
        let query = Packet::udp(pod, server, message);
        let Some(reply) = kernel.ask(&query)? else { continue };
        let frames = expected.iter().map(|message| {
            let reply = Packet::udp(server, pod, message).macs(query.mac_dst, query.mac_src);
            if pod.is_ipv4() { reply.id(0).dont_fragment() } else { reply }
        });
        let frames: Vec<Packet> = frames.collect();
        if !frames.iter().any(|frame| frame.bytes() == reply) {
            assert_frame(&format!("{what}, {outcome:?} here"), &reply, &frames[0]);
        }
    }
    Ok(())
}

fn outcomes(kernel: &Kernel) -> Result<BTreeMap<&'static str, u64>> {
    Ok(kernel.maps.dns_outcomes()?.into_iter().map(|(outcome, count)| (outcome.name(), count)).collect())
}

fn compare(name: &str, config: &ZoneConfig) -> Result<BTreeMap<&'static str, u64>> {
    let zone = Arc::new(sample_with(config).publish());
    let kernel = Kernel::new(name, &zone)?;
    for name in names(&zone) {
        for rtype in ["A", "AAAA", "SRV", "ANY"] {
            for edns in [None, Some(512), Some(1232), Some(0xffff)] {
                check(&kernel, &zone, &packet(&name, rtype, edns), &format!("{name} {rtype} {edns:?}"))?;
            }
        }
    }
    outcomes(&kernel)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn the_kernel_answers_as_user_space_does() -> Result<()> {
    let configs = [
        ("tw-dns-diff", config()),
        ("tw-dns-diff2", ZoneConfig { recursion: true, ttl: 3600, ..config() }),
        ("tw-dns-diff3", ZoneConfig { origins: vec!["cluster.local".into(), "svc.cluster.local".into()], ..config() }),
        ("tw-dns-diff4", ZoneConfig { pods: crate::zone::PodMode::Disabled, ..config() }),
    ];
    for (name, config) in configs {
        let seen = compare(name, &config)?;
        for outcome in [DnsOutcome::Answered, DnsOutcome::NoData, DnsOutcome::NxDomain] {
            assert!(seen[outcome.name()] > 0, "{seen:?}");
        }
        assert_eq!(seen[DnsOutcome::PassedStale.name()], 0);
    }
    Ok(())
}

/// Octets that are changed, added and cut off: what the kernel still answers, user space answers alike.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn the_kernel_answers_no_odd_message_otherwise_than_user_space() -> Result<()> {
    let zone = Arc::new(sample_with(&config()).publish());
    let kernel = Kernel::new("tw-dns-odd", &zone)?;
    let seeds: Vec<Vec<u8>> =
        ["web.default.svc.~", "db.data.svc.~", "nothing.default.svc.~", "~", "a.b.c.d.e.f.g.h.~", "x.web.default.svc.~"]
            .iter()
            .flat_map(|name| [packet(name, "A", None), packet(name, "AAAA", Some(1232))])
            .collect();
    let mut random = StdRng::seed_from_u64(0x1035);
    for round in 0..4_000 {
        let mut message = seeds[round % seeds.len()].clone();
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(0..message.len());
            match random.random_range(0..6) {
                0 => message.truncate(at.max(1)),
                1 => message.insert(at, random.random()),
                2 => message[at] = [0, 1, 12, 41, 63, 64, 0xc0, 0xff][random.random_range(0..8)],
                3 => message[at] ^= 1 << random.random_range(0..8),
                4 => message.extend(std::iter::repeat_n(b'x', at)),
                _ => message[at] = random.random(),
            }
        }
        check(&kernel, &zone, &message, &format!("round {round}, {message:x?}"))?;
    }
    let seen = outcomes(&kernel)?;
    for outcome in DnsOutcome::ALL.iter().filter(|outcome| **outcome != DnsOutcome::PassedStale) {
        assert!(seen[outcome.name()] > 0, "{seen:?}");
    }
    Ok(())
}

/// Before the next agent knows anything, and also when it makes larger maps.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn the_next_agents_kernel_answers_what_the_last_one_knew() -> Result<()> {
    let zone = Arc::new(sample_with(&config()).publish());
    let Kernel { datapath, maps, netns, _pins: pins } = Kernel::new("tw-dns-next", &zone)?;
    drop(maps);
    let mut last = Some(datapath);
    for (entries, start) in [(1_024, "Adopted"), (2_048, "Resized")] {
        drop(last.take());
        let options = options(&pins, entries);
        let datapath = netns.enter(|| Datapath::open(&options))??;
        assert!(format!("{:?}", datapath.start()).starts_with(start), "{:?}", datapath.start());
        for name in ["web.default.svc.cluster.local", "nothing.default.svc.cluster.local"] {
            let query = Packet::udp("10.244.9.2:4321".parse()?, "10.96.0.10:53".parse()?, &packet(name, "A", None));
            let input = Injected { packet: &query.bytes(), ifindex: 1, ..Injected::default() };
            assert_eq!(netns.enter(|| datapath.test_run("tc_from_pod", &input))??.verdict, REDIRECT, "{name} {start}");
        }
        last = Some(datapath);
    }
    Ok(())
}
