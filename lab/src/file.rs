//! A lab without an API server and without kubelets: two nodes whose agents read YAML files, with pods made by the CNI
//! plugin as a runtime would.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::netns::{Netns, run};
use crate::owner::Owner;
use crate::place::Place;
use crate::process::{Process, Spec, wait_until};
use crate::topology::{Topology, UPLINK};
use anyhow::{Context, Result, ensure};
use serde_json::Value;

const DEADLINE: Duration = Duration::from_secs(60);

/// How a lab differs from the usual one.
pub struct LabOptions<'a> {
    pub id: &'a str,
    /// `--proxy-mode` of the agents; the default when `None`.
    pub proxy_mode: Option<&'a str>,
    /// Nodes and pods have addresses of IPv6 too.
    pub dual_stack: bool,
    /// Folder of the executables; without one, `THALWEG_BIN` names it.
    pub bin: Option<PathBuf>,
}

/// Two nodes with agents that follow a folder of manifests.
pub struct FileLab {
    pub nodes: Vec<FileNode>,
    pub topology: Topology,
    pub manifests: PathBuf,
    bin: PathBuf,
    proxy_mode: Option<String>,
    dual_stack: bool,
    // Last: its removal ends every process and unmounts what they mounted.
    owner: Owner,
}

pub struct FileNode {
    pub name: String,
    pub dir: PathBuf,
    pub cgroup: PathBuf,
    pub agent: Process,
    launch: Launch,
}

/// How an agent is started, besides what the lab itself tells it.
#[derive(Clone, Debug, Default)]
pub struct Launch {
    /// `--NAME=VALUE`, each in place of what the lab would say.
    pub args: Vec<String>,
    /// A program with its arguments that becomes the agent, such as `setpriv`.
    pub under: Vec<String>,
}

/// How an agent ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// kill -9
    Kill,
    /// SIGTERM
    Term,
}

/// A namespace with an address from its node, and `thalweg echo` in it when it serves.
pub struct FilePod {
    pub name: String,
    pub addr: Ipv4Addr,
    pub addr6: Option<Ipv6Addr>,
    pub node: usize,
    netns: Netns,
    cgroup: PathBuf,
    echo: Option<Process>,
}

// === impl FileLab ===

impl FileLab {
    /// # Errors
    /// When the machine refuses, or an agent does not become ready.
    pub fn start(id: &str) -> Result<Self> {
        Self::start_with(&LabOptions { id, proxy_mode: None, dual_stack: false, bin: None })
    }

    /// # Errors
    /// When the machine refuses, or an agent does not become ready.
    pub fn start_with(options: &LabOptions<'_>) -> Result<Self> {
        let LabOptions { id, proxy_mode, dual_stack, .. } = *options;
        let bin = match &options.bin {
            Some(bin) => bin.clone(),
            None => std::env::var_os("THALWEG_BIN")
                .context("THALWEG_BIN is not set: `cargo xtask test lab` builds and names the binaries")?
                .into(),
        };
        let owner = Owner::claim(id)?;
        let manifests = owner.run().join("manifests");
        fs::create_dir_all(&manifests)?;
        let topology = Topology::build(id, 2)?;
        let mut text = String::new();
        for (index, net) in topology.nodes.iter().enumerate() {
            let (cidr6, addr6) = match dual_stack {
                true => {
                    (format!(", \"fd00:244:0:{index}::/64\""), format!(", {{type: InternalIP, address: \"{}\"}}", net.addr6))
                }
                false => Default::default(),
            };
            text += &format!(
                "---\napiVersion: v1\nkind: Node\nmetadata: {{name: {name}, labels: {{topology.kubernetes.io/zone: zone-{index}}}}}\n\
                 spec: {{podCIDR: 10.244.{index}.0/24, podCIDRs: [10.244.{index}.0/24{cidr6}]}}\n\
                 status: {{addresses: [{{type: InternalIP, address: {addr}}}{addr6}]}}\n",
                name = net.name,
                addr = net.addr,
            );
        }
        let cidrs = if dual_stack { "10.96.0.0/16, \"fd00:96::/64\"" } else { "10.96.0.0/16" };
        text += &format!(
            "---\napiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {{name: kubernetes}}\nspec: {{cidrs: [{cidrs}]}}\n\
             status: {{conditions: [{{type: Ready, status: \"True\", reason: \"\", message: \"\", lastTransitionTime: \"2026-01-01T00:00:00Z\"}}]}}\n"
        );
        fs::write(manifests.join("nodes.yaml"), text)?;
        let proxy_mode = proxy_mode.map(str::to_owned);
        let mut lab = Self { nodes: Vec::new(), topology, manifests, bin, proxy_mode, dual_stack, owner };
        for index in 0..lab.topology.nodes.len() {
            let name = lab.topology.nodes[index].name.clone();
            let dir = lab.owner.run().join(&name);
            let cgroup = lab.owner.cgroup().join(&name);
            for sub in ["bpf", "state", "run", "cni-bin", "cni-conf"] {
                fs::create_dir_all(dir.join(sub))?;
            }
            let launch = Launch::default();
            let agent = lab.agent(index, &dir, &cgroup, &launch)?;
            lab.nodes.push(FileNode { name, dir, cgroup, agent, launch });
        }
        for node in &mut lab.nodes {
            let conflist = node.dir.join("cni-conf/05-thalweg.conflist");
            wait_until("the agent installs its CNI configuration", DEADLINE, &mut [&mut node.agent], || Ok(conflist.exists()))?;
        }
        Ok(lab)
    }

