//! What the kubelet knows of its Node object, and when the status has to be sent. No I/O here.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, NodeCondition};
use kube::runtime::watcher::Event;
use tokio::time::Instant;

use crate::api::told::{Claim, Told, newer};

/// The status is sent this often though nothing changed.
const HEARTBEAT: Duration = Duration::from_secs(300);
/// Between two repairs: who insists on another status than ours costs no more than this.
const REPAIR_PAUSE: Duration = Duration::from_secs(1);

/// Why the status is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The node has something new to say.
    News,
    /// Somebody else changed conditions that are the node's to tell: most likely it was silent for too long.
    Repair,
    Heartbeat,
}

#[derive(Debug, Default)]
pub struct View {
    /// The newest state seen.
    seen: Option<Seen>,
    told: Option<Told>,
    sent: Option<Instant>,
    repaired: Option<Instant>,
    /// The API server has listed what it has.
    pub known: bool,
    /// The object is not there, or is not the one we registered: to be registered again.
    pub lost: bool,
    /// The list that is under way has the node.
    listed: bool,
}

#[derive(Debug)]
struct Seen {
    uid: String,
    version: String,
    conditions: Vec<NodeCondition>,
}

// === impl View ===

impl View {
    pub fn event(&mut self, event: Event<Node>) {
        match event {
            Event::Init => self.listed = false,
            Event::InitApply(node) => {
                self.listed = true;
                self.saw(&node);
            }
            Event::InitDone => {
                self.known = true;
                self.lost |= !self.listed;
            }
            Event::Apply(node) => self.saw(&node),
            // An object that was made again since is not meant.
            Event::Delete(node) => {
                let uid = node.metadata.uid.unwrap_or_default();
                self.lost |= self.seen.as_ref().is_none_or(|seen| seen.uid == uid);
            }
        }
    }

    fn saw(&mut self, node: &Node) {
        let new = Seen::of(node);
        match &self.seen {
            Some(seen) if !newer(&new.version, &seen.version) => return,
            Some(seen) if seen.uid != new.uid => self.lost = true,
            _ => {}
        }
        self.seen = Some(new);
    }

    /// The API server has it, as it answered.
    pub fn registered(&mut self, node: &Node) {
        *self = Self { seen: Some(Seen::of(node)), known: true, listed: self.listed, ..Self::default() };
    }

    /// The API server took a status; `node` is its answer.
    pub fn told(&mut self, need: Need, conditions: &[NodeCondition], node: &Node, now: Instant) {
        let seen = Seen::of(node);
        self.told = Some(Told { version: seen.version.clone(), claims: Claim::all(conditions) });
        self.seen = Some(seen);
        self.sent = Some(now);
        if need == Need::Repair {
            self.repaired = Some(now);
        }
    }

    /// The conditions as the API server has them; where they do not change, their times go on.
    pub fn conditions(&self) -> &[NodeCondition] {
        self.seen.as_ref().map(|seen| seen.conditions.as_slice()).unwrap_or_default()
    }

    /// Whether a status with these conditions is to be sent.
    pub fn need(&self, conditions: &[NodeCondition], now: Instant) -> Option<Need> {
        let Some(told) = self.told.as_ref().filter(|told| told.claims == Claim::all(conditions)) else {
            return Some(Need::News);
        };
        let rested = self.repaired.is_none_or(|at| now.duration_since(at) >= REPAIR_PAUSE);
        if rested && self.seen.as_ref().is_some_and(|seen| told.undone_by(&seen.version, &seen.conditions)) {
            return Some(Need::Repair);
        }
        let due = self.sent.is_none_or(|at| now.duration_since(at) >= HEARTBEAT);
        due.then_some(Need::Heartbeat)
    }
}

