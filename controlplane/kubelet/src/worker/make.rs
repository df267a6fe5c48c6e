//! From a pod's spec to what the runtime is told: sandbox and container configurations.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, VolumeMount};

use super::Worker;
use crate::api::{ApiError, ClusterApi, Data};
use crate::pod::env::{Sources, environment, expand, references};
use crate::pod::quantity::{resources, thousandths};
use crate::pod::{dns, identity, security, spec};
use crate::runtime::{Bandwidth, ContainerConfig, Mount, PortMapping, Runtime, SandboxConfig};

impl<R: Runtime, A: ClusterApi> Worker<R, A> {
    pub(super) fn sandbox_config(&self, spec: &PodSpec) -> SandboxConfig {
        let settings = &self.node.settings;
        let (hostname, _) = identity::hostname(&self.pod, &settings.node, &settings.resolvers.cluster_domain);
        let sysctls = spec.security_context.as_ref().and_then(|s| s.sysctls.as_deref()).unwrap_or_default();
        SandboxConfig {
            namespace: self.id.namespace.clone(),
            name: self.id.name.clone(),
            uid: self.id.uid.clone(),
            attempt: self.sandbox_attempts,
            hostname,
            host_network: spec.host_network == Some(true),
            host_pid: spec.host_pid == Some(true),
            host_ipc: spec.host_ipc == Some(true),
            dns: dns::dns_config(spec, &self.id.namespace, &settings.resolvers),
            port_mappings: port_mappings(spec),
            bandwidth: bandwidth(&self.pod),
            sysctls: sysctls.iter().map(|s| (s.name.clone(), s.value.clone())).collect(),
        }
    }

    pub(super) fn termination_path(&self, name: &str, attempt: i32) -> PathBuf {
        self.node.pod_dir(&self.id.uid).join("containers").join(name).join(attempt.to_string())
    }

    pub(super) fn log_path(&self, name: &str, attempt: i32) -> PathBuf {
        self.node.log_dir(&self.id).join(name).join(format!("{attempt}.log"))
    }

    /// Everything the container runs with. The error says what of the pod cannot be had.
    pub(super) async fn container_config(&self, container: &Container, attempt: i32) -> Result<ContainerConfig, String> {
        let spec = self.pod.spec.as_ref().ok_or("the pod has no spec")?;
        let place = self.place();
        let sources = self.sources(container).await?;
        let links = spec.enable_service_links.unwrap_or(true);
        let services = self.node.services.environment(&self.id.namespace, links).await;
        let env = environment(&self.pod, container, &place, &sources, &services)?;
        let lookup = |name: &str| env.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
        let words = |list: &Option<Vec<String>>| list.iter().flatten().map(|w| expand(w, lookup)).collect::<Vec<_>>();

        let security = security::security(spec, container)?;
        let mut mounts = Vec::new();
        for item in container.volume_mounts.iter().flatten() {
            mounts.push(self.mount(spec, item, lookup)?);
        }
        if !mounts.iter().any(|m| m.target == Path::new("/etc/hosts")) {
            mounts.push(Mount { source: self.write_hosts(spec)?, target: "/etc/hosts".into(), read_only: false });
        }
        let message = self.termination_path(&container.name, attempt);
        touch(&message, security.user).map_err(|e| format!("{}: {e}", message.display()))?;
        let target = container.termination_message_path.as_deref().unwrap_or("/dev/termination-log");
        mounts.push(Mount { source: message, target: absolute(target), read_only: false });

        Ok(ContainerConfig {
            name: container.name.clone(),
            attempt: u32::try_from(attempt).unwrap_or_default(),
            image: container.image.clone().unwrap_or_default(),
            command: words(&container.command),
            args: words(&container.args),
            working_dir: container.working_dir.as_deref().filter(|d| !d.is_empty()).map(absolute),
            mounts,
            security,
            resources: resources(container.resources.as_ref()),
            log_path: self.log_path(&container.name, attempt),
            stop_signal: container.lifecycle.as_ref().and_then(|l| l.stop_signal.clone()),
            annotations: BTreeMap::new(),
            env,
        })
    }

    async fn sources(&self, container: &Container) -> Result<Sources, String> {
        let (maps, secrets) = references(container);
        let mut sources = Sources::default();
        for name in maps {
            let found = self.node.api.config_map(&self.id.namespace, &name).await;
            keep(&mut sources.config_maps, "configmap", name, found)?;
        }
        for name in secrets {
            let found = self.node.api.secret(&self.id.namespace, &name).await;
            keep(&mut sources.secrets, "secret", name, found)?;
        }
        Ok(sources)
    }

    fn mount(&self, spec: &PodSpec, item: &VolumeMount, lookup: impl Fn(&str) -> Option<String>) -> Result<Mount, String> {
        let base = self.volumes.as_ref().and_then(|v| v.get(&item.name));
        let base = base.ok_or_else(|| format!("volume {:?} of a mount is not in the pod", item.name))?;
        let volume = spec.volumes.iter().flatten().find(|v| v.name == item.name);
        let fixed = volume
            .is_some_and(|v| v.config_map.is_some() || v.secret.is_some() || v.downward_api.is_some() || v.projected.is_some());
        let sub = item.sub_path_expr.as_ref().map(|e| expand(e, lookup)).or_else(|| item.sub_path.clone()).unwrap_or_default();
        let source = if sub.is_empty() { base.clone() } else { sub_path(base, &sub)? };
        Ok(Mount { source, target: absolute(&item.mount_path), read_only: fixed || item.read_only == Some(true) })
    }

