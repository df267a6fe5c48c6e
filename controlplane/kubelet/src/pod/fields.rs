//! What a pod may know of itself: `fieldRef` and `resourceFieldRef`, in the environment and in downward volumes.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod, ResourceFieldSelector};

use super::quantity::thousandths;
use super::spec::container;

/// Where the pod runs.
#[derive(Debug, Clone, Default)]
pub struct Place {
    pub node: String,
    pub host_ips: Vec<IpAddr>,
    pub pod_ips: Vec<IpAddr>,
    /// Millicores and bytes of the node: what an unset limit means.
    pub node_cpu: u64,
    pub node_memory: u64,
}

/// The value of a field path such as `metadata.name` or `metadata.labels['app']`.
pub fn field(pod: &Pod, place: &Place, path: &str) -> Result<String, String> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    let join = |ips: &[IpAddr]| ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let first = |ips: &[IpAddr]| ips.first().map(ToString::to_string).unwrap_or_default();
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    if let Some((map, key)) = path.split_once("['").and_then(|(m, k)| Some((m, k.strip_suffix("']")?))) {
        let map = match map {
            "metadata.labels" => &meta.labels,
            "metadata.annotations" => &meta.annotations,
            _ => return Err(format!("field path {path} is not known")),
        };
        return Ok(map.as_ref().and_then(|m| m.get(key)).cloned().unwrap_or_default());
    }
    let lines = |map: &Option<std::collections::BTreeMap<String, String>>| {
        map.iter().flatten().map(|(k, v)| format!("{k}={v:?}")).collect::<Vec<_>>().join("\n")
    };
    Ok(match path {
        "metadata.name" => text(&meta.name),
        "metadata.namespace" => text(&meta.namespace),
        "metadata.uid" => text(&meta.uid),
        "metadata.labels" => lines(&meta.labels),
        "metadata.annotations" => lines(&meta.annotations),
        "spec.nodeName" => place.node.clone(),
        "spec.serviceAccountName" => spec.map(|s| text(&s.service_account_name)).unwrap_or_default(),
        "status.hostIP" => first(&place.host_ips),
        "status.hostIPs" => join(&place.host_ips),
        "status.podIP" => first(&place.pod_ips),
        "status.podIPs" => join(&place.pod_ips),
        _ => return Err(format!("field path {path} is not known")),
    })
}

/// The value of `limits.cpu` and the like, in units of the divisor, rounded up.
pub fn resource(pod: &Pod, place: &Place, own: &str, selector: &ResourceFieldSelector) -> Result<String, String> {
    let name = selector.container_name.as_deref().unwrap_or(own);
    let found =
        pod.spec.as_ref().and_then(|s| container(s, name)).ok_or_else(|| format!("container {name} is not in the pod"))?;
    let requirements = found.0.resources.as_ref();
    let (kind, what) = selector.resource.split_once('.').unwrap_or_default();
    let limits = requirements.and_then(|r| r.limits.as_ref()).and_then(|l| l.get(what));
    let requests = requirements.and_then(|r| r.requests.as_ref()).and_then(|r| r.get(what));
    let own_value = match kind {
        "limits" => limits,
        "requests" => requests.or(limits),
        _ => return Err(format!("resource {} is not known", selector.resource)),
    };
    let value = match own_value {
        Some(quantity) => thousandths(&quantity.0).ok_or_else(|| format!("{} is not a quantity", quantity.0))?,
        None => match (what, kind) {
            ("cpu", "limits") => place.node_cpu.into(),
            ("memory", "limits") => u128::from(place.node_memory) * 1000,
            ("cpu" | "memory" | "ephemeral-storage", _) => 0,
            _ => return Err(format!("resource {} is not known", selector.resource)),
        },
    };
    let divisor = selector.divisor.as_ref().map_or("1", |d| d.0.as_str());
    let divisor = match thousandths(divisor) {
        None | Some(0) => 1000,
        Some(d) => d,
    };
    Ok(value.div_ceil(divisor).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Pod {
        let json = serde_json::json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "u1", "labels": {"app": "web", "b": "a\"b"}},
            "spec": {"serviceAccountName": "robot", "containers": [
                {"name": "c", "resources": {"limits": {"cpu": "1500m", "memory": "64Mi"}}}
            ]},
        });
        serde_json::from_value(json).expect("pod")
    }

    fn place() -> Place {
        let ips = vec!["10.1.0.5".parse().expect("ip"), "fd00::5".parse().expect("ip")];
        Place {
            node: "n1".into(),
            host_ips: vec!["172.30.0.11".parse().expect("ip")],
            pod_ips: ips,
            node_cpu: 4000,
            node_memory: 1 << 30,
        }
    }

    #[test]
    fn fields() {
        for (path, expected) in [
            ("metadata.name", Ok("web")),
            ("metadata.labels['app']", Ok("web")),
            ("metadata.labels['absent']", Ok("")),
            ("metadata.labels", Ok("app=\"web\"\nb=\"a\\\"b\"")),
            ("spec.nodeName", Ok("n1")),
            ("spec.serviceAccountName", Ok("robot")),
            ("status.hostIP", Ok("172.30.0.11")),
            ("status.podIPs", Ok("10.1.0.5,fd00::5")),
            ("status.phase", Err("field path status.phase is not known")),
            ("spec.x['y']", Err("field path spec.x['y'] is not known")),
        ] {
            let value = field(&pod(), &place(), path);
            assert_eq!(value.as_deref().map_err(String::as_str), expected, "{path}");
        }
    }

    #[test]
    fn resources() {
        for (resource_name, divisor, expected) in [
            ("limits.cpu", None, Some("2")),
            ("limits.cpu", Some("1m"), Some("1500")),
            ("requests.cpu", Some("1m"), Some("1500")),
            ("limits.memory", Some("1Mi"), Some("64")),
            ("limits.memory", None, Some("67108864")),
            ("limits.bananas", None, None),
            ("cpu", None, None),
        ] {
            let divisor = divisor.map(|d: &str| k8s_openapi::apimachinery::pkg::api::resource::Quantity(d.into()));
            let selector = ResourceFieldSelector { resource: resource_name.into(), divisor, container_name: None };
            assert_eq!(resource(&pod(), &place(), "c", &selector).ok().as_deref(), expected, "{resource_name}");
        }
    }
}
