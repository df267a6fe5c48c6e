//! A whole cluster on this machine: the control plane in the lan's namespace, an agent and a kubelet in each node's.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::netns::run;
use crate::owner::Owner;
use crate::process::{Process, Spec, wait_until};
use crate::topology::{CLUSTER_CIDR, CLUSTER_DNS, LAN_ADDR, NODE_MASK, NodeNet, SERVICE_CIDR, Topology, UPLINK};

const API_PORT: u16 = 6443;
/// Preferred port of the API server on the host's loopback; another one is taken when it is in use.
const HOST_API_PORT: u16 = 6443;
const START_DEADLINE: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the lab: part of every name on the machine.
    pub id: String,
    pub nodes: usize,
    /// Where the store, certificates and logs go; by default below the lab's run directory, removed with it.
    pub data: Option<PathBuf>,
    /// Holds `thalweg` and `thalweg-cni`.
    pub bin: PathBuf,
}

/// A running cluster. Dropping it ends every process and removes every trace.
#[derive(Debug)]
pub struct Cluster {
    pub kubeconfig: PathBuf,
    pub data: PathBuf,
    pub nodes: Vec<Node>,
    pub server: Process,
    // Last: processes end by the owner's control group, then namespaces and directories go.
    pub topology: Topology,
    bin: PathBuf,
    owner: Owner,
}

#[derive(Debug)]
pub struct Node {
    pub name: String,
    pub agent: Process,
    pub kubelet: Process,
    /// Pins, state, sockets and pod directories.
    pub dir: PathBuf,
    pub cgroup: PathBuf,
}

/// A pod as a check needs it.
#[derive(Clone, Debug)]
pub struct Pod {
    pub name: String,
    pub uid: String,
    pub node: String,
    pub ip: String,
}

// === impl Cluster ===

impl Cluster {
    /// Brings up a cluster and waits until every node is Ready. `progress` is told each step.
    ///
    /// # Errors
    /// With the log's end of the process that failed. Everything made so far is removed.
    pub fn start(options: &Options, progress: &dyn Fn(&str)) -> Result<Self> {
        for program in ["thalweg", "thalweg-cni"] {
            let path = options.bin.join(program);
            ensure!(path.exists(), "{} is missing: `cargo xtask up` builds it", path.display());
        }
        progress("removing what earlier labs left behind");
        let owner = Owner::claim(&options.id)?;
        let data = options.data.clone().unwrap_or_else(|| owner.run().join("data"));
        fs::create_dir_all(data.join("log")).with_context(|| format!("create {}", data.display()))?;
        progress("making namespaces and wires");
        let topology = Topology::build(&options.id, options.nodes)?;

        progress("starting the control plane");
        let listener = TcpListener::bind(("127.0.0.1", HOST_API_PORT))
            .or_else(|_| TcpListener::bind(("127.0.0.1", 0)))
            .context("listen on the host's loopback for kubectl")?;
        let host_url = format!("https://{}", listener.local_addr()?);
        let lan_url = format!("https://{}", SocketAddr::new(LAN_ADDR.into(), API_PORT));
        let bin = options.bin.clone();
        let thalweg = bin.join("thalweg");
        let store = data.join("server");
        let kubeconfig = data.join("kubeconfig");
        make_kubeconfig(&thalweg, &store, &host_url, "thalweg:admin", &["system:masters"], &kubeconfig)?;
        let mut server = Process::start(Spec {
            name: "server",
            netns: topology.lan.path(),
            cgroup: &owner.cgroup().join("lan"),
            log: data.join("log/server.log"),
            program: &thalweg,
            args: strings(&[
                "server",
                "--data",
                &path(&store)?,
                "--listen",
                &format!("{LAN_ADDR}:{API_PORT}"),
                "--advertise",
                &format!("{LAN_ADDR}:{API_PORT}"),
                "--inherit-sockets",
                "--service-cidr",
                SERVICE_CIDR,
                "--cluster-cidr",
                CLUSTER_CIDR,
                "--node-mask",
                &NODE_MASK.to_string(),
            ]),
            env: Vec::new(),
            listener: Some(listener.into()),
        })?;
        let kubectl = |args: &[&str]| kubectl(&kubeconfig, &data, args);
        wait_until("the API server is ready", START_DEADLINE, &mut [&mut server], || {
            Ok(kubectl(&["get", "--raw", "/readyz"]).is_ok_and(|text| text.trim() == "ok"))
        })?;

        progress("starting agents and kubelets");
        let mut nodes = Vec::with_capacity(topology.nodes.len());
        for net in &topology.nodes {
            nodes.push(Node::start(&owner, &bin, &data, &store, &lan_url, net)?);
        }
        let mut cluster = Self { kubeconfig, data, nodes, server, topology, bin, owner };
        let manifest = manifest_dir().join("kube-dns.yaml");
        cluster.kubectl(&["apply", "-f", &path(&manifest)?])?;
        progress("waiting for the nodes");
        cluster.wait_ready(START_DEADLINE)?;
        Ok(cluster)
    }

