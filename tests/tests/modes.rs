//! Agents that end and come back in another mode, with another map, or without the right to use eBPF, while packets flow:
//! from pods by sockets and by packets, from the nodes, and from outside, in both families. Nobody may notice.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use thalweg_lab::file::{End, FileLab, FileNode, FilePod, LabOptions, Launch};
use thalweg_lab::http::get;
use thalweg_lab::netns::run;
use thalweg_lab::place::{Place, Running, Session};
use thalweg_lab::probe::HttpReport;
use thalweg_lab::process::wait_until;

const DEADLINE: Duration = Duration::from_secs(30);
const NODES: [usize; 2] = [0, 1];
const VIPS: [&str; 2] = ["10.96.7.7", "fd00:96::7"];
/// Port of the service, and the same as NodePort.
const HTTP: [u16; 2] = [80, 30_080];
const LINES: [u16; 2] = [9_090, 30_090];
/// Long enough to look at what drains, in seconds.
const DRAIN: u64 = 6;

struct Lab {
    /// One that serves and one that asks on each node.
    pods: Vec<FilePod>,
    file: FileLab,
    /// What was lost so far: it does not hide what comes after.
    lost: Vec<String>,
}

/// How somebody comes to the service.
struct Way {
    place: Place,
    address: IpAddr,
    /// Index into the ports.
    outside: usize,
    /// By packets all the way, rather than by a socket that is told its endpoint.
    by_packets: bool,
}

/// Requests without end, on each way.
struct Loads(Vec<(String, Running)>);

/// Sockets that stay open, on each way.
struct Sessions(Vec<Open>);

struct Open {
    label: String,
    pod: Option<String>,
    by_packets: bool,
    session: Session,
}

// === impl Lab ===

impl Lab {
    /// Runs a scenario in a lab of its own, which is removed afterwards.
    fn run(id: &str, mode: &str, scenario: impl FnOnce(&mut Self) -> Result<()>) {
        let file = FileLab::start_with(&LabOptions { id, proxy_mode: Some(mode), dual_stack: true, bin: None }).expect("lab");
        let mut lab = Self { pods: Vec::new(), file, lost: Vec::new() };
        let result = lab.serve(mode).and_then(|()| scenario(&mut lab));
        lab.note(result);
        let lost = lab.lost.join("\n");
        let logs = if lost.is_empty() { String::new() } else { lab.logs() };
        let Self { pods, file, .. } = lab;
        drop(pods);
        let removed = file.remove();
        assert!(lost.is_empty(), "{lost}{logs}");
        removed.expect("nothing is left behind");
    }

    fn note(&mut self, result: Result<()>) {
        self.lost.extend(result.err().map(|error| format!("{error:#}")));
    }

    fn serve(&mut self, mode: &str) -> Result<()> {
        for (node, name, serves) in [(0, "a1", true), (0, "a-asks", false), (1, "b1", true), (1, "b-asks", false)] {
            self.pods.push(self.file.pod(node, name, serves)?);
        }
        self.file.apply("web.yaml", &self.manifest()?)?;
        for node in NODES {
            self.serves(node, mode)?;
        }
        for way in self.ways()? {
            let report: HttpReport = way.place.probe(&["http", &way.at(HTTP), "--count", "4"])?;
            ensure!(report.failed == 0, "before anything changes: {}: {report:?}", way.label());
        }
        Ok(())
    }

