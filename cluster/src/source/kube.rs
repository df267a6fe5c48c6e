//! The source that lists and watches an API server.
//!
//! One task per kind: a paged list, then watches from the version it ended with, for ever. A watch that breaks is
//! taken up where it was; one that is too old is listed again in place: names that the new list lacks are removed,
//! the rest is sent again and found equal by the [`World`](crate::World), so nothing flaps.

#[cfg(test)]
mod tests;

mod connect;
mod item;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use self::connect::{Connector, Session};
use self::item::Item;
use super::convert::{Follow, Key};
use super::merge::{Report, merge};
use super::{KubeOptions, ServiceScope, SourceError};
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

/// So many lists of an optional kind fail before nobody waits for it any longer.
const OPTIONAL_TRIES: u32 = 3;

/// What kube-proxy asks for, of services and their slices alike: slices carry the labels of their service.
const NOT_HEADLESS_AND_OURS: &str = "!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name";

/// How often a kind that the API server did not have is asked for again: it may have been upgraded since.
const ABSENT_RETRY: Duration = Duration::from_secs(300);

/// Whether a cluster may do without a kind.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    Required,
    /// Younger than the oldest cluster that is served, or not granted to everybody: what is not there counts as synced.
    Optional,
}

/// A request that failed: what matters for what to do next, and words for the operator.
struct Failed {
    cause: Cause,
    reason: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cause {
    /// The version or the page is no longer there: list again.
    Expired,
    /// The credentials are not, or no longer, good.
    Credentials,
    /// No such kind, or not for us: where RBAC is on, both are answered alike.
    Absent,
    /// No answer of an API server at all.
    Unreachable,
    /// The server has a problem.
    Server,
}

/// Why a watch ended.
enum Ended {
    /// In peace: go on from the same version.
    Closed,
    Failed(Failed),
    /// The receiver of the reports is gone.
    Abandoned,
}

/// One kind being followed.
struct Watch<K> {
    connector: Arc<Connector>,
    session: Session,
    api: Api<Item<K>>,
    need: Need,
    selectors: Selectors,
    sink: mpsc::Sender<Report>,
    /// What has been reported and not yet removed.
    known: BTreeSet<Key>,
    version: String,
}

/// Which objects of a kind: all, if neither is said.
#[derive(Clone, Default)]
struct Selectors {
    fields: Option<String>,
    labels: Option<&'static str>,
}

struct Backoff(Duration);

pub(crate) async fn run(options: KubeOptions, sink: mpsc::Sender<Batch>) -> Result<(), SourceError> {
    let connector = Connector::open(&options, SILENCE).await?;
    follow(connector, &options, sink).await;
    Ok(())
}

/// Follows every kind until the receiver is gone.
async fn follow(connector: Connector, options: &KubeOptions, sink: mpsc::Sender<Batch>) {
    let connector = Arc::new(connector);
    let (reports, input) = mpsc::channel(256);
    let mut tasks = JoinSet::new();
    let all = Selectors::default();
    let services = match options.services {
        ServiceScope::All => all.clone(),
        ServiceScope::Proxied => Selectors { labels: Some(NOT_HEADLESS_AND_OURS), ..Selectors::default() },
    };
    tasks.spawn(Watch::<Service>::new(&connector, Need::Required, &services, &reports).await.run());
    tasks.spawn(Watch::<EndpointSlice>::new(&connector, Need::Required, &services, &reports).await.run());
    // All nodes, where kube-proxy follows its own: of an external IP, ports that no service has are refused, but not when the
    // address is a node's. Nodes change rarely: their heartbeats are leases.
    tasks.spawn(Watch::<Node>::new(&connector, Need::Required, &all, &reports).await.run());
    tasks.spawn(Watch::<ServiceCIDR>::new(&connector, Need::Optional, &all, &reports).await.run());
    if options.pods {
        let own = Selectors { fields: Some(format!("spec.nodeName={}", options.node)), ..Selectors::default() };
        // The rights of kube-proxy, which a service proxy may have inherited, do not extend to pods: it does without what
        // they say of themselves.
        tasks.spawn(Watch::<Pod>::new(&connector, Need::Optional, &own, &reports).await.run());
    }
    drop(reports);
    let kinds = tasks.len();
    merge(input, kinds, sink).await;
    // Dropping the set ends the watches.
}

// === impl Watch ===

impl<K> Watch<K>
where
    K: Follow + Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    async fn new(connector: &Arc<Connector>, need: Need, selectors: &Selectors, sink: &mpsc::Sender<Report>) -> Self {
        let session = connector.session().await;
        Self {
            connector: Arc::clone(connector),
            api: Api::all(session.client.clone()),
            session,
            need,
            selectors: selectors.clone(),
            sink: sink.clone(),
            known: BTreeSet::new(),
            version: String::new(),
        }
    }

