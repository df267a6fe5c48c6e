//! The rights that the DaemonSet of the proxy has are enough, on a real kernel, and each of them is needed: the proxy runs
//! under exactly its capabilities, with its control group and /proc/sys read-only, as in its container.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use thalweg_cluster::sysctl;
use thalweg_deploy::{Chart, Manifest, folder};
use thalweg_lab::netns::run;
use thalweg_lab::owner::Owner;
use thalweg_lab::process::{Process, Spec, wait_until};
use thalweg_lab::topology::Topology;

const LAB: &str = "rights";
const VIP: &str = "10.96.7.7";
const PORT: u16 = 53;
/// 10.244.0.5:8053, as the kernel lists it.
const BACKEND_IN_HEX: &str = "0500F40A:1F75";
const DEADLINE: Duration = Duration::from_secs(20);
const METRICS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 10249);

struct Lab {
    topology: Topology,
    bin: PathBuf,
    owner: Owner,
}

/// With it the proxy must enter other network namespaces: to end their sockets, and to know who opts out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SocketLb {
    On,
    Off,
}

const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";
/// What the proxy logs each time that it has looked for sockets to end.
const LOOKED: &str = "sockets of backends that are gone";
/// A NodePort that the kernel might choose.
const NODE_PORT: &str = "40123";

/// What the DaemonSet adds, without the comments.
fn capabilities(manifests: &[Manifest]) -> Vec<String> {
    let set = manifests.iter().find(|m| m.kind() == "DaemonSet" && m.name() == "thalweg-proxy").expect("a DaemonSet");
    let added = set.object.pointer("/spec/template/spec/containers/0/securityContext/capabilities/add");
    added.and_then(Value::as_array).expect("capabilities").iter().filter_map(Value::as_str).map(str::to_lowercase).collect()
}

// === impl Lab ===

impl Lab {
    fn start() -> Result<Self> {
        let bin = std::env::var_os("THALWEG_BIN")
            .context("THALWEG_BIN is not set: `cargo xtask test` builds and names the binaries")?;
        let owner = Owner::claim(LAB)?;
        let topology = Topology::build(LAB, 1)?;
        for name in ["bpf", "cgroup", "manifests", "state", "sysctl"] {
            fs::create_dir_all(owner.run().join(name))?;
        }
        // As on a node: a bpffs that somebody else has mounted, and of the control group only a view. The host's switches,
        // through which those of the node's namespace are seen.
        mount(&["-t", "bpf", "none"], &owner.run().join("bpf"))?;
        let cgroup = owner.cgroup().to_string_lossy().into_owned();
        mount(&["--bind", &cgroup], &owner.run().join("cgroup"))?;
        mount(&["-o", "remount,bind,ro"], &owner.run().join("cgroup"))?;
        mount(&["--bind", "/proc/sys/net"], &owner.run().join("sysctl"))?;
        // Where a pod's packets go, as far as it matters here.
        for arguments in [
            "link add pods type veth peer name void",
            "link set pods up",
            "link set void up",
            "neigh add 192.0.2.1 lladdr 02:00:00:00:00:01 dev pods",
            "route add 10.244.0.0/16 via 192.0.2.1 dev pods onlink",
        ] {
            topology.client.ip(arguments)?;
        }
        let lab = Self { topology, bin: bin.into(), owner };
        lab.write("10.244.0.5")?;
        Ok(lab)
    }