    /// A service of both families, with an endpoint on each node.
    fn manifest(&self) -> Result<String> {
        let [http, lines] = [HTTP, LINES];
        let mut text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: lab}}\n\
             spec: {{type: NodePort, clusterIP: {v4}, clusterIPs: [{v4}, \"{v6}\"], ipFamilies: [IPv4, IPv6], ports: [\
             {{name: http, port: {}, nodePort: {}, targetPort: 8080}}, {{name: tcp, port: {}, nodePort: {}}}, \
             {{name: udp, protocol: UDP, port: {}, nodePort: {}}}]}}\n",
            http[0],
            http[1],
            lines[0],
            lines[1],
            lines[0],
            lines[1],
            v4 = VIPS[0],
            v6 = VIPS[1],
        );
        for family in ["IPv4", "IPv6"] {
            text += &format!(
                "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
                 metadata: {{name: web-{}, namespace: lab, labels: {{kubernetes.io/service-name: web}}}}\naddressType: {family}\n\
                 ports: [{{name: http, port: 8080}}, {{name: tcp, port: 9090}}, {{name: udp, protocol: UDP, port: 9090}}]\nendpoints:\n",
                family.to_lowercase()
            );
            for pod in self.pods.iter().filter(|pod| !pod.name.ends_with("asks")) {
                let addr: IpAddr = if family == "IPv4" { pod.addr.into() } else { pod.addr6.context("an address")?.into() };
                let node = &self.file.nodes[pod.node].name;
                text += &format!("- {{addresses: [\"{addr}\"], conditions: {{ready: true}}, nodeName: {node}}}\n");
            }
        }
        Ok(text)
    }

    fn ways(&self) -> Result<Vec<Way>> {
        let mut ways = Vec::new();
        for vip in VIPS {
            let address: IpAddr = vip.parse()?;
            for pod in self.pods.iter().filter(|pod| pod.name.ends_with("asks")) {
                ways.push(Way { place: pod.place(), address, outside: 0, by_packets: false });
                ways.push(Way { place: pod.by_tc(), address, outside: 0, by_packets: true });
            }
            for node in NODES {
                ways.push(Way { place: self.file.host(node), address, outside: 0, by_packets: false });
                let net = &self.file.topology.nodes[node];
                let address: IpAddr = if address.is_ipv4() { net.addr.into() } else { net.addr6.into() };
                ways.push(Way { place: self.file.outside(), address, outside: 1, by_packets: true });
            }
        }
        Ok(ways)
    }

    fn restart(&mut self, node: usize, end: End, args: &[&str]) -> Result<()> {
        self.restart_under(node, end, &[], args)
    }

    fn restart_under(&mut self, node: usize, end: End, under: &[&str], args: &[&str]) -> Result<()> {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        self.file.restart_agent_with(node, end, Launch { args: words(args), under: words(under) })
    }

    /// One of a node's own pages.
    fn page(&self, node: usize, port: u16, path: &str) -> Result<String> {
        let answer = get(&self.file.topology.nodes[node].netns, (Ipv4Addr::LOCALHOST, port).into(), path)?;
        ensure!(answer.status == 200, "{path}: {}\n{}", answer.head, answer.body);
        Ok(answer.body)
    }

    /// Waits until a node's agent, which has just been started, serves in this mode.
    fn serves(&mut self, node: usize, mode: &str) -> Result<()> {
        let ready = || {
            let has_service = self.page(node, 10_249, "/metrics")?.lines().any(|line| line == "thalweg_services 1");
            ensure!(has_service, "the metrics do not say `thalweg_services 1`");
            let found = self.page(node, 10_249, "/proxyMode")?;
            ensure!(found == mode, "it serves by {found}");
            self.page(node, 10_256, "/healthz").map(|_| true)
        };
        wait_until(&format!("node {node} serves by {mode}"), DEADLINE, &mut [], ready)?;
        let ended = self.file.nodes[node].agent.ended()?;
        ensure!(ended.is_none(), "the agent of node {node} has ended");
        Ok(())
    }

    /// Has the nodes' kernels track connections from the beginning, as a machine's own firewall does: of those that eBPF
    /// takes past the host's stack they see one direction.
    fn track(&self) -> Result<()> {
        for node in NODES {
            for program in ["iptables", "ip6tables"] {
                let mut command = self.file.topology.nodes[node].netns.command(program);
                run(command.args(["-A", "FORWARD", "-m", "conntrack", "--ctstate", "ESTABLISHED", "-j", "ACCEPT"]))?;
            }
        }
        Ok(())
    }

    /// Rules and chains of ours, of both families.
    fn rules(&self, node: usize) -> Result<Vec<String>> {
        let mut rules = Vec::new();
        for program in ["iptables-save", "ip6tables-save"] {
            let text = run(&mut self.file.topology.nodes[node].netns.command(program))?;
            rules.extend(text.lines().filter(|line| line.contains("TW-")).map(str::to_owned));
        }
        Ok(rules)
    }

    /// Waits until nothing of iptables is left on a node.
    fn without_rules(&self, node: usize) -> Result<()> {
        wait_until(&format!("rules go from node {node}"), DEADLINE, &mut [], || {
            let rules = self.rules(node)?;
            ensure!(rules.is_empty(), "rules: {rules:?}");
            Ok(true)
        })
    }

    /// Waits until nothing of eBPF is left on a node: no pin, and nothing in the hands of its agent.
    fn drained(&self, node: usize) -> Result<()> {
        let FileNode { dir, agent, .. } = &self.file.nodes[node];
        let (pins, held) = (dir.join("bpf"), format!("/proc/{}/fd", agent.id()));
        wait_until(&format!("node {node} drains"), DEADLINE, &mut [], || {
            // The folder may go with what was in it.
            let left: Vec<_> = fs::read_dir(&pins).into_iter().flatten().flatten().map(|entry| entry.file_name()).collect();
            ensure!(left.is_empty(), "pins: {left:?}");
            let held = fs::read_dir(&held)?.flatten().filter_map(|fd| fs::read_link(fd.path()).ok());
            let held: Vec<_> = held.filter(|target| target.to_string_lossy().starts_with("anon_inode:bpf")).collect();
            ensure!(held.is_empty(), "the agent holds {held:?}");
            Ok(true)
        })?;
        ensure!(self.file.view(node, "maps").is_err(), "there are maps: {:?}", self.file.view(node, "maps"));
        Ok(())
    }

    /// How many entries a node's map can hold.
    fn capacity(&self, node: usize, map: &str) -> Result<u64> {
        let maps = self.file.view(node, "maps")?;
        let rows = maps.as_array().context("no list of maps")?;
        let row = rows.iter().find(|row| row["map"].as_str().is_some_and(|name| name.eq_ignore_ascii_case(map)));
        row.and_then(|row| row["capacity"].as_u64()).with_context(|| format!("no map {map} in {maps}"))
    }

    fn log(&self, node: usize) -> String {
        self.file.nodes[node].agent.log_tail(usize::MAX)
    }

    /// What the agents said last, and why their data paths have dropped packets so far.
    fn logs(&self) -> String {
        let said = |node: usize| {
            let drops = self.file.view(node, "drops").map_or_else(|error| format!("{error:#}"), |drops| drops.to_string());
            format!("\nnode {node}: drops {drops}\n{}", self.file.nodes[node].agent.log_tail(25))
        };
        NODES.map(said).concat()
    }
}

