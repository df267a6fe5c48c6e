//! The labs that are measured side by side, all up at once: ours with eBPF, ours with iptables, and pods with nothing but
//! routes between them. In each a client and a server on the first node, a server on the second, and a client outside.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use thalweg_lab::file::{End, FileLab, FileNode, FilePod, LabOptions, Launch};
use thalweg_lab::netns::Netns;
use thalweg_lab::place::{Place, Running};
use thalweg_lab::process::wait_until;
use thalweg_lab::topology::{NodeNet, Topology};

use crate::agent::{self, Figures};
use crate::manifests::{PORT, SINK, expected, few, many, moving};
use crate::plain::{PlainLab, PlainPod};
use crate::settings::Settings;

/// How long what a lab starts may take to answer.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Which labs, and how many services there are in those that have any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub services: u32,
    pub iptables: bool,
    pub plain: bool,
}

pub struct Labs {
    wanted: Wanted,
    pub ebpf: Ours,
    pub iptables: Option<Ours>,
    pub plain: Option<Plain>,
}

/// A lab with agents in one of the modes.
pub struct Ours {
    pub lab: FileLab,
    pub client: FilePod,
    pub servers: [FilePod; 2],
    /// What the agent of the first node said after its first sync, on empty maps or without rules.
    pub first: Figures,
    _serving: [Running; 2],
}

/// A lab without any of our programs or rules.
pub struct Plain {
    pub lab: PlainLab,
    pub client: PlainPod,
    pub servers: [PlainPod; 2],
    _serving: [Running; 2],
}

/// What started, if it was wanted at all.
fn keep<T>(side: &'static str, lab: Option<Result<T>>, failed: &mut Vec<(&'static str, anyhow::Error)>) -> Option<T> {
    lab?.map_err(|error| failed.push((side, error))).ok()
}

// === impl Labs ===

impl Labs {
    /// And which of those that ours is compared with did not start.
    ///
    /// # Errors
    /// When ours does not start.
    pub fn start(settings: &Settings, mut wanted: Wanted) -> Result<(Self, Vec<(&'static str, anyhow::Error)>)> {
        let ours = |mode: &str| Ours::start(settings, mode, wanted.services).with_context(|| format!("the lab with {mode}"));
        let ebpf = ours("ebpf")?;
        let mut failed = Vec::new();
        let iptables = keep("iptables", wanted.iptables.then(|| ours("iptables")), &mut failed);
        let plain = wanted.plain.then(|| Plain::start(settings).context("the lab without programs"));
        let plain = keep("plain", plain, &mut failed);
        // Whoever wants them next tries again.
        (wanted.iptables, wanted.plain) = (iptables.is_some(), plain.is_some());
        Ok((Self { wanted, ebpf, iptables, plain }, failed))
    }

    /// Whether these serve who wants those: what is there besides does not hurt.
    pub fn are(&self, wanted: &Wanted) -> bool {
        let Wanted { services, iptables, plain } = self.wanted;
        services == wanted.services && (iptables || !wanted.iptables) && (plain || !wanted.plain)
    }

    /// # Errors
    /// Lists what stays behind.
    pub fn remove(self) -> Result<()> {
        let Self { ebpf, iptables, plain, .. } = self;
        let results = [Some(ebpf.remove()), iptables.map(Ours::remove), plain.map(Plain::remove)];
        results.into_iter().flatten().collect()
    }
}

// === impl Ours ===

impl Ours {
    /// With an agent on the first node that met all services at once.
    ///
    /// # Errors
    /// When the machine refuses, or an agent does not sync.
    pub fn start(settings: &Settings, mode: &str, services: u32) -> Result<Self> {
        let id = format!("{}{mode}", settings.lab);
        let options = LabOptions { id: &id, proxy_mode: Some(mode), dual_stack: true, bin: Some(settings.bin.clone()) };
        let mut lab = FileLab::start_with(&options)?;
        let servers = [lab.pod(0, "near", false)?, lab.pod(1, "far", false)?];
        let client = lab.pod(0, "client", false)?;
        let [near, far] = &servers;
        let serving = [serve(settings, near.place(), near.netns())?, serve(settings, far.place(), far.netns())?];
        routes_from_outside(&lab.topology)?;
        // All at once, as an agent meets them that comes to a running cluster.
        lab.nodes[0].agent.kill()?;
        lab.apply("many.yaml", &many(services))?;
        lab.apply("few.yaml", &few(&[near, far], &lab.nodes))?;
        lab.apply("moving.yaml", &moving(0))?;
        // The other node's agent is not to be busy with them at the same time.
        synced(&mut lab.nodes[1], mode, services)?;
        lab.restart_agent(0, Duration::ZERO)?;
        let first = synced(&mut lab.nodes[0], mode, services)?;
        Ok(Self { lab, client, servers, first, _serving: serving })
    }

