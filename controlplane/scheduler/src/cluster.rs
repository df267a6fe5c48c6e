//! The current nodes and pods. A pod that was just bound is assumed there until the watch says so.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::{HostPort, NodeInfo, PodInfo, Resources};

/// One node with what runs on it.
#[derive(Clone, Debug, Default)]
pub struct NodeState {
    pub info: NodeInfo,
    /// Sum of the requests of its pods.
    pub requested: Resources,
    /// Pods of each owner here.
    owners: BTreeMap<Arc<str>, u32>,
    pods: BTreeMap<Arc<str>, PodInfo>,
}

/// All nodes, and all pods by uid.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    nodes: BTreeMap<Arc<str>, NodeState>,
    pods: BTreeMap<Arc<str>, PodInfo>,
    /// Pods on nodes that are not known (yet).
    homeless: BTreeMap<Arc<str>, PodInfo>,
}

// === impl NodeState ===

impl NodeState {
    pub fn new(info: NodeInfo) -> Self {
        Self { info, ..Self::default() }
    }

    pub fn add(&mut self, pod: &PodInfo) {
        self.requested.add(&pod.requests);
        if let Some(owner) = &pod.owner {
            *self.owners.entry(Arc::clone(owner)).or_default() += 1;
        }
        self.pods.insert(Arc::clone(&pod.uid), pod.clone());
    }

    pub fn remove(&mut self, uid: &str) {
        let Some(pod) = self.pods.remove(uid) else { return };
        self.requested.subtract(&pod.requests);
        if let Some(owner) = &pod.owner
            && let Some(count) = self.owners.get_mut(owner)
        {
            *count -= 1;
            if *count == 0 {
                self.owners.remove(owner);
            }
        }
    }

    /// How many pods of this owner run here.
    pub fn siblings(&self, owner: Option<&Arc<str>>) -> u32 {
        owner.and_then(|owner| self.owners.get(owner)).copied().unwrap_or(0)
    }

    pub fn pod_count(&self) -> usize {
        self.pods.len()
    }

    pub fn host_ports(&self) -> impl Iterator<Item = &HostPort> {
        self.pods.values().flat_map(|pod| &pod.host_ports)
    }
}

// === impl Cluster ===

impl Cluster {
    pub fn nodes(&self) -> impl Iterator<Item = &NodeState> {
        self.nodes.values()
    }

    pub fn set_node(&mut self, info: NodeInfo) {
        let name = Arc::clone(&info.name);
        if let Some(node) = self.nodes.get_mut(&name) {
            node.info = info;
            return;
        }
        let mut node = NodeState::new(info);
        self.homeless.retain(|_, pod| {
            let here = pod.node == name;
            if here {
                node.add(pod);
            }
            !here
        });
        self.nodes.insert(name, node);
    }

    pub fn remove_node(&mut self, name: &str) {
        if let Some(node) = self.nodes.remove(name) {
            self.homeless.extend(node.pods);
        }
    }

    /// What the watch says of a pod. A pod without node that is assumed on one stays there.
    pub fn set_pod(&mut self, mut pod: PodInfo) {
        if pod.node.is_empty()
            && let Some(held) = self.pods.get(&pod.uid)
        {
            pod.node = Arc::clone(&held.node);
        }
        self.remove_pod(&pod.uid);
        if !pod.finished && !pod.node.is_empty() {
            match self.nodes.get_mut(&pod.node) {
                Some(node) => node.add(&pod),
                None => {
                    self.homeless.insert(Arc::clone(&pod.uid), pod.clone());
                }
            }
        }
        self.pods.insert(Arc::clone(&pod.uid), pod);
    }

    pub fn remove_pod(&mut self, uid: &str) {
        if let Some(pod) = self.pods.remove(uid)
            && let Some(node) = self.nodes.get_mut(&pod.node)
        {
            node.remove(uid);
        }
        self.homeless.remove(uid);
    }