    /// Runs `kubectl` against this cluster and returns its standard output.
    ///
    /// # Errors
    /// When kubectl exits other than 0: with what it wrote to standard error.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        kubectl(&self.kubeconfig, &self.data, args)
    }

    /// The command itself, for those that go on.
    pub fn kubectl_command(&self, args: &[&str]) -> Command {
        kubectl_command(&self.kubeconfig, &self.data, args)
    }

    /// `kubectl … -o json`, parsed.
    ///
    /// # Errors
    /// As [`Self::kubectl`], or when the output is no JSON.
    pub fn get(&self, args: &[&str]) -> Result<Value> {
        let mut all = vec!["get"];
        all.extend(args);
        all.extend(["-o", "json"]);
        serde_json::from_str(&self.kubectl(&all)?).context("kubectl printed no JSON")
    }

    /// The pods of the default namespace with a label, in name order; those being deleted are left out.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn pods(&self, selector: &str) -> Result<Vec<Pod>> {
        let list = self.get(&["pods", "-l", selector])?;
        let text = |value: &Value, pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let items = list.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
        let mut pods: Vec<Pod> = items
            .iter()
            .filter(|item| item.pointer("/metadata/deletionTimestamp").is_none())
            .map(|item| Pod {
                name: text(item, "/metadata/name"),
                uid: text(item, "/metadata/uid"),
                node: text(item, "/spec/nodeName"),
                ip: text(item, "/status/podIP"),
            })
            .collect();
        pods.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(pods)
    }

    pub fn node(&self, name: &str) -> Result<&Node> {
        self.nodes.iter().find(|node| node.name == name).with_context(|| format!("no node {name} in this lab"))
    }

    pub fn net(&self, name: &str) -> Result<&NodeNet> {
        self.topology.nodes.iter().find(|node| node.name == name).with_context(|| format!("no node {name} in this lab"))
    }

    /// Runs `thalweg` with arguments in a node's namespace, against the node's pins and sockets.
    ///
    /// # Errors
    /// When it exits other than 0.
    pub fn thalweg(&self, node: &str, args: &[&str]) -> Result<String> {
        let dir = &self.node(node)?.dir;
        let mut command = self.net(node)?.netns.command(self.bin.join("thalweg"));
        command.args(args).args(["--bpffs", &path(&dir.join("bpf"))?]);
        run(&mut command)
    }

    /// Starts a node's agent again after it was killed.
    ///
    /// # Errors
    /// When it cannot start.
    pub fn restart_agent(&mut self, name: &str) -> Result<()> {
        let lan_url_kubeconfig = self.data.join(format!("{name}.kubeconfig"));
        let net = self.topology.nodes.iter().find(|node| node.name == name).context("no such node")?;
        let agent = {
            let node = self.node(name)?;
            start_agent(&self.bin, &self.data, &lan_url_kubeconfig, net, &node.dir, &node.cgroup)?
        };
        let node = self.nodes.iter_mut().find(|node| node.name == name).context("no such node")?;
        node.agent = agent;
        Ok(())
    }

    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Leaves the cluster running when this process ends.
    pub fn keep(&mut self) {
        self.owner.keep();
    }

    /// Ends everything and removes every trace.
    ///
    /// # Errors
    /// Lists what stays behind.
    pub fn remove(self) -> Result<()> {
        let Self { owner, topology, mut nodes, mut server, .. } = self;
        for node in &mut nodes {
            node.kubelet.stop(Duration::from_secs(5))?;
            node.agent.stop(Duration::from_secs(5))?;
        }
        server.stop(Duration::from_secs(5))?;
        owner.remove()?;
        drop(topology);
        Ok(())
    }

    fn wait_ready(&mut self, deadline: Duration) -> Result<()> {
        let (kubeconfig, data, wanted) = (self.kubeconfig.clone(), self.data.clone(), self.nodes.len());
        let mut processes: Vec<&mut Process> = vec![&mut self.server];
        for node in &mut self.nodes {
            processes.push(&mut node.agent);
            processes.push(&mut node.kubelet);
        }
        wait_until("all nodes are Ready", deadline, &mut processes, || {
            let ready = kubectl(
                &kubeconfig,
                &data,
                &["get", "nodes", "-o", r#"jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}"#],
            )?;
            Ok(ready.split_whitespace().filter(|status| *status == "True").count() == wanted)
        })
    }
}