    /// kill -9, and a new agent on what the old one left. What it says after its first sync.
    ///
    /// # Errors
    /// When it does not sync.
    pub fn restart(&mut self) -> Result<Figures> {
        self.lab.restart_agent(0, Duration::ZERO)?;
        self.synced()
    }

    /// From now on the first node's agent runs on one CPU.
    ///
    /// # Errors
    /// When it does not sync.
    pub fn pin_agent(&mut self, cpu: usize) -> Result<Figures> {
        let under = ["taskset", "--cpu-list", &cpu.to_string()].map(str::to_owned).to_vec();
        self.lab.restart_agent_with(0, End::Term, Launch { args: Vec::new(), under })?;
        self.synced()
    }

    fn synced(&mut self) -> Result<Figures> {
        let Figures { mode, services, .. } = &self.first;
        let services = u32::try_from(*services)?;
        synced(&mut self.lab.nodes[0], mode, services)
    }

    /// Waits until the first node's agent says `ready`.
    ///
    /// # Errors
    /// Names what was waited for.
    pub fn until(&mut self, what: &str, ready: impl Fn(&Figures) -> bool) -> Result<Figures> {
        let FileNode { dir, agent, .. } = &mut self.lab.nodes[0];
        agent::until(agent, &dir.join("run"), what, ready)
    }

    /// Address of server `index`.
    ///
    /// # Errors
    /// When the pod has none of that family.
    pub fn server(&self, index: usize, family: u8) -> Result<IpAddr> {
        let pod = &self.servers[index];
        match family {
            4 => Ok(pod.addr.into()),
            _ => Ok(pod.addr6.context("the pod has no IPv6 address")?.into()),
        }
    }

    /// # Errors
    /// Lists what stays behind.
    pub fn remove(self) -> Result<()> {
        let Self { lab, client, servers, _serving, .. } = self;
        drop((client, servers, _serving));
        lab.remove()
    }
}

// === impl Plain ===

impl Plain {
    /// # Errors
    /// When the machine refuses.
    pub fn start(settings: &Settings) -> Result<Self> {
        let lab = PlainLab::start(&format!("{}plain", settings.lab))?;
        let servers = [lab.pod(0, 2, "near")?, lab.pod(1, 2, "far")?];
        let client = lab.pod(0, 3, "client")?;
        let [near, far] = &servers;
        let serving = [serve(settings, near.place(), near.netns())?, serve(settings, far.place(), far.netns())?];
        routes_from_outside(lab.topology())?;
        Ok(Self { lab, client, servers, _serving: serving })
    }

    pub fn outside(&self) -> Place {
        Place::at("outside", self.lab.topology().client.path(), None)
    }

    /// # Errors
    /// Lists what stays behind.
    pub fn remove(self) -> Result<()> {
        let Self { lab, client, servers, _serving } = self;
        drop((client, servers, _serving));
        lab.remove()
    }
}

fn synced(node: &mut FileNode, mode: &str, services: u32) -> Result<Figures> {
    let FileNode { dir, agent, .. } = node;
    let ready = |agent: &Figures| agent.synced && agent.services >= expected(services);
    let figures = agent::until(agent, &dir.join("run"), "the agent has synced", ready)?;
    ensure!(figures.mode == mode, "the agent runs in mode {} instead of {mode}", figures.mode);
    Ok(figures)
}

/// Starts the server of the loads, and waits until it listens.
fn serve(settings: &Settings, place: Place, netns: &Netns) -> Result<Running> {
    let (port, sink) = (PORT.to_string(), SINK.to_string());
    let cpu = settings.cpus.map(|[_, server]| server.to_string());
    let mut args = vec!["serve", "--port", &port, "--sink", &sink];
    args.extend(cpu.iter().flat_map(|cpu| ["--cpu", cpu]));
    let running = place.load(&args)?;
    wait_until("the server of the loads listens", DEADLINE, &mut [], || {
        let target = SocketAddr::from(([127, 0, 0, 1], SINK));
        netns.enter(|| std::net::TcpStream::connect_timeout(&target, Duration::from_millis(200)).is_ok())
    })?;
    Ok(running)
}

/// The client outside can dial pods themselves, each by its own node.
fn routes_from_outside(topology: &Topology) -> Result<()> {
    for (index, NodeNet { addr, addr6, .. }) in topology.nodes.iter().enumerate() {
        topology.client.ip(&format!("route add 10.244.{index}.0/24 via {addr}"))?;
        topology.client.ip(&format!("-6 route add fd00:244:0:{index}::/64 via {addr6}"))?;
    }
    Ok(())
}
