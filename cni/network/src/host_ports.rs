//! Which pod has which ports of the node: each at most once, from the beginning of an ADD to the end of the DEL.

use std::collections::BTreeMap;
use std::sync::Mutex;

use thalweg_cni::CniError;
use thalweg_cni::error::code;
use thalweg_cni::host_ports::HostPort;
use thalweg_cni::protocol::{AttachmentId, PodName};
use tracing::warn;

use crate::journal::Entry;
use crate::keys::lock;

/// The claims of all attachments that have any.
#[derive(Default, Debug)]
pub struct HostPorts(Mutex<BTreeMap<AttachmentId, Claim>>);

#[derive(Debug)]
struct Claim {
    pod: PodName,
    ports: Vec<HostPort>,
}

// === impl HostPorts ===

impl HostPorts {
    /// All of the ports or none. What the attachment had before is forgotten.
    ///
    /// # Errors
    /// 105 names the port and the pod that has it.
    pub fn claim(&self, id: &AttachmentId, pod: &PodName, ports: &[HostPort]) -> Result<(), CniError> {
        let mut claims = lock(&self.0);
        claims.remove(id);
        if ports.is_empty() {
            return Ok(());
        }
        for (other, claim) in &*claims {
            if let Some(port) = ports.iter().find(|port| claim.ports.iter().any(|held| held.overlaps(port))) {
                return Err(in_use(port, other, &claim.pod));
            }
        }
        claims.insert(id.clone(), Claim { pod: pod.clone(), ports: ports.to_vec() });
        Ok(())
    }

    /// Of a pod that runs: it keeps what it has.
    pub fn hold(&self, entry: &Entry) {
        if let Err(error) = self.claim(&entry.id, &entry.pod, &entry.host_ports) {
            warn!(id = %entry.id, %error, "two running pods have the same host port: the first one gets its traffic");
        }
    }

    pub fn release(&self, id: &AttachmentId) {
        lock(&self.0).remove(id);
    }
}

fn in_use(port: &HostPort, id: &AttachmentId, pod: &PodName) -> CniError {
    // Without Kubernetes, or without a journal, there is no name.
    let owner = if pod.name.is_empty() { id.to_string() } else { format!("{}/{}", pod.namespace, pod.name) };
    CniError::new(code::HOST_PORT_IN_USE, format!("host port {port} of this node is pod {owner}'s")).details(
        "another hostPort, another hostIP or another node; when that pod is gone, its DEL (or a few seconds) frees the port",
    )
}

#[cfg(test)]
mod tests {
    use thalweg_cni::host_ports::Transport;

    use super::*;

    fn id(name: &str) -> AttachmentId {
        AttachmentId::new(name, "eth0")
    }

    /// `ip|port`, of TCP.
    fn ports(words: &str) -> Vec<HostPort> {
        let port = |word: &str| {
            let (ip, port) = word.split_once('|').expect("ip|port");
            HostPort { ip: ip.parse().ok(), port: port.parse().expect("port"), target: 80, protocol: Transport::Tcp }
        };
        words.split_whitespace().map(port).collect()
    }

    fn claim(all: &HostPorts, name: &str, words: &str) -> Result<(), CniError> {
        let pod = PodName { namespace: "default".into(), name: name.into(), uid: "u".into() };
        all.claim(&id(name), &pod, &ports(words))
    }

    #[test]
    fn a_port_is_one_pod_s_until_it_is_released() {
        let all = HostPorts::default();
        claim(&all, "a", "|8080").unwrap();
        let error = claim(&all, "b", "|8081 |8080").unwrap_err();
        assert_eq!(error.code, code::HOST_PORT_IN_USE);
        assert!(error.msg.contains("*:8080/tcp") && error.msg.contains("default/a"), "{error}");
        claim(&all, "c", "|8081").expect("a claim that was refused holds nothing");
        all.release(&id("a"));
        claim(&all, "b", "|8080").unwrap();
        all.release(&id("nobody"));
    }

    #[test]
    fn an_unspecified_address_is_all_of_its_family() {
        let all = HostPorts::default();
        claim(&all, "one", "172.30.0.11|80").unwrap();
        claim(&all, "two", "172.30.0.12|80").unwrap();
        claim(&all, "six", "::|80").unwrap();
        for words in ["0.0.0.0|80", "|80", "fd00::1|80", "172.30.0.12|80"] {
            assert!(claim(&all, "late", words).is_err(), "{words}");
        }
    }

    #[test]
    fn the_same_attachment_may_claim_again() {
        let all = HostPorts::default();
        claim(&all, "a", "|80 127.0.0.1|80").expect("a pod is not in its own way");
        claim(&all, "a", "|81").unwrap();
        claim(&all, "b", "|80").expect("what it had before is free");
    }
}
