//! The Node object: registered, kept ready while a pod network is there, and its Lease renewed.

mod keep;
mod machine;
mod view;

pub use machine::Machine;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{
    DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference, Time};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::events::Recorder;
use crate::runtime::Runtime;

const LEASE_NAMESPACE: &str = "kube-node-lease";
const LEASE_RENEW: Duration = Duration::from_secs(10);
const LEASE_SECONDS: i32 = 40;
/// A request that takes longer has lost its connection; the next one gets another.
const REQUEST: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(1);

/// What the node says of itself.
pub struct Registration<R> {
    pub client: kube::Client,
    pub runtime: Arc<R>,
    pub recorder: Recorder,
    pub name: String,
    pub address: IpAddr,
    pub listen: Option<SocketAddr>,
    pub labels: BTreeMap<String, String>,
    pub max_pods: u32,
    pub machine: Machine,
}

// === impl Registration ===

impl<R: Runtime> Registration<R> {
    /// Makes the Node object, or takes over the one that is there. Returns when the API server has it.
    pub async fn register(&self) {
        self.registered().await;
    }

    /// The same, and the object as it is now.
    async fn registered(&self) -> Node {
        loop {
            match bounded(self.try_register()).await {
                Ok(node) => return node,
                Err(e) => tracing::warn!(node = self.name, error = %e, "the node is not registered yet"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn try_register(&self) -> kube::Result<Node> {
        let api = Api::<Node>::all(self.client.clone());
        let status = self.status(&[], Timestamp::now());
        let metadata = ObjectMeta { name: Some(self.name.clone()), labels: Some(self.all_labels()), ..ObjectMeta::default() };
        let node = Node { metadata, status: Some(status), ..Node::default() };
        match api.create(&PostParams::default(), &node).await {
            Err(kube::Error::Api(e)) if e.code == 409 => {
                let patch = json!({ "metadata": { "labels": self.all_labels() } });
                api.patch(&self.name, &PatchParams::default(), &Patch::Merge(patch)).await
            }
            other => other,
        }
    }

    /// Renews the node's lease, for as long as it is polled.
    pub async fn keep_lease(&self) {
        loop {
            let wait = match bounded(self.renew_lease()).await {
                Ok(()) => LEASE_RENEW,
                Err(e) => {
                    tracing::warn!(node = self.name, error = %e, "the node's lease was not renewed");
                    RETRY
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    async fn renew_lease(&self) -> kube::Result<()> {
        let api = Api::<Lease>::namespaced(self.client.clone(), LEASE_NAMESPACE);
        let spec = LeaseSpec {
            holder_identity: Some(self.name.clone()),
            lease_duration_seconds: Some(LEASE_SECONDS),
            renew_time: Some(MicroTime(Timestamp::now())),
            ..LeaseSpec::default()
        };
        let patch = json!({ "spec": spec });
        match api.patch(&self.name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Err(kube::Error::Api(e)) if e.code == 404 => {}
            other => return other.map(|_| ()),
        }
        let node = Api::<Node>::all(self.client.clone()).get(&self.name).await?;
        let owner = OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: self.name.clone(),
            uid: node.metadata.uid.unwrap_or_default(),
            ..OwnerReference::default()
        };
        let metadata =
            ObjectMeta { name: Some(self.name.clone()), owner_references: Some(vec![owner]), ..ObjectMeta::default() };
        api.create(&PostParams::default(), &Lease { metadata, spec: Some(spec) }).await.map(|_| ())
    }

    fn all_labels(&self) -> BTreeMap<String, String> {
        let own = [
            ("kubernetes.io/hostname", self.name.as_str()),
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", Machine::architecture()),
            ("beta.kubernetes.io/os", "linux"),
            ("beta.kubernetes.io/arch", Machine::architecture()),
        ];
        let own = own.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned()));
        own.chain(self.labels.clone()).collect()
    }

    fn status(&self, before: &[NodeCondition], now: Timestamp) -> NodeStatus {
        let quantity = |text: String| Quantity(text);
        let capacity = BTreeMap::from([
            ("cpu".to_owned(), quantity(self.machine.cpus.to_string())),
            ("memory".to_owned(), quantity(format!("{}Ki", self.machine.memory / 1024))),
            ("pods".to_owned(), quantity(self.max_pods.to_string())),
            ("ephemeral-storage".to_owned(), quantity(format!("{}Ki", self.machine.storage / 1024))),
        ]);
        let address = |kind: &str, value: String| NodeAddress { address: value, type_: kind.to_owned() };
        let endpoint = self.listen.map(|l| DaemonEndpoint { port: l.port().into() });
        NodeStatus {
            addresses: Some(vec![address("InternalIP", self.address.to_string()), address("Hostname", self.name.clone())]),
            allocatable: Some(capacity.clone()),
            capacity: Some(capacity),
            conditions: Some(conditions(self.runtime.network_ready(), before, now)),
            daemon_endpoints: endpoint.map(|e| NodeDaemonEndpoints { kubelet_endpoint: Some(e) }),
            node_info: Some(NodeSystemInfo {
                architecture: Machine::architecture().into(),
                boot_id: self.machine.boot_id.clone(),
                container_runtime_version: self.runtime.version(),
                kernel_version: self.machine.kernel.clone(),
                kube_proxy_version: String::new(),
                kubelet_version: concat!("v1.36.0+thalweg.", env!("CARGO_PKG_VERSION")).into(),
                machine_id: self.machine.machine_id.clone(),
                operating_system: "linux".into(),
                os_image: self.machine.os_image.clone(),
                system_uuid: self.machine.system_uuid.clone(),
                swap: None,
            }),
            ..NodeStatus::default()
        }
    }
}

/// The node's conditions; times of what did not change are carried over.
fn conditions(network: Result<(), String>, before: &[NodeCondition], now: Timestamp) -> Vec<NodeCondition> {
    let (ready, reason, message) = match network {
        Ok(()) => ("True", "KubeletReady", "kubelet is posting ready status".to_owned()),
        Err(e) => {
            let text =
                format!("container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:{e}");
            ("False", "KubeletNotReady", text)
        }
    };
    let pressure = |kind: &str| {
        let text = format!("kubelet has sufficient {}", if kind == "PID" { "PID" } else { "capacity" });
        (format!("{kind}Pressure"), "False", format!("KubeletHasSufficient{kind}"), text)
    };
    [pressure("Memory"), pressure("Disk"), pressure("PID"), ("Ready".into(), ready, reason.into(), message)]
        .into_iter()
        .map(|(type_, status, reason, message)| {
            let former = before.iter().find(|c| c.type_ == type_ && c.status == status);
            NodeCondition {
                status: status.to_owned(),
                reason: Some(reason),
                message: Some(message),
                last_heartbeat_time: Some(Time(now)),
                last_transition_time: Some(former.and_then(|c| c.last_transition_time.clone()).unwrap_or(Time(now))),
                type_,
            }
        })
        .collect()
}

/// The request, or an error after [`REQUEST`].
async fn bounded<T>(request: impl Future<Output = kube::Result<T>>) -> kube::Result<T> {
    tokio::time::timeout(REQUEST, request).await.unwrap_or_else(|_| {
        let text = format!("the API server did not answer within {} s", REQUEST.as_secs());
        Err(kube::Error::Service(text.into()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_ready_when_its_network_is() {
        let at = |second| Timestamp::from_second(second).expect("time");
        let first = conditions(Err("no network configuration".into()), &[], at(10));
        let ready = |list: &[NodeCondition]| list.iter().find(|c| c.type_ == "Ready").cloned().expect("Ready");
        assert_eq!(ready(&first).status, "False");
        assert!(ready(&first).message.expect("message").contains("no network configuration"));
        let second = conditions(Ok(()), &first, at(20));
        assert_eq!((ready(&second).status.as_str(), ready(&second).last_transition_time), ("True", Some(Time(at(20)))));
        let third = conditions(Ok(()), &second, at(30));
        assert_eq!(ready(&third).last_transition_time, Some(Time(at(20))));
        assert_eq!(ready(&third).last_heartbeat_time, Some(Time(at(30))));
        let unknown = second.iter().map(|c| NodeCondition { status: "Unknown".into(), ..c.clone() }).collect::<Vec<_>>();
        assert_eq!(ready(&conditions(Ok(()), &unknown, at(40))).last_transition_time, Some(Time(at(40))));
    }
}
