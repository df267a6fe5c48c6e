//! Wiring: watches into the cache, the cache's work to the controllers.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Client;
use kube::api::Api;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher;
use kube::runtime::{WatchStreamExt, watcher as watch};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::Config;
use crate::cache::{Cache, Cached};
use crate::events::{self, Events};
use crate::meta::Key;
use crate::perform::Performer;
use crate::queue::{Outcome, Queue};
use crate::route::Work;
use crate::work::{Controllers, TICK};

/// Pieces of work done at the same time.
const WORKERS: usize = 16;
/// Time within which a watch tells of our own writes; after that we ask.
const DOUBT: Duration = Duration::from_secs(10);

/// Runs all controllers until `shutdown`.
///
/// # Errors
/// When the configuration is not sound. Never for an API server that is away: watches are resumed and work is repeated for ever.
pub async fn run(client: Client, config: Config, shutdown: CancellationToken) -> Result<()> {
    config.check()?;
    let queue: Arc<Queue<Work>> = Arc::default();
    let cache = Arc::new(Cache::new(Arc::clone(&queue)));
    let (events, notices) = Events::new();
    let performer = Performer { client: client.clone(), cache, events };

    let mut tasks = JoinSet::new();
    tasks.spawn(events::write(client.clone(), notices));
    follow_all(&mut tasks, &performer);
    let controllers = Arc::new(Controllers::new(performer, Arc::clone(&queue), config));
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = work_off(&controllers, &queue) => {}
        () = tick(&controllers) => {}
    }
    tasks.shutdown().await;
    Ok(())
}

/// Hands out work as long as it comes. Work that is under way ends with this.
async fn work_off(controllers: &Arc<Controllers>, queue: &Arc<Queue<Work>>) {
    let hands = Arc::new(Semaphore::new(WORKERS));
    let mut running = JoinSet::new();
    loop {
        let Ok(hand) = Arc::clone(&hands).acquire_owned().await else { return };
        let work = queue.next().await;
        let (controllers, queue) = (Arc::clone(controllers), Arc::clone(queue));
        running.spawn(async move {
            let mut turn = Turn { queue, work, outcome: Outcome::Failed };
            turn.outcome = controllers.run(&turn.work).await;
            drop(turn);
            drop(hand);
        });
        while running.try_join_next().is_some() {}
    }
}

async fn tick(controllers: &Controllers) {
    let mut tick = tokio::time::interval(TICK);
    loop {
        tick.tick().await;
        controllers.notice_gap(Timestamp::now());
    }
}

/// Gives a key back when its run ends, also by a panic: it is tried again then.
struct Turn {
    queue: Arc<Queue<Work>>,
    work: Work,
    outcome: Outcome,
}

// === impl Turn ===

impl Drop for Turn {
    fn drop(&mut self) {
        self.queue.done(&self.work, self.outcome);
    }
}

fn follow_all(tasks: &mut JoinSet<()>, performer: &Performer) {
    use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
    use k8s_openapi::api::coordination::v1::Lease;
    use k8s_openapi::api::core::v1::{Endpoints, Namespace, Node, Pod, Service, ServiceAccount};
    use k8s_openapi::api::discovery::v1::EndpointSlice;

    tasks.spawn(follow::<Deployment>(performer.clone()));
    tasks.spawn(follow::<ReplicaSet>(performer.clone()));
    tasks.spawn(follow::<Pod>(performer.clone()));
    tasks.spawn(follow::<Service>(performer.clone()));
    tasks.spawn(follow::<Endpoints>(performer.clone()));
    tasks.spawn(follow::<EndpointSlice>(performer.clone()));
    tasks.spawn(follow::<Node>(performer.clone()));
    tasks.spawn(follow::<Lease>(performer.clone()));
    tasks.spawn(follow::<Namespace>(performer.clone()));
    tasks.spawn(follow::<ServiceAccount>(performer.clone()));
    // Of these we need to know only that they are there, and whose.
    tasks.spawn(follow::<PartialObjectMeta<ConfigMap>>(performer.clone()));
    tasks.spawn(follow::<PartialObjectMeta<Secret>>(performer.clone()));
}

/// Puts what a watch tells into the cache, and asks for what it should have told.
async fn follow<K: Cached>(performer: Performer) {
    let events = watch(Api::<K>::all(performer.client.clone()), watcher::Config::default());
    let mut events = std::pin::pin!(events.default_backoff());
    let mut doubt = tokio::time::interval(DOUBT);
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(event)) => performer.cache.watched(event),
                Some(Err(error)) => tracing::warn!("watch of {}: {error}", K::names().plural),
                None => return,
            },
            _ = doubt.tick() => {
                for (key, uid) in performer.cache.doubtful::<K>(DOUBT) {
                    confirm::<K>(&performer, &key, &uid).await;
                }
            }
        }
    }
}

async fn confirm<K: Cached>(performer: &Performer, key: &Key, uid: &str) {
    match performer.get::<K>(key).await {
        Ok(Some(object)) => performer.cache.confirmed(object),
        Ok(None) => performer.cache.removed::<K>(key, uid),
        Err(error) => tracing::debug!("look at {} {key}: {error}", K::names().kind),
    }
}
