//! The status of a Deployment: counts, and the conditions that `kubectl rollout status` reads.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};

use super::plan::Wanted;
use crate::meta;

const PROGRESSING: &str = "Progressing";
const AVAILABLE: &str = "Available";
const FAILURE: &str = "ReplicaFailure";

pub const NEW_SET: &str = "NewReplicaSetCreated";
pub const FOUND_SET: &str = "FoundNewReplicaSet";
pub const UPDATED: &str = "ReplicaSetUpdated";
pub const COMPLETE: &str = "NewReplicaSetAvailable";
pub const OVERDUE: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";
const RESUMED: &str = "DeploymentResumed";

/// A deadline of this many seconds is none.
const NO_DEADLINE: i32 = i32::MAX;

/// What the status is made from.
pub struct Facts<'a> {
    pub deployment: &'a Deployment,
    pub wanted: Wanted,
    pub new: Option<&'a ReplicaSet>,
    /// All sets, the new one included, with the sizes that they are given now.
    pub sets: &'a [ReplicaSet],
    /// The set of the new template was made, or found, in this pass.
    pub new_reason: Option<&'static str>,
    pub now: Timestamp,
}

// === impl Facts ===

impl Facts<'_> {
    /// The status as it should be, and when to look at the deadline again.
    pub fn status(&self) -> (DeploymentStatus, Option<Duration>) {
        let old = self.deployment.status.clone().unwrap_or_default();
        let count = |field: fn(&k8s_openapi::api::apps::v1::ReplicaSetStatus) -> Option<i32>| {
            self.sets.iter().filter_map(|set| set.status.as_ref().and_then(field)).sum::<i32>()
        };
        let available = count(|status| status.available_replicas);
        let wanted: i32 = self.sets.iter().filter_map(|set| set.spec.as_ref()?.replicas).sum();
        let mut status = DeploymentStatus {
            observed_generation: self.deployment.metadata.generation,
            replicas: Some(count(|status| Some(status.replicas))),
            updated_replicas: Some(self.new.and_then(|new| new.status.as_ref()).map_or(0, |status| status.replicas)),
            ready_replicas: Some(count(|status| status.ready_replicas)),
            available_replicas: Some(available),
            unavailable_replicas: Some((wanted - available).max(0)),
            terminating_replicas: Some(count(|status| status.terminating_replicas)),
            collision_count: old.collision_count,
            conditions: old.conditions.clone(),
        };
        let conditions = status.conditions.get_or_insert_default();
        if available >= self.wanted.min_available() {
            let message = "Deployment has minimum availability.";
            self.set(conditions, AVAILABLE, "True", "MinimumReplicasAvailable", message);
        } else {
            let message = "Deployment does not have minimum availability.";
            self.set(conditions, AVAILABLE, "False", "MinimumReplicasUnavailable", message);
        }
        self.failure(conditions);
        let again = self.progress(&old, &mut status);
        // Zero counts are left out, as all fields of this kind.
        for count in [
            &mut status.replicas,
            &mut status.updated_replicas,
            &mut status.ready_replicas,
            &mut status.available_replicas,
            &mut status.unavailable_replicas,
        ] {
            *count = count.filter(|count| *count != 0);
        }
        (status, again)
    }

    /// A set that cannot make its pods speaks for the deployment.
    fn failure(&self, conditions: &mut Vec<DeploymentCondition>) {
        let all = self.new.into_iter().chain(self.sets);
        let found = all
            .filter_map(|set| set.status.as_ref()?.conditions.as_ref())
            .flatten()
            .find(|condition| condition.type_ == FAILURE && condition.status == "True");
        match found {
            Some(condition) => {
                let text = |text: &Option<String>| text.clone().unwrap_or_default();
                self.set(conditions, FAILURE, "True", &text(&condition.reason), &text(&condition.message));
            }
            None => conditions.retain(|condition| condition.type_ != FAILURE),
        }
    }

    fn progress(&self, old: &DeploymentStatus, status: &mut DeploymentStatus) -> Option<Duration> {
        let spec = self.deployment.spec.as_ref()?;
        let conditions = status.conditions.get_or_insert_default();
        let deadline = spec.progress_deadline_seconds.filter(|seconds| *seconds != NO_DEADLINE);
        let Some(deadline) = deadline.map(meta::seconds) else {
            conditions.retain(|condition| condition.type_ != PROGRESSING);
            return None;
        };
        let current = find(conditions, PROGRESSING).cloned();
        let reason = current.as_ref().and_then(|condition| condition.reason.as_deref()).unwrap_or_default();
        if spec.paused == Some(true) {
            if reason != OVERDUE {
                self.set(conditions, PROGRESSING, "Unknown", PAUSED, "Deployment is paused");
            }
            return None;
        }
        if reason == PAUSED {
            self.set(conditions, PROGRESSING, "Unknown", RESUMED, "Deployment is resumed");
        }
        let subject = match self.new {
            Some(new) => format!("ReplicaSet \"{}\"", meta::name(&new.metadata)),
            None => format!("Deployment \"{}\"", meta::name(&self.deployment.metadata)),
        };
        if let Some(new_reason) = self.new_reason {
            let name = self.new.map_or("", |new| meta::name(&new.metadata));
            let message = match new_reason {
                NEW_SET => format!("Created new replica set \"{name}\""),
                _ => format!("Found new replica set \"{name}\""),
            };
            // A new template begins anew, whatever became of the one before.
            self.set(conditions, PROGRESSING, "True", new_reason, &message);
            return Some(deadline);
        }
        let complete = |status: &DeploymentStatus| {
            let wanted = Some(self.wanted.replicas);
            status.updated_replicas == wanted && status.replicas == wanted && status.available_replicas == wanted
        };
        let (replicas, updated) = (status.replicas.unwrap_or(0), status.updated_replicas.unwrap_or(0));
        let settled = reason == COMPLETE && replicas == updated;
        if settled {
            return None;
        }
        if complete(status) {
            let message = format!("{subject} has successfully progressed.");
            self.set(status.conditions.get_or_insert_default(), PROGRESSING, "True", COMPLETE, &message);
            return None;
        }
        let number = |count: Option<i32>| count.unwrap_or(0);
        let moved = number(status.updated_replicas) > number(old.updated_replicas)
            || replicas - updated < number(old.replicas) - number(old.updated_replicas)
            || number(status.ready_replicas) > number(old.ready_replicas)
            || number(status.available_replicas) > number(old.available_replicas);
        let conditions = status.conditions.get_or_insert_default();
        if moved {
            // The time of the last progress is what the deadline counts from: it is set anew although the reason is the same.
            let message = format!("{subject} is progressing.");
            let since =
                current.filter(|condition| condition.status == "True").and_then(|condition| condition.last_transition_time);
            conditions.retain(|condition| condition.type_ != PROGRESSING);
            self.set(conditions, PROGRESSING, "True", UPDATED, &message);
            if let (Some(since), Some(condition)) = (since, conditions.iter_mut().find(|one| one.type_ == PROGRESSING)) {
                condition.last_transition_time = Some(since);
            }
            return Some(deadline);
        }
        let current = find(conditions, PROGRESSING)?;
        if matches!(current.reason.as_deref(), Some(COMPLETE | OVERDUE)) {
            return None;
        }
        let since = current.last_update_time.as_ref().map_or(self.now, |time| time.0);
        match meta::remaining(since, deadline, self.now) {
            Some(rest) => Some(rest),
            None => {
                self.set(conditions, PROGRESSING, "False", OVERDUE, &format!("{subject} has timed out progressing."));
                None
            }
        }
    }

    /// Sets a condition, unless it says the same already.
    fn set(&self, conditions: &mut Vec<DeploymentCondition>, kind: &str, status: &str, reason: &str, message: &str) {
        let current = conditions.iter().position(|condition| condition.type_ == kind);
        let mut since = Some(meta::time(self.now));
        if let Some(index) = current {
            let condition = &conditions[index];
            if condition.status == status && condition.reason.as_deref() == Some(reason) {
                return;
            }
            if condition.status == status {
                since.clone_from(&condition.last_transition_time);
            }
        }
        let condition = DeploymentCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_update_time: Some(meta::time(self.now)),
            last_transition_time: since,
        };
        match current {
            Some(index) => conditions[index] = condition,
            None => conditions.push(condition),
        }
    }
}

fn find<'a>(conditions: &'a [DeploymentCondition], kind: &str) -> Option<&'a DeploymentCondition> {
    conditions.iter().find(|condition| condition.type_ == kind)
}
