//! Namespaces: what every one has, and how one goes: its pods first, then everything else, then itself.

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, NamespaceCondition, Pod, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, PostParams, Request};
use kube::core::discovery::{Scope, verbs};
use kube::discovery::Discovery;

use crate::action::{Action, Op};
use crate::meta;
use crate::perform::{Error, Performer, not_found};

pub const DEFAULT_ACCOUNT: &str = "default";
pub const ROOT_CA: &str = "kube-root-ca.crt";
const ROOT_CA_KEY: &str = "ca.crt";
const FINALIZER: &str = "kubernetes";
const CONTENT: &str = "NamespaceContentRemaining";
/// Requests under way at the same time.
const ABREAST: usize = 8;

/// What a namespace lacks: its service account.
pub fn reconcile_defaults(namespace: &Namespace, has_account: bool) -> Vec<Action> {
    if has_account || meta::deleting(&namespace.metadata) {
        return Vec::new();
    }
    let account = ServiceAccount { metadata: named(namespace, DEFAULT_ACCOUNT), ..ServiceAccount::default() };
    vec![Op::Create(Box::new(account)).into()]
}

/// The write that gives a namespace the cluster's CA; `current` is the map that it has.
pub fn reconcile_ca(namespace: &Namespace, current: Option<&ConfigMap>, certificate: &str) -> Vec<Action> {
    if meta::deleting(&namespace.metadata) {
        return Vec::new();
    }
    let mut wanted =
        current.cloned().unwrap_or_else(|| ConfigMap { metadata: named(namespace, ROOT_CA), ..ConfigMap::default() });
    let data = wanted.data.get_or_insert_default();
    if data.get(ROOT_CA_KEY).is_some_and(|now| now == certificate) {
        return Vec::new();
    }
    data.insert(ROOT_CA_KEY.to_owned(), certificate.to_owned());
    match current {
        None => vec![Op::Create(Box::new(wanted)).into()],
        // The map is not watched as a whole, so the patch is made by hand.
        Some(current) => {
            let patch = serde_json::json!({"metadata": {"uid": current.metadata.uid}, "data": {ROOT_CA_KEY: certificate}});
            let uid = meta::uid(&current.metadata).to_owned();
            vec![Action::ConfigMap(Op::Edit { key: meta::Key::of(&current.metadata), uid, patch })]
        }
    }
}

fn named(namespace: &Namespace, name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), namespace: namespace.metadata.name.clone(), ..ObjectMeta::default() }
}

/// Takes a namespace one step towards its end.
///
/// # Errors
/// [`Error::Waiting`] while something is left in it.
pub async fn remove(performer: &Performer, namespace: &Namespace, now: Timestamp) -> Result<(), Error> {
    let name = meta::name(&namespace.metadata);
    let held = namespace.spec.iter().flat_map(|spec| spec.finalizers.iter().flatten()).any(|finalizer| finalizer == FINALIZER);
    if !meta::deleting(&namespace.metadata) || !held {
        return Ok(());
    }
    // Pods before what they may still need: policies, maps, secrets.
    let pods = ApiResource::erase::<Pod>(&());
    let mut left: Vec<String> = empty(performer, name, &pods).await?.into_iter().collect();
    if left.is_empty() {
        let others = resources(performer)
            .await?
            .into_iter()
            .filter(|resource| resource.plural != pods.plural || !resource.group.is_empty());
        let answers: Vec<_> = futures::stream::iter(others)
            .map(|resource| async move { empty(performer, name, &resource).await })
            .buffer_unordered(ABREAST)
            .collect()
            .await;
        for answer in answers {
            left.extend(answer?);
        }
    }
    if left.is_empty() {
        return finalize(performer, name).await;
    }
    left.sort();
    performer.perform(remaining(namespace, &left, now)).await?;
    Err(Error::Waiting(format!("namespace {name} still has {}", left.join(", "))))
}

/// Says in the status what is left.
fn remaining(namespace: &Namespace, left: &[String], now: Timestamp) -> Vec<Action> {
    let message = format!("Some resources are remaining: {}", left.join(", "));
    let mut told = namespace.clone();
    let conditions = told.status.get_or_insert_default().conditions.get_or_insert_default();
    let current = conditions.iter().position(|condition| condition.type_ == CONTENT);
    if current.is_some_and(|index| conditions[index].message.as_deref() == Some(message.as_str())) {
        return Vec::new();
    }
    let since = current.and_then(|index| conditions.remove(index).last_transition_time);
    conditions.push(NamespaceCondition {
        type_: CONTENT.to_owned(),
        status: "True".to_owned(),
        reason: Some("SomeResourcesRemain".to_owned()),
        message: Some(message),
        last_transition_time: since.or_else(|| Some(meta::time(now))),
    });
    Op::status(namespace, &told).map(Into::into).into_iter().collect()
}

