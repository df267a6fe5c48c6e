//! Pods coming and going: ADD and DEL one after another, and many at once; our plugin with its agent beside ptp with
//! host-local. Both are executed as a container runtime does, in the node's namespace, on the same pods' namespaces.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use thalweg_lab::file::{FileLab, LabOptions};
use thalweg_lab::netns::Netns;
use thalweg_lab::probe::histogram;

use crate::bench::{Bench, Case};
use crate::children::Children;
use crate::measure::{Contender, Sample};
use crate::plain::PlainLab;
use crate::run::Better;
use crate::scenario::Scenario;
use crate::settings::Settings;

/// Where distributions and Kubernetes put plugins.
const FOLDERS: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];
/// Pods of one measurement, one after another.
const SEQUENCE: usize = 10;
const AT_ONCE: usize = 100;
/// How long these may take together.
const DEADLINE: Duration = Duration::from_secs(120);

pub struct Cni;

/// A plugin as a runtime knows it.
struct Plugin<'a> {
    program: PathBuf,
    folder: PathBuf,
    /// What it reads from its standard input.
    config: PathBuf,
    node: &'a Netns,
}

// === impl Cni ===

impl Scenario for Cni {
    fn name(&self) -> &'static str {
        "cni"
    }

    fn about(&self) -> &'static str {
        "pods come and go: ADD and DEL one after another, 100 ADD at once"
    }

    fn ours(&self) -> &'static [&'static str] {
        &["thalweg"]
    }

    fn against(&self) -> &'static [&'static str] {
        &["ptp"]
    }

    fn cases(&self, _settings: &Settings) -> usize {
        3
    }

    fn run(&self, bench: &mut Bench<'_>) -> Result<()> {
        if !bench.has_ipv4_only() {
            return Ok(());
        }
        let id = format!("{}cni", bench.settings.lab);
        let options =
            LabOptions { id: &id, proxy_mode: Some("ebpf"), dual_stack: false, bin: Some(bench.settings.bin.clone()) };
        bench.say("starting labs");
        let lab = FileLab::start_with(&options)?;
        let bare = PlainLab::start(&format!("{}ptp", bench.settings.lab))?;
        let result = in_labs(bench, &lab, &bare, &id)
            .with_context(|| format!("the end of the agent's log:\n{}\n", lab.nodes[0].agent.log_tail(5)));
        let removed = lab.remove();
        bare.remove()?;
        removed?;
        result
    }
}

