//! Reading: one object, and lists by page, revision and selector.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use thalweg_store::{KeyValue, Range, StoreError};

use crate::api::Api;
use crate::kinds::Kind;
use crate::object;
use crate::query::Query;
use crate::respond::List;
use crate::route::Call;
use crate::select::{FieldSelector, LabelSelector};
use crate::status::{ApiError, Result};

/// How long a read waits for a revision that the store has not reached.
const FUTURE_WAIT: Duration = Duration::from_secs(3);

/// Which objects of a collection are meant.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selection {
    pub labels: LabelSelector,
    pub fields: FieldSelector,
}

/// Where a list goes on: `rv` 0 is "at the present", for clients that came too late and chose to go on inconsistently.
struct Token {
    revision: u64,
    after: String,
}

/// The part of an object that label selectors look at.
#[derive(Deserialize)]
struct Labelled {
    metadata: Labels,
}

#[derive(Deserialize)]
struct Labels {
    #[serde(default)]
    labels: Map<String, Value>,
}

/// Where an object lives in the store.
pub(crate) fn key(kind: &Kind, namespace: &str, name: &str) -> Bytes {
    let mut key = prefix_text(kind, namespace);
    key.push_str(name);
    key.into()
}

/// Where the objects of a kind live: of one namespace, or of all when it is empty.
pub(crate) fn prefix(kind: &Kind, namespace: &str) -> Bytes {
    prefix_text(kind, namespace).into()
}

fn prefix_text(kind: &Kind, namespace: &str) -> String {
    let resource = kind.group_resource();
    if namespace.is_empty() { format!("/registry/{resource}/") } else { format!("/registry/{resource}/{namespace}/") }
}

// === impl Selection ===

impl Selection {
    pub(crate) fn of(kind: &Kind, query: &Query) -> Result<Self> {
        let wrong = |error: crate::select::SelectError| ApiError::bad_request(error.to_string());
        let labels = query.get("labelSelector").parse().map_err(wrong)?;
        let fields: FieldSelector = query.get("fieldSelector").parse().map_err(wrong)?;
        fields.check(kind).map_err(wrong)?;
        Ok(Self { labels, fields })
    }

    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }

    pub(crate) fn matches(&self, kind: &Kind, object: &Value) -> bool {
        self.labels.matches_object(object) && self.fields.matches(kind, object)
    }

    fn matches_stored(&self, kind: &Kind, stored: &[u8]) -> bool {
        if self.is_everything() {
            return true;
        }
        if self.fields.is_everything() {
            return serde_json::from_slice::<Labelled>(stored).is_ok_and(|object| self.labels.matches(&object.metadata.labels));
        }
        serde_json::from_slice(stored).is_ok_and(|object| self.matches(kind, &object))
    }
}

// === impl Token ===

impl Token {
    fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(json!({"v": "meta.k8s.io/v1", "rv": self.revision, "start": self.after}).to_string())
    }

    fn decode(text: &str) -> Result<Self> {
        let parsed = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok();
        let value: Option<Value> = parsed.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        value
            .as_ref()
            .and_then(|value| Some(Self { revision: value["rv"].as_u64()?, after: value["start"].as_str()?.to_owned() }))
            .ok_or_else(|| ApiError::bad_request(format!("continue key is not valid: {text:?}")))
    }
}

/// Parses a resourceVersion parameter; "" is `None`.
pub(crate) fn revision(text: &str) -> Result<Option<u64>> {
    match text {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| {
            ApiError::invalid_options("resourceVersion", &format!("Invalid value: {text:?}: strconv.ParseUint: invalid syntax"))
        }),
    }
}

// === impl Api ===

impl Api {
    /// The stored object, or 404.
    pub(crate) async fn find(&self, kind: &Kind, namespace: &str, name: &str) -> Result<KeyValue> {
        let found = self.store.get(&key(kind, namespace, name), None).await?;
        found.item.ok_or_else(|| ApiError::not_found(kind, name))
    }

    pub(crate) async fn get(&self, call: &Call, query: &Query) -> Result<Bytes> {
        if let Some(at_least) = revision(query.get("resourceVersion"))? {
            self.reach(at_least).await?;
        }
        let item = self.find(call.kind, &call.namespace, &call.name).await?;
        Ok(object::spliced(call.kind, &item))
    }

