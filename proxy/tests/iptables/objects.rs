//! From Kubernetes objects to packets, by the same proxy that the eBPF backend has.

use std::time::Duration;

use thalweg_cluster::{Dirty, Source, World};
use thalweg_proxy::{NodeView, Proxy};

use super::*;

const CLUSTER: &str = "
apiVersion: v1
kind: Node
metadata: {name: n1}
status: {addresses: [{type: InternalIP, address: 172.30.0.11}, {type: InternalIP, address: 'fd00::172:30:0:11'}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  externalTrafficPolicy: Local
  clusterIP: 10.96.0.7
  clusterIPs: [10.96.0.7, 'fd00::10:96:0:7']
  ipFamilies: [IPv4, IPv6]
  ports: [{name: http, port: 80, nodePort: 30080}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.244.0.5], nodeName: n1}, {addresses: [10.244.0.6], nodeName: n2}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-2, labels: {kubernetes.io/service-name: web}}
addressType: IPv6
ports: [{name: http, port: 8080}]
endpoints: [{addresses: ['fd00::10:244:0:5'], nodeName: n1}, {addresses: ['fd00::10:244:0:6'], nodeName: n2}]
";

#[tokio::test]
#[ignore = "needs root: run by cargo xtask test"]
async fn objects_become_packets() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let manifest = dir.path().join("cluster.yaml");
    std::fs::write(&manifest, CLUSTER).expect("write");
    let (sink, mut batches) = tokio::sync::mpsc::channel(8);
    let watching = tokio::spawn(Source::File(manifest).run(sink));
    let batch = tokio::time::timeout(Duration::from_secs(10), batches.recv()).await.expect("in time").expect("a batch");
    let (mut world, mut dirty) = (World::default(), Dirty::default());
    for change in batch.changes {
        world.apply(change, &mut dirty);
    }
    watching.abort();

    let wire = Wire::new("o");
    let backend = IptablesBackend::new(Programs::new(Variant::Default), options()).expect("valid");
    let view = NodeView { node: "n1".into(), addresses: Vec::new(), zone: None, redirect: None, localhost_node_ports: false };
    let mut proxy = Proxy::new(backend, view);
    let applied = wire.node.enter(|| proxy.first_sync(&world)).expect("the node's namespace").expect("applies");
    assert!(applied.failed.is_empty() && applied.services == 1, "{applied:?}");
    for family in FAMILIES {
        let own = |text: &str| of(family, text);
        let both = [own("a saw 172.30.0.11"), own("b saw 172.30.0.11")];
        assert_eq!(wire.dial_often(&wire.node, &own("10.96.0.7:80"), 40), both, "{family:?}");
        assert_eq!(wire.dial(&wire.node, &own("10.96.0.7:81")), "refused", "{family:?}");
        let local = wire.dial_often(&wire.client, &own("172.30.0.11:30080"), 10);
        assert_eq!(local, [own("a saw 172.30.0.100")], "{family:?}: Local is the endpoint here");
    }
}
