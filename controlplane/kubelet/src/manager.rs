//! From the API server's list of this node's pods to one worker per pod, by uid.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher::Event;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::api::{ClusterApi, PodId};
use crate::runtime::{Runtime, Sandbox};
use crate::worker::stop::remove_files;
use crate::worker::{Node, Update, Worker};

/// Pods get at most this long when the whole node is taken down.
const EVACUATION: Duration = Duration::from_secs(5);
/// After which teardown does not wait any longer, and says so.
const EVACUATION_LIMIT: Duration = Duration::from_secs(60);
/// Sandboxes whose end failed are tried again this often.
const CLEANUP: Duration = Duration::from_secs(30);

/// Between a worker that failed and the next one for its pod.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

pub struct Manager<R, A> {
    node: Arc<Node<R, A>>,
    pods: HashMap<String, Entry>,
    workers: JoinSet<String>,
    /// What a former kubelet left, until its pod asks for it or the first list shows that nobody will.
    inherited: BTreeMap<String, Vec<Sandbox>>,
    synced: bool,
}

struct Entry {
    id: PodId,
    updates: watch::Sender<Update>,
    /// Its worker has done everything; the object is still there.
    finished: bool,
}

// === impl Manager ===

impl<R: Runtime, A: ClusterApi> Manager<R, A> {
    pub async fn new(node: Arc<Node<R, A>>) -> crate::runtime::Result<Self> {
        let mut inherited: BTreeMap<String, Vec<Sandbox>> = BTreeMap::new();
        for sandbox in node.runtime.list_sandboxes().await? {
            inherited.entry(sandbox.config.uid.clone()).or_default().push(sandbox);
        }
        Ok(Self { node, pods: HashMap::new(), workers: JoinSet::new(), inherited, synced: false })
    }

