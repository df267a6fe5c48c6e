//! The source that lists and watches an API server.
//!
//! One task per kind: a paged list, then watches from the version it ended with, for ever. A watch that breaks is
//! taken up where it was; one that is too old is listed again in place: names that the new list lacks are removed,
//! the rest is sent again and found equal by the [`World`](crate::World), so nothing flaps.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::{Duration, Instant};

use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::convert::{Follow, Key};
use super::merge::{Report, merge};
use super::{KubeOptions, SourceError};
use crate::world::{Batch, Change};

const PAGE: u32 = 500;
/// The server ends a watch after this long; spread, so that the watches of many nodes do not end together.
const WATCH_SECONDS: std::ops::Range<u64> = 240..290;
/// Silence after which a watch is taken for dead: longer than any watch lasts.
const SILENCE: Duration = Duration::from_secs(300);
/// The server must begin to answer within this.
const ANSWER: Duration = Duration::from_secs(30);
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(8);
/// A watch that fails this often in a row, without one event in between, is given up for a new list.
const RELIST_AFTER: u32 = 6;

/// How often a kind that the API server did not have is asked for again: it may have been upgraded since.
const ABSENT_RETRY: Duration = Duration::from_secs(300);

/// Why a list failed.
enum Refusal {
    /// The server has no such kind, or does not let us see it.
    Absent(String),
    Failed(String),
}

/// Whether a cluster may do without a kind.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    Required,
    /// Younger than the oldest cluster that is served: one that does not have it counts as synced.
    Optional,
}

/// Why a watch ended.
enum Ended {
    /// In peace: go on from the same version.
    Closed,
    /// The version is too old: list again.
    Expired,
    Failed(String),
    /// The receiver of the reports is gone.
    Abandoned,
}

/// One kind being followed.
struct Watch<K> {
    api: Api<K>,
    need: Need,
    fields: Option<String>,
    sink: mpsc::Sender<Report>,
    /// What has been reported and not yet removed.
    known: BTreeSet<Key>,
    version: String,
}

struct Backoff(Duration);

pub(crate) async fn run(options: KubeOptions, sink: mpsc::Sender<Batch>) -> Result<(), SourceError> {
    let client = client(&options).await?;
    follow(client, &options, sink).await;
    Ok(())
}

async fn client(options: &KubeOptions) -> Result<Client, SourceError> {
    let mut config = match &options.kubeconfig {
        Some(path) => {
            let refuse =
                |error: kube::config::KubeconfigError| SourceError::Kubeconfig { path: path.clone(), reason: chain(&error) };
            let kubeconfig = Kubeconfig::read_from(path).map_err(refuse)?;
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.map_err(refuse)?
        }
        None => Config::infer().await.map_err(|error| SourceError::Infer { reason: chain(&error) })?,
    };
    config.connect_timeout = Some(Duration::from_secs(5));
    config.read_timeout = Some(SILENCE);
    Client::try_from(config).map_err(|error| SourceError::Client { reason: chain(&error) })
}

/// Follows every kind until the receiver is gone.
pub(crate) async fn follow(client: Client, options: &KubeOptions, sink: mpsc::Sender<Batch>) {
    let (reports, input) = mpsc::channel(256);
    let mut tasks = JoinSet::new();
    tasks.spawn(Watch::<Service>::new(client.clone(), Need::Required, None, &reports).run());
    tasks.spawn(Watch::<EndpointSlice>::new(client.clone(), Need::Required, None, &reports).run());
    tasks.spawn(Watch::<Node>::new(client.clone(), Need::Required, None, &reports).run());
    tasks.spawn(Watch::<ServiceCIDR>::new(client.clone(), Need::Optional, None, &reports).run());
    if options.pods {
        let fields = Some(format!("spec.nodeName={}", options.node));
        tasks.spawn(Watch::<Pod>::new(client, Need::Required, fields, &reports).run());
    }
    drop(reports);
    let kinds = tasks.len();
    merge(input, kinds, sink).await;
    // Dropping the set ends the watches.
}

