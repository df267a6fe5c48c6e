//! Pods without any of our programs or rules: veth, addresses and the kernel's own routing. What a data path is compared with.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use thalweg_lab::netns::Netns;
use thalweg_lab::owner::Owner;
use thalweg_lab::place::Place;
use thalweg_lab::process::{Process, Spec};
use thalweg_lab::topology::Topology;

/// Two nodes that route between their pods.
pub struct PlainLab {
    topology: Topology,
    // Last: its removal ends every process.
    owner: Owner,
}

/// A namespace with an address of each family, as pods have it.
pub struct PlainPod {
    pub addr: Ipv4Addr,
    pub addr6: Ipv6Addr,
    name: String,
    netns: Netns,
    cgroup: PathBuf,
}

// === impl PlainLab ===

impl PlainLab {
    /// # Errors
    /// When the machine refuses.
    pub fn start(id: &str) -> Result<Self> {
        let owner = Owner::claim(id)?;
        let topology = Topology::build(id, 2)?;
        for (node, peer) in [(0, 1), (1, 0)] {
            let (net, peer_net) = (&topology.nodes[node], &topology.nodes[peer]);
            net.netns.enter(|| {
                fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
                fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")
            })??;
            net.netns.ip(&format!("route add 10.244.{peer}.0/24 via {}", peer_net.addr))?;
            net.netns.ip(&format!("-6 route add fd00:244:0:{peer}::/64 via {}", peer_net.addr6))?;
        }
        Ok(Self { topology, owner })
    }

    /// Pod number `number` of a node.
    ///
    /// # Errors
    /// When the machine refuses, or there is no such pod.
    pub fn pod(&self, node: usize, number: u8, name: &str) -> Result<PlainPod> {
        ensure!(node < self.topology.nodes.len() && (2..=250).contains(&number), "no pod {number} on node {node}");
        let host = &self.topology.nodes[node].netns;
        let netns = Netns::create(&format!("thalweg-{}-pod-{name}", self.owner.id()))?;
        let third = u8::try_from(node)?;
        let addr = Ipv4Addr::new(10, 244, third, number);
        let addr6 = Ipv6Addr::new(0xfd00, 0x244, 0, third.into(), 0, 0, 0, number.into());
        let gateway = Ipv4Addr::new(10, 244, third, 1);
        let gateway6 = Ipv6Addr::new(0xfd00, 0x244, 0, third.into(), 0, 0, 0, 1);
        let link = format!("tw{number}");
        host.ip(&format!("link add {link} type veth peer name eth0 netns {}", netns.name()))?;
        host.ip(&format!("addr add {gateway}/32 dev {link}"))?;
        host.ip(&format!("addr add {gateway6}/128 dev {link} nodad"))?;
        host.ip(&format!("link set {link} up"))?;
        host.ip(&format!("route add {addr}/32 dev {link}"))?;
        host.ip(&format!("-6 route add {addr6}/128 dev {link}"))?;
        netns.ip(&format!("addr add {addr}/32 dev eth0"))?;
        netns.ip(&format!("addr add {addr6}/128 dev eth0 nodad"))?;
        netns.ip("link set eth0 up")?;
        netns.ip(&format!("route add default via {gateway} dev eth0 onlink"))?;
        netns.ip(&format!("-6 route add default via {gateway6} dev eth0 onlink"))?;
        let cgroup = self.owner.cgroup().join(format!("pod{name}"));
        fs::create_dir_all(&cgroup)?;
        Ok(PlainPod { addr, addr6, name: name.to_owned(), netns, cgroup })
    }

    /// Starts a program on a node, in its namespace; it ends with the lab.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run(&self, node: usize, name: &str, program: &Path, args: Vec<String>) -> Result<Process> {
        Process::start(Spec {
            name,
            netns: self.topology.nodes[node].netns.path(),
            cgroup: &self.owner.cgroup().join(name),
            log: self.folder().join(format!("{name}.log")),
            program,
            args,
            env: Vec::new(),
            listener: None,
        })
    }

    /// Goes with the lab.
    pub fn folder(&self) -> &Path {
        self.owner.run()
    }

    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Ends everything.
    ///
    /// # Errors
    /// Lists what stays behind.
    pub fn remove(self) -> Result<()> {
        let Self { owner, topology } = self;
        owner.remove()?;
        drop(topology);
        Ok(())
    }
}

// === impl PlainPod ===

impl PlainPod {
    pub fn place(&self) -> Place {
        Place::at(&self.name, self.netns.path(), Some(&self.cgroup))
    }

    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Its address of family 4 or 6.
    pub fn address(&self, family: u8) -> IpAddr {
        if family == 4 { self.addr.into() } else { self.addr6.into() }
    }
}