fn in_labs(bench: &mut Bench<'_>, lab: &FileLab, bare: &PlainLab, id: &str) -> Result<()> {
    widen(lab)?;
    let run = lab.manifests.parent().context("folder of the lab")?;
    let ours = ours(lab, run)?;
    let ptp = if bench.settings.wants("ptp") { ptp(&bare.topology().nodes[0].netns, run)? } else { None };
    if ptp.is_none() && bench.settings.wants("ptp") {
        bench.missing("ptp", "it is not installed: try `apt-get install containernetworking-plugins`");
    }
    let pods: Result<Vec<Netns>> = (0..AT_ONCE).map(|number| Netns::create(&format!("thalweg-{id}-c{number}"))).collect();
    let pods = pods?;
    let few = &pods[..SEQUENCE];
    // The first address of the wide range tells that it is in place.
    ours.each(few, "ADD")?;
    ours.each(few, "DEL")?;
    // What is compared with comes first.
    let sides: Vec<(&str, &Plugin<'_>)> = ptp.iter().map(|ptp| ("ptp", ptp)).chain([("thalweg", &ours)]).collect();
    let case = |what: &str| Case::new("ms", Better::Lower).with("family", "IPv4").with("what", what);
    let contenders = |measure: fn(&Plugin<'_>, &[Netns]) -> Result<Sample>, pods| -> Vec<Contender<'_>> {
        sides.iter().map(|(name, plugin)| Contender::new(*name, move || measure(plugin, pods))).collect()
    };
    bench.compare(case("ADD"), contenders(add, few))?;
    bench.compare(case("DEL"), contenders(delete, few))?;
    bench.compare(case("100 ADD at once"), contenders(all_at_once, &pods))
}

fn add(plugin: &Plugin<'_>, pods: &[Netns]) -> Result<Sample> {
    let times = plugin.each(pods, "ADD")?;
    plugin.each(pods, "DEL")?;
    sample(&times)
}

fn delete(plugin: &Plugin<'_>, pods: &[Netns]) -> Result<Sample> {
    plugin.each(pods, "ADD")?;
    sample(&plugin.each(pods, "DEL")?)
}

fn all_at_once(plugin: &Plugin<'_>, pods: &[Netns]) -> Result<Sample> {
    let took = plugin.at_once(pods, "ADD")?;
    plugin.at_once(pods, "DEL")?;
    Ok(Sample::from(took.as_secs_f64() * 1_000.0))
}

/// The median in milliseconds, and all of them.
fn sample(times: &[Duration]) -> Result<Sample> {
    let mut histogram = histogram()?;
    for time in times {
        histogram.saturating_record(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }
    Ok(Sample { value: histogram.value_at_quantile(0.5) as f64 / 1e6, latency: Some(histogram) })
}

/// Gives the first node more addresses than a bench can use up while released ones rest.
fn widen(lab: &FileLab) -> Result<()> {
    let path = lab.manifests.join("nodes.yaml");
    let nodes = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let wide = nodes.replace("10.244.0.0/24", "10.240.0.0/14");
    ensure!(wide != nodes, "the lab's first node has other pod addresses than 10.244.0.0/24");
    // Of its own, so that the other node's are not among them.
    lab.apply("nodes.yaml", &wide.replace("10.244.1.0/24", "10.250.1.0/24"))
}

fn ours<'a>(lab: &'a FileLab, run: &Path) -> Result<Plugin<'a>> {
    let dir = &lab.nodes[0].dir;
    let list: Value = serde_json::from_str(&fs::read_to_string(dir.join("cni-conf/05-thalweg.conflist"))?)?;
    let mut config = list.pointer("/plugins/0").cloned().context("the list has no plugin")?;
    config["cniVersion"] = list["cniVersion"].clone();
    config["name"] = list["name"].clone();
    let node = &lab.topology.nodes[0].netns;
    Plugin::new("thalweg", &dir.join("cni-bin"), "thalweg-cni", &config, node, run)
}

/// Where it is, if it is installed with what it needs.
pub fn ptp_program() -> Option<PathBuf> {
    let installed = |folder: &&&str| ["ptp", "host-local"].iter().all(|name| Path::new(folder).join(name).is_file());
    FOLDERS.iter().find(installed).map(|folder| Path::new(folder).join("ptp"))
}

/// None when it is not installed.
fn ptp<'a>(node: &'a Netns, run: &Path) -> Result<Option<Plugin<'a>>> {
    let Some(program) = ptp_program() else { return Ok(None) };
    let folder = program.parent().context("the plugin's folder")?;
    let config = json!({
        "cniVersion": "1.0.0",
        "name": "ptp",
        "type": "ptp",
        "ipam": {
            "type": "host-local",
            "dataDir": run.join("host-local"),
            "ranges": [[{"subnet": "10.240.0.0/14"}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    });
    Plugin::new("ptp", folder, "ptp", &config, node, run).map(Some)
}

// === impl Plugin ===

impl<'a> Plugin<'a> {
    fn new(name: &str, folder: &Path, program: &str, config: &Value, node: &'a Netns, run: &Path) -> Result<Self> {
        let input = run.join(format!("{name}-bench.json"));
        fs::write(&input, config.to_string()).with_context(|| format!("write {}", input.display()))?;
        Ok(Self { program: folder.join(program), folder: folder.to_owned(), config: input, node })
    }

    /// One after another; how long each took.
    fn each(&self, pods: &[Netns], verb: &str) -> Result<Vec<Duration>> {
        // A thread inside of the namespace: what enters it for each call would be measured too.
        self.node.enter(|| {
            let one = |pod: &Netns| {
                let started = Instant::now();
                let output = self.command(pod, verb)?.output()?;
                let took = started.elapsed();
                self.judge(&output, pod, verb)?;
                Ok(took)
            };
            pods.iter().map(one).collect()
        })?
    }

    /// All of them started before the first is waited for; how long it took in all. One that fails is judged when none runs
    /// any more.
    fn at_once(&self, pods: &[Netns], verb: &str) -> Result<Duration> {
        self.node.enter(|| {
            let started = Instant::now();
            let mut children = Children::default();
            for pod in pods {
                children.start(&mut self.command(pod, verb)?)?;
            }
            let ended = children.finish(DEADLINE).with_context(|| format!("{} {verb}", self.program.display()))?;
            let took = started.elapsed();
            ended.iter().zip(pods).try_for_each(|(output, pod)| self.judge(output, pod, verb))?;
            Ok(took)
        })?
    }

    fn command(&self, pod: &Netns, verb: &str) -> Result<Command> {
        let container = pod.name();
        let mut command = Command::new(&self.program);
        command
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", container)
            .env("CNI_NETNS", pod.path())
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", &self.folder)
            .env(
                "CNI_ARGS",
                format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={container};K8S_POD_UID={container}"),
            )
            .stdin(File::open(&self.config)?)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Ok(command)
    }

    fn judge(&self, output: &Output, pod: &Netns, verb: &str) -> Result<()> {
        let Output { status, stdout, stderr } = output;
        let said = [stdout.as_slice(), stderr].concat();
        ensure!(
            status.success(),
            "{} {verb} for {}: {}",
            self.program.display(),
            pod.name(),
            String::from_utf8_lossy(&said).trim()
        );
        Ok(())
    }
}
