//! `thalweg proxy` on a node with somebody else's pod network: kubeadm's configuration unchanged, health, metrics, a
//! healthCheckNodePort, a virtual IP and a NodePort by real requests, and nothing left after `--cleanup`.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use thalweg_lab::http::{self, Answer};
use thalweg_lab::netns::{Netns, run};
use thalweg_lab::owner::Owner;
use thalweg_lab::place::Place;
use thalweg_lab::probe::{ConnectReport, HttpReport};
use thalweg_lab::process::{Process, Spec, wait_until};
use thalweg_lab::topology::Topology;

const DEADLINE: Duration = Duration::from_secs(60);
const NODE: &str = "node-a";
const POD: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 5);
const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// Another node's pod: nobody is there.
const FAR: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 5);

/// An address that the node gets while the proxy runs.
const NEW_ADDR: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 50);

/// What `kubeadm init` writes into the kube-proxy ConfigMap, as the proxy's own crate tests it.
const KUBEADM: &str = include_str!("../../proxy/src/config/kubeadm.yaml");

/// A node whose pods hang on a bridge, and a client outside.
struct Lab {
    topology: Topology,
    pod: Netns,
    bin: PathBuf,
    owner: Owner,
}

/// What the cluster's objects say.
struct State<'a> {
    policy: &'a str,
    /// Where the pod's endpoint is said to be, and whether it is ready.
    endpoint: (Ipv4Addr, &'a str, bool),
    node_spec: &'a str,
}

const NORMAL: State<'static> = State { policy: "Local", endpoint: (POD, NODE, true), node_spec: "{}" };

/// GET from a namespace.
fn get(netns: &Netns, host: Ipv4Addr, port: u16, path: &str) -> Result<Answer> {
    http::get(netns, SocketAddr::from((host, port)), path)
}

// === impl Lab ===

impl Lab {
    fn start(id: &str) -> Result<Self> {
        let bin = std::env::var_os("THALWEG_BIN")
            .context("THALWEG_BIN is not set: `cargo xtask test lab` builds and names the binaries")?;
        let owner = Owner::claim(id)?;
        let topology = Topology::build(id, 1)?;
        let pod = Netns::create(&format!("thalweg-{id}-pod"))?;
        let node = &topology.nodes[0].netns;
        node.ip("link add cni0 type bridge")?;
        node.ip("addr add 10.244.0.1/24 dev cni0")?;
        node.ip("link set cni0 up")?;
        node.ip(&format!("link add veth1 type veth peer name eth0 netns {}", pod.name()))?;
        node.ip("link set veth1 master cni0 up")?;
        pod.ip(&format!("addr add {POD}/24 dev eth0"))?;
        pod.ip("link set eth0 up")?;
        pod.ip("route add default via 10.244.0.1")?;
        node.enter(|| fs::write("/proc/sys/net/ipv4/ip_forward", "1"))??;
        fs::create_dir_all(owner.run().join("manifests"))?;
        fs::create_dir_all(owner.run().join("bpf"))?;
        fs::create_dir_all(owner.cgroup().join("system"))?;
        fs::write(owner.run().join("kubeadm.yaml"), KUBEADM)?;
        fs::write(owner.run().join("iptables.yaml"), KUBEADM.replace("\nmode: \"\"", "\nmode: iptables"))?;
        // Rules stay as somebody leaves them, and the kernel's table gets what is configured.
        let left_alone = "\nmode: iptables\niptables: {syncPeriod: 1h}\n\
                          conntrack: {tcpCloseWaitTimeout: 1h1m, udpStreamTimeout: 3m}\n";
        let header = KUBEADM.lines().filter(|line| line.starts_with("clusterCIDR") || line.starts_with("kind"));
        let header: Vec<&str> = header.collect();
        let left_alone = format!("apiVersion: kubeproxy.config.k8s.io/v1alpha1\n{}{left_alone}", header.join("\n"));
        fs::write(owner.run().join("left-alone.yaml"), left_alone)?;
        let lab = Self { topology, pod, bin: bin.into(), owner };
        lab.apply(&NORMAL)?;
        Ok(lab)
    }

    fn node(&self) -> &Netns {
        &self.topology.nodes[0].netns
    }