/// Everything that can be in a namespace, as the server says it now.
async fn resources(performer: &Performer) -> Result<Vec<ApiResource>, Error> {
    let discovery = Discovery::new(performer.client.clone()).run().await.map_err(Error::step("ask what the server serves"))?;
    let all = discovery.groups().flat_map(|group| group.recommended_resources());
    let fit = all.filter(|(_, capabilities)| {
        capabilities.scope == Scope::Namespaced
            && [verbs::LIST, verbs::DELETE, verbs::DELETE_COLLECTION].iter().all(|verb| capabilities.supports_operation(verb))
    });
    Ok(fit.map(|(resource, _)| resource).collect())
}

/// Removes all objects of one kind; says what is left of them.
async fn empty(performer: &Performer, namespace: &str, resource: &ApiResource) -> Result<Option<String>, Error> {
    let api: Api<DynamicObject> = Api::namespaced_with(performer.client.clone(), namespace, resource);
    let context = || format!("empty namespace {namespace} of {}", resource.plural);
    let count = async || match api.list_metadata(&ListParams::default().limit(100)).await {
        Ok(list) => Ok(list.items.len()),
        // The kind went away in the meantime, and its objects with it.
        Err(error) if not_found(&error) => Ok(0),
        Err(error) => Err(Error::step(context())(error)),
    };
    if count().await? == 0 {
        return Ok(None);
    }
    api.delete_collection(&DeleteParams::background(), &ListParams::default()).await.map_err(Error::step(context()))?;
    let suffix = if resource.group.is_empty() { String::new() } else { format!(".{}", resource.group) };
    Ok(Some(count().await?)
        .filter(|left| *left > 0)
        .map(|left| format!("{}{suffix} has {left} resource instances", resource.plural)))
}

/// Gives the name free.
async fn finalize(performer: &Performer, name: &str) -> Result<(), Error> {
    let context = || Error::step(format!("finalize namespace {name}"));
    let api: Api<Namespace> = Api::all(performer.client.clone());
    let Some(mut namespace) = api.get_opt(name).await.map_err(context())? else { return Ok(()) };
    if let Some(finalizers) = namespace.spec.get_or_insert_default().finalizers.as_mut() {
        finalizers.retain(|finalizer| finalizer != FINALIZER);
    }
    let body = serde_json::to_vec(&namespace).map_err(|error| context()(kube::Error::SerdeError(error)))?;
    let request = Request::new("/api/v1/namespaces").replace_subresource("finalize", name, &PostParams::default(), body);
    let request = request.map_err(|error| context()(kube::Error::BuildRequest(error)))?;
    match performer.client.request::<serde_json::Value>(request).await {
        Err(error) if !not_found(&error) => Err(context()(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn namespace(extra: Value) -> Namespace {
        let mut object = json!({"metadata": {"name": "shop", "uid": "u"}});
        if let (Some(object), Value::Object(extra)) = (object.as_object_mut(), extra) {
            object.extend(extra);
        }
        serde_json::from_value(object).unwrap()
    }

    fn text(actions: &[Action]) -> Vec<String> {
        actions.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_namespace_has_an_account_and_the_ca() {
        let (living, dying) = (
            namespace(json!({})),
            namespace(json!({"metadata": {"name": "shop", "deletionTimestamp": "2030-01-01T00:00:00Z"}})),
        );
        assert_eq!(text(&reconcile_defaults(&living, false)), ["ServiceAccount create default"]);
        assert_eq!(text(&reconcile_defaults(&living, true)), [""; 0]);
        assert_eq!(text(&reconcile_defaults(&dying, false)), [""; 0]);
        let map = |certificate: &str| -> ConfigMap {
            serde_json::from_value(json!({"metadata": {"name": ROOT_CA, "namespace": "shop"}, "data": {"ca.crt": certificate}}))
                .unwrap()
        };
        assert_eq!(text(&reconcile_ca(&living, None, "X")), ["ConfigMap create kube-root-ca.crt"]);
        assert_eq!(text(&reconcile_ca(&living, Some(&map("X")), "X")), [""; 0]);
        assert_eq!(
            text(&reconcile_ca(&living, Some(&map("Y")), "X")),
            [r#"ConfigMap edit kube-root-ca.crt {"data":{"ca.crt":"X"}}"#]
        );
        assert_eq!(text(&reconcile_ca(&dying, None, "X")), [""; 0]);
    }

    #[test]
    fn what_is_left_is_told_once() {
        let (mut namespace, now) = (namespace(json!({})), Timestamp::UNIX_EPOCH);
        let left = ["pods has 2 resource instances".to_owned()];
        let actions = remaining(&namespace, &left, now);
        let [Action::Namespace(Op::Status { patch, .. })] = &actions[..] else { panic!("{actions:?}") };
        assert_eq!(patch["status"]["conditions"][0]["message"], "Some resources are remaining: pods has 2 resource instances");
        namespace.status = serde_json::from_value(patch["status"].clone()).unwrap();
        assert_eq!(text(&remaining(&namespace, &left, now)), [""; 0]);
    }
}