    fn write_hosts(&self, spec: &PodSpec) -> Result<PathBuf, String> {
        let aliases = spec.host_aliases.as_deref().unwrap_or_default();
        let settings = &self.node.settings;
        let text = if spec.host_network == Some(true) {
            identity::hosts_of_node(&std::fs::read_to_string("/etc/hosts").unwrap_or_default(), aliases)
        } else {
            let (hostname, full) = identity::hostname(&self.pod, &settings.node, &settings.resolvers.cluster_domain);
            identity::hosts(&self.pod_ips(), &hostname, full.as_deref(), aliases)
        };
        let path = self.node.pod_dir(&self.id.uid).join("etc-hosts");
        // Written in place: containers that run have this very file mounted.
        let same = std::fs::read_to_string(&path).is_ok_and(|t| t == text);
        let written = if same { Ok(()) } else { std::fs::write(&path, text) };
        written.map(|()| path).map_err(|e| format!("write the hosts file: {e}"))
    }
}

/// Text for the environment; what is not UTF-8 cannot be a variable.
fn keep(
    all: &mut BTreeMap<String, BTreeMap<String, String>>,
    kind: &str,
    name: String,
    found: Result<Data, ApiError>,
) -> Result<(), String> {
    match found {
        Ok(data) => {
            let text = data.into_iter().filter_map(|(k, v)| Some((k, String::from_utf8(v).ok()?)));
            all.insert(name, text.collect());
            Ok(())
        }
        Err(ApiError::NotFound) => Ok(()), // whether that matters, the reference says
        Err(e) => Err(format!("{kind} \"{name}\": {e}")),
    }
}

fn absolute(path: &str) -> PathBuf {
    Path::new("/").join(path)
}

/// A path inside a volume that stays inside, links followed. What does not exist is made a directory.
fn sub_path(base: &Path, sub: &str) -> Result<PathBuf, String> {
    let inside = Path::new(sub).components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
    if !inside {
        return Err(format!("subPath {sub:?} leads out of its volume"));
    }
    let path = base.join(sub);
    if std::fs::symlink_metadata(&path).is_err() {
        std::fs::create_dir_all(&path).map_err(|e| format!("subPath {sub:?}: {e}"))?;
    }
    let real = path.canonicalize().map_err(|e| format!("subPath {sub:?}: {e}"))?;
    let base = base.canonicalize().map_err(|e| format!("{}: {e}", base.display()))?;
    if real.starts_with(base) { Ok(real) } else { Err(format!("subPath {sub:?} leads out of its volume")) }
}

fn touch(path: &Path, user: u32) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::File::create(path)?;
    std::os::unix::fs::chown(path, Some(user), None)
}

fn port_mappings(spec: &PodSpec) -> Vec<PortMapping> {
    let ports = spec::containers(spec).flat_map(|(c, _)| c.ports.iter().flatten());
    ports
        .filter_map(|p| {
            Some(PortMapping {
                host_port: u16::try_from(p.host_port?).ok().filter(|port| *port != 0)?,
                container_port: u16::try_from(p.container_port).ok()?,
                protocol: p.protocol.as_deref().unwrap_or("TCP").to_lowercase(),
                host_ip: p.host_ip.as_deref().and_then(|ip| ip.parse().ok()),
            })
        })
        .collect()
}

fn bandwidth(pod: &Pod) -> Bandwidth {
    let rate = |name: &str| {
        let text = pod.metadata.annotations.as_ref()?.get(&format!("kubernetes.io/{name}-bandwidth"))?;
        u64::try_from(thousandths(text)?.div_ceil(1000)).ok()
    };
    Bandwidth { ingress: rate("ingress"), egress: rate("egress") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_ports_and_bandwidth_reach_the_network() {
        let json = serde_json::json!({"metadata": {"annotations": {"kubernetes.io/egress-bandwidth": "10M"}},
            "spec": {"containers": [{"name": "a", "ports": [
                {"containerPort": 80, "hostPort": 8080}, {"containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": "127.0.0.1"},
                {"containerPort": 81}]}]}});
        let pod: Pod = serde_json::from_value(json).expect("pod");
        let mappings = port_mappings(pod.spec.as_ref().expect("spec"));
        let short: Vec<_> = mappings.iter().map(|m| (m.host_port, m.container_port, m.protocol.as_str())).collect();
        assert_eq!(short, [(8080, 80, "tcp"), (53, 53, "udp")]);
        assert_eq!(bandwidth(&pod), Bandwidth { ingress: None, egress: Some(10_000_000) });
    }

    #[test]
    fn sub_paths_stay_inside() {
        let dir = tempfile::tempdir().expect("tempdir");
        std::os::unix::fs::symlink("/etc", dir.path().join("out")).expect("link");
        assert!(sub_path(dir.path(), "made/deep").expect("made").is_dir());
        for bad in ["../x", "/etc", "a/../../b", "out"] {
            let error = sub_path(dir.path(), bad).expect_err(bad);
            assert!(error.contains("leads out"), "{bad}: {error}");
        }
    }
}
