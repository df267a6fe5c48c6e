//! Deployments: one ReplicaSet per template, and the way from the old ones to the new.
//!
//! A pass takes one step; the writes come back through the cache and call for the next.

pub mod plan;
mod revision;
mod status;

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

use self::plan::{Set, Sizes, Wanted};
use self::status::Facts;
use crate::action::{Action, Op};
use crate::cache::State;
use crate::claim::claim;
use crate::meta::{self, Key};
use crate::{pod, selector};

const COMPONENT: &str = "deployment-controller";

/// What there is to one deployment.
pub struct View {
    pub deployment: Arc<Deployment>,
    /// All sets of the namespace, of whomever.
    pub sets: Vec<Arc<ReplicaSet>>,
    /// Uids of sets that have pods which have not come to their end.
    pub with_pods: Vec<String>,
}

// === impl View ===

impl View {
    pub fn of(state: &State, key: &Key) -> Option<Self> {
        let deployment = Arc::clone(state.deployments.get(key)?);
        let sets: Vec<_> = state.replica_sets.within(&key.namespace).cloned().collect();
        let has_pods = |set: &&Arc<ReplicaSet>| state.pods.managed(meta::uid(&set.metadata)).any(|one| !pod::finished(one));
        let with_pods = sets.iter().filter(has_pods).map(|set| meta::uid(&set.metadata).to_owned()).collect();
        Some(Self { deployment, sets, with_pods })
    }

    fn named(&self, name: &str) -> Option<&Arc<ReplicaSet>> {
        self.sets.iter().find(|set| meta::name(&set.metadata) == name)
    }
}

/// One pass under way: the sets as they are, and as they are to be.
struct Pass<'a> {
    deployment: &'a Deployment,
    wanted: Wanted,
    sets: &'a [Arc<ReplicaSet>],
    edited: Vec<ReplicaSet>,
    new: Option<usize>,
    /// Annotations of the deployment follow the revision of its newest set.
    revision: i64,
    created: Option<ReplicaSet>,
    new_reason: Option<&'static str>,
    actions: Vec<Action>,
}

/// One step towards what `view.deployment` asks for.
pub fn reconcile(view: &View, now: Timestamp) -> Vec<Action> {
    let deployment = view.deployment.as_ref();
    let Some(spec) = &deployment.spec else { return Vec::new() };
    if selector::is_empty(&spec.selector) {
        let message = "This deployment is selecting all pods. A non-empty selector is required.";
        return vec![Action::warning(meta::reference(deployment), COMPONENT, "SelectingAll", message)];
    }
    let claimed = claim(deployment, &spec.selector, view.sets.iter().cloned(), |set| !meta::deleting(&set.metadata));
    if !claimed.changes.is_empty() {
        return claimed.changes;
    }
    let mut pass = Pass::new(deployment, &claimed.owned);
    if !meta::deleting(&deployment.metadata) {
        match pass.step(view) {
            Ok(()) => {}
            Err(Taken) => return pass.collided(),
        }
    }
    pass.finish(now)
}

/// The name of the new set belongs to something else.
struct Taken;

// === impl Pass ===

impl<'a> Pass<'a> {
    fn new(deployment: &'a Deployment, sets: &'a [Arc<ReplicaSet>]) -> Self {
        let found = revision::find_new(deployment, sets);
        Self {
            deployment,
            wanted: Wanted::of(deployment),
            sets,
            edited: sets.iter().map(|set| ReplicaSet::clone(set)).collect(),
            new: found.and_then(|new| sets.iter().position(|set| Arc::ptr_eq(set, new))),
            revision: revision::revision_of(&deployment.metadata),
            created: None,
            new_reason: None,
            actions: Vec::new(),
        }
    }