// === impl Way ===

impl Way {
    fn at(&self, ports: [u16; 2]) -> String {
        SocketAddr::new(self.address, ports[self.outside]).to_string()
    }

    fn label(&self) -> String {
        format!("{} to {}", self.place.label, self.address)
    }
}

// === impl Loads ===

impl Loads {
    fn start(ways: &[Way]) -> Result<Self> {
        let start = |way: &Way| {
            let load = way.place.load(&["http", &way.at(HTTP), "--concurrency", "3", "--pause", "30", "--timeout", "5000"])?;
            Ok((way.label(), load))
        };
        ways.iter().map(start).collect::<Result<_>>().map(Self)
    }

    /// Every request has been answered.
    fn finish(self, what: &str) -> Result<()> {
        let (mut wrong, mut sum) = (Vec::new(), 0);
        for (label, load) in self.0 {
            let report: HttpReport = load.finish()?;
            sum += report.ok;
            if report.failed > 0 || report.ok < 10 {
                wrong.push(format!("{label}: {} of {} failed: {:?}", report.failed, report.ok + report.failed, report.errors));
            }
        }
        println!("{what}: {sum} requests");
        ensure!(wrong.is_empty(), "{what}:\n{}", wrong.join("\n"));
        Ok(())
    }
}

// === impl Sessions ===