    /// Puts the objects in place as an editor does: written beside, then renamed.
    fn apply(&self, state: &State<'_>) -> Result<()> {
        let State { policy, endpoint: (address, node, ready), node_spec } = state;
        let health = if *policy == "Local" { ", healthCheckNodePort: 30900" } else { "" };
        let text = format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: {NODE}}}\nspec: {node_spec}\n\
             status: {{addresses: [{{type: InternalIP, address: {node_addr}}}]}}\n\
             ---\napiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: shop}}\n\
             spec: {{type: LoadBalancer, clusterIP: 10.96.7.7, clusterIPs: [10.96.7.7], externalTrafficPolicy: {policy}{health}, \
             ports: [{{name: http, port: 80, targetPort: 8080, nodePort: 30080}}]}}\n\
             ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: web-1, namespace: shop, labels: {{kubernetes.io/service-name: web}}}}\naddressType: IPv4\n\
             ports: [{{name: http, port: 8080, protocol: TCP}}]\n\
             endpoints: [{{addresses: [{address}], conditions: {{ready: {ready}}}, nodeName: {node}}}]\n",
            node_addr = self.topology.nodes[0].addr,
        );
        let fresh = self.owner.run().join("fresh.yaml");
        fs::write(&fresh, text)?;
        fs::rename(&fresh, self.owner.run().join("manifests/all.yaml")).context("put the manifest in place")
    }

    fn process(&self, name: &'static str, netns: &Netns, args: &[&str]) -> Result<Process> {
        Process::start(Spec {
            name,
            netns: netns.path(),
            cgroup: &self.owner.cgroup().join(name),
            log: self.owner.run().join(format!("{name}.log")),
            program: &self.bin.join("thalweg"),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            env: vec![("PATH", self.path())],
            listener: None,
        })
    }

    /// Where programs are found: the test's own first.
    fn path(&self) -> String {
        format!("{}:{}", self.owner.run().join("programs").display(), std::env::var("PATH").unwrap_or_default())
    }

    fn proxy(&self, config: &str) -> Result<Process> {
        self.proxy_with(config, &[])
    }

    fn proxy_with(&self, config: &str, more: &[&str]) -> Result<Process> {
        let run = self.owner.run().display();
        let own = [
            format!("--config={run}/{config}"),
            format!("--source=file:{run}/manifests"),
            format!("--bpffs={run}/bpf"),
            format!("--cgroup={}", self.owner.cgroup().display()),
        ];
        let mut args = vec!["proxy", "--hostname-override=Node-A", "--drain-timeout=30"];
        args.extend(own.iter().map(String::as_str).chain(more.iter().copied()));
        self.process("proxy", self.node(), &args)
    }

    /// What /healthz says.
    fn health(&self) -> Result<Answer> {
        get(self.node(), LOOPBACK, 10256, "/healthz")
    }

    /// Waits until it serves, and says that packets flow.
    fn is_healthy(&self, proxy: &mut Process) -> Result<()> {
        self.until("the health check opens", proxy, || {
            Ok(get(&self.topology.client, self.topology.nodes[0].addr, 30900, "/").is_ok())
        })?;
        let health = self.health()?;
        ensure!(health.status == 200 && !health.body.contains("not probed"), "{}", health.body);
        Ok(())
    }

    /// Waits until /healthz says that packets do not flow, and this.
    fn is_unhealthy(&self, proxy: &mut Process, reason: &str) -> Result<()> {
        // Several failures in a row.
        wait_until("packets do not flow", Duration::from_secs(60), &mut [proxy], || Ok(self.health()?.status == 503))?;
        let said = self.health()?.body;
        ensure!(said.contains("the data path does not work") && said.contains(reason), "{said}");
        // A restart would not help.
        ensure!(get(self.node(), LOOPBACK, 10256, "/livez")?.status == 200, "/livez");
        Ok(())
    }

    /// A process of the node; its sockets are balanced.
    fn host(&self) -> Place {
        Place::at("node", self.node().path(), Some(&self.owner.cgroup().join("system")))
    }

    /// `thalweg proxy --cleanup`: what it says.
    fn cleanup(&self) -> Result<String> {
        let mut command = self.node().command(self.bin.join("thalweg"));
        run(command.args(["proxy", "--cleanup", "--bpffs"]).arg(self.owner.run().join("bpf")))
    }

    fn until(&self, what: &str, proxy: &mut Process, ready: impl Fn() -> Result<bool>) -> Result<()> {
        wait_until(what, DEADLINE, &mut [proxy], ready)
    }
}

