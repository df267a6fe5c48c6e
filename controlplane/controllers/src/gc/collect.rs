//! The collector's hand: looks at the server before it removes anything, and removes only what it looked at.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{DeleteParams, GetParams, Patch, PatchParams, Preconditions, PropagationPolicy, Request};
use kube::core::PartialObjectMeta;
use serde_json::{Value, json};

use super::{Owner, Policy, Verdict, judge};
use crate::cache::{self, FOREGROUND, Item, ORPHAN};
use crate::meta::{self, Key, Kind};
use crate::perform::{Error, Performer, not_found};
use crate::queue::Queue;
use crate::route::Work;

/// Looks after the object with this uid, and those that depend on it.
///
/// # Errors
/// When the server does not answer, or the object changed in the meantime.
pub async fn collect(performer: &Performer, queue: &Queue<Work>, uid: &str) -> Result<(), Error> {
    let seen = performer.cache.read(|state| {
        let item = state.graph.get(uid)?.clone();
        let dependents: Vec<Item> = state.graph.dependents(uid).cloned().collect();
        Some((item, dependents))
    });
    let Some((item, dependents)) = seen else { return Ok(()) };
    if item.deleting && item.orphan {
        for dependent in &dependents {
            if let Some(live) = live(performer, dependent).await? {
                unlink(performer, dependent, &live, std::slice::from_ref(&item.uid)).await?;
            }
        }
        return let_go(performer, &item, ORPHAN).await;
    }
    if item.awaits_dependents() {
        let blocks = |owner: &OwnerReference| owner.uid == item.uid && owner.block_owner_deletion == Some(true);
        if !dependents.iter().any(|dependent| dependent.owners.iter().any(blocks)) {
            return let_go(performer, &item, FOREGROUND).await;
        }
        queue.add_all(
            dependents.iter().filter(|dependent| !dependent.deleting).map(|dependent| Work::Collect(dependent.uid.clone())),
        );
        return Ok(());
    }
    if item.deleting || item.owners.is_empty() {
        return Ok(());
    }
    // The cache may be behind: what counts is what the object says of its owners now.
    let Some(live) = live(performer, &item).await? else { return Ok(()) };
    let current = Item::new(item.kind, &live);
    let mut owners = Vec::new();
    for owner in &current.owners {
        owners.push((owner.uid.clone(), state_of(performer, &current, owner).await?));
    }
    match judge(&current, &owners, !dependents.is_empty()) {
        Verdict::Keep => Ok(()),
        Verdict::Unlink(lost) => unlink(performer, &current, &live, &lost).await,
        Verdict::Remove(policy) => remove(performer, &current, &live, policy).await,
    }
}

/// How an owner is doing: known from the watch, or asked for. Of kinds that we do not know we believe the best.
async fn state_of(performer: &Performer, item: &Item, owner: &OwnerReference) -> Result<Owner, Error> {
    let of = |item: &Item| if item.awaits_dependents() { Owner::AwaitsDependents } else { Owner::Alive };
    if let Some(known) = performer.cache.read(|state| state.graph.get(&owner.uid).map(of)) {
        return Ok(known);
    }
    let group = owner.api_version.rsplit_once('/').map_or("", |(group, _)| group);
    let Some(kind) = cache::kind(group, &owner.kind) else { return Ok(Owner::Alive) };
    let namespace = if kind.namespaced { item.key.namespace.as_str() } else { "" };
    let found = metadata(performer, kind, &Key::new(namespace, owner.name.as_str())).await?;
    Ok(found.filter(|meta| meta::uid(meta) == owner.uid).map_or(Owner::Gone, |meta| of(&Item::new(kind, &meta))))
}

/// The object's metadata as the server has it; `None` when it is gone or another one has its name.
async fn live(performer: &Performer, item: &Item) -> Result<Option<ObjectMeta>, Error> {
    Ok(metadata(performer, item.kind, &item.key).await?.filter(|live| meta::uid(live) == item.uid))
}

async fn metadata(performer: &Performer, kind: &Kind, key: &Key) -> Result<Option<ObjectMeta>, Error> {
    let context = || Error::step(format!("look at {} {key}", kind.kind));
    let request = Request::new(kind.path(&key.namespace)).get_metadata(&key.name, &GetParams::default());
    let request = request.map_err(|error| context()(kube::Error::BuildRequest(error)))?;
    // Which type stands for the kind does not matter: metadata is the same for all.
    match performer.client.request::<PartialObjectMeta<Pod>>(request).await {
        Ok(object) => Ok(Some(object.metadata)),
        Err(error) if not_found(&error) => Ok(None),
        Err(error) => Err(context()(error)),
    }
}

/// Takes back the references to `owners`.
async fn unlink(performer: &Performer, item: &Item, live: &ObjectMeta, owners: &[String]) -> Result<(), Error> {
    let before = live.owner_references.as_deref().unwrap_or_default();
    let after: Vec<_> = before.iter().filter(|owner| !owners.contains(&owner.uid)).collect();
    if after.len() == before.len() {
        return Ok(());
    }
    patch(performer, item, live, json!({"ownerReferences": after})).await
}

/// Takes back a finalizer of ours, which lets the object go.
async fn let_go(performer: &Performer, item: &Item, finalizer: &str) -> Result<(), Error> {
    let Some(live) = live(performer, item).await? else { return Ok(()) };
    let before = live.finalizers.as_deref().unwrap_or_default();
    let after: Vec<_> = before.iter().filter(|one| *one != finalizer).collect();
    if after.len() == before.len() {
        return Ok(());
    }
    patch(performer, item, &live, json!({"finalizers": after})).await
}

async fn patch(performer: &Performer, item: &Item, live: &ObjectMeta, mut metadata: Value) -> Result<(), Error> {
    let context = || Error::step(format!("set free {} {}", item.kind.kind, item.key));
    metadata["uid"] = json!(live.uid);
    metadata["resourceVersion"] = json!(live.resource_version);
    let patch = Patch::Merge(json!({"metadata": metadata}));
    let request = Request::new(item.kind.path(&item.key.namespace)).patch(&item.key.name, &PatchParams::default(), &patch);
    send(performer, request.map_err(|error| context()(kube::Error::BuildRequest(error)))?).await.map_err(context())
}

async fn remove(performer: &Performer, item: &Item, live: &ObjectMeta, policy: Policy) -> Result<(), Error> {
    let context = || Error::step(format!("remove {} {}, whose owner is gone", item.kind.kind, item.key));
    let how = DeleteParams {
        propagation_policy: Some(match policy {
            Policy::Background => PropagationPolicy::Background,
            Policy::Foreground => PropagationPolicy::Foreground,
            Policy::Orphan => PropagationPolicy::Orphan,
        }),
        preconditions: Some(Preconditions { uid: live.uid.clone(), resource_version: live.resource_version.clone() }),
        ..DeleteParams::default()
    };
    let request = Request::new(item.kind.path(&item.key.namespace)).delete(&item.key.name, &how);
    send(performer, request.map_err(|error| context()(kube::Error::BuildRequest(error)))?).await.map_err(context())
}

/// An object that is gone already is as good as one that we removed.
async fn send(performer: &Performer, request: http::Request<Vec<u8>>) -> kube::Result<()> {
    match performer.client.request::<Value>(request).await {
        Err(error) if !not_found(&error) => Err(error),
        _ => Ok(()),
    }
}
