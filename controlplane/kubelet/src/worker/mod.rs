//! One pod's life: a task that brings the pod to what the API server says, and tells what it sees. It owns everything of its
//! pod; the rules it follows are in `pod`, the work is done by the runtime.

mod adopt;
mod hooks;
mod make;
mod publish;
mod start;
pub mod stop;
mod watch_container;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::api::{ClusterApi, PodId};
use crate::events::{Kind, Recorder};
use crate::logs::{LogIndex, LogKey, LogPlace};
use crate::pod::backoff::{BackoffConfig, Backoffs};
use crate::pod::dns::Resolvers;
use crate::pod::fields::Place;
use crate::pod::plan::{Outcome, plan};
use crate::pod::spec;
use crate::pod::status::{Facts, Verdict, pod_status};
use crate::pod::{Record, Records, State};
use crate::probe;
use crate::runtime::{Runtime, Sandbox, SandboxState};
use crate::services::Services;
use publish::Publisher;

/// ConfigMaps and Secrets in volumes are looked at this often.
const REFRESH: Duration = Duration::from_secs(60);

/// What all pods of the node share.
pub struct Node<R, A> {
    pub runtime: Arc<R>,
    pub api: Arc<A>,
    pub recorder: Recorder,
    pub services: Services,
    pub logs: Arc<LogIndex>,
    pub settings: Settings,
}

#[derive(Debug, Clone)]
pub struct Settings {
    pub node: String,
    pub host_ips: Vec<IpAddr>,
    /// Below it: `pods/<uid>` (volumes, hosts file) and `logs/<namespace>_<name>_<uid>`.
    pub root: PathBuf,
    pub resolvers: Resolvers,
    pub backoff: BackoffConfig,
    /// Millicores and bytes of the machine.
    pub cpu: u64,
    pub memory: u64,
}

/// What a worker is told.
#[derive(Debug, Clone)]
pub struct Update {
    pub pod: Arc<Pod>,
    /// The API server does not have it any more.
    pub gone: bool,
    /// Stop now, with at most this grace, and leave the API server's object alone: the node goes down.
    pub evacuate: Option<Duration>,
}

pub struct Worker<R, A> {
    node: Arc<Node<R, A>>,
    id: PodId,
    pod: Arc<Pod>,
    updates: watch::Receiver<Update>,
    sandbox: Option<Sandbox>,
    sandbox_attempts: u32,
    records: Records,
    backoffs: Backoffs,
    back_off: BTreeMap<String, Duration>,
    /// Ends whose back-off was told in an event: container id.
    told: HashSet<String>,
    volumes: Option<BTreeMap<String, PathBuf>>,
    refreshed: Instant,
    verdict: Option<Verdict>,
    start_time: Timestamp,
    /// As they were told last.
    conditions: Vec<PodCondition>,
    /// Consecutive failures of what stands before the containers: volumes, sandbox, its end.
    failures: u32,
    retry_at: Option<Instant>,
    stopping: Option<stop::Stopping>,
    /// When everything of the pod has to be down, told to whoever kills a container.
    deadline: watch::Sender<Option<Instant>>,
    killing: HashSet<String>,
    watched: HashMap<String, watch_container::Watched>,
    tasks: JoinSet<()>,
    messages: mpsc::Sender<Message>,
    inbox: mpsc::Receiver<Message>,
    publisher: Publisher,
}

enum Message {
    Exited {
        name: String,
        id: String,
    },
    SandboxEnded {
        id: String,
    },
    Probe(probe::Report),
    /// A kill that did not work is tried again.
    KillFailed {
        id: String,
    },
    Wake,
}

/// What a step leaves to wait for.
enum Next {
    Wait(Option<Duration>),
    Done,
}

// === impl Node ===

impl<R: Runtime, A: ClusterApi> Node<R, A> {
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.settings.root.join("pods").join(uid)
    }

    pub fn log_dir(&self, id: &PodId) -> PathBuf {
        self.settings.root.join("logs").join(format!("{}_{}_{}", id.namespace, id.name, id.uid))
    }
}