impl Sessions {
    /// One of TCP and one of UDP on each way.
    fn open(ways: &[Way]) -> Result<Self> {
        let mut sessions = Self::opening(ways)?;
        sessions.go_on("when they are opened")?;
        Ok(sessions)
    }

    /// They dial with the first word.
    fn opening(ways: &[Way]) -> Result<Self> {
        let mut open = Vec::new();
        for way in ways {
            for kind in ["tcp", "udp"] {
                let session = way.place.session(&[kind, &way.at(LINES)])?;
                open.push(Open { label: format!("{kind}: {}", way.label()), pod: None, by_packets: way.by_packets, session });
            }
        }
        Ok(Self(open))
    }

    /// Each is answered, and by the pod that answered it before.
    fn go_on(&mut self, when: &str) -> Result<()> {
        let mut wrong = Vec::new();
        for Open { label, pod, session, .. } in &mut self.0 {
            let said = session.say()?;
            if said.outcome != "answered" || pod.as_ref().is_some_and(|pod| said.pod.as_ref() != Some(pod)) {
                wrong.push(format!("{label}, with {pod:?}: {said:?}"));
            }
            *pod = said.pod;
        }
        ensure!(wrong.is_empty(), "sessions, {when}:\n{}", wrong.join("\n"));
        Ok(())
    }

    /// What tc translates ends with eBPF, and so do sockets of UDP, which dial again: connections of TCP that were
    /// translated at the socket stay.
    fn keep_those_that_outlive_ebpf(&mut self) {
        self.0.retain(|open| !open.by_packets && open.label.starts_with("tcp"));
    }
}

/// What the agent is started by to have no right to use eBPF.
const UNABLE: [&str; 4] = ["setpriv", "--inh-caps=-bpf,-sys_admin,-perfmon", "--bounding-set=-bpf,-sys_admin,-perfmon", "--"];

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn the_mode_changes_under_load_and_back() {
    Lab::run("modesw", "ebpf", |lab| {
        lab.track()?;
        let (ways, drain) = (lab.ways()?, format!("--drain-timeout={DRAIN}"));
        let mut by_ebpf = Sessions::open(&ways)?;
        let loads = Loads::start(&ways)?;
        for node in NODES {
            lab.restart(node, End::Term, &["--proxy-mode=iptables", &drain])?;
            lab.serves(node, "iptables")?;
            lab.note(by_ebpf.go_on(&format!("when node {node} serves by iptables")));
        }
        lab.note(loads.finish("from eBPF to iptables"));
        // The rules translate these: no program may carry their answers past them.
        lab.note(Sessions::open(&ways).map(drop).context("while eBPF drains"));
        for node in NODES {
            lab.drained(node)?;
        }
        by_ebpf.keep_those_that_outlive_ebpf();
        lab.note(by_ebpf.go_on("when eBPF is gone"));

        let mut by_iptables = Sessions::open(&ways)?;
        let loads = Loads::start(&ways)?;
        for node in NODES {
            lab.restart(node, End::Term, &["--proxy-mode=ebpf", &drain])?;
            lab.serves(node, "ebpf")?;
            lab.note(by_iptables.go_on(&format!("when node {node} serves by eBPF again")));
            lab.note(by_ebpf.go_on(&format!("when node {node} serves by eBPF again")));
        }
        lab.note(loads.finish("from iptables to eBPF"));
        // The node's own connections need a rule as long as they last, or until the time is over.
        drop(by_iptables);
        NODES.into_iter().try_for_each(|node| lab.without_rules(node))
    });
}

