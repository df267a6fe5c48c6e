//! Nodes and pods as the scheduler needs them, converted once from the API's objects.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::quantity::milli;

/// Resources in thousandths of their unit (cores, bytes, pods, …), by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources(pub BTreeMap<Arc<str>, i64>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taint {
    pub key: String,
    pub value: String,
    pub effect: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeInfo {
    pub name: Arc<str>,
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<Taint>,
    pub unschedulable: bool,
    pub allocatable: Resources,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toleration {
    /// None tolerates every key (operator Exists).
    pub key: Option<String>,
    /// None tolerates every value (operator Exists).
    pub value: Option<String>,
    pub effect: Option<String>,
}

/// A port that a pod takes from its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    pub ip: String,
    pub protocol: String,
    pub port: i32,
}

/// One requirement of a node selector term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    pub operator: String,
    pub values: Vec<String>,
    /// It is about the node's name, not its labels.
    pub field: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodInfo {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub uid: Arc<str>,
    /// Empty until bound.
    pub node: Arc<str>,
    pub scheduler: String,
    /// Waiting for its gates to be removed.
    pub gated: bool,
    /// Uid of the controller: pods of one owner are spread over nodes.
    pub owner: Option<Arc<str>>,
    pub requests: Resources,
    pub node_selector: BTreeMap<String, String>,
    /// Required node affinity: one of the terms must hold, each with all of its requirements. None: no affinity.
    pub node_affinity: Option<Vec<Vec<Requirement>>>,
    pub tolerations: Vec<Toleration>,
    pub host_ports: Vec<HostPort>,
    /// Succeeded or Failed: takes nothing any more.
    pub finished: bool,
    pub deleting: bool,
    pub priority: i32,
    /// Creation time, for a fair order.
    pub created: String,
}

// === impl Resources ===

impl Resources {
    /// Unreadable quantities count as nothing: validation refuses them before.
    fn from_map(map: Option<&BTreeMap<String, Quantity>>) -> Self {
        let list = map.into_iter().flatten();
        Self(list.map(|(name, quantity)| (Arc::from(name.as_str()), milli(&quantity.0).unwrap_or(0))).collect())
    }

    pub fn add(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            *self.0.entry(Arc::clone(name)).or_default() += amount;
        }
    }

    pub fn subtract(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            *self.0.entry(Arc::clone(name)).or_default() -= amount;
        }
    }

    fn raise_to(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            let held = self.0.entry(Arc::clone(name)).or_default();
            *held = (*held).max(*amount);
        }
    }

    pub fn get(&self, name: &str) -> i64 {
        self.0.get(name).copied().unwrap_or(0)
    }
}

// === impl NodeInfo ===

impl From<&v1::Node> for NodeInfo {
    fn from(node: &v1::Node) -> Self {
        let spec = node.spec.as_ref();
        let taints = spec.and_then(|spec| spec.taints.as_ref()).into_iter().flatten();
        Self {
            name: node.metadata.name.as_deref().unwrap_or_default().into(),
            labels: node.metadata.labels.clone().unwrap_or_default(),
            taints: taints
                .map(|taint| Taint {
                    key: taint.key.clone(),
                    value: taint.value.clone().unwrap_or_default(),
                    effect: taint.effect.clone(),
                })
                .collect(),
            unschedulable: spec.and_then(|spec| spec.unschedulable).unwrap_or(false),
            allocatable: Resources::from_map(node.status.as_ref().and_then(|status| status.allocatable.as_ref())),
        }
    }
}

// === impl PodInfo ===

impl From<&v1::Pod> for PodInfo {
    fn from(pod: &v1::Pod) -> Self {
        let metadata = &pod.metadata;
        let owner = metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
        let empty = v1::PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
        Self {
            namespace: metadata.namespace.as_deref().unwrap_or_default().into(),
            name: metadata.name.as_deref().unwrap_or_default().into(),
            uid: metadata.uid.as_deref().unwrap_or_default().into(),
            node: spec.node_name.as_deref().unwrap_or_default().into(),
            scheduler: spec.scheduler_name.clone().unwrap_or_else(|| "default-scheduler".to_owned()),
            gated: spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty()),
            owner: owner.map(|owner| owner.uid.as_str().into()),
            requests: requests(spec),
            node_selector: spec.node_selector.clone().unwrap_or_default(),
            node_affinity: node_affinity(spec),
            tolerations: spec.tolerations.iter().flatten().map(toleration).collect(),
            host_ports: host_ports(spec),
            finished: matches!(phase, "Succeeded" | "Failed"),
            deleting: metadata.deletion_timestamp.is_some(),
            priority: spec.priority.unwrap_or(0),
            created: metadata.creation_timestamp.as_ref().map(|time| time.0.to_string()).unwrap_or_default(),
        }
    }
}

/// The sum over containers, or what the largest init container asks for; plus the overhead, plus one pod.
/// Init containers that restart always (sidecars) count with the containers.
fn requests(spec: &v1::PodSpec) -> Resources {
    let of = |container: &v1::Container| {
        Resources::from_map(container.resources.as_ref().and_then(|resources| resources.requests.as_ref()))
    };
    let mut total = Resources::default();
    for container in &spec.containers {
        total.add(&of(container));
    }
    let mut sidecars = Resources::default();
    let mut init = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let mut asked = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars.add(&asked);
        } else {
            asked.add(&sidecars);
            init.raise_to(&asked);
        }
    }
    total.add(&sidecars);
    total.raise_to(&init);
    total.add(&Resources::from_map(spec.overhead.as_ref()));
    total.0.insert("pods".into(), 1000);
    total
}

fn node_affinity(spec: &v1::PodSpec) -> Option<Vec<Vec<Requirement>>> {
    let required =
        spec.affinity.as_ref()?.node_affinity.as_ref()?.required_during_scheduling_ignored_during_execution.as_ref()?;
    let requirement = |field: bool| {
        move |found: &v1::NodeSelectorRequirement| Requirement {
            key: found.key.clone(),
            operator: found.operator.clone(),
            values: found.values.clone().unwrap_or_default(),
            field,
        }
    };
    let terms = required.node_selector_terms.iter().map(|term| {
        let labels = term.match_expressions.iter().flatten().map(requirement(false));
        labels.chain(term.match_fields.iter().flatten().map(requirement(true))).collect()
    });
    Some(terms.collect())
}

fn toleration(toleration: &v1::Toleration) -> Toleration {
    let exists = toleration.operator.as_deref() == Some("Exists");
    Toleration {
        key: toleration.key.clone().filter(|key| !key.is_empty()),
        value: (!exists).then(|| toleration.value.clone().unwrap_or_default()),
        effect: toleration.effect.clone().filter(|effect| !effect.is_empty()),
    }
}

fn host_ports(spec: &v1::PodSpec) -> Vec<HostPort> {
    let host_network = spec.host_network == Some(true);
    let ports = spec.containers.iter().flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let number = port.host_port.filter(|port| *port > 0).or(host_network.then_some(port.container_port))?;
            Some(HostPort {
                ip: port.host_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or_else(|| "0.0.0.0".to_owned()),
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                port: number,
            })
        })
        .collect()
}
