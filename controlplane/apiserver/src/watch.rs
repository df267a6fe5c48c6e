//! Watching: changes as a stream of JSON lines. A line is made once per event and shared by all who watch without a selector;
//! with one, the few fields that selectors look at are read once per event.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use serde_json::{Map, Value, json};
use thalweg_store::{Event, KeyValue, Range, Watch, WatchItem};
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::api::Api;
use crate::kinds::Kind;
use crate::negotiate::View;
use crate::object;
use crate::query::Query;
use crate::read::{Selection, prefix, revision};
use crate::respond::{Body, BoxError, Show, partial};
use crate::route::Call;
use crate::status::{ApiError, Result};
use crate::table;

const BOOKMARK_PERIOD: Duration = Duration::from_secs(60);
const MIN_TIMEOUT: u64 = 1800;

/// What is made of an event once, for all watchers.
#[derive(Default)]
struct Rendering {
    line: OnceLock<Option<Bytes>>,
    new: OnceLock<Value>,
    old: OnceLock<Value>,
}

/// One client's watch.
struct Session {
    kind: &'static Kind,
    selection: Selection,
    show: Show,
    watch: Watch,
    initial: std::vec::IntoIter<KeyValue>,
    /// The bookmark that ends the initial events, at this revision.
    initial_end: Option<u64>,
    bookmarks: Option<Interval>,
    deadline: Instant,
    shutdown: CancellationToken,
    /// Table watches send the column definitions with their first row only.
    defined: bool,
    ended: bool,
}

// === impl Api ===

impl Api {
    pub(crate) async fn watch(&self, call: &Call, query: &Query, show: Show) -> Result<Response<Body>> {
        let kind = call.kind;
        let selection = Selection::of(kind, query)?;
        let asked = revision(query.get("resourceVersion"))?.unwrap_or(0);
        let initial_events = query.has("sendInitialEvents").then(|| query.flag("sendInitialEvents"));
        check_options(query, initial_events)?;
        self.reach(asked).await?;

        let prefix = prefix(kind, &call.namespace);
        let wants_state = initial_events.unwrap_or(asked == 0);
        let (from, initial) = if wants_state {
            let page = self.store.range(Range { prefix: prefix.clone(), ..Range::default() }).await?;
            (page.revision, page.items)
        } else if asked == 0 {
            (self.store.revision().await?, Vec::new())
        } else {
            (asked, Vec::new())
        };
        let watch = match self.store.watch(&prefix, from).await {
            Ok(watch) => watch,
            Err(error) => return gone(error.into()),
        };
        let timeout = query.number("timeoutSeconds")?.filter(|seconds| *seconds > 0);
        // Spread, so that clients that came together do not come back together.
        let timeout = timeout.unwrap_or_else(|| MIN_TIMEOUT + object::jitter(MIN_TIMEOUT));
        let bookmarks = query.flag("allowWatchBookmarks").then(|| {
            let mut interval = tokio::time::interval_at(Instant::now() + BOOKMARK_PERIOD, BOOKMARK_PERIOD);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        });
        let session = Session {
            kind,
            selection,
            show,
            watch,
            initial: initial.into_iter(),
            initial_end: (initial_events == Some(true)).then_some(from),
            bookmarks,
            deadline: Instant::now() + Duration::from_secs(timeout),
            shutdown: self.shutdown.clone(),
            defined: false,
            ended: false,
        };
        let lines = stream::unfold(session, |mut session| async move {
            let frame = session.frame().await?;
            Some((Ok::<_, BoxError>(Frame::data(frame)), session))
        });
        Ok(streaming(StreamBody::new(lines).boxed_unsync()))
    }
}

// === impl Session ===

impl Session {
    /// The next line; `None` ends the stream.
    async fn frame(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        match self.ready() {
            Some(line) => Some(line),
            None => self.wait().await,
        }
    }

