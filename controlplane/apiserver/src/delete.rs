//! Deleting: at once, after a grace period (pods), or when the finalizers are gone; one object or a collection.

use futures::{StreamExt as _, TryStreamExt as _, stream};
use http::StatusCode;
use serde_json::{Value, json};
use thalweg_store::{Outcome, Txn};

use crate::api::Api;
use crate::body::{self, Document, Format};
use crate::change::Subject;
use crate::kinds::{self, Kind};
use crate::object;
use crate::prepare;
use crate::query::Query;
use crate::respond::List;
use crate::route::Call;
use crate::status::{self, ApiError, Result};
use crate::write::{RETRIES, Validation, Written, decode};

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";
const DEFAULT_GRACE: u64 = 30;
/// Namespaces that a cluster cannot do without.
const IMMORTAL: &[&str] = &["default", "kube-system", "kube-public"];

#[derive(Clone, Debug, Default)]
pub(crate) struct DeleteOptions {
    pub grace: Option<u64>,
    pub propagation: Option<String>,
    pub uid: Option<String>,
    pub revision: Option<String>,
    pub dry_run: bool,
}

/// What deleting means for one object as it is now.
enum Step {
    /// Remove it.
    Remove,
    /// Write this and wait.
    Mark(Value),
    /// It is on its way already.
    Nothing,
}

// === impl DeleteOptions ===

impl DeleteOptions {
    pub(crate) fn of(document: Option<Document>, query: &Query) -> Result<Self> {
        let mut options = Self {
            grace: query.number("gracePeriodSeconds")?,
            propagation: Some(query.get("propagationPolicy").to_owned()).filter(|policy| !policy.is_empty()),
            dry_run: query.dry_run()?,
            ..Self::default()
        };
        if query.flag("orphanDependents") {
            options.propagation = Some("Orphan".into());
        }
        if let Some(document) = document {
            let (mut given, _) = decode(kinds::delete_options(), without_group(document), Validation::Ignore)?;
            let mut text =
                |pointer: &str| given.pointer_mut(pointer).and_then(|value| value.take().as_str().map(str::to_owned));
            options.propagation = text("/propagationPolicy").or(options.propagation);
            options.uid = text("/preconditions/uid");
            options.revision = text("/preconditions/resourceVersion");
            let grace = given["gracePeriodSeconds"].as_i64();
            if grace.is_some_and(|grace| grace < 0) {
                return Err(ApiError::bad_request("gracePeriodSeconds must not be negative"));
            }
            options.grace = grace.and_then(|grace| u64::try_from(grace).ok()).or(options.grace);
            options.dry_run |= given["dryRun"].as_array().is_some_and(|list| list.contains(&json!("All")));
            if given["orphanDependents"] == json!(true) {
                options.propagation = Some("Orphan".into());
            }
        }
        match options.propagation.as_deref() {
            None | Some("Foreground" | "Background" | "Orphan") => Ok(options),
            Some(other) => Err(ApiError::bad_request(format!(
                "invalid propagationPolicy {other:?}: the values are Foreground, Background and Orphan"
            ))),
        }
    }

    fn preconditions(&self, kind: &Kind, object: &Value) -> Result<()> {
        let name = object::name(object);
        for (what, wanted, field) in [("UID", &self.uid, "uid"), ("ResourceVersion", &self.revision, "resourceVersion")] {
            let found = object::meta(object, field);
            if let Some(wanted) = wanted
                && wanted != found
            {
                return Err(ApiError::precondition(kind, name, what, wanted, found));
            }
        }
        Ok(())
    }

    /// The next step of deleting `object`. Pure.
    fn step(&self, kind: &Kind, object: &Value) -> Result<Step> {
        let name = object::name(object);
        let held = prepare_finalizers(object, self.propagation.as_deref());
        let grace = if kind.graceful { self.grace_of(object) } else { 0 };
        let already = object::deleting(object);
        if kind.kind == "Namespace" {
            if IMMORTAL.contains(&name) {
                let message = format!("namespaces \"{name}\" is forbidden: this namespace may not be deleted");
                return Err(ApiError::forbidden(Some(kind), name, message));
            }
            let busy = object["spec"]["finalizers"].as_array().is_some_and(|list| !list.is_empty());
            if busy && already {
                let why = "The system is ensuring all content is removed from this namespace.  Upon completion, this namespace \
                           will automatically be purged by the system.";
                return Err(ApiError::conflict(kind, name, why));
            }
            if busy {
                return Ok(Step::Mark(marked(kind, object, &held, 0)));
            }
        }
        if held.is_empty() && grace == 0 {
            return Ok(Step::Remove);
        }
        let before = object["metadata"]["deletionGracePeriodSeconds"].as_u64().unwrap_or(0);
        let unchanged = object::finalizers(object) == held.iter().map(String::as_str).collect::<Vec<_>>();
        if already && before <= grace && unchanged {
            return Ok(Step::Nothing);
        }
        Ok(Step::Mark(marked(kind, object, &held, if already { grace.min(before) } else { grace })))
    }

