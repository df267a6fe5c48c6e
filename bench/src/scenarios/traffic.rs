//! Loads over a network: through a service, to a node's port from outside, from pod to pod. What is dialled differs; the
//! load, the client and the server are the same on every side.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use thalweg_lab::place::Place;
use thalweg_lab::probe::RateReport;

use crate::bench::{Bench, Case};
use crate::labs::{Labs, Ours, Wanted};
use crate::manifests::{PORT, SINK, node_port, vip};
use crate::measure::{Base, Contender, Sample};
use crate::run::Better;
use crate::scenario::Scenario;
use crate::settings::Settings;

/// The server itself, in our lab with eBPF and in the one with iptables.
const DIRECT: &str = "direct";
const DIRECT_IPTABLES: &str = "direct, iptables rules";
const PLAIN: Base = Base::Of("plain");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    ConnectRequestResponse,
    RequestResponse,
    Datagrams,
    Stream,
}

/// Who dials what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// A pod dials a service; compared with dialling the server itself in the same lab.
    Service,
    /// A client outside dials a node's port; compared with dialling the server itself in the same lab.
    NodePort,
    /// A pod dials a pod; compared with pods without any of our programs.
    Pod,
}

pub struct Traffic {
    name: &'static str,
    about: &'static str,
    way: Way,
    loads: &'static [Load],
}

/// All scenarios of this kind.
pub fn all() -> Vec<Traffic> {
    use Load::{ConnectRequestResponse, Datagrams, RequestResponse, Stream};
    let scenario = |name, about, way, loads| Traffic { name, about, way, loads };
    vec![
        scenario(
            "services-crr",
            "a pod dials a service: one TCP connection for each request",
            Way::Service,
            &[ConnectRequestResponse],
        ),
        scenario("services-rr", "a pod dials a service: requests on one TCP connection", Way::Service, &[RequestResponse]),
        scenario("udp-rr", "a pod dials a service: datagrams that are answered one by one", Way::Service, &[Datagrams]),
        scenario("throughput", "a pod dials a service: one TCP stream", Way::Service, &[Stream]),
        scenario(
            "nodeport",
            "a client outside dials a node's port, with the server on that node and on the other",
            Way::NodePort,
            &[ConnectRequestResponse, RequestResponse],
        ),
        scenario(
            "pod-to-pod",
            "a pod dials a pod, beside pods with nothing but veth and routes",
            Way::Pod,
            &[ConnectRequestResponse, RequestResponse, Datagrams, Stream],
        ),
    ]
}

// === impl Load ===

impl Load {
    pub fn name(self) -> &'static str {
        match self {
            Self::ConnectRequestResponse => "connect-request-response",
            Self::RequestResponse => "request-response",
            Self::Datagrams => "datagrams",
            Self::Stream => "stream",
        }
    }

    pub fn unit(self) -> &'static str {
        if self == Self::Stream { "Gbit/s" } else { "per second" }
    }

    fn probe(self) -> &'static [&'static str] {
        match self {
            Self::ConnectRequestResponse => &["crr"],
            Self::RequestResponse => &["crr", "--persistent"],
            Self::Datagrams => &["udp-rr"],
            Self::Stream => &["stream"],
        }
    }

    fn port(self) -> u16 {
        if self == Self::Stream { SINK } else { PORT }
    }

    fn sample(self, report: &RateReport) -> Result<Sample> {
        match self {
            Self::Stream => Ok(Sample::from(report.per_second * 8.0 / 1e9)),
            _ => Ok(Sample { value: report.per_second, latency: Some(report.histogram()?) }),
        }
    }
}

// === impl Traffic ===

impl Scenario for Traffic {
    fn name(&self) -> &'static str {
        self.name
    }

    fn about(&self) -> &'static str {
        self.about
    }

    fn ours(&self) -> &'static [&'static str] {
        match self.way {
            Way::Service => &["socket-lb", "tc"],
            Way::NodePort => &["tc"],
            Way::Pod => &["thalweg"],
        }
    }

    fn against(&self) -> &'static [&'static str] {
        match self.way {
            Way::Service | Way::NodePort => &["direct", "iptables", "plain"],
            Way::Pod => &["plain", "iptables"],
        }
    }

    fn cases(&self, settings: &Settings) -> usize {
        settings.services.len() * settings.families.len() * 2 * self.loads.len()
    }

    fn run(&self, bench: &mut Bench<'_>) -> Result<()> {
        for services in bench.settings.services.clone() {
            if bench.stopped() {
                return Ok(());
            }
            let wanted = self.wanted(bench, services);
            let labs = bench.labs(wanted)?;
            let result = self.in_labs(bench, &labs, services);
            bench.give_back(labs);
            result?;
        }
        Ok(())
    }
}

