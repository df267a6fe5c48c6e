//! hostPorts between the pod network, which learns of them with each pod, and the service proxy, which serves them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thalweg_abi::Proto;
use thalweg_cluster::Name;
use thalweg_network::{BoxError, PodDatapath, PodLink, Transport};
use thalweg_proxy::plan::host_ports::{HostPort, PodHostPorts};
use tokio::sync::Notify;

/// Stands before a data path, and remembers the pods with ports of the node that it serves.
pub struct HostPorts {
    below: Arc<dyn PodDatapath>,
    pods: Mutex<Pods>,
    news: Notify,
}

#[derive(Default)]
struct Pods {
    /// By the name of the host's end.
    by_link: BTreeMap<String, PodHostPorts>,
    changed: bool,
}

// === impl HostPorts ===

impl HostPorts {
    pub fn before(below: Arc<dyn PodDatapath>) -> Self {
        Self { below, pods: Mutex::default(), news: Notify::new() }
    }

    /// Until something changes that nobody has taken yet. Ends at once when there is such a change.
    pub async fn changed(&self) {
        self.news.notified().await;
    }

    /// All pods with ports, when that is news.
    pub fn take(&self) -> Option<Vec<PodHostPorts>> {
        let mut pods = self.lock();
        std::mem::take(&mut pods.changed).then(|| pods.by_link.values().cloned().collect())
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<String, PodHostPorts>) -> bool) {
        let mut pods = self.lock();
        if change(&mut pods.by_link) {
            pods.changed = true;
            self.news.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Pods> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PodDatapath for HostPorts {
    fn attach(&self, pod: &PodLink) -> Result<(), BoxError> {
        self.below.attach(pod)?;
        if !pod.host_ports.is_empty() {
            let new = host_ports(pod);
            self.change(|pods| pods.insert(pod.host_ifname.clone(), new.clone()) != Some(new));
        }
        Ok(())
    }

    fn detach(&self, pod: &PodLink) -> Result<(), BoxError> {
        self.change(|pods| pods.remove(&pod.host_ifname).is_some());
        self.below.detach(pod)
    }
}

// === functions ===

fn host_ports(pod: &PodLink) -> PodHostPorts {
    let ports = pod.host_ports.iter().map(|port| HostPort {
        ip: port.ip,
        port: port.port,
        target: port.target,
        protocol: match port.protocol {
            Transport::Tcp => Proto::TCP,
            Transport::Udp => Proto::UDP,
            Transport::Sctp => Proto::SCTP,
        },
    });
    let v4 = (!pod.addr.is_unspecified()).then_some(IpAddr::V4(pod.addr));
    // Outside of Kubernetes a container has no other name than its id.
    let name = if pod.pod_name.is_empty() { &pod.container_id } else { &pod.pod_name };
    PodHostPorts {
        pod: Name::new(pod.namespace.as_str(), name.as_str()),
        addresses: v4.into_iter().chain(pod.addr6.map(IpAddr::V6)).collect(),
        ports: ports.collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::*;

    #[derive(Default)]
    struct Below {
        refuses: AtomicBool,
    }

    impl PodDatapath for Below {
        fn attach(&self, _: &PodLink) -> Result<(), BoxError> {
            if self.refuses.load(Ordering::Relaxed) { Err("refused by the test".into()) } else { Ok(()) }
        }

        fn detach(&self, _: &PodLink) -> Result<(), BoxError> {
            Ok(())
        }
    }

    fn link(name: &str, port: Option<u16>) -> PodLink {
        PodLink {
            container_id: format!("c-{name}"),
            ifname: "eth0".into(),
            host_ifname: "tw0".into(),
            host_ifindex: 7,
            host_mac: [6, 0, 0, 0, 0, 1],
            pod_mac: [2, 0, 0, 0, 0, 1],
            addr: [10, 244, 1, 5].into(),
            addr6: Some("fd00::5".parse().expect("address")),
            netns: None,
            netns_cookie: None,
            namespace: "default".into(),
            pod_name: name.into(),
            pod_uid: "u".into(),
            host_ports: port
                .map(|port| thalweg_network::HostPort { ip: None, port, target: 80, protocol: Transport::Udp })
                .into_iter()
                .collect(),
        }
    }

    async fn has_news(ports: &HostPorts) -> bool {
        tokio::time::timeout(Duration::from_millis(20), ports.changed()).await.is_ok()
    }

    #[tokio::test]
    async fn news_are_pods_that_come_and_go() {
        let below = Arc::new(Below::default());
        let ports = HostPorts::before(Arc::clone(&below) as Arc<dyn PodDatapath>);
        ports.attach(&link("plain", None)).expect("attach");
        assert!(!has_news(&ports).await && ports.take().is_none(), "nobody asked for a port");

        ports.attach(&link("web", Some(8080))).expect("attach");
        assert!(has_news(&ports).await);
        let wanted = PodHostPorts {
            pod: Name::new("default", "web"),
            addresses: vec!["10.244.1.5".parse().expect("address"), "fd00::5".parse().expect("address")],
            ports: vec![HostPort { ip: None, port: 8080, target: 80, protocol: Proto::UDP }],
        };
        assert_eq!((ports.take(), ports.take()), (Some(vec![wanted]), None));

        // Attached again, as at every start of the agent.
        ports.attach(&link("web", Some(8080))).expect("attach");
        assert!(!has_news(&ports).await);
        ports.detach(&link("web", Some(8080))).expect("detach");
        assert!(has_news(&ports).await);
        assert_eq!(ports.take(), Some(vec![]));

        below.refuses.store(true, Ordering::Relaxed);
        ports.attach(&link("web", Some(8080))).expect_err("a pod that is not attached has no ports");
        assert!(!has_news(&ports).await);
    }
}