    pub(crate) async fn list(&self, call: &Call, query: &Query) -> Result<List> {
        let kind = call.kind;
        let selection = Selection::of(kind, query)?;
        let limit = query.number("limit")?.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(0);
        let (mut at, mut after) = self.list_from(query, limit).await?;
        if let Some(name) = selection.fields.pinned("metadata.name")
            && (!call.namespace.is_empty() || !kind.namespaced)
        {
            return self.list_one(call, &selection, name, at).await;
        }
        let prefix = prefix(kind, &call.namespace);
        after = after.map(|after| Bytes::from([&prefix[..], &after[..]].concat()));
        let mut list = List { revision: 0, token: None, remaining: None, items: Vec::new() };
        loop {
            // With a selector a page of the store may give less than a page of the answer: go on until it is full.
            let range = Range { prefix: prefix.clone(), start_after: after.take(), limit, at };
            let page = self.store.range(range).await.map_err(|error| expired(error, query))?;
            list.revision = page.revision;
            at = Some(page.revision);
            let last = page.items.last().map(|item| item.key.clone());
            let mut rest = page.items.len() as u64 + page.remaining;
            for item in page.items {
                rest -= 1;
                if selection.matches_stored(kind, &item.value) {
                    list.items.push(object::spliced(kind, &item));
                }
                if limit > 0 && list.items.len() == limit && rest > 0 {
                    let after = String::from_utf8_lossy(item.key.strip_prefix(&prefix[..]).unwrap_or_default()).into_owned();
                    list.token = Some(Token { revision: page.revision, after }.encode());
                    list.remaining = selection.is_everything().then_some(rest);
                    return Ok(list);
                }
            }
            if rest == 0 || last.is_none() {
                return Ok(list);
            }
            after = last;
        }
    }

    /// A list whose selector names the object is a look-up.
    async fn list_one(&self, call: &Call, selection: &Selection, name: &str, at: Option<u64>) -> Result<List> {
        let found = self.store.get(&key(call.kind, &call.namespace, name), at).await?;
        let item = found.item.filter(|item| selection.matches_stored(call.kind, &item.value));
        let items = item.iter().map(|item| object::spliced(call.kind, item)).collect();
        Ok(List { revision: found.revision, token: None, remaining: None, items })
    }

    /// The revision a list shows (`None`: the present) and the key (below the prefix) it starts after, from the options of the request.
    async fn list_from(&self, query: &Query, limit: usize) -> Result<(Option<u64>, Option<Bytes>)> {
        let asked = revision(query.get("resourceVersion"))?;
        let how = query.get("resourceVersionMatch");
        let token = query.get("continue");
        if !token.is_empty() {
            if !how.is_empty() {
                return Err(ApiError::invalid_options(
                    "resourceVersionMatch",
                    "Forbidden: resourceVersionMatch is forbidden when continue is provided",
                ));
            }
            if asked.is_some_and(|asked| asked != 0) {
                return Err(ApiError::bad_request("specifying resource version is not allowed when using continue"));
            }
            let token = Token::decode(token)?;
            let at = (token.revision != 0).then_some(token.revision);
            return Ok((at, Some(token.after.into())));
        }
        match (how, asked) {
            ("", None) => Ok((None, None)),
            ("", Some(revision)) => {
                self.reach(revision).await?;
                // By tradition a first page with a revision is exactly that revision, a whole list at least it.
                Ok(((limit > 0 && revision > 0).then_some(revision), None))
            }
            (_, None) => Err(ApiError::invalid_options(
                "resourceVersionMatch",
                "Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
            )),
            ("NotOlderThan", Some(revision)) => {
                self.reach(revision).await?;
                Ok((None, None))
            }
            ("Exact", Some(0)) => Err(ApiError::invalid_options(
                "resourceVersionMatch",
                "Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
            )),
            ("Exact", Some(revision)) => {
                self.reach(revision).await?;
                Ok((Some(revision), None))
            }
            (other, Some(_)) => Err(ApiError::invalid_options(
                "resourceVersionMatch",
                &format!("Unsupported value: {other:?}: supported values: \"Exact\", \"NotOlderThan\""),
            )),
        }
    }

    /// Waits until the store has reached a revision; 504 when it does not come.
    pub(crate) async fn reach(&self, revision: u64) -> Result<()> {
        let deadline = tokio::time::Instant::now() + FUTURE_WAIT;
        loop {
            let current = self.store.revision().await?;
            if current >= revision {
                return Ok(());
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(ApiError::revision_too_large(revision, current));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// A page that came too late gets a token with which the list goes on at the present.
fn expired(error: StoreError, query: &Query) -> ApiError {
    let token = query.get("continue");
    match (&error, Token::decode(token)) {
        (StoreError::Compacted { .. }, Ok(token)) => ApiError::expired(
            "The provided continue parameter is too old to display a consistent list result. You can start a new list without \
             the continue parameter, or use the continue token in this response to retrieve the remainder of the results. \
             Continuing with the provided token results in an inconsistent list - objects that were created, modified, or \
             deleted between the time the first chunk was returned and now may show up in the list.",
            Some(Token { revision: 0, ..token }.encode()),
        ),
        (StoreError::Compacted { .. }, _) => ApiError::expired("The resourceVersion for the provided list is too old.", None),
        _ => error.into(),
    }
}
