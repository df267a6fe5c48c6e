//! The set of the current template: how it is found, named and annotated, and which old ones are kept for a rollback.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::plan::Wanted;
use crate::meta;

pub const HASH_LABEL: &str = "pod-template-hash";
pub const REVISION: &str = "deployment.kubernetes.io/revision";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
pub const MAX: &str = "deployment.kubernetes.io/max-replicas";
/// Annotations of a deployment that its sets do not inherit.
const OWN: &[&str] =
    &["kubectl.kubernetes.io/last-applied-configuration", REVISION, HISTORY, DESIRED, MAX, "deprecated.deployment.rollback.to"];
/// Letters of names that are made: without vowels and without what is mistaken for each other.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// The set of the deployment's template. Of several, the oldest.
pub fn find_new<'a>(deployment: &Deployment, sets: &'a [Arc<ReplicaSet>]) -> Option<&'a Arc<ReplicaSet>> {
    let template = &deployment.spec.as_ref()?.template;
    sets.iter()
        .filter(|set| set.spec.as_ref().and_then(|spec| spec.template.as_ref()).is_some_and(|other| same(template, other)))
        .min_by_key(|set| (meta::created(&set.metadata), meta::name(&set.metadata).to_owned()))
}

/// Templates are the same but for the hash that we add.
fn same(template: &PodTemplateSpec, other: &PodTemplateSpec) -> bool {
    let bare = |template: &PodTemplateSpec| {
        let mut meta = template.metadata.clone().unwrap_or_default();
        if let Some(labels) = &mut meta.labels {
            labels.remove(HASH_LABEL);
        }
        meta.labels = meta.labels.filter(|labels| !labels.is_empty());
        meta.annotations = meta.annotations.filter(|annotations| !annotations.is_empty());
        meta
    };
    template.spec == other.spec && bare(template) == bare(other)
}

/// A short name for a template: FNV-1a of its JSON, whose keys are sorted, and of the count of collisions so far.
pub fn hash(template: &PodTemplateSpec, collisions: i32) -> String {
    let bytes = serde_json::to_vec(template).unwrap_or_default();
    let salt = if collisions > 0 { collisions.to_le_bytes().to_vec() } else { Vec::new() };
    let mut hash = bytes
        .iter()
        .chain(&salt)
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    let base = ALPHABET.len() as u64;
    let mut name = String::new();
    for _ in 0..10 {
        let letter = usize::try_from(hash % base).unwrap_or(0);
        name.push(char::from(ALPHABET[letter]));
        hash /= base;
    }
    name
}

pub fn collisions(deployment: &Deployment) -> i32 {
    deployment.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0)
}

/// The set for the deployment's template, not yet made. `name` is the deployment's and the hash.
pub fn new_set(deployment: &Deployment, wanted: &Wanted, size: i32, revision: i64) -> Option<ReplicaSet> {
    let spec = deployment.spec.as_ref()?;
    let hash = hash(&spec.template, collisions(deployment));
    let mut template = spec.template.clone();
    template.metadata.get_or_insert_default().labels.get_or_insert_default().insert(HASH_LABEL.to_owned(), hash.clone());
    let mut selector = spec.selector.clone();
    selector.match_labels.get_or_insert_default().insert(HASH_LABEL.to_owned(), hash.clone());
    let mut set = ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", meta::name(&deployment.metadata))),
            namespace: deployment.metadata.namespace.clone(),
            labels: template.metadata.as_ref().and_then(|meta| meta.labels.clone()),
            owner_references: Some(vec![meta::managed_by(deployment)]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(size),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    };
    inherit(deployment, &mut set, revision);
    note_size(&mut set, wanted);
    Some(set)
}

/// Brings the set of the current template up to the deployment: annotations, revision, and how long ready counts.
pub fn inherit(deployment: &Deployment, set: &mut ReplicaSet, revision: i64) {
    for (key, value) in deployment.metadata.annotations.iter().flatten() {
        if !OWN.contains(&key.as_str()) {
            meta::annotate(&mut set.metadata, key, value);
        }
    }
    // Only upwards: a set keeps its number until it is the newest again.
    let before = revision_of(&set.metadata);
    if revision > before {
        if before > 0 {
            let mut history: Vec<String> = meta::annotation(&set.metadata, HISTORY)
                .into_iter()
                .flat_map(|list| list.split(',').map(str::to_owned))
                .collect();
            history.push(before.to_string());
            meta::annotate(&mut set.metadata, HISTORY, history.join(","));
        }
        meta::annotate(&mut set.metadata, REVISION, revision.to_string());
    }
    if let (Some(wanted), Some(spec)) = (&deployment.spec, &mut set.spec)
        && spec.min_ready_seconds.unwrap_or(0) != wanted.min_ready_seconds.unwrap_or(0)
    {
        spec.min_ready_seconds = wanted.min_ready_seconds;
    }
}

/// Remembers for how many replicas a set was sized.
pub fn note_size(set: &mut ReplicaSet, wanted: &Wanted) {
    meta::annotate(&mut set.metadata, DESIRED, wanted.replicas.to_string());
    meta::annotate(&mut set.metadata, MAX, wanted.max().to_string());
}

pub fn revision_of(meta: &ObjectMeta) -> i64 {
    meta::annotation(meta, REVISION).and_then(|revision| revision.parse().ok()).unwrap_or(0)
}

/// The old sets that are too many: empty ones, the oldest revisions first.
pub fn superfluous(deployment: &Deployment, old: &[Arc<ReplicaSet>]) -> Vec<Arc<ReplicaSet>> {
    let limit = deployment.spec.as_ref().and_then(|spec| spec.revision_history_limit).unwrap_or(10);
    let mut sets: Vec<_> = old.iter().filter(|set| !meta::deleting(&set.metadata)).cloned().collect();
    let extra = sets.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    sets.sort_by_key(|set| (revision_of(&set.metadata), meta::created(&set.metadata)));
    sets.truncate(extra);
    sets.retain(|set| {
        let (size, status) = (set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1), set.status.as_ref());
        let observed = status.and_then(|status| status.observed_generation).unwrap_or(0);
        size == 0 && status.is_none_or(|status| status.replicas == 0) && set.metadata.generation.unwrap_or(0) <= observed
    });
    sets
}
