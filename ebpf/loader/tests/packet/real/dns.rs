//! A pod's resolver asks, and nobody is there but the kernel.

use std::time::Instant;

use anyhow::{Context, Result};
use thalweg_abi::{Be128, DnsName, DnsOutcome, DnsServer, DnsZoneFlags};
use thalweg_loader::Table;

use super::{
    both,
    lab::{Lab, POD_LINK, set_tx_checksumming},
    sockets::udp,
};
use crate::{
    dns::{A, AAAA, node_of, outcomes, query, wire, with_edns, zone},
    node::at,
};

const WEB: &str = "Web.default.svc.Cluster.local";

/// Every kind of reply, shorter and longer than its query, comes through the pod's stack, which judges its checksums where
/// they have been completed.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_pod_is_answered_though_no_server_is_there() -> Result<()> {
    both(|family| {
        let mut lab = Lab::build(family)?;
        let vip = lab.vip();
        let tables = &mut lab.nodes[0].tables;
        let key = |name: &str| DnsName::new(&wire(&name.to_ascii_lowercase())).context("a name that is taken");
        let names = [("cluster.local", node_of(0, &[])), (WEB, node_of(0, &["10.96.0.20", "10.96.0.21", "10.96.0.22"]))];
        for (name, node) in names {
            tables.maps.dns_names.update(&[(key(name)?, node)])?;
        }
        tables.maps.dns_zones.update(&[(0, zone(DnsZoneFlags::COMPLETE))])?;
        tables.maps.dns_servers.update(&[(DnsServer { addr: Be128::from(vip) }, 0)])?;
        let pod = &lab.nodes[0].pods[0];
        for offload in [true, false] {
            pod.netns.enter(|| set_tx_checksumming(POD_LINK, offload))??;
            let socket = udp(&pod.netns, at(vip, 53))?;
            for (message, rcode, counts) in [
                (query(WEB, A), 0, [3, 0, 0]),
                (query(WEB, AAAA), 0, [0, 1, 0]),
                (query("odd.web.default.svc.cluster.local", A), 3, [0, 1, 0]),
                (with_edns(query(WEB, A), 4096, true, &[]), 0, [3, 0, 1]),
                (with_edns(query(WEB, AAAA), 512, false, &[5; 201]), 0, [0, 1, 1]),
            ] {
                socket.send(&message)?;
                let (mut reply, asked) = ([0; 600], Instant::now());
                let len = socket.recv(&mut reply).with_context(|| format!("after {:?}: {message:x?}", asked.elapsed()))?;
                let question = 12 + wire(WEB).len() + 4;
                assert_eq!((&reply[..2], reply[3] & 15), (&message[..2], rcode));
                assert_eq!([7, 9, 11].map(|at| reply[at]), counts, "{:x?}", &reply[..len]);
                assert_eq!(reply[12..question.min(30)], message[12..question.min(30)]);
            }
        }
        let seen = outcomes(&lab.nodes[0].tables)?;
        assert_eq!(seen, [(DnsOutcome::Answered, 4), (DnsOutcome::NoData, 4), (DnsOutcome::NxDomain, 2)]);
        assert_eq!(lab.nodes[0].tables.drops()?, []);
        Ok(())
    })
}
