//! Sends actions to the API server, and what it answers into the cache.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::api::{DeleteParams, GetParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy, Request};
use kube::core::response::Status;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::action::{Action, Notice, Op};
use crate::cache::{Cache, Cached};
use crate::events::Events;
use crate::meta::{self, Key};
use crate::replicaset;

const MANAGER: &str = "thalweg-controllers";
/// Removals under way at the same time, for one owner.
const ABREAST: usize = 16;
/// Creations in the first batch; each batch is twice the one before.
const FIRST_BATCH: usize = 1;

/// Why a step could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("create pods: {0}")]
    CreatePods(#[source] Box<kube::Error>),
    #[error("remove pods: {0}")]
    RemovePods(#[source] Box<kube::Error>),
    #[error("{what}: {source}")]
    Step { what: String, source: Box<kube::Error> },
    /// Not an error but not done either: look again, soon and then less often.
    #[error("{0}")]
    Waiting(String),
}

/// Where steps are taken.
#[derive(Clone)]
pub struct Performer {
    pub client: kube::Client,
    pub cache: Arc<Cache>,
    pub events: Events,
}

// === impl Error ===

impl Error {
    pub fn step(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let what = what.into();
        move |source| Self::Step { what, source: Box::new(source) }
    }

    /// Somebody was faster, or we looked at an old state: nothing that an operator has to know.
    pub fn expected(&self) -> bool {
        match self {
            Self::Step { source, .. } | Self::CreatePods(source) | Self::RemovePods(source) => {
                status(source).is_some_and(|status| status.code == 409 || status.code == 404)
            }
            Self::Waiting(_) => true,
        }
    }
}

/// The server's own words about a request that it refused.
pub fn status(error: &kube::Error) -> Option<&Status> {
    match error {
        kube::Error::Api(status) => Some(status),
        _ => None,
    }
}

pub fn not_found(error: &kube::Error) -> bool {
    status(error).is_some_and(|status| status.code == 404)
}

/// Refused because the namespace is on its way out: there is nothing left to do.
fn ending(error: &kube::Error) -> bool {
    status(error).is_some_and(|status| {
        let caused =
            status.details.iter().flat_map(|details| &details.causes).any(|cause| cause.reason == "NamespaceTerminating");
        status.code == 403 && (caused || status.message.contains("being terminated"))
    })
}

// === impl Performer ===

impl Performer {
    /// Takes the steps in order; answers when to look again.
    ///
    /// # Errors
    /// At the first step that fails; what was done before it stays done.
    pub async fn perform(&self, actions: Vec<Action>) -> Result<Option<Duration>, Error> {
        let mut again: Option<Duration> = None;
        for action in actions {
            match action {
                Action::Deployment(op) => self.op(op).await?,
                Action::ReplicaSet(op) => self.op(op).await?,
                Action::Pod(op) => self.op(op).await?,
                Action::Slice(op) => self.op(op).await?,
                Action::Endpoints(op) => self.op(op).await?,
                Action::Node(op) => self.op(op).await?,
                Action::Namespace(op) => self.op(op).await?,
                Action::ServiceAccount(op) => self.op(op).await?,
                Action::ConfigMap(op) => self.send(&op).await.map(drop).map_err(Error::step(op_name(&op)))?,
                Action::Pods { pod, count, owner } => self.create_pods(&pod, count, &owner).await?,
                Action::RemovePods { pods, owner } => self.remove_pods(pods, &owner).await?,
                Action::Event(notice) => self.events.tell(notice),
                Action::After(delay) => again = again.into_iter().chain([delay]).min(),
            }
        }
        Ok(again)
    }

    async fn op<K: Cached>(&self, op: Op<K>) -> Result<(), Error> {
        let what = op_name(&op);
        let answer = self.send(&op).await;
        let (key, uid) = match &op {
            Op::Create(_) => {
                return match answer {
                    Err(error) if ending(&error) => Ok(()),
                    Err(error) => Err(Error::step(what)(error)),
                    Ok(Some(object)) => {
                        self.cache.wrote(object);
                        Ok(())
                    }
                    Ok(None) => Ok(()),
                };
            }
            Op::Edit { key, uid, .. }
            | Op::Status { key, uid, .. }
            | Op::Conditions { key, uid, .. }
            | Op::Remove { key, uid, .. } => (key, uid),
        };
        match answer {
            Ok(Some(object)) if !matches!(op, Op::Remove { .. }) || meta::deleting(object.meta()) => self.cache.wrote(object),
            Ok(_) => self.cache.removed::<K>(key, uid),
            Err(error) if not_found(&error) => self.cache.removed::<K>(key, uid),
            Err(error) => return Err(Error::step(what)(error)),
        }
        Ok(())
    }

    /// The request of one write. `None` when the server answers with a Status, as after a removal.
    async fn send<K>(&self, op: &Op<K>) -> kube::Result<Option<K>>
    where
        K: kube::Resource<DynamicType = ()> + serde::Serialize + DeserializeOwned,
    {
        let (posting, patching) =
            (PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() }, PatchParams::apply(MANAGER));
        let request = |key: &Key| Request::new(K::url_path(&(), Some(key.namespace.as_str()).filter(|name| !name.is_empty())));
        let http = match op {
            Op::Create(object) => {
                let body = serde_json::to_vec(object).map_err(kube::Error::SerdeError)?;
                request(&Key::of(object.meta())).create(&posting, body)
            }
            Op::Edit { key, patch, .. } => request(key).patch(&key.name, &patching, &Patch::Merge(patch)),
            Op::Status { key, patch, .. } => {
                request(key).patch_subresource("status", &key.name, &patching, &Patch::Merge(patch))
            }
            Op::Conditions { key, patch, .. } => {
                request(key).patch_subresource("status", &key.name, &patching, &Patch::Strategic(patch))
            }
            Op::Remove { key, uid, grace } => {
                let how = DeleteParams {
                    grace_period_seconds: *grace,
                    propagation_policy: Some(PropagationPolicy::Background),
                    preconditions: Some(Preconditions { uid: Some(uid.clone()), resource_version: None }),
                    ..DeleteParams::default()
                };
                request(key).delete(&key.name, &how)
            }
        };
        let answer: Value = self.client.request(http.map_err(kube::Error::BuildRequest)?).await?;
        if answer["kind"] == "Status" {
            return Ok(None);
        }
        serde_json::from_value(answer).map(Some).map_err(kube::Error::SerdeError)
    }

    /// Reads an object afresh; `None` when it is not there.
    pub async fn get<K: Cached>(&self, key: &Key) -> kube::Result<Option<K>> {
        let request = Request::new(K::names().path(&key.namespace));
        let http = if K::metadata_api() {
            request.get_metadata(&key.name, &GetParams::default())
        } else {
            request.get(&key.name, &GetParams::default())
        };
        match self.client.request(http.map_err(kube::Error::BuildRequest)?).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if not_found(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Batches that double: when something is wrong with the pods, a few refusals are enough to learn it.
    async fn create_pods(&self, pod: &Pod, count: usize, owner: &ObjectReference) -> Result<(), Error> {
        let (mut left, mut batch) = (count, FIRST_BATCH);
        while left > 0 {
            let size = batch.min(left);
            let tries = (0..size).map(|_| async {
                let created: kube::Result<Option<Pod>> = self.send(&Op::Create(Box::new(pod.clone()))).await;
                created
            });
            let mut failed = None;
            let mut answers = futures::stream::iter(tries).buffer_unordered(ABREAST);
            while let Some(answer) = answers.next().await {
                match answer {
                    Ok(Some(created)) => {
                        let message = format!("Created pod: {}", meta::name(&created.metadata));
                        self.events.tell(notice(owner, "SuccessfulCreate", message, false));
                        self.cache.wrote(created);
                    }
                    Ok(None) => {}
                    Err(error) if ending(&error) => return Ok(()),
                    Err(error) => failed = Some(error),
                }
            }
            if let Some(error) = failed {
                self.events.tell(notice(owner, "FailedCreate", format!("Error creating: {}", words(&error)), true));
                return Err(Error::CreatePods(Box::new(error)));
            }
            left -= size;
            batch *= 2;
        }
        Ok(())
    }

    async fn remove_pods(&self, pods: Vec<(Key, String)>, owner: &ObjectReference) -> Result<(), Error> {
        let tries = pods.into_iter().map(|(key, uid)| async move {
            let removed = self.op(Op::<Pod>::Remove { key: key.clone(), uid, grace: None }).await;
            (key, removed)
        });
        let mut answers = futures::stream::iter(tries).buffer_unordered(ABREAST);
        let mut failed = None;
        while let Some((key, answer)) = answers.next().await {
            match answer {
                Ok(()) => self.events.tell(notice(owner, "SuccessfulDelete", format!("Deleted pod: {}", key.name), false)),
                Err(Error::Step { source, .. }) => {
                    self.events.tell(notice(owner, "FailedDelete", format!("Error deleting: {}", words(&source)), true));
                    failed = Some(Error::RemovePods(source));
                }
                Err(other) => failed = Some(other),
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

fn op_name<K: kube::Resource<DynamicType = ()>>(op: &Op<K>) -> String {
    let (verb, key) = match op {
        Op::Create(object) => ("create", &Key::of(object.meta())),
        Op::Edit { key, .. } => ("edit", key),
        Op::Status { key, .. } | Op::Conditions { key, .. } => ("set the status of", key),
        Op::Remove { key, .. } => ("remove", key),
    };
    format!("{verb} {} {key}", K::kind(&()))
}

/// What the server said, without our own frame around it.
pub fn words(error: &kube::Error) -> String {
    status(error).map_or_else(|| error.to_string(), |status| status.message.clone())
}

fn notice(owner: &ObjectReference, reason: &'static str, message: String, warning: bool) -> Notice {
    Notice { about: owner.clone(), component: replicaset::COMPONENT, warning, reason, message }
}