impl Seen {
    fn of(node: &Node) -> Self {
        Self {
            uid: node.metadata.uid.clone().unwrap_or_default(),
            version: node.metadata.resource_version.clone().unwrap_or_default(),
            conditions: node.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// `uid version Ready-status`, with a condition of somebody else.
    fn node(text: &str) -> Node {
        let words: Vec<_> = text.split(' ').collect();
        let others = json!({"type": "NetworkUnavailable", "status": words[2]});
        let json = json!({"metadata": {"name": "a", "uid": words[0], "resourceVersion": words[1]},
            "status": {"conditions": [{"type": "Ready", "status": words[2]}, others]}});
        serde_json::from_value(json).expect("node")
    }

    fn ready() -> Vec<NodeCondition> {
        vec![NodeCondition { type_: "Ready".into(), status: "True".into(), ..NodeCondition::default() }]
    }

    /// A view that told at `start` that the node is ready, by which object `u` got version 10.
    fn told(start: Instant) -> View {
        let mut view = View::default();
        view.registered(&node("u 9 False"));
        assert_eq!(view.need(&ready(), start), Some(Need::News));
        view.told(Need::News, &ready(), &node("u 10 True"), start);
        view
    }

    fn check(events: Vec<Event<Node>>, need: Option<Need>, lost: bool) {
        let start = Instant::now();
        let mut view = told(start);
        let text = format!("{events:?}");
        events.into_iter().for_each(|event| view.event(event));
        assert_eq!((view.need(&ready(), start), view.lost), (need, lost), "{text}");
    }

    #[tokio::test]
    async fn when_the_status_is_sent_and_when_the_node_is_registered_again() {
        let repair = Some(Need::Repair);
        let apply = |text| Event::Apply(node(text));
        check(vec![], None, false);
        check(vec![apply("u 11 Unknown")], repair, false);
        check(vec![apply("u 11 True")], None, false);
        check(vec![apply("u 11 Unknown"), apply("u 12 True")], None, false);
        check(vec![apply("u 8 Unknown")], None, false); // from before our own write
        check(vec![Event::Init, Event::InitApply(node("u 11 Unknown")), Event::InitDone], repair, false);
        check(vec![Event::Init, Event::InitApply(node("u 10 True")), Event::InitDone], None, false);
        check(vec![Event::Init], None, false);
        check(vec![Event::Init, Event::InitDone], None, true);
        check(vec![Event::Delete(node("u 11 True"))], None, true);
        check(vec![Event::Delete(node("former 9 True"))], None, false);
        check(vec![apply("another 12 True")], None, true);
    }

    #[tokio::test]
    async fn what_is_new_goes_out_and_silence_is_broken() {
        let start = Instant::now();
        let mut view = told(start);
        let mut worse = ready();
        worse[0].status = "False".into();
        assert_eq!(view.need(&worse, start), Some(Need::News));
        assert_eq!(view.need(&ready(), start + HEARTBEAT), Some(Need::Heartbeat));
        let again = node("v 20 Unknown");
        view.registered(&again);
        assert!(view.known && !view.lost);
        assert_eq!(view.need(&ready(), start), Some(Need::News));
        assert_eq!(view.conditions()[0].status, "Unknown");
    }

    #[tokio::test]
    async fn who_insists_is_answered_once_a_second() {
        let start = Instant::now();
        let mut view = told(start);
        view.event(Event::Apply(node("u 11 Unknown")));
        assert_eq!(view.need(&ready(), start), Some(Need::Repair));
        view.told(Need::Repair, &ready(), &node("u 12 True"), start);
        assert_eq!(view.need(&ready(), start), None);
        view.event(Event::Apply(node("u 13 Unknown")));
        assert_eq!(view.need(&ready(), start + REPAIR_PAUSE / 2), None);
        assert_eq!(view.need(&ready(), start + REPAIR_PAUSE), Some(Need::Repair));
    }

    #[tokio::test]
    async fn a_condition_that_the_server_keeps_otherwise_is_not_sent_for_ever() {
        let start = Instant::now();
        let mut view = told(start);
        view.told(Need::Heartbeat, &ready(), &node("u 11 Normalised"), start);
        assert_eq!(view.need(&ready(), start), None);
    }
}
