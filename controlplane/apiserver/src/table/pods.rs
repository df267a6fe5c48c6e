//! The pod columns: what the containers' states amount to in one word.

use jiff::Timestamp;
use serde_json::Value;

use super::{human, items, or, parse_time, text};

/// Ready, status and restarts of a pod; they are found together in one pass over the container statuses.
pub(super) struct Summary {
    pub(super) ready: String,
    pub(super) status: String,
    restarts: Restarts,
}

#[derive(Clone, Copy, Default)]
struct Restarts {
    count: i64,
    last: Option<Timestamp>,
}

pub(super) fn ip(pod: &Value) -> Value {
    let first = items(&pod["status"]["podIPs"]).first().map(|ip| text(&ip["ip"])).unwrap_or_default();
    or(or(first, text(&pod["status"]["podIP"])), "<none>").into()
}

pub(super) fn readiness_gates(pod: &Value) -> Value {
    let gates = items(&pod["spec"]["readinessGates"]);
    if gates.is_empty() {
        return "<none>".into();
    }
    let met = gates.iter().filter(|gate| condition(pod, text(&gate["conditionType"])).is_some_and(|c| c["status"] == "True"));
    format!("{}/{}", met.count(), gates.len()).into()
}

fn condition<'a>(pod: &'a Value, kind: &str) -> Option<&'a Value> {
    items(&pod["status"]["conditions"]).iter().find(|c| c["type"] == kind)
}

/// The word for a terminated container.
fn terminated(state: &Value) -> String {
    match (text(&state["reason"]), state["signal"].as_i64().unwrap_or(0)) {
        ("", 0) => format!("ExitCode:{}", state["exitCode"].as_i64().unwrap_or(0)),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

// === impl Summary ===

impl Summary {
    pub(super) fn of(pod: &Value) -> Self {
        let (spec, status) = (&pod["spec"], &pod["status"]);
        let phase = text(&status["phase"]);
        let mut word = or(text(&status["reason"]), phase).to_owned();
        if condition(pod, "PodScheduled").is_some_and(|c| c["reason"] == "SchedulingGated") {
            word = "SchedulingGated".to_owned();
        }

        let init = items(&spec["initContainers"]);
        let sidecar = |name: &Value| init.iter().any(|c| &c["name"] == name && c["restartPolicy"] == "Always");
        let total = items(&spec["containers"]).len() + init.iter().filter(|c| c["restartPolicy"] == "Always").count();
        let (mut ready, mut restarts, mut sidecars) = (0, Restarts::default(), Restarts::default());

        let mut initializing = false;
        for (i, container) in items(&status["initContainerStatuses"]).iter().enumerate() {
            restarts.add(container);
            let is_sidecar = sidecar(&container["name"]);
            if is_sidecar {
                sidecars.add(container);
            }
            let state = &container["state"];
            if state["terminated"].is_object() && state["terminated"]["exitCode"].as_i64().unwrap_or(0) == 0 {
                continue;
            }
            if is_sidecar && container["started"] == true {
                ready += usize::from(container["ready"] == true);
                continue;
            }
            let waiting = text(&state["waiting"]["reason"]);
            word = if state["terminated"].is_object() {
                format!("Init:{}", terminated(&state["terminated"]))
            } else if !waiting.is_empty() && waiting != "PodInitializing" {
                format!("Init:{waiting}")
            } else {
                format!("Init:{i}/{}", init.len())
            };
            initializing = true;
            break;
        }

        if !initializing || condition(pod, "Initialized").is_some_and(|c| c["status"] == "True") {
            restarts = sidecars;
            let mut running = false;
            for container in items(&status["containerStatuses"]).iter().rev() {
                restarts.add(container);
                let state = &container["state"];
                let waiting = text(&state["waiting"]["reason"]);
                if !waiting.is_empty() {
                    word = waiting.to_owned();
                } else if state["terminated"].is_object() {
                    word = terminated(&state["terminated"]);
                } else if container["ready"] == true && state["running"].is_object() {
                    running = true;
                    ready += 1;
                }
            }
            // One container is done, another still runs: the pod is not completed.
            if word == "Completed" && running {
                let is_ready = condition(pod, "Ready").is_some_and(|c| c["status"] == "True");
                word = if is_ready { "Running" } else { "NotReady" }.to_owned();
            }
        }

        if pod["metadata"]["deletionTimestamp"].is_string() {
            if status["reason"] == "NodeLost" {
                word = "Unknown".to_owned();
            } else if phase != "Succeeded" && phase != "Failed" {
                word = "Terminating".to_owned();
            }
        }
        Self { ready: format!("{ready}/{total}"), status: word, restarts }
    }

    pub(super) fn restarts(&self, now: Timestamp) -> String {
        match self.restarts {
            Restarts { count, last: Some(last) } if count != 0 => format!("{count} ({} ago)", human(now.duration_since(last))),
            Restarts { count, .. } => count.to_string(),
        }
    }
}

// === impl Restarts ===

impl Restarts {
    fn add(&mut self, container: &Value) {
        self.count += container["restartCount"].as_i64().unwrap_or(0);
        self.last = self.last.max(parse_time(&container["lastState"]["terminated"]["finishedAt"]));
    }
}
