//! The best of the nodes that a pod fits on.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::cluster::{Cluster, NodeState};
use crate::filter;
use crate::model::PodInfo;

/// How a decision came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Node(std::sync::Arc<str>),
    /// No node fits; the text says why, worded as Kubernetes words it.
    Nowhere(String),
}

/// Chooses a node: fewest pods of the same owner, then fewest avoidable taints, then the least loaded after the pod
/// is there, then the fewest pods, then the first by name, so that a decision can be repeated.
pub fn decide(pod: &PodInfo, cluster: &Cluster) -> Decision {
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let mut best: Option<(Rank<'_>, &NodeState)> = None;
    let mut nodes = 0;
    for node in cluster.nodes() {
        nodes += 1;
        match filter::reject(pod, node) {
            Some(reason) => *reasons.entry(reason).or_default() += 1,
            None => {
                let rank = rank(pod, node);
                if best.as_ref().is_none_or(|(held, _)| rank > *held) {
                    best = Some((rank, node));
                }
            }
        }
    }
    match best {
        Some((_, node)) => Decision::Node(std::sync::Arc::clone(&node.info.name)),
        None => {
            let list: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
            let list = if list.is_empty() { String::new() } else { format!(": {}", list.join(", ")) };
            Decision::Nowhere(format!("0/{nodes} nodes are available{list}."))
        }
    }
}

/// Greater is better.
type Rank<'a> = (Reverse<u32>, Reverse<usize>, i64, Reverse<usize>, Reverse<&'a str>);

fn rank<'a>(pod: &PodInfo, node: &'a NodeState) -> Rank<'a> {
    let avoided = node
        .info
        .taints
        .iter()
        .filter(|taint| taint.effect == "PreferNoSchedule")
        .filter(|taint| !pod.tolerations.iter().any(|toleration| filter::tolerates(toleration, taint)))
        .count();
    (
        Reverse(node.siblings(pod.owner.as_ref())),
        Reverse(avoided),
        free(pod, node),
        Reverse(node.pod_count()),
        Reverse(node.info.name.as_ref()),
    )
}

/// Share of CPU and memory that stays free with the pod there, in thousandths, the mean of both.
fn free(pod: &PodInfo, node: &NodeState) -> i64 {
    let share = |name: &str| {
        let capacity = node.info.allocatable.get(name);
        let used = node.requested.get(name) + pod.requests.get(name);
        if capacity <= 0 { 0 } else { i64::try_from(i128::from(capacity - used) * 1000 / i128::from(capacity)).unwrap_or(0) }
    };
    (share("cpu") + share("memory")) / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{NodeInfo, Resources, Taint};

    fn cluster(names: &[&str]) -> Cluster {
        let mut cluster = Cluster::default();
        for name in names {
            cluster.set_node(NodeInfo {
                name: (*name).into(),
                allocatable: Resources([("cpu".into(), 4000), ("memory".into(), 4_000_000), ("pods".into(), 110_000)].into()),
                ..NodeInfo::default()
            });
        }
        cluster
    }

    fn pod(uid: &str, owner: &str, cpu: i64) -> PodInfo {
        PodInfo {
            uid: uid.into(),
            name: uid.into(),
            owner: Some(owner.into()),
            requests: Resources([("cpu".into(), cpu), ("pods".into(), 1000)].into()),
            ..PodInfo::default()
        }
    }

    fn place(cluster: &mut Cluster, pod: PodInfo) -> String {
        match decide(&pod, cluster) {
            Decision::Node(node) => {
                let uid = std::sync::Arc::clone(&pod.uid);
                cluster.set_pod(pod);
                cluster.assume(&uid, &node);
                node.to_string()
            }
            Decision::Nowhere(reason) => reason,
        }
    }

    #[test]
    fn pods_of_one_owner_spread_over_the_nodes() {
        let mut cluster = cluster(&["a", "b"]);
        let placed: Vec<_> = (0..4).map(|number| place(&mut cluster, pod(&format!("p{number}"), "rs", 100))).collect();
        assert_eq!(placed, ["a", "b", "a", "b"]);
        // Even onto a node that is more loaded by others.
        assert_eq!(place(&mut cluster, pod("big", "other", 3000)), "a");
        assert_eq!(place(&mut cluster, pod("third", "third", 100)), "b");
    }

    #[test]
    fn avoidable_taints_are_avoided_when_possible() {
        let mut cluster = cluster(&["a", "b"]);
        let mut tainted = cluster.nodes().next().expect("a").info.clone();
        tainted.taints = vec![Taint { key: "k".into(), value: String::new(), effect: "PreferNoSchedule".into() }];
        cluster.set_node(tainted);
        assert_eq!(place(&mut cluster, pod("p", "rs", 100)), "b");
        // Spreading weighs more than a preference.
        assert_eq!(place(&mut cluster, pod("q", "rs", 100)), "a");
    }

    #[test]
    fn the_refusal_counts_nodes_by_reason() {
        let mut cluster = cluster(&["a", "b"]);
        assert_eq!(place(&mut cluster, pod("p", "rs", 5000)), "0/2 nodes are available: 2 Insufficient cpu.");
        assert_eq!(place(&mut Cluster::default(), pod("p", "rs", 1)), "0/0 nodes are available.");
    }
}