    /// The grace period of a pod: none where no kubelet has to stop anything.
    fn grace_of(&self, pod: &Value) -> u64 {
        let unscheduled = pod["spec"]["nodeName"].as_str().unwrap_or_default().is_empty();
        let finished = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        if unscheduled || finished {
            return 0;
        }
        self.grace.or_else(|| pod["spec"]["terminationGracePeriodSeconds"].as_u64()).unwrap_or(DEFAULT_GRACE)
    }
}

/// Clients send DeleteOptions in the version of the group they delete from; all mean the same.
fn without_group(mut document: Document) -> Document {
    if let Some(map) = document.value.as_object_mut() {
        map.remove("apiVersion");
    }
    document
}

/// The finalizers that an object has once deletion with this policy has begun.
fn prepare_finalizers(object: &Value, propagation: Option<&str>) -> Vec<String> {
    let mut held: Vec<String> = object::finalizers(object).into_iter().map(str::to_owned).collect();
    let ours = match propagation {
        None => return held,
        Some("Foreground") => Some(FOREGROUND),
        Some("Orphan") => Some(ORPHAN),
        Some(_) => None,
    };
    held.retain(|finalizer| ![FOREGROUND, ORPHAN].contains(&finalizer.as_str()) || Some(finalizer.as_str()) == ours);
    if let Some(ours) = ours
        && !held.iter().any(|finalizer| finalizer == ours)
    {
        held.push(ours.to_owned());
    }
    held
}

fn marked(kind: &Kind, object: &Value, finalizers: &[String], grace: u64) -> Value {
    let mut object = object.clone();
    let metadata = object::metadata_mut(&mut object);
    match finalizers {
        [] => metadata.remove("finalizers"),
        finalizers => metadata.insert("finalizers".into(), json!(finalizers)),
    };
    prepare::begin_deletion(kind, &mut object, grace);
    object
}

// === impl Api ===

impl Api {
    pub(crate) fn delete_options(&self, bytes: &[u8], format: Format, query: &Query) -> Result<DeleteOptions> {
        let document = match bytes.is_empty() {
            true => None,
            false => Some(body::parse(bytes, format)?),
        };
        DeleteOptions::of(document, query)
    }

    pub(crate) async fn delete(&self, call: &Call, options: &DeleteOptions) -> Result<Written> {
        self.delete_one(call.subject(), options).await
    }

    pub(crate) async fn delete_one(&self, subject: Subject<'_>, options: &DeleteOptions) -> Result<Written> {
        let Subject { kind, namespace, name } = subject;
        for _ in 0..RETRIES {
            let item = self.find(kind, namespace, name).await?;
            let object = object::decode_item(&item)?;
            options.preconditions(kind, &object)?;
            let uid = object::meta(&object, "uid");
            // What is left of the object, or nothing.
            let (txn, left) = match options.step(kind, &object)? {
                Step::Nothing => return Ok(Written::value(kind, StatusCode::OK, &object)),
                Step::Remove => (Txn::delete(item.key.clone(), item.mod_revision), None),
                Step::Mark(marked) => {
                    let txn = Txn::replace(item.key.clone(), item.mod_revision, object::encode(kind, &marked)?);
                    (txn, Some(marked))
                }
            };
            let revision = match options.dry_run {
                true => item.mod_revision,
                false => match self.store.txn(txn).await? {
                    Outcome::Conflict(_) => continue,
                    Outcome::Committed(revision) => revision,
                },
            };
            return Ok(match left {
                Some(mut marked) => {
                    marked["metadata"]["resourceVersion"] = json!(revision.to_string());
                    Written::value(kind, StatusCode::OK, &marked)
                }
                None => {
                    if !options.dry_run {
                        self.released(kind, &object);
                    }
                    match kind.graceful {
                        true => Written::value(kind, StatusCode::OK, &object),
                        false => Written::status(StatusCode::OK, &status::deleted(kind, name, uid)),
                    }
                }
            });
        }
        Err(ApiError::modified(kind, name))
    }