    async fn run(mut self) {
        let mut backoff = Backoff(BACKOFF_MIN);
        let mut failures = 0;
        loop {
            match self.list().await {
                Ok(true) => failures = 0,
                Ok(false) => return,
                Err(Failed { cause: Cause::Absent, reason }) if self.need == Need::Optional => {
                    tracing::info!(kind = K::KIND, retry_in = ?ABSENT_RETRY, "not offered by the API server, doing without: {reason}");
                    if !self.report(Vec::new(), true, Instant::now()).await {
                        return;
                    }
                    tokio::time::sleep(ABSENT_RETRY).await;
                    continue;
                }
                Err(Failed { cause, reason }) => {
                    let pause = backoff.next();
                    tracing::warn!(kind = K::KIND, retry_in = ?pause, "cannot list from the API server: {reason}");
                    failures += 1;
                    if self.need == Need::Optional && failures == OPTIONAL_TRIES {
                        tracing::warn!(kind = K::KIND, "doing without for now: nothing waits for it any longer");
                        if !self.report(Vec::new(), true, Instant::now()).await {
                            return;
                        }
                    }
                    tokio::time::sleep(pause).await;
                    if !matches!(cause, Cause::Expired | Cause::Server) {
                        self.renew().await;
                    }
                    continue;
                }
            }
            if !self.follow(&mut backoff).await {
                return;
            }
        }
    }

    /// Watches, again and again, until a new list is needed. False: the receiver is gone.
    async fn follow(&mut self, backoff: &mut Backoff) -> bool {
        let mut failures = 0;
        while failures < RELIST_AFTER {
            let started = Instant::now();
            let (events, ended) = self.watch().await;
            if events > 0 {
                failures = 0;
                backoff.reset();
            }
            match ended {
                Ended::Abandoned => return false,
                Ended::Closed if events > 0 || started.elapsed() > Duration::from_secs(1) => {
                    failures = 0;
                    backoff.reset();
                }
                // A server that ends every watch at once, without a word, is not asked in a tight loop.
                Ended::Closed => tokio::time::sleep(backoff.next()).await,
                Ended::Failed(Failed { cause: Cause::Expired, .. }) => {
                    tracing::info!(kind = K::KIND, version = self.version, "the watch fell behind: listing again");
                    tokio::time::sleep(backoff.next()).await;
                    return true;
                }
                Ended::Failed(Failed { cause, reason }) => {
                    failures += 1;
                    let pause = backoff.next();
                    tracing::warn!(kind = K::KIND, retry_in = ?pause, "watch of the API server broke: {reason}");
                    tokio::time::sleep(pause).await;
                    if cause == Cause::Credentials {
                        self.renew().await;
                    }
                }
            }
        }
        true
    }

    /// Reads the credentials again: they may have been rotated, or the server may have moved.
    async fn renew(&mut self) {
        self.session = self.connector.renew(&self.session).await;
        self.api = Api::all(self.session.client.clone());
    }

    /// Lists everything, page by page. `Ok(false)`: the receiver is gone.
    ///
    /// The newest state, and not whatever the server's cache has (resourceVersion=0, as client-go begins): that may be older
    /// than what an earlier process has put into the kernel, and comes in one piece, which no page bounds the memory of.
    async fn list(&mut self) -> Result<bool, Failed> {
        let mut params = ListParams {
            limit: Some(PAGE),
            field_selector: self.selectors.fields.clone(),
            label_selector: self.selectors.labels.map(str::to_owned),
            ..ListParams::default()
        };
        let mut seen = BTreeSet::new();
        loop {
            let page = tokio::time::timeout(ANSWER, self.api.list(&params))
                .await
                .map_err(|_| Failed::silent(ANSWER))?
                .map_err(|error| Failed::from(&error))?;
            let received = Instant::now();
            let mut changes = Vec::with_capacity(page.items.len());
            for object in page.items {
                let key = object.key();
                let change = self.convert(object);
                // The name that the object carries itself, rather than another copy of it.
                seen.extend(change.as_ref().map(Key::of).or(key.ok()));
                changes.extend(change);
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
            field_selector: self.selectors.fields.clone(),
            label_selector: self.selectors.labels.map(str::to_owned),
            timeout: u32::try_from(WATCH_SECONDS.start + random() % spread).ok(),
            bookmarks: true,
            ..WatchParams::default()
        };
        let api = self.api.clone();
        let version = self.version.clone();
        let stream = match tokio::time::timeout(ANSWER, api.watch(&params, &version)).await {
            Err(_) => return (0, Ended::Failed(Failed::silent(ANSWER))),
            Ok(Err(error)) => return (0, Ended::Failed(Failed::from(&error))),
            Ok(Ok(stream)) => stream,
        };
        let mut stream = std::pin::pin!(stream);
        let mut events = 0;
        loop {
            let event = match tokio::time::timeout(SILENCE, stream.try_next()).await {
                Err(_) => return (events, Ended::Failed(Failed::silent(SILENCE))),
                Ok(Err(error)) => return (events, Ended::Failed(Failed::from(&error))),
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
                WatchEvent::Error(status) => return (events, Ended::Failed(Failed::from(&kube::Error::Api(status)))),
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
    fn convert(&mut self, object: Item<K>) -> Option<Change> {
        let key = object.key();
        match (object.convert(), key) {
            (Ok(Some(change)), Ok(_)) => {
                self.known.replace(Key::of(&change));
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

// === impl Failed ===

impl Failed {
    fn silent(period: Duration) -> Self {
        Self { cause: Cause::Unreachable, reason: format!("not a word within {period:?}") }
    }
}

impl From<&kube::Error> for Failed {
    fn from(error: &kube::Error) -> Self {
        let cause = match error {
            kube::Error::Api(status) if matches!(status.reason.as_str(), "Expired" | "Gone") => Cause::Expired,
            kube::Error::Api(status) => match status.code {
                410 => Cause::Expired,
                401 => Cause::Credentials,
                403 | 404 => Cause::Absent,
                _ => Cause::Server,
            },
            _ => Cause::Unreachable,
        };
        Self { cause, reason: chain(error) }
    }
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
