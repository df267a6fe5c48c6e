//! From a manifest on disk to the maps: file source, world, proxy, and back after a restart. No root, no kernel.

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use support::Kernel;
use thalweg_cluster::{Batch, Dirty, Source, World};
use thalweg_proxy::ebpf::EbpfBackend;
use thalweg_proxy::inspect::{ServiceRow, services};
use thalweg_proxy::{Applied, NodeView, Proxy};
use tokio::sync::mpsc;

const CLUSTER: &str = "
apiVersion: v1
kind: Node
metadata: {name: n1}
status: {addresses: [{type: InternalIP, address: 172.30.0.11}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, clusterIP: 10.96.0.7, ports: [{name: http, port: 80, nodePort: 30080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.244.0.5], nodeName: n1}, {addresses: [10.244.1.6], nodeName: n2}]
";

/// An agent as the binary has it: one world, one proxy, one source.
struct Agent {
    kernel: Kernel,
    world: World,
    proxy: Proxy<EbpfBackend>,
    batches: mpsc::Receiver<Batch>,
    synced: bool,
}

// === impl Agent ===

impl Agent {
    fn start(kernel: &Kernel, manifest: &Path) -> Self {
        let (sink, batches) = mpsc::channel(8);
        tokio::spawn(Source::File(manifest.to_owned()).run(sink));
        let view =
            NodeView { node: Arc::from("n1"), addresses: Vec::new(), zone: None, redirect: None, localhost_node_ports: false };
        let proxy = Proxy::new(kernel.adopt(), view);
        Self { kernel: kernel.clone(), world: World::default(), proxy, batches, synced: false }
    }

    async fn next(&mut self) -> Applied {
        let batch =
            tokio::time::timeout(Duration::from_secs(10), self.batches.recv()).await.expect("in time").expect("a batch");
        let mut dirty = Dirty::default();
        for change in batch.changes {
            self.world.apply(change, &mut dirty);
        }
        let applied = if batch.synced && !self.synced {
            self.synced = true;
            self.proxy.first_sync(&self.world)
        } else {
            self.proxy.update(&self.world, &dirty)
        };
        let applied = applied.expect("no loose end");
        assert!(applied.failed.is_empty(), "{:?}", applied.failed);
        applied
    }

    fn rows(&self) -> Vec<ServiceRow> {
        let state = self.kernel.lock();
        let list = |row: &ServiceRow| row.endpoints.iter().all(|endpoint| endpoint.state == "ready");
        let rows = services(
            &state.frontends.map.iter().map(|(key, value)| (*key, *value)).collect::<Vec<_>>(),
            &state.slots.map.iter().map(|(index, slot)| (*index, *slot)).collect::<Vec<_>>(),
            &state.backends.map.iter().map(|(id, backend)| (*id, *backend)).collect::<Vec<_>>(),
            &state.services.map.iter().map(|(number, name)| (*number, *name)).collect::<Vec<_>>(),
        );
        assert!(rows.iter().all(list), "{rows:?}");
        rows
    }

    /// One line per frontend: `address from: endpoints`.
    fn check(&self, expected: &[&str]) {
        let seen: Vec<String> = self
            .rows()
            .iter()
            .map(|row| {
                let endpoints: Vec<String> = row.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect();
                format!("{} {} {}: {}", row.service, row.address, row.from, endpoints.join(" "))
            })
            .collect();
        assert_eq!(seen, expected);
    }
}

#[tokio::test]
async fn a_manifest_reaches_the_maps_and_follows_its_changes() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let manifest = dir.path().join("cluster.yaml");
    std::fs::write(&manifest, CLUSTER).expect("write");
    let kernel = Kernel::large();

    let mut agent = Agent::start(&kernel, &manifest);
    let applied = agent.next().await;
    assert_eq!((applied.frontends_written, applied.slots_written, applied.backends_written), (4, 2, 2));
    agent.check(&[
        "default/web 10.96.0.7:80 inside: 10.244.0.5:8080 10.244.1.6:8080",
        "default/web 172.30.0.11:30080 inside: 10.244.0.5:8080 10.244.1.6:8080",
        "default/web 172.30.0.11:30080 outside: 10.244.0.5:8080 10.244.1.6:8080",
    ]);

    // The node's address changes: the NodePort moves with it.
    std::fs::write(&manifest, CLUSTER.replace("172.30.0.11", "172.30.0.21")).expect("write");
    agent.next().await;
    agent.check(&[
        "default/web 10.96.0.7:80 inside: 10.244.0.5:8080 10.244.1.6:8080",
        "default/web 172.30.0.21:30080 inside: 10.244.0.5:8080 10.244.1.6:8080",
        "default/web 172.30.0.21:30080 outside: 10.244.0.5:8080 10.244.1.6:8080",
    ]);

    // The agent is killed; while it is away an endpoint goes and a service comes.
    drop(agent);
    let away = CLUSTER.replace("172.30.0.11", "172.30.0.21").replace(", {addresses: [10.244.1.6], nodeName: n2}", "")
        + "---\napiVersion: v1\nkind: Service\nmetadata: {name: api}\nspec: {clusterIP: 10.96.0.8, ports: [{port: 443}]}\n";
    std::fs::write(&manifest, away).expect("write");
    let mut agent = Agent::start(&kernel, &manifest);
    let applied = agent.next().await;
    assert_eq!(
        (applied.services, applied.frontends_written, applied.removed),
        (2, 5, 0),
        "three flips, two new, nothing removed"
    );
    agent.check(&[
        "default/api 10.96.0.8:443 inside: ",
        "default/web 10.96.0.7:80 inside: 10.244.0.5:8080",
        "default/web 172.30.0.21:30080 inside: 10.244.0.5:8080",
        "default/web 172.30.0.21:30080 outside: 10.244.0.5:8080",
    ]);

    // A half-written file changes nothing; an empty one, once it keeps still, means an empty cluster.
    std::fs::write(&manifest, "kind: [").expect("write");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(agent.batches.try_recv().is_err());
    std::fs::write(&manifest, "").expect("write");
    agent.next().await;
    agent.check(&[]);
    let state = kernel.lock();
    assert!(state.frontends.map.is_empty() && state.services.map.is_empty());
}

#[tokio::test]
async fn before_the_first_sync_the_kernel_is_left_alone() {
    let kernel = Kernel::large();
    let view =
        NodeView { node: Arc::from("n1"), addresses: Vec::new(), zone: None, redirect: None, localhost_node_ports: false };
    let mut proxy = Proxy::new(kernel.adopt(), view);
    let applied = proxy.update(&World::default(), &Dirty::default()).expect("nothing to do");
    assert!(!applied.changed());
    assert_eq!(kernel.take_writes(), 0);
}