/// A scenario in a lab of its own, with a proxy, which is removed afterwards.
fn run_lab(id: &str, config: &str, more: &[&str], scenario: impl FnOnce(&Lab, &mut Process) -> Result<()>) {
    let lab = Lab::start(id).expect("lab");
    let mut proxy = lab.proxy_with(config, more).expect("proxy");
    let result = scenario(&lab, &mut proxy);
    let log = proxy.log_tail(30);
    drop(proxy);
    let Lab { owner, topology, pod, .. } = lab;
    let removed = owner.remove();
    drop((topology, pod));
    result.unwrap_or_else(|error| panic!("{error:#}\nproxy:\n{log}"));
    removed.expect("nothing is left behind");
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn kubeadms_configuration_runs_the_proxy_alone() {
    run_lab("proxyalone", "kubeadm.yaml", &[], scenario);
}

// kubernetes#134648
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn healthz_tells_when_rules_translate_no_more() {
    run_lab("proxyrules", "left-alone.yaml", &[], |lab, proxy| {
        lab.is_healthy(proxy)?;
        let switch = |name: &str| {
            let read = || fs::read_to_string(Path::new("/proc/sys/net/netfilter").join(name));
            Ok::<_, anyhow::Error>(lab.node().enter(read)??.trim().to_owned())
        };
        // What is higher already stays: conntrack.tcpEstablishedTimeout is a day by default, in Linux five.
        for (name, wanted) in [
            ("nf_conntrack_tcp_timeout_close_wait", "3660"),
            ("nf_conntrack_udp_timeout_stream", "180"),
            ("nf_conntrack_tcp_timeout_established", "432000"),
        ] {
            ensure!(switch(name)? == wanted, "{name} is {}", switch(name)?);
        }
        for program in ["iptables", "ip6tables"] {
            run(lab.node().command(program).args(["-t", "nat", "-F", "TW-OUTPUT"]))?;
        }
        lab.is_unhealthy(proxy, "connect to 127.0.0.1:")
    });
}

// kubernetes#134648
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn healthz_tells_when_tc_translates_no_more() {
    run_lab("proxytc", "kubeadm.yaml", &["--socket-lb=false"], |lab, proxy| {
        lab.is_healthy(proxy)?;
        // The pin is the last reference: the program is detached.
        fs::remove_file(lab.owner.run().join("bpf/links/tc_from_wire@eth0"))?;
        lab.is_unhealthy(proxy, "tc_from_wire")
    });
}

/// The programs of iptables take as long as the test wants: everything else goes on meanwhile.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_slow_sync_holds_up_nobody() {
    run_lab("proxyslow", "iptables.yaml", &[], |lab, proxy| {
        lab.is_healthy(proxy)?;
        let hold = lab.owner.run().join("hold");
        let runs = || fs::read_to_string(lab.owner.run().join("runs")).unwrap_or_default();
        let metric = |line: &str| {
            let metrics = get(lab.node(), LOOPBACK, 10249, "/metrics")?.body;
            Ok(metrics.lines().any(|found| found == line))
        };
        ensure!(proxy.stop(Duration::from_secs(10))?, "the proxy had to be killed");
        *proxy = slowly(lab)?;
        lab.is_healthy(proxy)?;

        fs::write(&hold, "")?;
        lab.apply(&State { policy: "Cluster", ..NORMAL })?;
        lab.until("a program runs", proxy, || Ok(!runs().is_empty()))?;
        // Two changes more: they wait, and that is known.
        lab.apply(&State { endpoint: (FAR, "node-b", true), ..NORMAL })?;
        lab.until("changes wait", proxy, || metric("kubeproxy_sync_proxy_rules_service_changes_pending 2"))?;
        ensure!(lab.health()?.status == 200, "{}", lab.health()?.body);
        ensure!(get(lab.node(), LOOPBACK, 10249, "/proxyMode")?.body == "iptables", "/proxyMode");
        fs::remove_file(&hold)?;
        let check = || get(&lab.topology.client, lab.topology.nodes[0].addr, 30900, "/");
        lab.until("the last change is in effect", proxy, || Ok(check().is_ok_and(|answer| answer.status == 503)))?;
        lab.until("nothing waits", proxy, || metric("kubeproxy_sync_proxy_rules_service_changes_pending 0"))?;

        fs::write(lab.owner.run().join("runs"), "")?;
        fs::write(&hold, "")?;
        lab.apply(&NORMAL)?;
        lab.until("a program runs", proxy, || Ok(!runs().is_empty()))?;
        ensure!(proxy.stop(Duration::from_secs(20))?, "the proxy had to be killed");
        let status = proxy.ended()?.context("a status")?;
        ensure!(status.success() && !proxy.log_tail(5).contains("in the middle"), "{status}\n{}", proxy.log_tail(5));
        let left: Vec<_> = runs().lines().filter(|id| Path::new("/proc").join(id).exists()).map(str::to_owned).collect();
        ensure!(left.is_empty(), "programs that still run: {left:?}");

        fs::remove_file(&hold)?;
        *proxy = slowly(lab)?;
        lab.is_healthy(proxy)?;
        served_at_first(lab)
    });
}

