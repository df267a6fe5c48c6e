//! The lab that behaviours share, and what a behaviour asks of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use thalweg_cluster::Family;
use thalweg_lab::file::{FileLab, FileNode, FilePod, LabOptions};
use thalweg_lab::http::get;
use thalweg_lab::netns::Netns;
use thalweg_lab::place::Place;
use thalweg_lab::probe::{BindReport, ConnectReport, HttpReport, UdpReport};
use thalweg_lab::topology::{CLIENT_ADDR, CLIENT_ADDR6};

use crate::manifest::{Endpoint, Manifest};

/// How long a change may take to reach the kernels of both nodes, on a busy machine.
const DEADLINE: Duration = Duration::from_secs(20);

/// Where packets of pods are translated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hook {
    /// At connect and sendmsg.
    Socket,
    /// On packets alone: the asking processes are outside of the balanced control group.
    Tc,
    Iptables,
}

/// One of the pods of the lab. `A*` are on the first node, `B*` on the second; `*Asks` serve nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pod {
    A1,
    A2,
    B1,
    AAsks,
    BAsks,
}

/// Who asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum From {
    Pod(Pod),
    /// A process of the node itself.
    Node(usize),
    Outside,
}

/// At most one lab: that of the mode which ran last.
#[derive(Default)]
pub struct Shared {
    lab: Option<Lab>,
    /// Why there is none, for modes whose lab did not start: it would not start the next time either.
    broken: BTreeMap<bool, String>,
}

struct Lab {
    iptables: bool,
    pods: Vec<FilePod>,
    file: FileLab,
    /// Numbers handed out, for addresses and ports that no two behaviours share.
    numbers: u16,
}

/// What a behaviour is given.
pub struct Ctx<'a> {
    lab: &'a mut Lab,
    pub hook: Hook,
    pub family: Family,
    /// Manifests that this behaviour has put in place.
    applied: BTreeSet<String>,
}

// === impl Hook ===

impl Hook {
    pub fn name(self) -> &'static str {
        match self {
            Self::Socket => "socket",
            Self::Tc => "tc",
            Self::Iptables => "iptables",
        }
    }
}

// === impl Pod ===

impl Pod {
    const ALL: [Self; 5] = [Self::A1, Self::A2, Self::B1, Self::AAsks, Self::BAsks];

    pub fn name(self) -> &'static str {
        match self {
            Self::A1 => "a1",
            Self::A2 => "a2",
            Self::B1 => "b1",
            Self::AAsks => "a-asks",
            Self::BAsks => "b-asks",
        }
    }

    fn node(self) -> usize {
        usize::from(matches!(self, Self::B1 | Self::BAsks))
    }

    fn serves(self) -> bool {
        !matches!(self, Self::AAsks | Self::BAsks)
    }
}

// === impl Shared ===

impl Shared {
    pub fn run(&mut self, hook: Hook, family: Family, behaviour: fn(&mut Ctx<'_>) -> Result<()>) -> Result<()> {
        let iptables = hook == Hook::Iptables;
        if self.lab.as_ref().is_none_or(|lab| lab.iptables != iptables) {
            self.remove()?;
            if let Some(reason) = self.broken.get(&iptables) {
                bail!("{reason}");
            }
            match Lab::start(iptables) {
                Ok(lab) => self.lab = Some(lab),
                Err(error) => {
                    self.broken.insert(iptables, format!("no lab: {}", error.root_cause()));
                    return Err(error);
                }
            }
        }
        let lab = self.lab.as_mut().context("a lab")?;
        let mut ctx = Ctx { lab, hook, family, applied: BTreeSet::new() };
        let result = behaviour(&mut ctx);
        // What one behaviour leaves is not the next one's.
        let cleared = ctx.clear();
        result.map_err(|error| anyhow!("{error:#}{}", lab.logs()))?;
        cleared
    }

    pub fn remove(&mut self) -> Result<()> {
        match self.lab.take() {
            Some(Lab { pods, file, .. }) => {
                drop(pods);
                file.remove()
            }
            None => Ok(()),
        }
    }
}

// === impl Lab ===

impl Lab {
    fn start(iptables: bool) -> Result<Self> {
        let (id, mode) = if iptables { ("svcipt", "iptables") } else { ("svcebpf", "ebpf") };
        let file = FileLab::start_with(&LabOptions { id, proxy_mode: Some(mode), dual_stack: true, bin: None })?;
        let pods = Pod::ALL.iter().map(|pod| file.pod(pod.node(), pod.name(), pod.serves())).collect::<Result<_>>()?;
        Ok(Self { iptables, pods, file, numbers: 0 })
    }

