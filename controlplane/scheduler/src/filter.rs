//! Which nodes a pod fits on. A reason is worded as Kubernetes words it, because people search for those words.

use crate::cluster::NodeState;
use crate::model::{HostPort, NodeInfo, PodInfo, Requirement, Taint, Toleration};

/// None when the pod fits, else the first reason why not.
pub fn reject(pod: &PodInfo, node: &NodeState) -> Option<String> {
    unschedulable(pod, &node.info)
        .or_else(|| tainted(pod, &node.info))
        .or_else(|| not_selected(pod, &node.info))
        .or_else(|| port_taken(pod, node))
        .or_else(|| too_little(pod, node))
}

fn unschedulable(pod: &PodInfo, node: &NodeInfo) -> Option<String> {
    let taint =
        Taint { key: "node.kubernetes.io/unschedulable".to_owned(), value: String::new(), effect: "NoSchedule".to_owned() };
    let tolerated = pod.tolerations.iter().any(|toleration| tolerates(toleration, &taint));
    (node.unschedulable && !tolerated).then(|| "node(s) were unschedulable".to_owned())
}

fn tainted(pod: &PodInfo, node: &NodeInfo) -> Option<String> {
    let blocking = |taint: &&Taint| {
        matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute")
            && !pod.tolerations.iter().any(|toleration| tolerates(toleration, taint))
    };
    let taint = node.taints.iter().find(blocking)?;
    Some(format!("node(s) had untolerated taint {{{}: {}}}", taint.key, taint.value))
}

/// Whether a toleration covers a taint.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    toleration.effect.as_ref().is_none_or(|effect| *effect == taint.effect)
        && match (&toleration.key, &toleration.value) {
            (None, None) => true,
            // Without a key only the operator Exists means anything.
            (None, Some(_)) => false,
            (Some(key), None) => *key == taint.key,
            (Some(key), Some(value)) => *key == taint.key && *value == taint.value,
        }
}

fn not_selected(pod: &PodInfo, node: &NodeInfo) -> Option<String> {
    let selected = pod.node_selector.iter().all(|(key, value)| node.labels.get(key) == Some(value));
    let affine = pod.node_affinity.as_ref().is_none_or(|terms| {
        // A term without requirements matches nothing.
        terms.iter().any(|term| !term.is_empty() && term.iter().all(|requirement| holds(requirement, node)))
    });
    (!selected || !affine).then(|| "node(s) didn't match Pod's node affinity/selector".to_owned())
}