/// A proxy whose `iptables-restore` waits as long as the file `hold` is there.
fn slowly(lab: &Lab) -> Result<Process> {
    let (run, programs) = (lab.owner.run(), lab.owner.run().join("programs"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let real = std::env::split_paths(&path).map(|folder| folder.join("iptables-restore")).find(|real| real.exists());
    let text = format!(
        "#!/bin/sh\n[ -e {run}/hold ] && echo $$ >> {run}/runs\nwhile [ -e {run}/hold ]; do sleep 0.1; done\nexec {real} \"$@\"\n",
        run = run.display(),
        real = real.context("iptables-restore is not installed")?.display(),
    );
    fs::create_dir_all(&programs)?;
    fs::write(programs.join("iptables-restore"), text)?;
    fs::set_permissions(programs.join("iptables-restore"), fs::Permissions::from_mode(0o755))?;
    lab.proxy("iptables.yaml")
}

/// Rules lead to the pod: whatever answers there, it is not the node that refuses.
fn served_at_first(lab: &Lab) -> Result<()> {
    let rules = run(&mut lab.node().command("iptables-save"))?;
    ensure!(rules.contains(&format!("--to-destination {POD}:8080")), "{rules}");
    Ok(())
}

fn scenario(lab: &Lab, proxy: &mut Process) -> Result<()> {
    let (node_addr, outside, node) = (lab.topology.nodes[0].addr, &lab.topology.client, lab.node());
    let mut echo = lab.process("echo", &lab.pod, &["echo", "--name", "backend"])?;
    wait_until("echo listens", DEADLINE, &mut [&mut echo], || Ok(get(&lab.pod, LOOPBACK, 8080, "/").is_ok()))?;
    lab.until("the health check opens", proxy, || Ok(get(outside, node_addr, 30900, "/").is_ok()))?;

    health_and_metrics(lab)?;
    served(lab)?;

    follows_addresses(lab, proxy)?;

    let check = || get(outside, node_addr, 30900, "/whatever");
    let answer = check()?;
    ensure!(answer.status == 200, "{}", answer.head);
    for header in ["content-type: application/json", "x-content-type-options: nosniff", "x-load-balancing-endpoint-weight: 1"] {
        ensure!(answer.head.lines().any(|line| line == header), "{header} is not in {}", answer.head);
    }
    let wanted = r#"{"service":{"namespace":"shop","name":"web"},"localEndpoints":1,"serviceProxyHealthy":true}"#;
    ensure!(answer.body == wanted, "{}", answer.body);

    // cilium#11043, cilium#33547: no ready endpoint here, whatever there is elsewhere.
    lab.apply(&State { endpoint: (FAR, "node-b", true), ..NORMAL })?;
    lab.until("503 without a local endpoint", proxy, || Ok(check()?.status == 503))?;
    let metrics = get(node, LOOPBACK, 10249, "/metrics")?.body;
    let lonely = "kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family=\"IPv4\",traffic_policy=\"external\"} 1";
    ensure!(metrics.lines().any(|line| line == lonely), "{lonely} is not in\n{metrics}");

    lab.apply(&State { policy: "Cluster", ..NORMAL })?;
    lab.until("the health check closes with the policy Cluster", proxy, || Ok(check().is_err()))?;
    lab.apply(&NORMAL)?;
    lab.until("the health check opens again", proxy, || Ok(check().is_ok_and(|answer| answer.status == 200)))?;

    let taint = "{taints: [{key: ToBeDeletedByClusterAutoscaler, effect: NoSchedule}]}";
    lab.apply(&State { node_spec: taint, ..NORMAL })?;
    let probe = |path: &str| get(outside, node_addr, 10256, path);
    lab.until("a node about to be deleted is unhealthy", proxy, || Ok(probe("/healthz")?.status == 503))?;
    ensure!(probe("/healthz")?.body.contains(r#""nodeEligible":false,"healthy":false"#), "{}", probe("/healthz")?.body);
    ensure!(probe("/livez")?.status == 200, "{}", probe("/livez")?.body);

    ends_and_is_cleaned_up(lab, proxy)
}

fn health_and_metrics(lab: &Lab) -> Result<()> {
    let (node_addr, outside, node) = (lab.topology.nodes[0].addr, &lab.topology.client, lab.node());
    let healthz = get(outside, node_addr, 10256, "/healthz")?;
    ensure!(healthz.status == 200 && healthz.body.contains(r#""nodeEligible":true,"healthy":true"#), "{}", healthz.body);
    ensure!(healthz.body.contains(r#""status":{"IPv4":{"lastUpdated":"#), "{}", healthz.body);
    ensure!(get(outside, node_addr, 10249, "/metrics").is_err(), "metrics are served to the outside by default");

    let metrics = get(node, LOOPBACK, 10249, "/metrics")?;
    ensure!(metrics.head.contains("content-type: text/plain; version=0.0.4"), "{}", metrics.head);
    for line in [
        "kubeproxy_sync_proxy_rules_service_changes_total 1",
        "kubeproxy_sync_proxy_rules_endpoint_changes_total 1",
        "kubeproxy_sync_proxy_rules_service_changes_pending 0",
        "kubeproxy_proxy_healthz_total{code=\"200\"} 1",
        "thalweg_services 1",
        "thalweg_health_checks 1",
        "thalweg_drops_total{reason=\"conntrack_full\"} 0",
    ] {
        ensure!(metrics.body.lines().any(|found| found == line), "{line} is not in\n{}", metrics.body);
    }
    // Counting a map takes a walk over it, which has a thread of its own. One service is the proxy's, which it dials itself.
    let filled = "thalweg_map_entries{map=\"SERVICES\"} 2";
    wait_until(filled, DEADLINE, &mut [], || {
        Ok(get(node, LOOPBACK, 10249, "/metrics")?.body.lines().any(|line| line.eq_ignore_ascii_case(filled)))
    })?;
    let mode = get(node, LOOPBACK, 10249, "/proxyMode")?;
    ensure!(mode.status == 200 && mode.body == "ebpf", "{}", mode.body);
    let configz = get(node, LOOPBACK, 10249, "/configz")?;
    let value: serde_json::Value = serde_json::from_str(&configz.body)?;
    let config = &value["kubeproxy.config.k8s.io"];
    ensure!(config["clusterCIDR"] == "10.244.0.0/16" && config["hostnameOverride"] == "Node-A", "{}", configz.body);
    Ok(())
}

/// The virtual IP from the node, and the NodePort from outside, reach the pod.
fn served(lab: &Lab) -> Result<()> {
    let outside = Place::at("outside", lab.topology.client.path(), None);
    for (place, target) in [(lab.host(), "10.96.7.7:80"), (outside, "172.30.0.11:30080")] {
        let report: HttpReport = place.probe(&["http", target, "--count", "20"])?;
        ensure!(report.failed == 0 && report.pods.contains_key("backend"), "{} to {target}: {report:?}", place.label);
    }
    Ok(())
}

/// kube-proxy ends when its node's addresses change; here they are followed.
fn follows_addresses(lab: &Lab, proxy: &mut Process) -> Result<()> {
    let (outside, node) = (&lab.topology.client, lab.node());
    node.ip(&format!("addr add {NEW_ADDR}/24 dev eth0"))?;
    lab.until("a NodePort on an address that appears", proxy, || Ok(get(outside, NEW_ADDR, 30080, "/").is_ok()))?;
    let by_node = || {
        let report: ConnectReport = lab.host().probe(&["connect", &format!("{NEW_ADDR}:30080")])?;
        Ok(report.outcome == "connected")
    };
    lab.until("also for the node itself", proxy, by_node)?;
    node.ip(&format!("addr del {NEW_ADDR}/24 dev eth0"))?;
    // It may be another machine's from now on, which the node must reach.
    lab.until("none on an address that is gone", proxy, || by_node().map(|connected| !connected))
}

/// The same node by rules, after eBPF: what that had left goes, the services stay.
fn by_iptables(lab: &Lab) -> Result<()> {
    lab.apply(&NORMAL)?;
    let mut proxy = lab.proxy("iptables.yaml")?;
    let node_addr = lab.topology.nodes[0].addr;
    let check = || get(&lab.topology.client, node_addr, 30900, "/");
    lab.until("the health check opens by iptables", &mut proxy, || Ok(check().is_ok_and(|answer| answer.status == 200)))?;
    served(lab).with_context(|| format!("by iptables:\n{}", proxy.log_tail(10)))?;
    follows_addresses(lab, &mut proxy)?;
    let mode = get(lab.node(), LOOPBACK, 10249, "/proxyMode")?.body;
    ensure!(mode == "iptables", "{mode}");
    let metrics = get(lab.node(), LOOPBACK, 10249, "/metrics")?.body;
    ensure!(metrics.contains("thalweg_services 1") && !metrics.contains("thalweg_map_entries"), "{metrics}");
    // Its last flows go on until they have been silent for long enough.
    let bpf = lab.owner.run().join("bpf");
    wait_until("the eBPF data path drains", Duration::from_secs(60), &mut [&mut proxy], || empty(&bpf))?;
    served(lab).context("after the eBPF data path")?;
    ensure!(proxy.stop(Duration::from_secs(10))?, "the proxy had to be killed");
    served(lab).context("without the proxy")
}

/// Whether there are rules of ours.
fn rules(lab: &Lab) -> Result<bool> {
    Ok(run(&mut lab.node().command("iptables-save"))?.contains("TW-"))
}

/// Whether there are more than the one that the kernel needs for what it began to translate.
fn serving_rules(lab: &Lab) -> Result<bool> {
    Ok(run(&mut lab.node().command("iptables-save"))?.lines().any(|line| line.contains("TW-") && !line.contains("TW-KEEP")))
}

fn empty(folder: &Path) -> Result<bool> {
    Ok(!folder.exists() || fs::read_dir(folder)?.next().is_none())
}

/// SIGTERM leaves the data path at work; `--cleanup` removes it.
fn ends_and_is_cleaned_up(lab: &Lab, proxy: &mut Process) -> Result<()> {
    ensure!(proxy.stop(Duration::from_secs(10))?, "the proxy had to be killed");
    let report: HttpReport = lab.host().probe(&["http", "10.96.7.7:80", "--count", "5"])?;
    ensure!(report.failed == 0, "without the proxy: {report:?}");
    by_iptables(lab)?;
    let said = lab.cleanup()?;
    ensure!(said.contains("removed rules and chains of iptables"), "{said}");
    ensure!(!rules(lab)?, "rules stay behind");
    ensure!(lab.cleanup()?.contains("nothing was there"), "cleaned up twice");

    // By rules again, and on to eBPF, which takes the rules away.
    by_iptables(lab)?;
    ensure!(rules(lab)?, "the proxy took its rules with it");
    let mut proxy = lab.proxy("kubeadm.yaml")?;
    let probe = || get(&lab.topology.client, lab.topology.nodes[0].addr, 30900, "/");
    lab.until("the health check opens by eBPF again", &mut proxy, || Ok(probe().is_ok_and(|answer| answer.status == 200)))?;
    lab.until("the rules go", &mut proxy, || Ok(!serving_rules(lab)?))?;
    served(lab).context("by eBPF again")?;
    // The node's own connections have ended, or the time to drain is over.
    let drained = Duration::from_secs(60);
    wait_until("the last rule goes", drained, &mut [&mut proxy], || Ok(!rules(lab)?))?;
    served(lab).context("without any rule")?;
    ensure!(proxy.stop(Duration::from_secs(10))?, "the proxy had to be killed");

    let said = lab.cleanup()?;
    ensure!(said.contains("removed map FRONTENDS") && said.contains("removed link"), "{said}");
    ensure!(empty(&lab.owner.run().join("bpf"))?, "pins stay behind: {said}");
    let report: ConnectReport = lab.host().probe(&["connect", "10.96.7.7:80"])?;
    ensure!(report.outcome != "connected", "the virtual IP still answers: {}", report.outcome);
    Ok(())
}
