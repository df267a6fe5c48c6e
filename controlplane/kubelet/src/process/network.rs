//! What the CNI plugins are told about a pod.

use std::path::Path;

use nix::sys::statfs::{NSFS_MAGIC, statfs};
use serde_json::{Map, Value, json};

use super::ProcessRuntime;
use super::state::SandboxRecord;
use crate::cni::Attachment;
use crate::runtime::SandboxConfig;

impl ProcessRuntime {
    pub(super) fn attachment(&self, record: &SandboxRecord) -> Attachment {
        let config = &record.config;
        let args = [
            ("IgnoreUnknown", "1"),
            ("K8S_POD_NAMESPACE", config.namespace.as_str()),
            ("K8S_POD_NAME", config.name.as_str()),
            ("K8S_POD_INFRA_CONTAINER_ID", record.id.as_str()),
            ("K8S_POD_UID", config.uid.as_str()),
        ];
        Attachment {
            container_id: record.id.clone(),
            netns: record.netns.clone().filter(|path| is_namespace(path)),
            interface: "eth0".into(),
            args: args.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            capabilities: capabilities(config),
        }
    }
}

/// After a restart of the machine the file is there, and no namespace behind it.
fn is_namespace(path: &Path) -> bool {
    statfs(path).is_ok_and(|s| s.filesystem_type() == NSFS_MAGIC)
}

/// Arguments by the capabilities' conventional names.
fn capabilities(config: &SandboxConfig) -> Map<String, Value> {
    let mut map = Map::new();
    if !config.port_mappings.is_empty() {
        let mappings: Vec<_> = config
            .port_mappings
            .iter()
            .map(|m| {
                let host_ip = m.host_ip.map(|ip| ip.to_string()).unwrap_or_default();
                json!({"hostPort": m.host_port, "containerPort": m.container_port, "protocol": m.protocol, "hostIP": host_ip})
            })
            .collect();
        map.insert("portMappings".into(), mappings.into());
    }
    let mut bandwidth = Map::new();
    for (name, rate) in [("ingress", config.bandwidth.ingress), ("egress", config.bandwidth.egress)] {
        if let Some(rate) = rate {
            bandwidth.insert(format!("{name}Rate"), rate.into());
            // The plugin wants a burst with each rate; the largest it takes means no limit of its own.
            bandwidth.insert(format!("{name}Burst"), i32::MAX.into());
        }
    }
    if !bandwidth.is_empty() {
        map.insert("bandwidth".into(), bandwidth.into());
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{Bandwidth, PortMapping};

    #[test]
    fn a_plain_file_is_no_namespace() {
        assert!(is_namespace(Path::new("/proc/self/ns/net")));
        assert!(!is_namespace(Path::new("/etc/passwd")) && !is_namespace(Path::new("/nonexistent")));
    }

    #[test]
    fn capabilities_follow_the_conventions() {
        assert!(capabilities(&SandboxConfig::default()).is_empty());
        let config = SandboxConfig {
            port_mappings: vec![PortMapping { host_port: 8080, container_port: 80, protocol: "tcp".into(), host_ip: None }],
            bandwidth: Bandwidth { ingress: Some(1_000_000), egress: None },
            ..SandboxConfig::default()
        };
        let expected = json!({
            "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ""}],
            "bandwidth": {"ingressRate": 1_000_000, "ingressBurst": i32::MAX},
        });
        assert_eq!(Value::from(capabilities(&config)), expected);
    }
}