// === impl Worker ===

impl<R: Runtime, A: ClusterApi> Worker<R, A> {
    /// `sandboxes` are what the runtime already has of this pod.
    pub fn new(node: Arc<Node<R, A>>, id: PodId, updates: watch::Receiver<Update>) -> Self {
        let pod = updates.borrow().pod.clone();
        let started = pod.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| t.0);
        let (messages, inbox) = mpsc::channel(64);
        let publisher = Publisher::start(node.api.clone(), id.clone(), updates.clone());
        Self {
            backoffs: Backoffs::new(node.settings.backoff),
            id,
            updates,
            sandbox: None,
            sandbox_attempts: 0,
            records: Records::new(),
            back_off: BTreeMap::new(),
            told: HashSet::new(),
            volumes: None,
            refreshed: Instant::now(),
            verdict: None,
            start_time: started.unwrap_or_else(Timestamp::now),
            conditions: pod.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default(),
            failures: 0,
            retry_at: None,
            stopping: None,
            deadline: watch::channel(None).0,
            killing: HashSet::new(),
            watched: HashMap::new(),
            tasks: JoinSet::new(),
            messages,
            inbox,
            publisher,
            pod,
            node,
        }
    }

    /// Runs until nothing of the pod is left on the node and the API server has let go of it.
    pub async fn run(mut self, sandboxes: Vec<Sandbox>) {
        self.adopt(sandboxes).await;
        loop {
            let update = self.updates.borrow_and_update().clone();
            self.pod = update.pod.clone();
            let next = self.step(&update).await;
            let wait = match next {
                Next::Done => return,
                Next::Wait(wait) => wait,
            };
            self.publish();
            let alarm = async {
                match wait {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = self.updates.changed() => if changed.is_err() { return },
                Some(message) = self.inbox.recv() => {
                    self.handle(message).await;
                    while let Ok(message) = self.inbox.try_recv() {
                        self.handle(message).await;
                    }
                }
                Some(_) = self.tasks.join_next() => {}
                () = alarm => {}
            }
        }
    }

    async fn step(&mut self, update: &Update) -> Next {
        if update.gone || update.evacuate.is_some() || spec::deadline(&self.pod).is_some() || self.stopping.is_some() {
            return self.stop(update).await;
        }
        if self.verdict.is_none() && spec::is_terminal(&self.pod) {
            self.verdict = Some(former_verdict(&self.pod));
        }
        if self.verdict.is_some() {
            return self.wind_down().await;
        }
        if let Some(left) = self.retry_at.map(|at| at.saturating_duration_since(Instant::now())).filter(|l| !l.is_zero()) {
            return Next::Wait(Some(left));
        }
        let deadline = match self.active_deadline() {
            Err(()) => return self.wind_down().await,
            Ok(left) => left,
        };
        let Some(pod_spec) = self.pod.spec.clone() else { return Next::Wait(None) };
        self.settle().await;
        let now = Timestamp::now();
        let wanted = plan(&pod_spec, &self.records, &self.backoffs, now);
        self.back_off = wanted.back_off;
        self.tell_back_off();
        if let Some(outcome) = wanted.outcome {
            let phase = if outcome == Outcome::Succeeded { "Succeeded" } else { "Failed" };
            self.verdict = Some(Verdict { phase, reason: None, message: None });
            return self.wind_down().await;
        }
        let ready = self.sandbox_is_ready().await;
        if !ready && self.records.values().any(Record::running) {
            return Next::Wait(Some(Duration::ZERO)); // settle first
        }
        if !wanted.start.is_empty() || !ready {
            if let Err((reason, message)) = self.prepare(ready).await {
                return self.failed(reason, message);
            }
            self.failures = 0;
        }
        if !ready {
            return Next::Wait(Some(Duration::ZERO)); // plan again: a new sandbox begins from the start
        }
        for name in &wanted.start {
            self.start(name).await;
        }
        if !wanted.start.is_empty() {
            return Next::Wait(Some(Duration::ZERO));
        }
        let refresh = self.refresh().await;
        Next::Wait([wanted.again_in, deadline, refresh].into_iter().flatten().min())
    }

    /// Looked at, not remembered: when a sandbox ends, its containers may be heard of first, and must not start again in it.
    async fn sandbox_is_ready(&mut self) -> bool {
        let Some(sandbox) = self.sandbox.as_mut() else { return false };
        if self.node.runtime.sandbox_status(&sandbox.id).await.is_ok_and(|s| s.state == SandboxState::NotReady) {
            sandbox.state = SandboxState::NotReady;
        }
        sandbox.state == SandboxState::Ready
    }

    /// Volumes and sandbox, before any container.
    async fn prepare(&mut self, sandbox_ready: bool) -> Result<(), (&'static str, String)> {
        if !sandbox_ready {
            self.renew_sandbox().await.map_err(|e| ("FailedCreatePodSandBox", e))?;
        }
        if self.volumes.is_none() {
            let volumes = self.make_volumes().await.map_err(|e| ("FailedMount", e))?;
            self.volumes = Some(volumes);
            self.refreshed = Instant::now();
        }
        Ok(())
    }

    fn failed(&mut self, reason: &'static str, message: String) -> Next {
        self.node.recorder.pod(&self.pod, Kind::Warning, reason, message);
        // Short at first: a network that is just coming up is the usual cause.
        let wait = Duration::from_millis(500) * 2u32.pow(self.failures.min(5));
        self.failures += 1;
        self.retry_at = Some(Instant::now() + wait);
        Next::Wait(Some(wait))
    }

    async fn handle(&mut self, message: Message) {
        match message {
            Message::Exited { name, id } => self.exited(&name, &id).await,
            Message::SandboxEnded { id } => {
                if let Some(sandbox) = self.sandbox.as_mut().filter(|s| s.id == id) {
                    sandbox.state = SandboxState::NotReady;
                }
            }
            Message::Probe(report) => self.probed(report),
            Message::KillFailed { id } => {
                self.killing.remove(&id);
            }
            Message::Wake => {}
        }
    }

    /// How long the pod may still run; an error when its time is over.
    fn active_deadline(&mut self) -> Result<Option<Duration>, ()> {
        let Some(seconds) = self.pod.spec.as_ref().and_then(|s| s.active_deadline_seconds) else { return Ok(None) };
        let used = Timestamp::now().duration_since(self.start_time).as_secs();
        if used < seconds {
            return Ok(Some(Duration::from_secs((seconds - used).unsigned_abs())));
        }
        let message = "Pod was active on the node longer than the specified deadline".to_owned();
        self.node.recorder.pod(&self.pod, Kind::Normal, "DeadlineExceeded", message.clone());
        self.verdict = Some(Verdict { phase: "Failed", reason: Some("DeadlineExceeded".into()), message: Some(message) });
        Err(())
    }

    async fn refresh(&mut self) -> Option<Duration> {
        if !crate::volumes::changes(&self.pod) {
            return None;
        }
        if self.refreshed.elapsed() >= REFRESH {
            if let Err(e) = self.make_volumes().await {
                tracing::warn!(
                    pod = self.id.name,
                    namespace = self.id.namespace,
                    error = e,
                    "volumes keep their former content"
                );
            }
            self.refreshed = Instant::now();
        }
        Some(REFRESH.saturating_sub(self.refreshed.elapsed()))
    }

    fn place(&self) -> Place {
        let settings = &self.node.settings;
        Place {
            node: settings.node.clone(),
            host_ips: settings.host_ips.clone(),
            pod_ips: self.pod_ips(),
            node_cpu: settings.cpu,
            node_memory: settings.memory,
        }
    }

    fn pod_ips(&self) -> Vec<IpAddr> {
        match &self.sandbox {
            Some(sandbox) if sandbox.config.host_network => self.node.settings.host_ips.clone(),
            // An ended pod keeps the address it had in its status.
            Some(sandbox) if sandbox.ips.is_empty() && self.verdict.is_some() => self.former_ips(),
            Some(sandbox) => sandbox.ips.clone(),
            None => Vec::new(),
        }
    }

    fn former_ips(&self) -> Vec<IpAddr> {
        let ips = self.pod.status.as_ref().and_then(|s| s.pod_ips.as_deref()).unwrap_or_default();
        ips.iter().filter_map(|ip| ip.ip.parse().ok()).collect()
    }

    fn tell_back_off(&mut self) {
        for name in self.back_off.keys() {
            let id = self.records.get(name).and_then(|r| r.id.clone()).unwrap_or_default();
            if self.told.insert(id) {
                let text = format!(
                    "Back-off restarting failed container {name} in pod {}_{}({})",
                    self.id.name, self.id.namespace, self.id.uid
                );
                self.node.recorder.container(&self.pod, Some(name), Kind::Warning, "BackOff", text);
            }
        }
        let live: HashSet<_> = self.records.values().filter_map(|r| r.id.clone()).collect();
        self.told.retain(|id| live.contains(id));
    }

    fn publish(&mut self) {
        if self.records.is_empty() && spec::is_terminal(&self.pod) {
            self.index_logs(&PodStatus::default());
            return; // nothing of it is left here, and what the API server knows is more
        }
        let runtime = self.node.runtime.version();
        let pod_ips = self.pod_ips();
        let facts = Facts {
            pod: &self.pod,
            records: &self.records,
            conditions: &self.conditions,
            back_off: &self.back_off,
            sandbox_ready: self.sandbox.as_ref().is_some_and(|s| s.state == SandboxState::Ready),
            pod_ips: &pod_ips,
            host_ips: &self.node.settings.host_ips,
            start_time: self.start_time,
            verdict: self.verdict.as_ref(),
            runtime: runtime.split("://").next().unwrap_or_default(),
        };
        let status = pod_status(&facts, Timestamp::now());
        self.conditions = status.conditions.clone().unwrap_or_default();
        self.index_logs(&status);
        self.publisher.publish(status);
    }

    /// Tells the server where the logs are.
    fn index_logs(&self, status: &PodStatus) {
        let statuses = [&status.init_container_statuses, &status.container_statuses].into_iter().flatten().flatten();
        let waiting: HashMap<_, _> =
            statuses.filter_map(|s| Some((s.name.as_str(), s.state.as_ref()?.waiting.as_ref()?.reason.clone()?))).collect();
        for name in self.pod.spec.iter().flat_map(spec::containers).map(|(c, _)| &c.name) {
            let key = LogKey { namespace: self.id.namespace.clone(), pod: self.id.name.clone(), container: name.clone() };
            let mut place = self.records.get(name).map_or_else(LogPlace::default, |record| {
                let log = |attempt| Some(self.log_path(name, attempt));
                let latest = if record.id.is_some() || record.last.is_some() { log(record.restarts) } else { None };
                let previous = match (&record.id, &record.last) {
                    (Some(_), Some(_)) => log(record.restarts - 1),
                    (None, Some(_)) => log(record.restarts),
                    (_, None) => None,
                };
                LogPlace { latest, previous, running: record.running(), waiting: None }
            });
            place.waiting = waiting.get(name.as_str()).cloned();
            self.node.logs.set(&self.id.uid, key, place);
        }
    }

    fn running(&self, name: &str) -> Option<String> {
        self.records.get(name).filter(|r| matches!(r.state, State::Running { .. })).and_then(|r| r.id.clone())
    }
}

/// The verdict a former kubelet gave.
fn former_verdict(pod: &Pod) -> Verdict {
    let status = pod.status.as_ref();
    let succeeded = status.and_then(|s| s.phase.as_deref()) == Some("Succeeded");
    Verdict {
        phase: if succeeded { "Succeeded" } else { "Failed" },
        reason: status.and_then(|s| s.reason.clone()),
        message: status.and_then(|s| s.message.clone()),
    }
}
