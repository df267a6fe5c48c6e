//! What is known of syncs that somebody else does.

use std::time::Duration;

use thalweg_cluster::Batch;
use thalweg_proxy::config::KubeProxyConfiguration;
use tokio::time::timeout;

use super::*;
use crate::monitor::Options;
use crate::rules::tests::locked_at_first;

fn services() -> Services {
    let monitor = Monitor::start(Options {
        node: "node-a".to_owned(),
        healthz: None,
        metrics: None,
        hard_fail: false,
        health_timeout: Duration::from_secs(60),
        mode: "iptables",
        config: KubeProxyConfiguration::defaults(),
        maps: None,
    });
    let view =
        NodeView { node: "node-a".into(), addresses: Vec::new(), zone: None, redirect: None, localhost_node_ports: false };
    let proxy = Proxy::new(AnyBackend::Iptables(locked_at_first()), view.clone());
    Services::new(proxy, view, None, monitor.expect("no servers"))
}

#[tokio::test]
async fn a_first_sync_that_failed_and_was_made_up_for_is_complete() {
    let mut services = services();
    let (_sink, mut waiting) = mpsc::channel(1);
    let everything = Batch { changes: Vec::new(), synced: true, received: Instant::now() };
    let taken = services.take(everything, &mut waiting).expect("everything is listed");
    assert!(services.apply(taken).is_none(), "somebody else does it");
    let settled = services.settled().await;
    assert!(settled.taken.first && !settled.complete && !services.is_whole(), "{:?}", settled.failures);
    // Nothing else happens: it is tried again by itself.
    let settled = timeout(Duration::from_secs(60), services.settled()).await.expect("a second try");
    assert!(settled.complete && services.is_whole() && !settled.taken.first);
}