    /// Puts a manifest in place as an editor does: written beside, then renamed.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn apply(&self, file: &str, text: &str) -> Result<()> {
        let fresh = self.owner.run().join(file);
        fs::write(&fresh, text)?;
        fs::rename(&fresh, self.manifests.join(file)).context("put the manifest in place")
    }

    /// Takes a manifest away.
    ///
    /// # Errors
    /// When the file is there and cannot be removed.
    pub fn withdraw(&self, file: &str) -> Result<()> {
        match fs::remove_file(self.manifests.join(file)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).context("take the manifest away"),
            _ => Ok(()),
        }
    }

    /// Makes a pod through the plugin's ADD; with `serves` it runs `thalweg echo`.
    ///
    /// # Errors
    /// With the plugin's error object.
    pub fn pod(&self, node: usize, name: &str, serves: bool) -> Result<FilePod> {
        self.pod_with(node, name, serves, &Value::Null)
    }

    /// As [`FileLab::pod`], with what runtimes pass in `runtimeConfig`.
    ///
    /// # Errors
    /// With the plugin's error object.
    pub fn pod_with(&self, node: usize, name: &str, serves: bool, runtime_config: &Value) -> Result<FilePod> {
        let netns = Netns::create(&format!("thalweg-{}-pod-{name}", self.owner.id()))?;
        let result = self.cni_with(node, "ADD", name, &netns, runtime_config)?;
        let ips = result["ips"].as_array().context("the result of ADD has no addresses")?;
        let addresses: Vec<IpAddr> =
            ips.iter().filter_map(|ip| ip["address"].as_str()?.split('/').next()?.parse().ok()).collect();
        let v4 = addresses.iter().find_map(|address| if let IpAddr::V4(v4) = address { Some(*v4) } else { None });
        let addr6 = addresses.iter().find_map(|address| if let IpAddr::V6(v6) = address { Some(*v6) } else { None });
        let addr = v4.with_context(|| format!("no IPv4 address in {result}"))?;
        ensure!(addr6.is_some() == self.dual_stack, "addresses of pod {name}: {result}");
        let cgroup = self.nodes[node].cgroup.join("kubepods").join(format!("pod{name}"));
        fs::create_dir_all(&cgroup)?;
        let echo = match serves {
            false => None,
            true => Some(Process::start(Spec {
                name: "echo",
                netns: netns.path(),
                cgroup: &cgroup,
                log: self.owner.run().join(format!("{name}.log")),
                program: &self.bin.join("thalweg"),
                args: ["echo", "--name", name, "--node", &self.nodes[node].name].map(str::to_owned).to_vec(),
                env: Vec::new(),
                listener: None,
            })?),
        };
        let mut pod = FilePod { name: name.to_owned(), addr, addr6, node, netns, cgroup, echo };
        if let Some(echo) = &mut pod.echo {
            let netns = &pod.netns;
            wait_until("echo listens", DEADLINE, &mut [echo], || {
                netns.enter(|| std::net::TcpStream::connect_timeout(&(addr, 8080).into(), Duration::from_millis(200)).is_ok())
            })?;
        }
        Ok(pod)
    }

    /// Runs the plugin as a runtime does and returns its result; DEL has none.
    ///
    /// # Errors
    /// With the plugin's error object.
    pub fn cni(&self, node: usize, verb: &str, container: &str, netns: &Netns) -> Result<Value> {
        self.cni_with(node, verb, container, netns, &Value::Null)
    }

    fn cni_with(&self, node: usize, verb: &str, container: &str, netns: &Netns, runtime_config: &Value) -> Result<Value> {
        let dir = &self.nodes[node].dir;
        let list: Value = serde_json::from_str(&fs::read_to_string(dir.join("cni-conf/05-thalweg.conflist"))?)?;
        let mut config = list.pointer("/plugins/0").cloned().context("the list has no plugin")?;
        config["cniVersion"] = list["cniVersion"].clone();
        config["name"] = list["name"].clone();
        if !runtime_config.is_null() {
            config["runtimeConfig"] = runtime_config.clone();
        }
        let input = self.owner.run().join(format!("{container}.json"));
        fs::write(&input, config.to_string())?;
        let mut command = self.topology.nodes[node].netns.command(dir.join("cni-bin/thalweg-cni"));
        command
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", container)
            .env("CNI_NETNS", netns.path())
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", dir.join("cni-bin"))
            .env("CNI_ARGS", format!("K8S_POD_NAMESPACE=default;K8S_POD_NAME={container};K8S_POD_UID={container}"))
            .stdin(fs::File::open(&input)?);
        let output = command.output().context("start the CNI plugin")?;
        let stdout = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "CNI {verb} for {container}: {stdout}{}", String::from_utf8_lossy(&output.stderr));
        if stdout.trim().is_empty() { Ok(Value::Null) } else { serde_json::from_str(&stdout).context("the plugin's result") }
    }

    /// `thalweg VERB… -o json` for a node.
    ///
    /// # Errors
    /// When it fails or prints no JSON.
    pub fn view(&self, node: usize, verb: &str) -> Result<Value> {
        let mut command = self.topology.nodes[node].netns.command(self.bin.join("thalweg"));
        command.args([verb, "-o", "json", "--bpffs"]).arg(self.nodes[node].dir.join("bpf"));
        serde_json::from_str(&run(&mut command)?).with_context(|| format!("thalweg {verb} printed no JSON"))
    }

    /// What a node's agent says of itself: `thalweg status`.
    ///
    /// # Errors
    /// When it fails or prints no JSON.
    pub fn status(&self, node: usize) -> Result<Value> {
        let dir = &self.nodes[node].dir;
        let mut command = self.topology.nodes[node].netns.command(self.bin.join("thalweg"));
        command.args(["status", "-o", "json", "--bpffs"]).arg(dir.join("bpf")).arg("--run").arg(dir.join("run"));
        serde_json::from_str(&run(&mut command)?).context("thalweg status printed no JSON")
    }

    /// Waits until a node's status satisfies `ready`; an agent that is starting has none yet.
    ///
    /// # Errors
    /// Names what was waited for.
    pub fn until_status(&self, node: usize, what: &str, ready: impl Fn(&Value) -> bool) -> Result<()> {
        let deadline = 10 * DEADLINE;
        wait_until(what, deadline, &mut [], || Ok(self.status(node).is_ok_and(|status| ready(&status))))
    }

    /// Waits until `thalweg services` on every node satisfies `ready`.
    ///
    /// # Errors
    /// Names what was waited for.
    pub fn wait_services(&mut self, what: &str, ready: impl Fn(&Value) -> bool) -> Result<()> {
        for node in 0..self.nodes.len() {
            wait_until(what, DEADLINE, &mut [], || Ok(ready(&self.view(node, "services")?)))?;
        }
        Ok(())
    }

    /// kill -9, then a new agent on the same pins and state.
    ///
    /// # Errors
    /// When the new one does not start.
    pub fn restart_agent(&mut self, node: usize, down: Duration) -> Result<()> {
        self.nodes[node].agent.kill()?;
        std::thread::sleep(down);
        self.launch_agent(node)
    }

    /// The agent ends, and a new one is started at once: in another way, and so from now on.
    ///
    /// # Errors
    /// When the old one has to be killed although it was only asked to end, or the new one does not start.
    pub fn restart_agent_with(&mut self, node: usize, end: End, launch: Launch) -> Result<()> {
        let agent = &mut self.nodes[node].agent;
        match end {
            End::Kill => agent.kill()?,
            End::Term => ensure!(agent.stop(DEADLINE)?, "the agent had to be killed:\n{}", agent.log_tail(15)),
        }
        self.nodes[node].launch = launch;
        self.launch_agent(node)
    }

    fn launch_agent(&mut self, node: usize) -> Result<()> {
        let FileNode { dir, cgroup, launch, .. } = &self.nodes[node];
        let agent = self.agent(node, dir, cgroup, launch)?;
        self.nodes[node].agent = agent;
        Ok(())
    }

    pub fn host(&self, node: usize) -> Place {
        Place::at(&self.nodes[node].name, self.topology.nodes[node].netns.path(), Some(&self.nodes[node].cgroup.join("system")))
    }

    pub fn outside(&self) -> Place {
        Place::at("outside", self.topology.client.path(), None)
    }

    /// Ends everything; fails when something stays behind.
    ///
    /// # Errors
    /// Lists what stays behind.
    pub fn remove(self) -> Result<()> {
        let Self { owner, topology, nodes, .. } = self;
        drop(nodes);
        owner.remove()?;
        drop(topology);
        Ok(())
    }

    fn agent(&self, index: usize, dir: &Path, cgroup: &Path, launch: &Launch) -> Result<Process> {
        let net = &self.topology.nodes[index];
        let path = |path: &Path| path.to_string_lossy().into_owned();
        let addresses = if self.dual_stack { format!("{},{}", net.addr, net.addr6) } else { net.addr.to_string() };
        let usual = [
            ("--node", net.name.clone()),
            ("--source", format!("file:{}", self.manifests.display())),
            ("--node-address", addresses),
            ("--node-port-addresses", "172.30.0.0/24,fd00:30::/64".into()),
            ("--uplink", UPLINK.into()),
            ("--bpffs", path(&dir.join("bpf"))),
            ("--cgroup", path(cgroup)),
            ("--state", path(&dir.join("state"))),
            ("--run", path(&dir.join("run"))),
            ("--cni-bin-dir", path(&dir.join("cni-bin"))),
            ("--cni-conf-dir", path(&dir.join("cni-conf"))),
            ("--cni-plugin", path(&self.bin.join("thalweg-cni"))),
        ];
        let mode = self.proxy_mode.iter().map(|mode| ("--proxy-mode", mode.clone()));
        let is_said = |flag: &str| launch.args.iter().any(|arg| arg.split('=').next() == Some(flag));
        let flags =
            usual.into_iter().chain(mode).filter(|(flag, _)| !is_said(flag)).map(|(flag, value)| format!("{flag}={value}"));
        let agent = [path(&self.bin.join("thalweg")), "agent".into()];
        let mut command = launch.under.iter().cloned().chain(agent).chain(flags).chain(launch.args.iter().cloned());
        let program = PathBuf::from(command.next().context("no program")?);
        Process::start(Spec {
            name: "agent",
            netns: net.netns.path(),
            cgroup: &cgroup.join("system"),
            log: self.owner.run().join(format!("{}-agent.log", net.name)),
            program: &program,
            args: command.collect(),
            env: Vec::new(),
            listener: None,
        })
    }
}