    /// One service with this backend.
    fn write(&self, backend: &str) -> Result<()> {
        let text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: shop}}\n\
             spec: {{type: NodePort, clusterIP: {VIP}, clusterIPs: [{VIP}],\n  \
             ports: [{{name: talk, protocol: UDP, port: {PORT}, nodePort: {NODE_PORT}}}]}}\n\
             ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: web-1, namespace: shop, labels: {{kubernetes.io/service-name: web}}}}\naddressType: IPv4\n\
             ports: [{{name: talk, protocol: UDP, port: 8053}}]\n\
             endpoints: [{{addresses: [{backend}], conditions: {{ready: true}}}}]\n"
        );
        let file = self.owner.run().join("manifests/all.yaml");
        fs::write(file.with_extension("new"), text)?;
        Ok(fs::rename(file.with_extension("new"), file)?)
    }

    /// Arguments of unshare: these capabilities, no others, and no way to more.
    fn confined(&self, capabilities: &[String], args: &[&str]) -> Vec<String> {
        let set: String = capabilities.iter().map(|name| format!(",+{name}")).collect();
        let program = self.bin.join("thalweg").to_string_lossy().into_owned();
        let run = self.owner.run().display();
        let mut all = vec![
            "--mount".into(),
            "sh".into(),
            "-ec".into(),
            "mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys; exec setpriv \"$@\"".into(),
            "sh".into(),
            format!("--bounding-set=-all{set}"),
            "--inh-caps=-all".into(),
            "--no-new-privs".into(),
            program,
            "proxy".into(),
        ];
        all.extend(args.iter().map(|arg| (*arg).to_owned()));
        all.extend([format!("--bpffs={run}/bpf/thalweg"), format!("--run={run}/state")]);
        all
    }

    /// As the DaemonSet says it.
    fn environment(&self) -> [(&'static str, String); 2] {
        let sysctl = self.owner.run().join("sysctl").to_string_lossy().into_owned();
        [(sysctl::VARIABLE, sysctl), ("RUST_LOG", "info,thalweg=debug".to_owned())]
    }

    fn proxy(&self, mode: &str, socket_lb: SocketLb, capabilities: &[String]) -> Result<Process> {
        let run = self.owner.run().display();
        let args = [
            format!("--proxy-mode={mode}"),
            "--cluster-cidr=10.244.0.0/16".to_owned(),
            format!("--source=file:{run}/manifests"),
            format!("--cgroup={run}/cgroup"),
            format!("--socket-lb={}", socket_lb == SocketLb::On),
        ];
        Process::start(Spec {
            name: "proxy",
            netns: self.topology.nodes[0].netns.path(),
            cgroup: &self.owner.cgroup().join("proxy"),
            log: self.owner.run().join("proxy.log"),
            program: Path::new("unshare"),
            args: self.confined(capabilities, &args.each_ref().map(String::as_str)),
            env: self.environment().into(),
            listener: None,
        })
    }

    fn get(&self, path: &str) -> Result<String> {
        self.topology.nodes[0].netns.enter(|| {
            let mut stream = TcpStream::connect_timeout(&METRICS, Duration::from_secs(2))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text.split_once("\r\n\r\n").with_context(|| format!("no HTTP: {text:?}"))?.1.to_owned())
        })?
    }

    /// Everything is in effect, nothing failed, in this mode.
    fn works(&self, mode: &str, socket_lb: SocketLb, capabilities: &[String]) -> Result<Process> {
        let mut proxy = self.proxy(mode, socket_lb, capabilities)?;
        let synced = || {
            let page = self.get("/metrics")?;
            let at = |name: &str| page.lines().any(|line| line == name);
            Ok(at("thalweg_services 1")
                && at("thalweg_services_failing 0")
                && at("thalweg_sync_failures_total 0")
                && at("kubeproxy_sync_proxy_rules_service_changes_pending 0"))
        };
        wait_until(&format!("the services are in effect by {mode}"), DEADLINE, &mut [&mut proxy], synced)
            .with_context(|| proxy.log_tail(10))?;
        let found = self.get("/proxyMode")?;
        ensure!(found == mode, "{found} instead of {mode}:\n{}", proxy.log_tail(10));
        ensure!(self.reserved()?.contains(NODE_PORT), "no port is reserved:\n{}", proxy.log_tail(10));
        Ok(proxy)
    }

    /// Ports that the kernel does not choose, in the node's namespace.
    fn reserved(&self) -> Result<String> {
        Ok(self.topology.nodes[0].netns.enter(|| fs::read_to_string(RESERVED))??)
    }

    /// A program in another namespace, which speaks to the service through one connected socket until that fails.
    fn client(&self) -> Result<Process> {
        let talk = format!("exec 3<>/dev/udp/{VIP}/{PORT}; while echo hello >&3; do sleep 0.02; done");
        Process::start(Spec {
            name: "client",
            netns: self.topology.client.path(),
            cgroup: &self.owner.cgroup().join("client"),
            log: self.owner.run().join("client.log"),
            program: Path::new("bash"),
            args: vec!["-c".to_owned(), talk],
            env: Vec::new(),
            listener: None,
        })
    }

    /// Whether a socket in another namespace is ended when its backend goes.
    fn ends_sockets(&self, proxy: &mut Process) -> Result<bool> {
        let link = self.owner.run().join("bpf/thalweg/links/connect4@cgroup");
        let log_file = proxy.log.clone();
        let log = || -> Result<String> { Ok(fs::read_to_string(&log_file)?) };
        // The first look is the one after the start.
        let ready = || Ok(link.exists() && log()?.contains(LOOKED));
        wait_until("sockets are translated", DEADLINE, &mut [proxy], ready)?;
        let mut client = self.client()?;
        let connected = || {
            let sockets = self.topology.client.enter(|| fs::read_to_string("/proc/thread-self/net/udp"))??;
            Ok(sockets.contains(BACKEND_IN_HEX))
        };
        wait_until("the client is connected", DEADLINE, &mut [proxy, &mut client], connected)?;
        let so_far = log()?.len();
        self.write("10.244.0.6")?;
        // The log says how many sockets that were.
        let news = || -> Result<String> { Ok(log()?.split_off(so_far)) };
        let looked = || news().map(|news| news.contains(LOOKED));
        wait_until("the proxy has looked for sockets", DEADLINE, &mut [], looked)?;
        let ended = news()?.lines().any(|line| line.contains(LOOKED) && line.contains("udp: 1"));
        if ended {
            let end = || Ok(client.ended()?.is_some());
            wait_until("the client's socket has failed", DEADLINE, &mut [], end)?;
        } else {
            ensure!(client.ended()?.is_none(), "the client has ended, and nobody ended its socket");
        }
        client.stop(DEADLINE)?;
        self.write("10.244.0.5")?;
        Ok(ended)
    }

    fn cleanup(&self, capabilities: &[String]) -> Result<String> {
        let mut command = self.topology.nodes[0].netns.command("unshare");
        let said = run(command.args(self.confined(capabilities, &["--cleanup"])).envs(self.environment()))?;
        ensure!(!self.reserved()?.contains(NODE_PORT), "ports stay reserved: {said}");
        Ok(said)
    }

    /// Without one of them eBPF does not come about: another mode, or the end.
    fn fails(&self, socket_lb: SocketLb, capabilities: &[String]) -> Result<()> {
        let mut proxy = self.proxy("ebpf", socket_lb, capabilities)?;
        let end = std::time::Instant::now() + DEADLINE;
        let outcome = loop {
            if let Some(status) = proxy.ended()? {
                break format!("ended, {status}");
            }
            if let Ok(mode) = self.get("/proxyMode") {
                break mode;
            }
            ensure!(std::time::Instant::now() < end, "neither ended nor serving:\n{}", proxy.log_tail(10));
            std::thread::sleep(Duration::from_millis(20));
        };
        // What the verifier says is long.
        let log = proxy.log_tail(1_000);
        proxy.stop(DEADLINE)?;
        match outcome.as_str() {
            "ebpf" => bail!("{capabilities:?} are enough: the DaemonSet has more than it needs"),
            _ => {
                ensure!(log.contains("not permitted") || log.contains("denied") || log.contains("Verifier"), "{outcome}: {log}")
            }
        }
        Ok(())
    }
}

