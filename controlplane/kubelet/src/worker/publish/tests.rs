//! What is sent, and that it is sent again when somebody else takes it back.

use std::collections::BTreeMap;
use std::sync::Mutex;

use k8s_openapi::api::core::v1::{Event, PodCondition};

use super::*;
use crate::api::Data;

/// Keeps a pod's status, and tells of every write as the API server's watch does.
struct Server {
    updates: watch::Sender<Update>,
    writes: Mutex<Vec<Value>>,
    /// Answers to the writes before they are taken.
    refusals: Mutex<Vec<ApiError>>,
}

// === impl Server ===

impl Server {
    fn new() -> (Arc<Self>, watch::Receiver<Update>) {
        let mut pod = Pod::default();
        pod.metadata.resource_version = Some("1".into());
        let (updates, receiver) = watch::channel(Update { pod: Arc::new(pod), gone: false, evacuate: None });
        (Arc::new(Self { updates, writes: Mutex::default(), refusals: Mutex::default() }), receiver)
    }

    /// Sets conditions, each `Type Status Reason`, and returns the new version.
    fn set(&self, conditions: Vec<PodCondition>) -> String {
        let mut version = 0;
        self.updates.send_modify(|update| {
            let mut pod = Pod::clone(&update.pod);
            version = pod.metadata.resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0) + 1;
            pod.metadata.resource_version = Some(version.to_string());
            let held = pod.status.get_or_insert_default().conditions.get_or_insert_default();
            held.retain(|old| conditions.iter().all(|new| new.type_ != old.type_));
            held.extend(conditions);
            update.pod = Arc::new(pod);
        });
        version.to_string()
    }

    fn writes(&self) -> usize {
        self.writes.lock().expect("lock").len()
    }

    async fn written(&self, count: usize) {
        for _ in 0..500 {
            if self.writes() >= count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{} writes, not {count}, within 5 s", self.writes());
    }

    async fn quiet(&self, count: usize) {
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(self.writes(), count);
    }
}

impl ClusterApi for Server {
    async fn config_map(&self, _: &str, _: &str) -> Result<Data, ApiError> {
        Ok(BTreeMap::new())
    }

    async fn secret(&self, _: &str, _: &str) -> Result<Data, ApiError> {
        Ok(BTreeMap::new())
    }

    async fn token(&self, _: &PodId, _: &str, _: Option<&str>, _: i64) -> Result<String, ApiError> {
        Err(ApiError::NotFound)
    }

    async fn patch_status(&self, _: &PodId, status: Value) -> Result<String, ApiError> {
        let conditions = serde_json::from_value(status["conditions"].clone()).expect("conditions");
        self.writes.lock().expect("lock").push(status);
        match self.refusals.lock().expect("lock").pop() {
            Some(refusal) => Err(refusal),
            None => Ok(self.set(conditions)),
        }
    }

    async fn delete_pod(&self, _: &PodId) -> Result<(), ApiError> {
        Ok(())
    }

    async fn create_event(&self, _: Event) -> Result<(), ApiError> {
        Ok(())
    }

    async fn patch_event(&self, _: &str, _: &str, _: Value) -> Result<(), ApiError> {
        Ok(())
    }
}

fn condition(kind: &str, status: &str) -> PodCondition {
    PodCondition { type_: kind.into(), status: status.into(), ..PodCondition::default() }
}

fn status(ready: &str) -> PodStatus {
    PodStatus { conditions: Some(vec![condition("Ready", ready)]), ..PodStatus::default() }
}

fn start(server: &Arc<Server>, updates: watch::Receiver<Update>) -> Publisher {
    let id = PodId { namespace: "default".into(), name: "web".into(), uid: "uid".into() };
    Publisher::start(server.clone(), id, updates)
}

#[tokio::test]
async fn what_somebody_else_takes_back_is_told_again() {
    let (server, updates) = Server::new();
    let publisher = start(&server, updates);
    server.set(vec![condition("Ready", "False")]);
    server.quiet(0).await; // nothing was told yet
    publisher.publish(status("True"));
    server.written(1).await;
    server.quiet(1).await;

    server.set(vec![PodCondition { reason: Some("NodeNotReady".into()), ..condition("Ready", "False") }]);
    server.written(2).await;
    {
        let writes = server.writes.lock().expect("lock");
        let repair = &writes[1]["conditions"][0];
        assert_eq!((&repair["status"], &repair["reason"]), (&json!("True"), &Value::Null));
    }
    server.quiet(2).await;

    server.set(vec![condition("example.com/gate", "False")]);
    server.quiet(2).await;
    publisher.publish(status("True"));
    server.quiet(2).await;
    publisher.publish(status("False"));
    server.written(3).await;
    server.quiet(3).await;
}

#[tokio::test]
async fn who_insists_is_answered_once_a_second() {
    let (server, updates) = Server::new();
    let publisher = start(&server, updates);
    publisher.publish(status("True"));
    server.written(1).await;
    let end = Instant::now() + Duration::from_millis(1500);
    while Instant::now() < end {
        server.set(vec![condition("Ready", "False")]);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let writes = server.writes();
    assert!((2..=3).contains(&writes), "{writes}: the status, one repair at once, one a second later");
    let said = || {
        let pod = server.updates.borrow().pod.clone();
        pod.status.iter().flat_map(|s| s.conditions.iter().flatten()).map(|c| c.status.clone()).collect::<Vec<_>>()
    };
    server.written(writes + 1).await;
    server.quiet(writes + 1).await;
    assert_eq!(said(), ["True"], "the last word is the kubelet's");
}

#[tokio::test]
async fn a_refused_status_is_not_insisted_on() {
    let (server, updates) = Server::new();
    server.refusals.lock().expect("lock").push(ApiError::Refused("no".into()));
    let mut publisher = start(&server, updates);
    publisher.publish(status("True"));
    publisher.flush(Duration::from_secs(5)).await;
    server.set(vec![condition("Ready", "False")]);
    server.quiet(1).await;
    publisher.publish(status("Unknown"));
    server.written(2).await;
    server.set(vec![condition("Ready", "False")]);
    server.written(3).await;
}

#[tokio::test]
async fn a_pod_that_is_gone_is_not_repaired() {
    let (server, updates) = Server::new();
    let publisher = start(&server, updates);
    publisher.publish(status("True"));
    server.written(1).await;
    server.updates.send_modify(|update| update.gone = true);
    server.set(vec![condition("Ready", "False")]);
    server.quiet(1).await;
}

#[test]
fn what_has_gone_is_said() {
    let own = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
    let status = json!({"phase": "Running", "podIP": "10.0.0.2", "podIPs": [{"ip": "10.0.0.2"}],
        "conditions": [{"type": "Ready", "status": "True"}, {"type": "Initialized", "status": "False", "reason": "Some"}]});
    assert_eq!(addresses(&status), own(&["10.0.0.2"]));
    let expected = json!({"phase": "Running", "podIP": "10.0.0.2", "reason": null, "message": null,
        "initContainerStatuses": null, "podIPs": [{"ip": "10.0.0.2"}, {"$patch": "delete", "ip": "10.0.0.1"}],
        "conditions": [{"type": "Ready", "status": "True", "reason": null, "message": null},
            {"type": "Initialized", "status": "False", "reason": "Some", "message": null}]});
    assert_eq!(patch(&status, &own(&["10.0.0.1", "10.0.0.2"]), &own(&["10.0.0.2"])), expected);
    assert_eq!(patch(&json!({}), &[], &[])["podIP"], Value::Null);
    assert!(patch(&json!({}), &[], &[]).get("podIPs").is_none());
}