    fn old(&self) -> impl Iterator<Item = &'a Arc<ReplicaSet>> {
        let new = self.new;
        self.sets.iter().enumerate().filter(move |(index, _)| Some(*index) != new).map(|(_, set)| set)
    }

    fn step(&mut self, view: &View) -> Result<(), Taken> {
        let next_revision = self.old().map(|set| revision::revision_of(&set.metadata)).max().unwrap_or(0) + 1;
        if let Some(new) = self.new {
            self.follow(new, next_revision);
        }
        let numbers: Vec<Set> = self.edited.iter().map(numbers).collect();
        let new = self.new.map(|index| &numbers[index]);
        let old: Vec<&Set> =
            numbers.iter().enumerate().filter(|(index, _)| Some(*index) != self.new).map(|(_, set)| set).collect();
        let paused = self.deployment.spec.as_ref().and_then(|spec| spec.paused) == Some(true);
        let scaled = plan::scaled(&self.wanted, &numbers.iter().collect::<Vec<_>>());
        let with_pods = |set: &Arc<ReplicaSet>| view.with_pods.iter().any(|uid| uid == meta::uid(&set.metadata));
        let sizes = if scaled || paused {
            let sizes = plan::scale(&self.wanted, new, &old);
            self.note_sizes();
            sizes
        } else if self.wanted.rolling {
            match new {
                Some(new) => plan::roll(&self.wanted, new, &old),
                None => {
                    let total = old.iter().map(|set| set.size).sum();
                    return self.create(view, plan::grow_new(&self.wanted, 0, total), next_revision);
                }
            }
        } else {
            let old_pods = self.old().any(with_pods);
            let sizes = plan::recreate(&self.wanted, new, &old, old_pods);
            if new.is_none() && sizes.is_empty() && !old_pods {
                return self.create(view, self.wanted.replicas, next_revision);
            }
            sizes
        };
        let settled = if paused { self.new.is_none() } else { !scaled && self.complete() };
        if !self.resize(&sizes) && settled {
            self.clean_up();
        }
        Ok(())
    }

    /// Everything runs the current template: old sets that are too many can go.
    fn complete(&self) -> bool {
        let status = |set: &ReplicaSet| {
            set.status.as_ref().map_or((0, 0), |status| (status.replicas, status.available_replicas.unwrap_or(0)))
        };
        let Some(new) = self.new.map(|index| status(&self.edited[index])) else { return false };
        new == (self.wanted.replicas, self.wanted.replicas) && self.old().all(|set| status(set).0 == 0)
    }

    /// Keeps the new set's annotations and revision, and the deployment's, up to date.
    fn follow(&mut self, new: usize, next_revision: i64) {
        revision::inherit(self.deployment, &mut self.edited[new], next_revision);
        self.revision = revision::revision_of(&self.edited[new].metadata);
        if self.revision != revision::revision_of(&self.deployment.metadata) {
            self.new_reason = Some(status::FOUND_SET);
        }
    }

    fn create(&mut self, view: &View, size: i32, revision: i64) -> Result<(), Taken> {
        let Some(set) = revision::new_set(self.deployment, &self.wanted, size, revision) else { return Ok(()) };
        let name = meta::name(&set.metadata).to_owned();
        if view.named(&name).is_some() {
            return Err(Taken);
        }
        if size > 0 {
            self.tell(format!("Scaled up replica set {name} from 0 to {size}"));
        }
        self.revision = revision;
        self.new_reason = Some(status::NEW_SET);
        self.created = Some(set);
        Ok(())
    }

    /// Another hash next time.
    fn collided(self) -> Vec<Action> {
        let mut counted = self.deployment.clone();
        counted.status.get_or_insert_default().collision_count = Some(revision::collisions(self.deployment) + 1);
        Op::status(self.deployment, &counted).map(Into::into).into_iter().collect()
    }

    fn note_sizes(&mut self) {
        for set in &mut self.edited {
            if size(set) > 0 {
                revision::note_size(set, &self.wanted);
            }
        }
    }

    /// Whether any set has a new size.
    fn resize(&mut self, sizes: &Sizes) -> bool {
        let mut any = false;
        for index in 0..self.edited.len() {
            let set = &mut self.edited[index];
            let (name, before) = (meta::name(&set.metadata).to_owned(), size(set));
            let Some(&after) = sizes.get(&name) else { continue };
            revision::note_size(set, &self.wanted);
            if after == before {
                continue;
            }
            set.spec.get_or_insert_default().replicas = Some(after);
            let direction = if after > before { "up" } else { "down" };
            self.tell(format!("Scaled {direction} replica set {name} from {before} to {after}"));
            any = true;
        }
        any
    }

    fn clean_up(&mut self) {
        let old: Vec<_> = self.old().cloned().collect();
        for set in revision::superfluous(self.deployment, &old) {
            self.actions.push(Op::remove(set.as_ref(), None).into());
        }
    }

    fn tell(&mut self, message: String) {
        self.actions.push(Action::normal(meta::reference(self.deployment), COMPONENT, "ScalingReplicaSet", message));
    }

    /// The writes: sets first, then the deployment's annotation, then the status.
    fn finish(mut self, now: Timestamp) -> Vec<Action> {
        let mut actions: Vec<Action> = Vec::new();
        if let Some(created) = &self.created {
            actions.push(Op::Create(Box::new(created.clone())).into());
        }
        for (before, after) in self.sets.iter().zip(&self.edited) {
            actions.extend(Op::edit(before.as_ref(), after).map(Into::into));
        }
        actions.append(&mut self.actions);
        let mut annotated = self.deployment.clone();
        if self.revision > 0 {
            meta::annotate(&mut annotated.metadata, revision::REVISION, self.revision.to_string());
        }
        actions.extend(Op::edit(self.deployment, &annotated).map(Into::into));

        let facts = Facts {
            deployment: self.deployment,
            wanted: self.wanted,
            new: self.created.as_ref().or(self.new.map(|index| &self.edited[index])),
            sets: &self.edited,
            new_reason: self.new_reason,
            now,
        };
        let (status, again) = facts.status();
        let mut told = self.deployment.clone();
        told.status = Some(status);
        actions.extend(Op::status(self.deployment, &told).map(Into::into));
        actions.extend(again.map(Action::After));
        actions
    }
}

fn size(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

fn numbers(set: &ReplicaSet) -> Set {
    let annotation = |key| meta::annotation(&set.metadata, key).and_then(|value| value.parse().ok());
    Set {
        name: meta::name(&set.metadata).to_owned(),
        created: meta::created(&set.metadata),
        size: size(set),
        available: set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0),
        desired: annotation(revision::DESIRED),
        max: annotation(revision::MAX),
    }
}

#[cfg(test)]
mod tests;