fn mount(how: &[&str], at: &Path) -> Result<()> {
    run(Command::new("mount").args(how).arg(at)).map(drop)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn the_daemon_sets_rights_are_enough_and_none_too_many() {
    let lab = Lab::start().expect("lab");
    let result = scenario(&lab);
    let Lab { owner, topology, .. } = lab;
    let removed = owner.remove();
    drop(topology);
    result.unwrap_or_else(|error| panic!("{error:#}"));
    removed.expect("nothing is left behind");
}

fn scenario(lab: &Lab) -> Result<()> {
    let all = capabilities(&Manifest::load(&folder().join("proxy"))?);
    check(lab, SocketLb::On, &all)?;
    let values = json!({"apiServer": "https://192.0.2.10:6443", "proxy": {"socketLB": false}});
    let fewer = capabilities(&Chart::open(&folder().join("chart/thalweg"))?.render(&values)?.manifests);
    ensure!(fewer != all, "{fewer:?}");
    check(lab, SocketLb::Off, &fewer).context("without socket load balancing")
}

fn check(lab: &Lab, socket_lb: SocketLb, all: &[String]) -> Result<()> {
    ensure!(all.len() >= 2, "{all:?}");
    let mut proxy = lab.works("ebpf", socket_lb, all)?;
    if socket_lb == SocketLb::On {
        ensure!(lab.ends_sockets(&mut proxy)?, "no socket was ended:\n{}", proxy.log_tail(20));
    }
    ensure!(proxy.stop(DEADLINE)?, "it had to be killed");
    let said = lab.cleanup(all).context("clean up after eBPF")?;
    ensure!(said.contains("removed map FRONTENDS") && said.contains("removed link"), "{said}");
    let mut proxy = lab.works("iptables", socket_lb, all)?;
    ensure!(proxy.stop(DEADLINE)?, "it had to be killed");
    let said = lab.cleanup(all).context("clean up after iptables")?;
    ensure!(said.contains("removed rules and chains of iptables"), "{said}");
    for dropped in all {
        let fewer: Vec<String> = all.iter().filter(|name| *name != dropped).cloned().collect();
        let without = || format!("without {dropped}");
        // SYS_ADMIN alone is enough for the kernel programs; the others are for sockets, and NET_ADMIN for iptables, too.
        if socket_lb == SocketLb::On && dropped != "sys_admin" {
            let mut proxy = lab.works("ebpf", socket_lb, &fewer).with_context(without)?;
            ensure!(!lab.ends_sockets(&mut proxy).with_context(without)?, "{dropped} is not needed");
            proxy.stop(DEADLINE)?;
        } else {
            lab.fails(socket_lb, &fewer).with_context(without)?;
        }
        lab.cleanup(all)?;
    }
    Ok(())
}
