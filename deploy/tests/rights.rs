//! The rights that the DaemonSet of the proxy has are enough, on a real kernel, and each of them is needed: the proxy runs
//! under exactly its capabilities, with its control group read-only, as in its container.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use thalweg_deploy::{Manifest, folder};
use thalweg_lab::netns::run;
use thalweg_lab::owner::Owner;
use thalweg_lab::process::{Process, Spec, wait_until};
use thalweg_lab::topology::Topology;

const LAB: &str = "rights";
const DEADLINE: Duration = Duration::from_secs(20);
const METRICS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 10249);

struct Lab {
    topology: Topology,
    bin: PathBuf,
    owner: Owner,
}

/// What the DaemonSet adds, without the comments.
fn capabilities() -> Vec<String> {
    let manifests = Manifest::load(&folder().join("proxy")).expect("manifests");
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
        for name in ["bpf", "cgroup", "manifests"] {
            fs::create_dir_all(owner.run().join(name))?;
        }
        // As on a node: a bpffs that somebody else has mounted, and of the control group only a view.
        mount(&["-t", "bpf", "none"], &owner.run().join("bpf"))?;
        let cgroup = owner.cgroup().to_string_lossy().into_owned();
        mount(&["--bind", &cgroup], &owner.run().join("cgroup"))?;
        mount(&["-o", "remount,bind,ro"], &owner.run().join("cgroup"))?;
        let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\n\
            spec: {type: ClusterIP, clusterIP: 10.96.7.7, clusterIPs: [10.96.7.7], ports: [{name: http, port: 80}]}\n\
            ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
            metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}\naddressType: IPv4\n\
            ports: [{name: http, port: 8080}]\nendpoints: [{addresses: [10.244.0.5], conditions: {ready: true}}]\n";
        fs::write(owner.run().join("manifests/all.yaml"), service)?;
        Ok(Self { topology, bin: bin.into(), owner })
    }

    /// Arguments of setpriv: these capabilities, no others, and no way to more.
    fn confined(&self, capabilities: &[String], args: &[&str]) -> Vec<String> {
        let set: String = capabilities.iter().map(|name| format!(",+{name}")).collect();
        let program = self.bin.join("thalweg").to_string_lossy().into_owned();
        let bpffs = format!("--bpffs={}/bpf/thalweg", self.owner.run().display());
        let mut all = vec![
            format!("--bounding-set=-all{set}"),
            "--inh-caps=-all".into(),
            "--no-new-privs".into(),
            program,
            "proxy".into(),
        ];
        all.extend(args.iter().map(|arg| (*arg).to_owned()));
        all.push(bpffs);
        all
    }

    fn proxy(&self, mode: &str, capabilities: &[String]) -> Result<Process> {
        let run = self.owner.run().display();
        let args = [
            format!("--proxy-mode={mode}"),
            "--cluster-cidr=10.244.0.0/16".to_owned(),
            format!("--source=file:{run}/manifests"),
            format!("--cgroup={run}/cgroup"),
        ];
        Process::start(Spec {
            name: "proxy",
            netns: self.topology.nodes[0].netns.path(),
            cgroup: &self.owner.cgroup().join("proxy"),
            log: self.owner.run().join("proxy.log"),
            program: Path::new("setpriv"),
            args: self.confined(capabilities, &args.each_ref().map(String::as_str)),
            env: Vec::new(),
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
    fn works(&self, mode: &str, capabilities: &[String]) -> Result<()> {
        let mut proxy = self.proxy(mode, capabilities)?;
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
        ensure!(proxy.stop(DEADLINE)?, "it had to be killed");
        Ok(())
    }

    fn cleanup(&self, capabilities: &[String]) -> Result<String> {
        let mut command = self.topology.nodes[0].netns.command("setpriv");
        run(command.args(self.confined(capabilities, &["--cleanup"])))
    }

    /// Without one of them eBPF does not come about: another mode, or the end.
    fn fails(&self, capabilities: &[String]) -> Result<()> {
        let mut proxy = self.proxy("ebpf", capabilities)?;
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
        let log = proxy.log_tail(20);
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
    let all = capabilities();
    ensure!(all.len() >= 2, "{all:?}");
    lab.works("ebpf", &all)?;
    let said = lab.cleanup(&all).context("clean up after eBPF")?;
    ensure!(said.contains("removed map FRONTENDS") && said.contains("removed link"), "{said}");
    lab.works("iptables", &all)?;
    let said = lab.cleanup(&all).context("clean up after iptables")?;
    ensure!(said.contains("removed rules and chains of iptables"), "{said}");
    for dropped in &all {
        let fewer: Vec<String> = all.iter().filter(|name| *name != dropped).cloned().collect();
        lab.fails(&fewer).with_context(|| format!("without {dropped}"))?;
        lab.cleanup(&all)?;
    }
    Ok(())
}