    /// Counts a pod on a node before the watch confirms it.
    pub fn assume(&mut self, uid: &str, node: &Arc<str>) {
        if let Some(pod) = self.pods.get(uid).cloned() {
            self.set_pod(PodInfo { node: Arc::clone(node), ..pod });
        }
    }

    /// The binding failed: the pod waits again.
    pub fn forget(&mut self, uid: &str) {
        if let Some(pod) = self.pods.get(uid).cloned() {
            self.remove_pod(uid);
            self.set_pod(PodInfo { node: Arc::from(""), ..pod });
        }
    }

    /// Pods that wait for `scheduler`, the most important and then the oldest first.
    pub fn pending(&self, scheduler: &str) -> Vec<PodInfo> {
        let mut pending: Vec<PodInfo> = self
            .pods
            .values()
            .filter(|pod| pod.node.is_empty() && !pod.finished && !pod.deleting && !pod.gated && pod.scheduler == scheduler)
            .cloned()
            .collect();
        pending.sort_by(|a, b| {
            b.priority.cmp(&a.priority).then_with(|| a.created.cmp(&b.created)).then_with(|| a.name.cmp(&b.name))
        });
        pending
    }

    pub fn pod_uids(&self) -> Vec<Arc<str>> {
        self.pods.keys().cloned().collect()
    }

    pub fn node_names(&self) -> Vec<Arc<str>> {
        self.nodes.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, node: &str) -> PodInfo {
        PodInfo {
            uid: uid.into(),
            name: uid.into(),
            node: node.into(),
            scheduler: "s".to_owned(),
            owner: Some("rs".into()),
            requests: Resources([("cpu".into(), 100)].into()),
            ..PodInfo::default()
        }
    }

    fn node(name: &str) -> NodeInfo {
        NodeInfo { name: name.into(), ..NodeInfo::default() }
    }

    fn used(cluster: &Cluster, name: &str) -> (i64, u32, usize) {
        let node = cluster.nodes().find(|node| node.info.name.as_ref() == name).expect("node");
        (node.requested.get("cpu"), node.siblings(Some(&"rs".into())), node.pod_count())
    }

    #[test]
    fn an_assumed_pod_counts_until_it_is_forgotten() {
        let mut cluster = Cluster::default();
        cluster.set_node(node("n"));
        cluster.set_pod(pod("a", ""));
        assert_eq!(cluster.pending("s").len(), 1);
        assert_eq!(cluster.pending("other").len(), 0);
        cluster.assume("a", &"n".into());
        assert_eq!(used(&cluster, "n"), (100, 1, 1));
        // The watch repeats the pod as it was before the binding: it stays assumed.
        cluster.set_pod(pod("a", ""));
        assert_eq!((used(&cluster, "n"), cluster.pending("s").len()), ((100, 1, 1), 0));
        cluster.forget("a");
        assert_eq!((used(&cluster, "n"), cluster.pending("s").len()), ((0, 0, 0), 1));
    }

    #[test]
    fn pods_are_counted_whichever_is_seen_first_pod_or_node() {
        let mut cluster = Cluster::default();
        cluster.set_pod(pod("a", "n"));
        cluster.set_node(node("n"));
        assert_eq!(used(&cluster, "n"), (100, 1, 1));
        cluster.remove_node("n");
        cluster.set_node(node("n"));
        assert_eq!(used(&cluster, "n"), (100, 1, 1));
        cluster.set_pod(PodInfo { finished: true, ..pod("a", "n") });
        assert_eq!(used(&cluster, "n"), (0, 0, 0));
        cluster.remove_pod("a");
        assert!(cluster.pod_uids().is_empty());
    }

    #[test]
    fn the_important_and_then_the_old_come_first() {
        let mut cluster = Cluster::default();
        for (uid, priority, created) in [("a", 0, "2"), ("b", 0, "1"), ("c", 5, "3")] {
            cluster.set_pod(PodInfo { priority, created: created.to_owned(), ..pod(uid, "") });
        }
        let order: Vec<_> = cluster.pending("s").iter().map(|pod| pod.uid.to_string()).collect();
        assert_eq!(order, ["c", "b", "a"]);
    }
}