    /// A line that needs no waiting.
    fn ready(&mut self) -> Option<Bytes> {
        for item in self.initial.by_ref() {
            let object = match object::decode_item(&item) {
                Ok(object) if self.selection.matches(self.kind, &object) => object,
                _ => continue,
            };
            if self.show.accept.view == View::Object {
                return Some(raw_line(self.kind, "ADDED", &item.value, item.mod_revision));
            }
            return Some(self.shown("ADDED", &object));
        }
        if let Some(revision) = self.initial_end.take() {
            return Some(self.bookmark(revision, true));
        }
        while let Some(item) = self.watch.try_next() {
            if let Some(line) = self.line(&item) {
                return Some(line);
            }
        }
        None
    }

    /// The next line, when there is none yet; `None` when the watch is over.
    async fn wait(&mut self) -> Option<Bytes> {
        loop {
            let tick = async {
                match &mut self.bookmarks {
                    Some(interval) => interval.tick().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                item = self.watch.next() => match item {
                    Some(item) => if let Some(line) = self.line(&item) {
                        return Some(line);
                    },
                    None => {
                        self.ended = true;
                        let lost = ApiError::expired("the watch fell behind and lost changes: list again", None);
                        return Some(self.event("ERROR", &lost.to_value()));
                    }
                },
                _ = tick => self.watch.request_progress(),
                () = tokio::time::sleep_until(self.deadline) => return None,
                () = self.shutdown.cancelled() => return None,
            }
        }
    }

    fn line(&mut self, item: &WatchItem) -> Option<Bytes> {
        let event = match item {
            WatchItem::Progress(revision) => return Some(self.bookmark(*revision, false)),
            WatchItem::Event(event) => event,
        };
        let rendering = event.rendering.get_or_init(|| Arc::new(Rendering::default())).clone();
        let rendering = rendering.downcast_ref::<Rendering>()?;
        let (word, item) = if self.selection.is_everything() {
            let (word, item) = change(event.value.is_some(), event.previous.is_some(), event)?;
            if self.show.accept.view == View::Object {
                let made = || Some(raw_line(self.kind, word, &item.value, event.revision));
                return rendering.line.get_or_init(made).clone();
            }
            (word, item)
        } else {
            let facts = |item: &KeyValue| facts(self.kind, &item.value);
            let new = event.value.as_ref().map(|item| rendering.new.get_or_init(|| facts(item)));
            let old = event.previous.as_ref().map(|item| rendering.old.get_or_init(|| facts(item)));
            let matches = |facts: Option<&Value>| facts.is_some_and(|facts| self.selection.matches(self.kind, facts));
            change(matches(new), matches(old), event)?
        };
        if self.show.accept.view == View::Object {
            return Some(raw_line(self.kind, word, &item.value, event.revision));
        }
        let object = object::decode(&item.value, event.revision).ok()?;
        Some(self.shown(word, &object))
    }

    /// A line in another view than the object itself.
    fn shown(&mut self, word: &str, object: &Value) -> Bytes {
        let shown = match self.show.accept.view {
            View::Object => object.clone(),
            View::Metadata(version) => partial(object, version),
            View::Table(version) => {
                let mut table = table::table(self.kind, std::slice::from_ref(object), self.show.include);
                table["apiVersion"] = json!(version);
                table["metadata"] = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
                if std::mem::replace(&mut self.defined, true) {
                    table["columnDefinitions"] = Value::Null;
                }
                table
            }
        };
        self.event(word, &shown)
    }

    fn bookmark(&mut self, revision: u64, end: bool) -> Bytes {
        let mut object = json!({"kind": self.kind.kind, "apiVersion": self.kind.api_version(),
            "metadata": {"resourceVersion": revision.to_string()}});
        if end {
            object["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        match self.show.accept.view {
            View::Metadata(version) => self.event("BOOKMARK", &partial(&object, version)),
            View::Table(version) => {
                let table = json!({"kind": "Table", "apiVersion": version, "metadata": object["metadata"],
                    "columnDefinitions": table::definitions(self.kind), "rows": []});
                self.event("BOOKMARK", &table)
            }
            View::Object => self.event("BOOKMARK", &object),
        }
    }

    fn event(&self, word: &str, object: &Value) -> Bytes {
        format!("{{\"type\":\"{word}\",\"object\":{object}}}\n").into()
    }
}

/// What a change means to a watcher that sees (or not) the object after and before it, and which state shows it.
fn change(after: bool, before: bool, event: &Event) -> Option<(&'static str, &KeyValue)> {
    match (after, before) {
        (true, true) => Some(("MODIFIED", event.value.as_ref()?)),
        (true, false) => Some(("ADDED", event.value.as_ref()?)),
        (false, true) => Some(("DELETED", event.previous.as_ref()?)),
        (false, false) => None,
    }
}

fn raw_line(kind: &Kind, word: &str, stored: &[u8], revision: u64) -> Bytes {
    let mut line = Vec::with_capacity(stored.len() + 96);
    line.extend_from_slice(b"{\"type\":\"");
    line.extend_from_slice(word.as_bytes());
    line.extend_from_slice(b"\",\"object\":");
    object::splice(kind, stored, revision, &mut line);
    line.extend_from_slice(b"}\n");
    line.into()
}

/// An object cut down to what selectors look at, so that keeping it costs little.
fn facts(kind: &Kind, stored: &[u8]) -> Value {
    let Ok(object) = serde_json::from_slice::<Value>(stored) else { return Value::Null };
    let mut facts = json!({});
    for path in
        ["metadata.name", "metadata.namespace", "metadata.labels", "source", "reportingComponent"].iter().chain(kind.fields)
    {
        copy(&object, &mut facts, path);
    }
    facts
}

fn copy(from: &Value, to: &mut Value, path: &str) {
    let (field, rest) = path.split_once('.').map_or((path, None), |(field, rest)| (field, Some(rest)));
    let (Some(from), Some(to)) = (from.get(field), to.as_object_mut()) else { return };
    match rest {
        None => {
            to.insert(field.to_owned(), from.clone());
        }
        Some(rest) => copy(from, to.entry(field).or_insert_with(|| Value::Object(Map::new())), rest),
    }
}

fn check_options(query: &Query, initial_events: Option<bool>) -> Result<()> {
    let how = query.get("resourceVersionMatch");
    let forbidden = |message: &str| Err(ApiError::invalid_options("resourceVersionMatch", &format!("Forbidden: {message}")));
    match (initial_events, how) {
        (None, "") => Ok(()),
        (None, _) => forbidden("resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"),
        (Some(_), "NotOlderThan") => Ok(()),
        (Some(_), _) => forbidden("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"),
    }
}

/// A watch that cannot begin: the error comes as the first and only event, as watch clients expect it.
fn gone(error: ApiError) -> Result<Response<Body>> {
    if error.code() != StatusCode::GONE {
        return Err(error);
    }
    let line = format!("{{\"type\":\"ERROR\",\"object\":{}}}\n", error.to_value());
    Ok(streaming(crate::respond::full(line.into())))
}

fn streaming(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;

    #[test]
    fn facts_are_enough_for_every_selectable_field() {
        let Some(pod) = kinds::by_kind("", "v1", "Pod") else { panic!("pods are served") };
        let object = json!({"metadata": {"name": "a", "namespace": "b", "labels": {"app": "x"}, "uid": "long"},
            "spec": {"nodeName": "n1", "containers": [{"name": "c"}]}, "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}]}});
        let facts = facts(pod, object.to_string().as_bytes());
        assert_eq!(facts["spec"], json!({"nodeName": "n1"}));
        assert!(facts["metadata"].get("uid").is_none());
        for selector in
            ["spec.nodeName=n1", "status.phase=Running", "metadata.name=a", "spec.nodeName=n2", "spec.hostNetwork=false"]
        {
            let selector: crate::select::FieldSelector = selector.parse().unwrap();
            assert_eq!(selector.matches(pod, &facts), selector.matches(pod, &object), "{selector}");
        }
    }

    #[test]
    fn options_that_contradict_are_refused() {
        let check = |text: &str, good: bool| {
            let query = Query::parse(text);
            let initial = query.has("sendInitialEvents").then(|| query.flag("sendInitialEvents"));
            assert_eq!(check_options(&query, initial).is_ok(), good, "{text}");
        };
        check("", true);
        check("resourceVersionMatch=NotOlderThan", false);
        check("sendInitialEvents=true", false);
        check("sendInitialEvents=true&resourceVersionMatch=Exact", false);
        check("sendInitialEvents=true&resourceVersionMatch=NotOlderThan", true);
    }
}