impl Traffic {
    /// Which labs this needs; says what is left out.
    fn wanted(&self, bench: &mut Bench<'_>, services: u32) -> Wanted {
        let iptables = bench.compares_iptables(services);
        // What pods are compared with is never left out.
        let plain = self.way == Way::Pod || bench.settings.wants("plain");
        Wanted { services, iptables, plain }
    }

    fn in_labs(&self, bench: &mut Bench<'_>, labs: &Labs, services: u32) -> Result<()> {
        for family in bench.settings.families.clone() {
            for (index, where_) in [(0, "same node"), (1, "other node")] {
                for load in self.loads {
                    if bench.stopped() {
                        return Ok(());
                    }
                    let case = Case::new(load.unit(), Better::Higher)
                        .with("services", services)
                        .with("family", format!("IPv{family}"))
                        .with("server", where_);
                    let case = if self.loads.len() > 1 { case.with("load", load.name()) } else { case };
                    let contenders = self.contenders(bench.settings, labs, *load, family, index)?;
                    bench.compare(case, contenders)?;
                }
            }
        }
        Ok(())
    }

    /// The sides of one case, each with what it is compared with.
    fn contenders<'a>(
        &self,
        settings: &'a Settings,
        labs: &'a Labs,
        load: Load,
        family: u8,
        server: usize,
    ) -> Result<Vec<Contender<'a>>> {
        let Labs { ebpf, iptables, plain, .. } = labs;
        let iptables = iptables.as_ref().filter(|_| settings.wants("iptables"));
        let plain = plain.as_ref().filter(|_| self.way == Way::Pod || settings.wants("plain"));
        let mut contenders = Vec::new();
        let mut add = |name: &str, base: Base, place: Place, address: IpAddr, port: u16| {
            contenders.push(contender(settings, name, place, SocketAddr::new(address, port), load).over(base));
        };
        let port = load.port();
        let outside = self.way == Way::NodePort;
        let from = |ours: &Ours| if outside { ours.lab.outside() } else { ours.client.place() };
        if self.way == Way::Pod {
            if let Some(plain) = plain {
                add("plain", Base::Nothing, plain.client.place(), plain.servers[server].address(family), port);
            }
            add("thalweg", PLAIN, ebpf.client.place(), ebpf.server(server, family)?, port);
            if let Some(iptables) = iptables {
                add("iptables", PLAIN, iptables.client.place(), iptables.server(server, family)?, port);
            }
            return Ok(contenders);
        }
        // What each way through a service costs is told by dialling the server itself in the very same lab; what the lab
        // costs without any service, by the pods that have none of our programs or rules.
        add(DIRECT, PLAIN, from(ebpf), ebpf.server(server, family)?, port);
        let open = node_port(server, family) + if load == Load::Stream { 1 } else { 0 };
        let service = |ours: &Ours| if outside { (node(ours, family), open) } else { (vip(server, family), port) };
        let (address, dialled) = service(ebpf);
        if !outside {
            add("socket-lb", Base::Of(DIRECT), ebpf.client.place(), address, dialled);
        }
        let by_tc = if outside { ebpf.lab.outside() } else { ebpf.client.by_tc() };
        add("tc", Base::Of(DIRECT), by_tc, address, dialled);
        if let Some(iptables) = iptables {
            let (address, dialled) = service(iptables);
            add("iptables", Base::Of(DIRECT_IPTABLES), from(iptables), address, dialled);
            add(DIRECT_IPTABLES, PLAIN, from(iptables), iptables.server(server, family)?, port);
        }
        if let Some(plain) = plain {
            let place = if outside { plain.outside() } else { plain.client.place() };
            add("plain", Base::Nothing, place, plain.servers[server].address(family), port);
        }
        Ok(contenders)
    }
}

/// The first node, by its own address.
fn node(ours: &Ours, family: u8) -> IpAddr {
    let net = &ours.lab.topology.nodes[0];
    if family == 4 { net.addr.into() } else { net.addr6.into() }
}

/// A side that puts this load on `target`, from `place`.
pub fn contender<'a>(settings: &Settings, name: &str, place: Place, target: SocketAddr, load: Load) -> Contender<'a> {
    let mut args: Vec<String> = load.probe().iter().map(|word| (*word).to_owned()).collect();
    args.extend([target.to_string(), "--millis".to_owned(), settings.millis.to_string()]);
    if let Some([client, _]) = settings.cpus {
        args.extend(["--cpu".to_owned(), client.to_string()]);
    }
    Contender::new(name, move || {
        let words: Vec<&str> = args.iter().map(String::as_str).collect();
        load.sample(&place.probe::<RateReport>(&words)?)
    })
}