    pub(crate) async fn delete_collection(&self, call: &Call, query: &Query, options: &DeleteOptions) -> Result<List> {
        let list = self.list(call, query).await?;
        let names: Vec<(String, String)> = list
            .items
            .iter()
            .filter_map(|item| serde_json::from_slice::<Value>(item).ok())
            .map(|object| (object::name(&object).to_owned(), object::meta(&object, "namespace").to_owned()))
            .collect();
        // Some at a time, so that the store commits them in groups.
        stream::iter(names)
            .map(|(name, namespace)| async move {
                let subject = Subject { kind: call.kind, namespace: &namespace, name: &name };
                match self.delete_one(subject, options).await {
                    Err(error) if error.code() == StatusCode::NOT_FOUND => Ok(()),
                    result => result.map(|_| ()),
                }
            })
            .buffer_unordered(32)
            .try_collect::<()>()
            .await?;
        Ok(list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(kind_name: &str, object: &Value, options: &DeleteOptions) -> String {
        let kind = kinds::all().iter().find(|kind| kind.kind == kind_name).unwrap();
        match options.step(kind, object) {
            Err(error) => error.code().as_u16().to_string(),
            Ok(Step::Remove) => "remove".into(),
            Ok(Step::Nothing) => "nothing".into(),
            Ok(Step::Mark(marked)) => {
                format!("mark {} {}", marked["metadata"]["deletionGracePeriodSeconds"], object::finalizers(&marked).join(","))
            }
        }
    }

    #[test]
    fn deleting_is_a_step_at_a_time() {
        let options = |grace: Option<u64>, policy: &str| DeleteOptions {
            grace,
            propagation: Some(policy.to_owned()).filter(|policy| !policy.is_empty()),
            ..DeleteOptions::default()
        };
        let check = |kind: &str, object: Value, grace: Option<u64>, policy: &str, expected: &str| {
            assert_eq!(step(kind, &object, &options(grace, policy)), expected, "{kind} {object} {grace:?} {policy}");
        };
        let pod = |extra: Value| {
            let base = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 20}, "status": {}});
            crate::patch::merge_patch(&base, &extra)
        };
        check("Pod", pod(json!({})), None, "", "mark 20 ");
        check("Pod", pod(json!({})), Some(5), "", "mark 5 ");
        check("Pod", pod(json!({})), Some(0), "", "remove");
        check("Pod", pod(json!({"spec": {"nodeName": null}})), None, "", "remove");
        check("Pod", pod(json!({"status": {"phase": "Succeeded"}})), None, "", "remove");
        let dying = json!({"metadata": {"deletionTimestamp": "t", "deletionGracePeriodSeconds": 20}});
        check("Pod", pod(dying.clone()), None, "", "nothing");
        check("Pod", pod(dying.clone()), Some(40), "", "nothing");
        check("Pod", pod(dying.clone()), Some(3), "", "mark 3 ");
        check("Pod", pod(dying), Some(0), "", "remove");
        check("Pod", pod(json!({"metadata": {"finalizers": ["f"]}})), Some(0), "", "mark 0 f");

        let deployment = json!({"metadata": {"name": "d"}});
        check("Deployment", deployment.clone(), None, "", "remove");
        check("Deployment", deployment.clone(), None, "Background", "remove");
        check("Deployment", deployment.clone(), None, "Foreground", "mark 0 foregroundDeletion");
        check("Deployment", deployment, None, "Orphan", "mark 0 orphan");
        let marked = json!({"metadata": {"name": "d", "deletionTimestamp": "t", "finalizers": ["foregroundDeletion"]}});
        check("Deployment", marked.clone(), None, "Foreground", "nothing");
        check("Deployment", marked, None, "Background", "remove");

        let namespace = json!({"metadata": {"name": "n"}, "spec": {"finalizers": ["kubernetes"]}, "status": {}});
        check("Namespace", namespace.clone(), None, "", "mark 0 ");
        check(
            "Namespace",
            crate::patch::merge_patch(&namespace, &json!({"metadata": {"deletionTimestamp": "t"}})),
            None,
            "",
            "409",
        );
        check("Namespace", json!({"metadata": {"name": "default"}}), None, "", "403");
    }

    #[test]
    fn options_come_from_the_body_and_the_query() {
        let check = |body: Value, query: &str, grace: Option<u64>, policy: Option<&str>| {
            let document = (!body.is_null()).then(|| Document { value: body.clone(), duplicates: vec![] });
            let options = DeleteOptions::of(document, &Query::parse(query)).unwrap();
            assert_eq!((options.grace, options.propagation.as_deref()), (grace, policy), "{body} {query}");
        };
        check(Value::Null, "", None, None);
        check(Value::Null, "gracePeriodSeconds=0&propagationPolicy=Orphan", Some(0), Some("Orphan"));
        check(json!({"kind": "DeleteOptions", "apiVersion": "apps/v1", "gracePeriodSeconds": 7}), "", Some(7), None);
        check(json!({"propagationPolicy": "Background"}), "propagationPolicy=Orphan", None, Some("Background"));
        let wrong = Document { value: json!({"propagationPolicy": "Sideways"}), duplicates: vec![] };
        assert_eq!(DeleteOptions::of(Some(wrong), &Query::default()).unwrap_err().code(), 400);
        let negative = Document { value: json!({"gracePeriodSeconds": -1}), duplicates: vec![] };
        assert_eq!(DeleteOptions::of(Some(negative), &Query::default()).unwrap_err().code(), 400);
    }
}