fn holds(requirement: &Requirement, node: &NodeInfo) -> bool {
    let name = node.name.to_string();
    let value = match requirement.field {
        true => (requirement.key == "metadata.name").then_some(&name),
        false => node.labels.get(&requirement.key),
    };
    let number = |text: &String| text.parse::<i64>().ok();
    let compare = |than: fn(i64, i64) -> bool| match (value.and_then(number), requirement.values.first().and_then(number)) {
        (Some(value), Some(bound)) => than(value, bound),
        _ => false,
    };
    match requirement.operator.as_str() {
        "In" => value.is_some_and(|value| requirement.values.contains(value)),
        "NotIn" => value.is_none_or(|value| !requirement.values.contains(value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(|value, bound| value > bound),
        "Lt" => compare(|value, bound| value < bound),
        _ => false,
    }
}

fn port_taken(pod: &PodInfo, node: &NodeState) -> Option<String> {
    let taken = pod.host_ports.iter().any(|wanted| node.host_ports().any(|held| conflicts(wanted, held)));
    taken.then(|| "node(s) didn't have free ports for the requested pod ports".to_owned())
}

fn conflicts(a: &HostPort, b: &HostPort) -> bool {
    a.port == b.port && a.protocol == b.protocol && (a.ip == b.ip || a.ip == "0.0.0.0" || b.ip == "0.0.0.0")
}

fn too_little(pod: &PodInfo, node: &NodeState) -> Option<String> {
    let short = pod
        .requests
        .0
        .iter()
        .find(|(name, asked)| **asked > 0 && node.info.allocatable.get(name) - node.requested.get(name) < **asked)?;
    Some(match short.0.as_ref() {
        "pods" => "Too many pods".to_owned(),
        name => format!("Insufficient {name}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Resources;

    fn resources(list: &[(&str, i64)]) -> Resources {
        Resources(list.iter().map(|(name, amount)| ((*name).into(), *amount)).collect())
    }

    fn node() -> NodeState {
        NodeState::new(NodeInfo {
            name: "n1".into(),
            labels: [("disk".to_owned(), "ssd".to_owned()), ("size".to_owned(), "8".to_owned())].into(),
            allocatable: resources(&[("cpu", 2000), ("pods", 2000)]),
            ..NodeInfo::default()
        })
    }

    fn pod() -> PodInfo {
        PodInfo {
            name: "p".into(),
            uid: "u".into(),
            requests: resources(&[("cpu", 500), ("pods", 1000)]),
            ..PodInfo::default()
        }
    }

    fn check(pod: &PodInfo, node: &NodeState, wanted: Option<&str>) {
        let found = reject(pod, node);
        match wanted {
            None => assert_eq!(found, None),
            Some(text) => assert!(found.as_ref().is_some_and(|reason| reason.contains(text)), "{found:?}, wanted {text}"),
        }
    }

    #[test]
    fn resources_fit_until_they_are_used_up() {
        let mut node = node();
        check(&pod(), &node, None);
        node.requested = resources(&[("cpu", 1600)]);
        check(&pod(), &node, Some("Insufficient cpu"));
        node.requested = resources(&[("pods", 2000)]);
        check(&pod(), &node, Some("Too many pods"));
        let gpu = PodInfo { requests: resources(&[("example.org/gpu", 1000)]), ..pod() };
        check(&gpu, &super::tests::node(), Some("Insufficient example.org/gpu"));
    }

    #[test]
    fn taints_block_unless_tolerated_by_key_value_and_effect() {
        let mut tainted = node();
        tainted.info.taints = vec![Taint { key: "a".into(), value: "b".into(), effect: "NoSchedule".into() }];
        let with = |key: Option<&str>, value: Option<&str>, effect: Option<&str>| PodInfo {
            tolerations: vec![Toleration {
                key: key.map(str::to_owned),
                value: value.map(str::to_owned),
                effect: effect.map(str::to_owned),
            }],
            ..pod()
        };
        check(&pod(), &tainted, Some("untolerated taint {a: b}"));
        check(&with(Some("a"), Some("b"), Some("NoSchedule")), &tainted, None);
        check(&with(Some("a"), None, None), &tainted, None);
        check(&with(None, None, None), &tainted, None);
        check(&with(Some("a"), Some("x"), None), &tainted, Some("untolerated"));
        check(&with(Some("a"), Some("b"), Some("NoExecute")), &tainted, Some("untolerated"));
        tainted.info.taints[0].effect = "PreferNoSchedule".into();
        check(&pod(), &tainted, None);
        tainted.info.unschedulable = true;
        check(&pod(), &tainted, Some("unschedulable"));
    }

    #[test]
    fn selectors_and_required_affinity() {
        let selecting = |value: &str| PodInfo { node_selector: [("disk".to_owned(), value.to_owned())].into(), ..pod() };
        check(&selecting("ssd"), &node(), None);
        check(&selecting("hdd"), &node(), Some("node affinity/selector"));
        let affine = |operator: &str, key: &str, values: &[&str], field: bool| PodInfo {
            node_affinity: Some(vec![vec![Requirement {
                key: key.to_owned(),
                operator: operator.to_owned(),
                values: values.iter().map(|value| (*value).to_owned()).collect(),
                field,
            }]]),
            ..pod()
        };
        check(&affine("In", "disk", &["hdd", "ssd"], false), &node(), None);
        check(&affine("NotIn", "disk", &["ssd"], false), &node(), Some("affinity"));
        check(&affine("NotIn", "absent", &["x"], false), &node(), None);
        check(&affine("Exists", "absent", &[], false), &node(), Some("affinity"));
        check(&affine("DoesNotExist", "absent", &[], false), &node(), None);
        check(&affine("Gt", "size", &["7"], false), &node(), None);
        check(&affine("Lt", "size", &["8"], false), &node(), Some("affinity"));
        check(&affine("In", "metadata.name", &["n1"], true), &node(), None);
        let none = PodInfo { node_affinity: Some(vec![vec![]]), ..pod() };
        check(&none, &node(), Some("affinity"));
    }

    #[test]
    fn host_ports_conflict_on_overlapping_addresses_only() {
        let port = |ip: &str| HostPort { ip: ip.to_owned(), protocol: "TCP".to_owned(), port: 80 };
        let with = |ip: &str, uid: &str| PodInfo { host_ports: vec![port(ip)], uid: uid.into(), ..pod() };
        let mut node = node();
        node.add(&with("10.0.0.1", "first"));
        check(&with("10.0.0.2", "second"), &node, None);
        check(&with("10.0.0.1", "second"), &node, Some("free ports"));
        check(&with("0.0.0.0", "second"), &node, Some("free ports"));
    }
}