// === impl Node ===

impl Node {
    fn start(owner: &Owner, bin: &Path, data: &Path, store: &Path, lan_url: &str, net: &NodeNet) -> Result<Self> {
        let dir = owner.run().join(&net.name);
        let cgroup = owner.cgroup().join(&net.name);
        for sub in ["bpf", "state", "run", "kubelet", "cni-bin", "cni-conf"] {
            fs::create_dir_all(dir.join(sub)).with_context(|| format!("create {}", dir.join(sub).display()))?;
        }
        let thalweg = bin.join("thalweg");
        let kubeconfig = data.join(format!("{}.kubeconfig", net.name));
        make_kubeconfig(&thalweg, store, lan_url, &format!("system:node:{}", net.name), &["system:nodes"], &kubeconfig)?;
        let agent = start_agent(bin, data, &kubeconfig, net, &dir, &cgroup)?;
        let kubelet = Process::start(Spec {
            name: "kubelet",
            netns: net.netns.path(),
            cgroup: &cgroup.join("system"),
            log: data.join(format!("log/{}-kubelet.log", net.name)),
            program: &thalweg,
            args: strings(&[
                "kubelet",
                "--node",
                &net.name,
                "--kubeconfig",
                &path(&kubeconfig)?,
                "--address",
                &net.addr.to_string(),
                "--root",
                &path(&dir.join("kubelet"))?,
                "--cgroup",
                &path(&cgroup)?,
                "--cni-bin-dir",
                &path(&dir.join("cni-bin"))?,
                "--cni-conf-dir",
                &path(&dir.join("cni-conf"))?,
                "--cluster-dns",
                &CLUSTER_DNS.to_string(),
                "--stop-pods-on-exit",
            ]),
            // The process runtime looks commands up on the node's own PATH: that is where the demo's `thalweg` comes from.
            env: vec![("PATH", with_path(bin))],
            listener: None,
        })?;
        Ok(Self { name: net.name.clone(), agent, kubelet, dir, cgroup })
    }
}

fn start_agent(bin: &Path, data: &Path, kubeconfig: &Path, net: &NodeNet, dir: &Path, cgroup: &Path) -> Result<Process> {
    Process::start(Spec {
        name: "agent",
        netns: net.netns.path(),
        cgroup: &cgroup.join("system"),
        log: data.join(format!("log/{}-agent.log", net.name)),
        program: &bin.join("thalweg"),
        args: strings(&[
            "agent",
            "--node",
            &net.name,
            "--kubeconfig",
            &path(kubeconfig)?,
            "--node-address",
            &net.addr.to_string(),
            "--uplink",
            UPLINK,
            "--bpffs",
            &path(&dir.join("bpf"))?,
            "--cgroup",
            &path(cgroup)?,
            "--state",
            &path(&dir.join("state"))?,
            "--run",
            &path(&dir.join("run"))?,
            "--cni-bin-dir",
            &path(&dir.join("cni-bin"))?,
            "--cni-conf-dir",
            &path(&dir.join("cni-conf"))?,
            "--cni-plugin",
            &path(&bin.join("thalweg-cni"))?,
        ]),
        env: Vec::new(),
        listener: None,
    })
}

fn make_kubeconfig(thalweg: &Path, store: &Path, server: &str, user: &str, groups: &[&str], out: &Path) -> Result<()> {
    let mut command = Command::new(thalweg);
    command.args(["kubeconfig", "--data", &path(store)?, "--server", server, "--user", user, "--out", &path(out)?]);
    for group in groups {
        command.args(["--group", group]);
    }
    run(&mut command).map(drop)
}

fn kubectl(kubeconfig: &Path, data: &Path, args: &[&str]) -> Result<String> {
    run(&mut kubectl_command(kubeconfig, data, args))
}

fn kubectl_command(kubeconfig: &Path, data: &Path, args: &[&str]) -> Command {
    let mut command = Command::new("kubectl");
    command.arg("--kubeconfig").arg(kubeconfig).arg("--cache-dir").arg(data.join("kubectl-cache")).args(args);
    command
}

/// The repository's deploy folder, or the one that `THALWEG_DEPLOY` names.
pub fn manifest_dir() -> PathBuf {
    std::env::var_os("THALWEG_DEPLOY").map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy"), PathBuf::from)
}

fn with_path(bin: &Path) -> String {
    let path =
        std::env::var("PATH").unwrap_or_else(|_| "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
    format!("{}:{path}", bin.display())
}

fn strings(args: &[&str]) -> Vec<String> {
    args.iter().map(|arg| (*arg).to_owned()).collect()
}

fn path(path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).with_context(|| format!("{} is not UTF-8", path.display()))
}