// === impl FilePod ===

impl FilePod {
    /// In the pod, as one of its own processes.
    pub fn place(&self) -> Place {
        Place::at(&self.name, self.netns.path(), Some(&self.cgroup))
    }

    /// In the pod's namespace but outside its control group: tc alone.
    pub fn by_tc(&self) -> Place {
        Place::at(&format!("{} (tc only)", self.name), self.netns.path(), None)
    }

    pub fn netns(&self) -> &Netns {
        &self.netns
    }
}

/// A NodePort service `web` at `vip` whose slice lists these pods.
pub fn web(vip: &str, pods: &[&FilePod], nodes: &[FileNode]) -> String {
    let endpoints: Vec<String> = pods
        .iter()
        .map(|pod| format!("{{addresses: [{}], conditions: {{ready: true}}, nodeName: {}}}", pod.addr, nodes[pod.node].name))
        .collect();
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: default}}\n\
         spec: {{type: NodePort, clusterIP: {vip}, clusterIPs: [{vip}], ports: [{{name: http, port: 80, targetPort: 8080, nodePort: 30080}}, {{name: udp, protocol: UDP, port: 9090, nodePort: 30091}}]}}\n\
         ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: web-1, namespace: default, labels: {{kubernetes.io/service-name: web}}}}\naddressType: IPv4\n\
         ports: [{{name: http, port: 8080, protocol: TCP}}, {{name: udp, port: 9090, protocol: UDP}}]\nendpoints: [{}]\n",
        endpoints.join(", ")
    )
}
