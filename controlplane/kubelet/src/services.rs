//! Service variables (`WEB_SERVICE_HOST`, …) for containers, from a watch of all services.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Service;
use kube::runtime::{WatchStreamExt, watcher};
use tokio::sync::watch;

/// A container is not kept waiting for services longer than this.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the variables are made from, by namespace and name.
type Table = BTreeMap<(String, String), Slim>;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Slim {
    ip: IpAddr,
    ports: Vec<(Option<String>, String, i32)>,
}

#[derive(Debug, Clone)]
pub struct Services {
    table: Arc<RwLock<Table>>,
    synced: watch::Receiver<bool>,
}

// === impl Services ===

impl Services {
    /// None at all: for runs without an API server.
    pub fn none() -> Self {
        let (_, synced) = watch::channel(true);
        Self { table: Arc::default(), synced }
    }

    /// Follows the API server's services for as long as the returned task runs.
    pub fn follow(client: kube::Client) -> (Self, impl Future<Output = ()> + Send) {
        let table: Arc<RwLock<Table>> = Arc::default();
        let (sender, synced) = watch::channel(false);
        let services = Self { table: table.clone(), synced };
        let task = async move {
            let stream = watcher(kube::Api::<Service>::all(client), watcher::Config::default()).default_backoff();
            let mut stream = std::pin::pin!(stream);
            let mut fresh = Table::new();
            while let Some(event) = stream.next().await {
                let Ok(mut table) = table.write() else { return };
                match event {
                    Ok(watcher::Event::Init) => fresh = Table::new(),
                    Ok(watcher::Event::InitApply(service)) => put(&mut fresh, &service),
                    Ok(watcher::Event::InitDone) => {
                        *table = std::mem::take(&mut fresh);
                        let _ = sender.send(true);
                    }
                    Ok(watcher::Event::Apply(service)) => put(&mut table, &service),
                    Ok(watcher::Event::Delete(service)) => drop(table.remove(&key(&service))),
                    Err(e) => tracing::debug!(error = %e, "the watch of services begins again"),
                }
            }
        };
        (services, task)
    }

    /// The variables of a pod: the API server's, and with `links` those of its own namespace.
    pub async fn environment(&self, namespace: &str, links: bool) -> Vec<(String, String)> {
        let mut synced = self.synced.clone();
        // The variables are a courtesy: an API server that is away does not stop a container.
        let _ = tokio::time::timeout(PATIENCE, synced.wait_for(|s| *s)).await;
        self.table.read().map(|table| variables(&table, namespace, links)).unwrap_or_default()
    }
}

fn key(service: &Service) -> (String, String) {
    let meta = &service.metadata;
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

fn put(table: &mut Table, service: &Service) {
    let slim = service.spec.as_ref().and_then(|spec| {
        let ip = spec.cluster_ip.as_deref()?.parse().ok()?;
        let port = |p: &k8s_openapi::api::core::v1::ServicePort| {
            (p.name.clone().filter(|n| !n.is_empty()), p.protocol.clone().unwrap_or_else(|| "TCP".into()), p.port)
        };
        let ports: Vec<_> = spec.ports.iter().flatten().map(port).collect();
        (!ports.is_empty()).then_some(Slim { ip, ports })
    });
    match slim {
        Some(slim) => drop(table.insert(key(service), slim)),
        None => drop(table.remove(&key(service))),
    }
}

fn variables(table: &Table, namespace: &str, links: bool) -> Vec<(String, String)> {
    let mut chosen: BTreeMap<&str, &Slim> = BTreeMap::new();
    if let Some(master) = table.get(&("default".to_owned(), "kubernetes".to_owned())) {
        chosen.insert("kubernetes", master);
    }
    if links {
        chosen.extend(table.iter().filter(|((ns, _), _)| ns == namespace).map(|((_, name), slim)| (name.as_str(), slim)));
    }
    let mut out = Vec::new();
    for (name, slim) in chosen {
        let prefix = name.to_uppercase().replace('-', "_");
        let host = if slim.ip.is_ipv6() { format!("[{}]", slim.ip) } else { slim.ip.to_string() };
        out.push((format!("{prefix}_SERVICE_HOST"), slim.ip.to_string()));
        out.push((format!("{prefix}_SERVICE_PORT"), slim.ports[0].2.to_string()));
        for (port_name, _, port) in &slim.ports {
            if let Some(port_name) = port_name {
                let port_name = port_name.to_uppercase().replace('-', "_");
                out.push((format!("{prefix}_SERVICE_PORT_{port_name}"), port.to_string()));
            }
        }
        let url = |protocol: &str, port: i32| format!("{}://{host}:{port}", protocol.to_lowercase());
        out.push((format!("{prefix}_PORT"), url(&slim.ports[0].1, slim.ports[0].2)));
        for (_, protocol, port) in &slim.ports {
            let stem = format!("{prefix}_PORT_{port}_{}", protocol.to_uppercase());
            out.push((stem.clone(), url(protocol, *port)));
            out.push((format!("{stem}_PROTO"), protocol.to_lowercase()));
            out.push((format!("{stem}_PORT"), port.to_string()));
            out.push((format!("{stem}_ADDR"), slim.ip.to_string()));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(namespace: &str, name: &str, ip: &str) -> Service {
        let json = serde_json::json!({"metadata": {"namespace": namespace, "name": name},
            "spec": {"clusterIP": ip, "ports": [{"name": "http-alt", "port": 80}]}});
        serde_json::from_value(json).expect("service")
    }

    #[test]
    fn variables_of_own_namespace_and_of_the_api_server() {
        let mut table = Table::new();
        for s in [
            service("default", "kubernetes", "10.96.0.1"),
            service("shop", "my-web", "10.96.0.7"),
            service("shop", "headless", "None"),
            service("other", "db", "10.96.0.8"),
        ] {
            put(&mut table, &s);
        }
        let all = variables(&table, "shop", true);
        let get = |name: &str| all.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        assert_eq!(get("MY_WEB_SERVICE_HOST"), Some("10.96.0.7"));
        assert_eq!(get("MY_WEB_SERVICE_PORT_HTTP_ALT"), Some("80"));
        assert_eq!(get("MY_WEB_PORT"), Some("tcp://10.96.0.7:80"));
        assert_eq!(get("MY_WEB_PORT_80_TCP_ADDR"), Some("10.96.0.7"));
        assert_eq!(get("KUBERNETES_SERVICE_HOST"), Some("10.96.0.1"));
        assert!(!all.iter().any(|(n, _)| n.starts_with("DB_") || n.starts_with("HEADLESS")));
        let bare = variables(&table, "shop", false);
        assert!(bare.iter().all(|(n, _)| n.starts_with("KUBERNETES_")) && !bare.is_empty());
    }
}