// === impl Watch ===

impl<K> Watch<K>
where
    K: Follow + kube::Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    fn new(client: Client, need: Need, fields: Option<String>, sink: &mpsc::Sender<Report>) -> Self {
        Self { api: Api::all(client), need, fields, sink: sink.clone(), known: BTreeSet::new(), version: String::new() }
    }

    async fn run(mut self) {
        let mut backoff = Backoff(BACKOFF_MIN);
        loop {
            match self.list().await {
                Ok(true) => {}
                Ok(false) => return,
                Err(Refusal::Absent(reason)) if self.need == Need::Optional => {
                    tracing::info!(kind = K::KIND, retry_in = ?ABSENT_RETRY, "the API server does not offer it, doing without: {reason}");
                    if !self.report(Vec::new(), true, Instant::now()).await {
                        return;
                    }
                    tokio::time::sleep(ABSENT_RETRY).await;
                    continue;
                }
                Err(Refusal::Absent(reason) | Refusal::Failed(reason)) => {
                    let pause = backoff.next();
                    tracing::warn!(kind = K::KIND, retry_in = ?pause, "cannot list from the API server: {reason}");
                    tokio::time::sleep(pause).await;
                    continue;
                }
            }
            let mut failures = 0;
            loop {
                let started = Instant::now();
                let (events, ended) = self.watch().await;
                if events > 0 {
                    failures = 0;
                    backoff.reset();
                }
                match ended {
                    Ended::Abandoned => return,
                    Ended::Expired => {
                        tracing::info!(kind = K::KIND, version = self.version, "the watch fell behind: listing again");
                        tokio::time::sleep(backoff.next()).await;
                        break;
                    }
                    Ended::Closed if events > 0 || started.elapsed() > Duration::from_secs(1) => failures = 0,
                    // A server that ends every watch at once, without a word, is not asked in a tight loop.
                    Ended::Closed => tokio::time::sleep(backoff.next()).await,
                    Ended::Failed(reason) => {
                        failures += 1;
                        let pause = backoff.next();
                        tracing::warn!(kind = K::KIND, retry_in = ?pause, "watch of the API server broke: {reason}");
                        tokio::time::sleep(pause).await;
                        if failures >= RELIST_AFTER {
                            break;
                        }
                    }
                }
            }
        }
    }

    /// Lists everything, page by page. `Ok(false)`: the receiver is gone.
    async fn list(&mut self) -> Result<bool, Refusal> {
        let mut params = ListParams { limit: Some(PAGE), field_selector: self.fields.clone(), ..ListParams::default() };
        let mut seen = BTreeSet::new();
        loop {
            let page = tokio::time::timeout(ANSWER, self.api.list(&params))
                .await
                .map_err(|_| Refusal::Failed(format!("no answer within {ANSWER:?}")))?
                .map_err(|error| refusal(&error))?;
            let received = Instant::now();
            let mut changes = Vec::with_capacity(page.items.len());
            for object in page.items {
                if let Ok(key) = object.key() {
                    seen.insert(key);
                }
                changes.extend(self.convert(object));
            }
            let next = page.metadata.continue_.filter(|token| !token.is_empty());
            if next.is_none() {
                let gone: Vec<Key> = self.known.difference(&seen).cloned().collect();
                for key in gone {
                    self.known.remove(&key);
                    changes.push(key.gone());
                }
                self.version = page.metadata.resource_version.unwrap_or_default();
            }
            let listed = next.is_none();
            if !self.report(changes, listed, received).await {
                return Ok(false);
            }
            if listed {
                return Ok(true);
            }
            params.continue_token = next;
        }
    }

    /// Follows changes until the watch ends; says how many events it brought.
    async fn watch(&mut self) -> (u64, Ended) {
        let spread = WATCH_SECONDS.end - WATCH_SECONDS.start;
        let params = WatchParams {
            field_selector: self.fields.clone(),
            timeout: u32::try_from(WATCH_SECONDS.start + random() % spread).ok(),
            bookmarks: true,
            ..WatchParams::default()
        };
        let api = self.api.clone();
        let version = self.version.clone();
        let stream = match tokio::time::timeout(ANSWER, api.watch(&params, &version)).await {
            Err(_) => return (0, Ended::Failed(format!("no answer within {ANSWER:?}"))),
            Ok(Err(error)) => return (0, ended(&error)),
            Ok(Ok(stream)) => stream,
        };
        let mut stream = std::pin::pin!(stream);
        let mut events = 0;
        loop {
            let event = match tokio::time::timeout(SILENCE, stream.try_next()).await {
                Err(_) => return (events, Ended::Failed(format!("not a word within {SILENCE:?}"))),
                Ok(Err(error)) => return (events, ended(&error)),
                Ok(Ok(None)) => return (events, Ended::Closed),
                Ok(Ok(Some(event))) => event,
            };
            let received = Instant::now();
            let change = match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    self.remember(object.meta().resource_version.as_deref());
                    self.convert(object)
                }
                WatchEvent::Deleted(object) => {
                    self.remember(object.meta().resource_version.as_deref());
                    object.key().ok().and_then(|key| self.known.take(&key)).map(Key::gone)
                }
                WatchEvent::Bookmark(bookmark) => {
                    self.remember(Some(&bookmark.metadata.resource_version));
                    None
                }
                WatchEvent::Error(status) if expired(status.code, &status.reason) => return (events, Ended::Expired),
                WatchEvent::Error(status) => return (events, Ended::Failed(format!("{status:?}"))),
            };
            events += 1;
            if let Some(change) = change
                && !self.report(vec![change], false, received).await
            {
                return (events, Ended::Abandoned);
            }
        }
    }

    fn remember(&mut self, version: Option<&str>) {
        if let Some(version) = version.filter(|version| !version.is_empty()) {
            version.clone_into(&mut self.version);
        }
    }

    /// An object that makes no sense is reported; what was last good of it stays.
    fn convert(&mut self, object: K) -> Option<Change> {
        let key = object.key();
        match (object.convert(), key) {
            (Ok(Some(change)), Ok(key)) => {
                self.known.insert(key);
                Some(change)
            }
            (Ok(_), Ok(key)) => self.known.take(&key).map(Key::gone),
            (Err(error), _) | (_, Err(error)) => {
                tracing::warn!("{error}; what was last good of it stays in force");
                None
            }
        }
    }

    /// False when nobody listens any more.
    async fn report(&self, changes: Vec<Change>, listed: bool, received: Instant) -> bool {
        self.sink.send(Report { kind: K::KIND, changes, listed, received }).await.is_ok()
    }
}

// === impl Backoff ===

impl Backoff {
    /// The next pause: doubled each time, half of it by chance.
    fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(BACKOFF_MAX);
        let half = pause / 2;
        half + Duration::from_nanos(random() % u64::try_from(half.as_nanos()).unwrap_or(u64::MAX).max(1))
    }

    fn reset(&mut self) {
        self.0 = BACKOFF_MIN;
    }
}

/// Where RBAC is on, a kind that does not exist is forbidden like every one that was not granted.
fn refusal(error: &kube::Error) -> Refusal {
    match error {
        kube::Error::Api(status) if matches!(status.code, 403 | 404) => Refusal::Absent(chain(error)),
        error => Refusal::Failed(chain(error)),
    }
}

fn ended(error: &kube::Error) -> Ended {
    match error {
        kube::Error::Api(status) if expired(status.code, &status.reason) => Ended::Expired,
        error => Ended::Failed(chain(error)),
    }
}

fn expired(code: u16, reason: &str) -> bool {
    code == 410 || reason == "Expired" || reason == "Gone"
}

/// An error with its causes: "service error" alone helps nobody.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// Chance for jitter; the standard library seeds its hashers from the system's randomness.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