    /// Follows the pods until `shutdown`; then leaves them running, or with `evacuate` takes all of them down.
    pub async fn run(
        mut self,
        pods: impl Stream<Item = Event<Pod>>,
        shutdown: tokio_util::sync::CancellationToken,
        evacuate: bool,
    ) {
        let mut pods = std::pin::pin!(pods);
        let mut listed = HashSet::new();
        let mut cleanup = tokio::time::interval(CLEANUP);
        cleanup.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(event) = pods.next() => self.event(event, &mut listed).await,
                Some(done) = self.workers.join_next() => self.finished(done).await,
                _ = cleanup.tick() => if self.synced { self.clean().await },
                else => break,
            }
        }
        if evacuate {
            self.evacuate().await;
        }
    }

    async fn event(&mut self, event: Event<Pod>, listed: &mut HashSet<String>) {
        match event {
            Event::Init => listed.clear(),
            Event::InitApply(pod) => {
                listed.extend(pod.metadata.uid.clone());
                self.apply(pod);
            }
            Event::InitDone => {
                let lost: Vec<_> = self.pods.keys().filter(|uid| !listed.contains(*uid)).cloned().collect();
                lost.iter().for_each(|uid| self.gone(uid, None));
                if !self.synced {
                    self.synced = true;
                    self.clean().await;
                }
            }
            Event::Apply(pod) => self.apply(pod),
            Event::Delete(pod) => {
                if let Some(uid) = pod.metadata.uid.clone() {
                    self.gone(&uid, Some(pod));
                }
            }
        }
    }

    fn apply(&mut self, pod: Pod) {
        let meta = &pod.metadata;
        let (Some(uid), Some(name)) = (meta.uid.clone(), meta.name.clone()) else { return };
        let id = PodId { namespace: meta.namespace.clone().unwrap_or_else(|| "default".into()), name, uid: uid.clone() };
        let update = Update { pod: Arc::new(pod), gone: false, evacuate: None };
        if let Some(entry) = self.pods.get(&uid) {
            let _ = entry.updates.send(update);
            return;
        }
        let sandboxes = self.inherited.remove(&uid).unwrap_or_default();
        self.begin(id, update, sandboxes, Duration::ZERO);
    }

    fn begin(&mut self, id: PodId, update: Update, sandboxes: Vec<Sandbox>, after: Duration) {
        let uid = id.uid.clone();
        let (sender, receiver) = watch::channel(update);
        let worker = Worker::new(self.node.clone(), id.clone(), receiver);
        self.workers.spawn(async move {
            tokio::time::sleep(after).await;
            worker.run(sandboxes).await;
            uid
        });
        self.pods.insert(id.uid.clone(), Entry { id, updates: sender, finished: false });
    }

    fn gone(&mut self, uid: &str, last: Option<Pod>) {
        let Some(entry) = self.pods.get(uid) else { return };
        if entry.finished {
            self.pods.remove(uid);
            return;
        }
        entry.updates.send_modify(|update| {
            update.gone = true;
            if let Some(pod) = last {
                update.pod = Arc::new(pod);
            }
        });
    }

    async fn finished(&mut self, done: Result<String, tokio::task::JoinError>) {
        let uid = match done {
            Ok(uid) => uid,
            Err(e) => {
                tracing::error!(error = %e, "a pod's worker failed; another one takes its pod over");
                return self.replace_failed().await;
            }
        };
        if let Some(entry) = self.pods.get_mut(&uid) {
            entry.finished = true;
            if entry.updates.borrow().gone {
                self.pods.remove(&uid);
            }
        }
    }

    /// A new worker for every pod whose worker is gone before its work was done.
    async fn replace_failed(&mut self) {
        let sandboxes = self.node.runtime.list_sandboxes().await.unwrap_or_default();
        let failed: Vec<_> = self.pods.extract_if(|_, e| !e.finished && e.updates.is_closed()).map(|(_, e)| e).collect();
        for entry in failed {
            let update = entry.updates.borrow().clone();
            let own = sandboxes.iter().filter(|s| s.config.uid == entry.id.uid).cloned().collect();
            self.begin(entry.id, update, own, AFTER_FAILURE);
        }
    }

    /// Ends sandboxes that no pod of this node owns, and removes directories that no pod of this node has.
    async fn clean(&mut self) {
        for (uid, sandboxes) in std::mem::take(&mut self.inherited) {
            for sandbox in sandboxes {
                let config = &sandbox.config;
                tracing::info!(
                    pod = config.name,
                    namespace = config.namespace,
                    sandbox = sandbox.id,
                    "ending a sandbox without a pod"
                );
                if let Err(e) = self.node.runtime.remove_sandbox(&sandbox.id).await {
                    tracing::warn!(sandbox = sandbox.id, error = %e, "the sandbox is tried again");
                    self.inherited.entry(uid.clone()).or_default().push(sandbox);
                }
            }
        }
        let root = self.node.settings.root.clone();
        let known = |name: &str| self.pods.contains_key(name) || self.inherited.contains_key(name);
        let unknown: Vec<_> = names(&root.join("pods")).into_iter().filter(|uid| !known(uid)).collect();
        let logs: Vec<_> = names(&root.join("logs")).into_iter().filter(|n| !n.rsplit('_').next().is_some_and(known)).collect();
        let nowhere = root.join("nowhere");
        let gone = unknown.iter().map(|n| (root.join("pods").join(n), nowhere.clone()));
        for (pod, log) in gone.chain(logs.iter().map(|n| (nowhere.clone(), root.join("logs").join(n)))) {
            if let Err(e) = remove_files(&pod, &log) {
                tracing::warn!(error = %e, pod = %pod.display(), log = %log.display(), "leftovers of a former pod");
            }
        }
    }

    async fn evacuate(mut self) {
        for entry in self.pods.values() {
            entry.updates.send_modify(|update| update.evacuate = Some(EVACUATION));
        }
        let all = async { while self.workers.join_next().await.is_some() {} };
        if tokio::time::timeout(EVACUATION_LIMIT, all).await.is_err() {
            tracing::error!("some pods did not end; the next start removes what they left");
        }
        self.pods.clear();
        self.clean().await;
    }
}

fn names(dir: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().into_string().ok()).collect()
}