    /// What the agents said last, and why their data paths have dropped packets so far.
    fn logs(&self) -> String {
        let said = |(index, node): (usize, &FileNode)| {
            let drops = self.file.view(index, "drops").map_or_else(|error| format!("{error:#}"), |drops| drops.to_string());
            format!("\n{}: drops {drops}\n{}\n", node.name, node.agent.log_tail(5))
        };
        self.file.nodes.iter().enumerate().map(said).collect()
    }
}

// === impl Ctx ===

impl Ctx<'_> {
    fn number(&mut self) -> u16 {
        self.lab.numbers += 1;
        self.lab.numbers
    }

    /// A cluster IP that no other behaviour uses.
    pub fn vip(&mut self) -> IpAddr {
        let number = self.number();
        match self.family {
            Family::V4 => Ipv4Addr::from(0x0a60_1000 + u32::from(number)).into(),
            Family::V6 => Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 1, number).into(),
        }
    }

    /// An address outside of every range that the lab knows; the client's way to it leads through the first node.
    pub fn external_address(&mut self) -> Result<IpAddr> {
        let number = self.number();
        let address: IpAddr = match self.family {
            Family::V4 => Ipv4Addr::from(0xc000_0200 + u32::from(number)).into(),
            Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 2, number).into(),
        };
        let (six, via) = (if self.family == Family::V6 { "-6 " } else { "" }, self.node_address(0));
        self.client().ip(&format!("{six}route replace {address} via {via}"))?;
        Ok(address)
    }

    /// A NodePort that no other behaviour uses.
    pub fn node_port(&mut self) -> u16 {
        30_000 + self.number()
    }

    /// A port of nodes that no other behaviour uses; of those that the kernel may choose for a connection.
    pub fn host_port(&mut self) -> u16 {
        40_000 + self.number()
    }

    /// A service with an address of its own, on HTTP's port 80.
    pub fn web(&mut self, name: &str) -> Manifest {
        let vip = self.vip();
        Manifest::new(&format!("{name}-{}", vip.to_string().replace([':', '.'], "-")), vip).http()
    }

    pub fn endpoint(&self, pod: Pod) -> Endpoint {
        Endpoint {
            addr: self.address(pod),
            node: self.lab.file.nodes[pod.node()].name.clone(),
            ready: true,
            serving: true,
            terminating: false,
            zone_hint: None,
            node_hint: None,
        }
    }

    pub fn endpoints(&self, pods: &[Pod]) -> Vec<Endpoint> {
        pods.iter().map(|pod| self.endpoint(*pod)).collect()
    }

    pub fn address(&self, pod: Pod) -> IpAddr {
        let pod = self.pod(pod);
        match self.family {
            Family::V4 => pod.addr.into(),
            Family::V6 => pod.addr6.map_or(Ipv6Addr::UNSPECIFIED, |addr| addr).into(),
        }
    }

    pub fn node_address(&self, node: usize) -> IpAddr {
        let net = &self.lab.file.topology.nodes[node];
        match self.family {
            Family::V4 => net.addr.into(),
            Family::V6 => net.addr6.into(),
        }
    }

    pub fn client_address(&self) -> IpAddr {
        match self.family {
            Family::V4 => CLIENT_ADDR.into(),
            Family::V6 => CLIENT_ADDR6.into(),
        }
    }

    pub fn node_name(&self, node: usize) -> &str {
        &self.lab.file.nodes[node].name
    }

    pub fn client(&self) -> &Netns {
        &self.lab.file.topology.client
    }

    pub fn node_netns(&self, node: usize) -> &Netns {
        &self.lab.file.topology.nodes[node].netns
    }

    pub fn pod(&self, pod: Pod) -> &FilePod {
        // In the order of `Pod::ALL`.
        &self.lab.pods[Pod::ALL.iter().position(|known| *known == pod).unwrap_or_default()]
    }

    pub fn lab(&mut self) -> &mut FileLab {
        &mut self.lab.file
    }

    /// Puts services in place, and waits until both nodes have them in their kernels.
    pub fn apply(&mut self, manifests: &[&Manifest]) -> Result<()> {
        // One by one: a node may look between two files.
        for manifest in manifests {
            let before = self.changes()?;
            let file = format!("svc-{}.yaml", manifest.name);
            self.lab.file.apply(&file, &manifest.text())?;
            self.applied.insert(file);
            self.synced_after(&before)?;
        }
        Ok(())
    }

    /// Any other manifest, which the proxy need not notice.
    pub fn apply_text(&mut self, file: &str, text: &str) -> Result<()> {
        self.applied.insert(file.to_owned());
        self.lab.file.apply(file, text)
    }

    /// Takes a service away, and waits for it.
    pub fn remove(&mut self, manifest: &Manifest) -> Result<()> {
        let before = self.changes()?;
        let file = format!("svc-{}.yaml", manifest.name);
        self.lab.file.withdraw(&file)?;
        self.applied.remove(&file);
        self.synced_after(&before)
    }

    fn clear(&mut self) -> Result<()> {
        for file in std::mem::take(&mut self.applied) {
            let before = self.changes()?;
            self.lab.file.withdraw(&file)?;
            // Or the next behaviour would take these changes for its own.
            if file.starts_with("svc-") {
                self.synced_after(&before)?;
            }
        }
        Ok(())
    }

    /// How many changes of services and endpoints each node's proxy has seen.
    fn changes(&self) -> Result<Vec<u64>> {
        (0..2).map(|node| self.both_kinds(node, "total")).collect()
    }

    fn both_kinds(&self, node: usize, figure: &str) -> Result<u64> {
        let metric = |kind: &str| self.metric(node, &format!("kubeproxy_sync_proxy_rules_{kind}_changes_{figure}"));
        Ok(metric("service")? + metric("endpoint")?)
    }

    fn synced_after(&self, before: &[u64]) -> Result<()> {
        self.until("both nodes follow the manifests", || {
            let seen = self.changes()?.iter().zip(before).all(|(now, before)| now > before);
            Ok(seen && self.both_kinds(0, "pending")? + self.both_kinds(1, "pending")? == 0)
        })
    }

    /// The sum over all labels of one of a node's metrics.
    pub fn metric(&self, node: usize, name: &str) -> Result<u64> {
        self.metric_of(node, name, "")
    }

    /// The sum over the lines of one of a node's metrics that have this label.
    pub fn metric_of(&self, node: usize, name: &str, label: &str) -> Result<u64> {
        let text = get(self.node_netns(node), SocketAddr::from((Ipv4Addr::LOCALHOST, 10_249)), "/metrics")?.body;
        let of_name =
            |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])) && line.contains(label);
        let values: Vec<f64> = text.lines().filter(of_name).filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
        ensure!(!values.is_empty(), "no metric {name} in\n{text}");
        Ok(values.iter().sum::<f64>() as u64)
    }

    /// Waits for a condition.
    pub fn until(&self, what: &str, mut ready: impl FnMut() -> Result<bool>) -> Result<()> {
        let end = Instant::now() + DEADLINE;
        let mut last = None;
        while Instant::now() < end {
            match ready() {
                Ok(true) => return Ok(()),
                Ok(false) => last = None,
                Err(error) => last = Some(error),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        match last {
            Some(error) => Err(error.context(format!("{what}: not within {DEADLINE:?}"))),
            None => bail!("{what}: not within {DEADLINE:?}"),
        }
    }

    /// Part of the names of services that exist for each family.
    pub fn family_name(&self) -> String {
        let family = if self.family == Family::V4 { "ipv4" } else { "ipv6" };
        format!("{}-{family}", self.hook.name())
    }

    /// Where a probe of this hook runs.
    pub fn place(&self, from: From) -> Place {
        match from {
            From::Pod(pod) if self.hook == Hook::Tc => self.pod(pod).by_tc(),
            From::Pod(pod) => self.pod(pod).place(),
            From::Node(node) => self.lab.file.host(node),
            From::Outside => self.lab.file.outside(),
        }
    }

    /// Everyone who may ask for an address of the cluster's inside. A process of the node outside of the balanced
    /// control group is nobody whom tc serves.
    pub fn inside(&self) -> Vec<From> {
        let pods = [From::Pod(Pod::AAsks), From::Pod(Pod::BAsks)];
        if self.hook == Hook::Tc { pods.to_vec() } else { [&pods[..], &[From::Node(0), From::Node(1)]].concat() }
    }

    /// GET requests, each on a connection of its own.
    pub fn http(&self, from: From, target: SocketAddr, count: u32) -> Result<HttpReport> {
        self.place(from).probe(&["http", &target.to_string(), "--count", &count.to_string(), "--timeout", "2000"])
    }

    /// Requests that must all be answered, by exactly these pods.
    pub fn answered_by(&self, from: From, target: SocketAddr, pods: &[Pod]) -> Result<()> {
        let report = self.http(from, target, 12 * u32::try_from(pods.len())?)?;
        let wanted: BTreeSet<&str> = pods.iter().map(|pod| pod.name()).collect();
        let found: BTreeSet<&str> = report.pods.keys().map(String::as_str).collect();
        // One of three backends stays out of 36 requests once in a million.
        ensure!(report.failed == 0 && found == wanted, "{from:?} to {target}: wanted {wanted:?}: {report:?}");
        Ok(())
    }

    pub fn connect(&self, from: From, target: SocketAddr) -> Result<ConnectReport> {
        self.place(from).probe(&["connect", &target.to_string()])
    }

    /// `connected`, `refused` or `timeout`, as wanted.
    pub fn connect_ends(&self, from: From, target: SocketAddr, wanted: &str) -> Result<()> {
        let report = self.connect(from, target)?;
        ensure!(report.outcome == wanted, "{from:?} to {target}: wanted {wanted}: {report:?}");
        ensure!(wanted == "timeout" || report.micros < 1_000_000, "{from:?} to {target}: {wanted}, but late: {report:?}");
        Ok(())
    }

    /// A datagram that is answered with "nobody is there", at once.
    pub fn datagram_is_refused(&self, from: From, target: SocketAddr) -> Result<()> {
        let said = self.place(from).session(&["udp", &target.to_string()])?.say()?;
        // A rule that rejects what the node itself sends fails the call: so the kernel's netfilter has it.
        let by_rule = self.hook == Hook::Iptables && matches!(from, From::Node(_));
        let wanted = if by_rule { "Operation not permitted (os error 1)" } else { "refused" };
        ensure!(said.outcome == wanted && said.micros < 1_000_000, "{from:?} to {target} by UDP: wanted {wanted}: {said:?}");
        Ok(())
    }

    /// Takes a local port for a moment.
    pub fn bind(&self, from: From, address: SocketAddr, udp: bool) -> Result<BindReport> {
        let address = address.to_string();
        let mut args = vec!["bind", &address];
        args.extend(udp.then_some("--udp"));
        self.place(from).probe(&args)
    }

    pub fn udp(&self, from: From, target: SocketAddr, count: u32) -> Result<UdpReport> {
        self.place(from).probe(&["udp", &target.to_string(), "--count", &count.to_string()])
    }
}

/// An address with a port.
pub fn at(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address, port)
}