/// Tables that drain are filled again before they are empty.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn the_mode_changes_back_before_ebpf_has_drained() {
    Lab::run("modeback", "ebpf", |lab| {
        let ways = lab.ways()?;
        let mut by_ebpf = Sessions::open(&ways)?;
        for node in NODES {
            lab.restart(node, End::Term, &["--proxy-mode=iptables"])?;
            lab.serves(node, "iptables")?;
            lab.note(by_ebpf.go_on(&format!("when node {node} serves by iptables")));
        }
        for node in NODES {
            lab.restart(node, End::Term, &["--proxy-mode=ebpf", &format!("--drain-timeout={DRAIN}")])?;
            lab.serves(node, "ebpf")?;
            lab.note(by_ebpf.go_on(&format!("when node {node} serves by eBPF again")));
        }
        let loads = Loads::start(&ways)?;
        NODES.into_iter().try_for_each(|node| lab.without_rules(node))?;
        lab.note(Sessions::open(&ways).map(drop));
        loads.finish("by eBPF again")
    });
}

/// cilium#27215, #29667; kubernetes#122740.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn an_agent_that_ends_or_is_killed_for_larger_maps_is_not_missed() {
    Lab::run("modegrow", "ebpf", |lab| {
        let ways = lab.ways()?;
        let mut sessions = Sessions::open(&ways)?;
        let loads = Loads::start(&ways)?;
        for node in NODES {
            lab.restart(node, End::Term, &[])?;
            lab.serves(node, "ebpf")?;
            lab.note(sessions.go_on(&format!("after SIGTERM on node {node}")));
        }
        lab.note(loads.finish("SIGTERM"));

        let loads = Loads::start(&ways)?;
        let wanted = 2 * lab.capacity(0, "CONNTRACK")?.max(lab.capacity(0, "CONNTRACK6")?);
        for node in NODES {
            lab.restart(node, End::Kill, &[&format!("--map-size=CONNTRACK={wanted},CONNTRACK6={wanted}")])?;
            lab.serves(node, "ebpf")?;
            lab.note(sessions.go_on(&format!("with larger maps on node {node}")));
            for map in ["CONNTRACK", "CONNTRACK6"] {
                let found = lab.capacity(node, map)?;
                ensure!(found == wanted, "{map} of node {node}: {found} entries, not {wanted}");
            }
        }
        loads.finish("kill -9 and larger maps")
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn an_agent_without_the_right_to_ebpf_serves_by_iptables_or_says_why_not() {
    Lab::run("modeauto", "iptables", |lab| {
        let ways = lab.ways()?;
        let mut sessions = Sessions::open(&ways)?;
        let loads = Loads::start(&ways)?;
        lab.restart_under(0, End::Term, &UNABLE, &["--proxy-mode=auto"])?;
        lab.serves(0, "iptables")?;
        sessions.go_on("when the agent has fallen back to iptables")?;
        loads.finish("an agent that falls back to iptables")?;
        let log = lab.log(0);
        ensure!(log.contains("eBPF is not possible here, so iptables it is"), "it does not say why");

        lab.restart_under(0, End::Term, &UNABLE, &["--proxy-mode=ebpf"])?;
        refuses(lab, "CAP_SYS_ADMIN")?;

        // A mistake, which no other mode is to hide.
        let folder = lab.file.manifests.display().to_string();
        for mode in ["ebpf", "auto"] {
            lab.restart(0, End::Term, &[&format!("--proxy-mode={mode}"), &format!("--cgroup={folder}")])?;
            refuses(lab, &folder)?;
        }
        Ok(())
    });
}

/// The agent of the first node ends with an error that says this.
fn refuses(lab: &mut Lab, wanted: &str) -> Result<()> {
    let agent = &mut lab.file.nodes[0].agent;
    wait_until("the agent gives up", DEADLINE, &mut [], || Ok(agent.ended()?.is_some()))?;
    let status = agent.ended()?.context("a status")?;
    let last = agent.log_tail(1);
    ensure!(
        status.code() == Some(1) && last.starts_with("error: ") && last.contains(wanted),
        "{status}, without {wanted}: {last}"
    );
    Ok(())
}
