//! The health checks of services, served: one listener per healthCheckNodePort, opened and closed as services change.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::StatusCode;
use http::header::{HeaderName, HeaderValue};
use thalweg_cluster::{Name, World};

use super::checks::{Body, BodyName, Check, check, diff};
use super::{Health, Moment};
use crate::http::{Answer, Handler, Server, listen};

const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

/// The health checks of one node. Dropping it closes all of them.
pub struct ServiceChecks {
    node: Arc<str>,
    health: Health,
    /// Where to listen: every address, of either family, or those that serve NodePorts.
    addresses: Vec<IpAddr>,
    wanted: BTreeMap<Name, Check>,
    open: BTreeMap<Name, Open>,
    /// Services whose listener could not be opened, so that it is said once.
    failing: BTreeSet<Name>,
}

struct Open {
    port: u16,
    endpoints: Arc<AtomicUsize>,
    /// Lives as long as this does.
    _server: Server,
}

// === impl ServiceChecks ===

impl ServiceChecks {
    pub fn new(node: impl Into<Arc<str>>, health: Health) -> Self {
        Self {
            node: node.into(),
            health,
            addresses: vec![Ipv4Addr::UNSPECIFIED.into()],
            wanted: BTreeMap::new(),
            open: BTreeMap::new(),
            failing: BTreeSet::new(),
        }
    }

    /// The addresses to listen on from now on; empty: all of them. Call [`ServiceChecks::sync`] afterwards.
    pub fn set_addresses(&mut self, addresses: &[IpAddr]) {
        // Who is on the same link needs a scope to be reached, and no load balancer has one.
        let scoped = |ip: &IpAddr| matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
        let mut addresses: Vec<IpAddr> = addresses.iter().copied().filter(|ip| !scoped(ip)).collect();
        if addresses.is_empty() {
            addresses.push(Ipv4Addr::UNSPECIFIED.into());
        }
        if addresses != self.addresses {
            self.addresses = addresses;
            self.open.clear();
        }
    }

    /// Takes in what became of these services, and follows. Call it inside the runtime.
    pub fn update<'a>(&mut self, world: &World, services: impl IntoIterator<Item = &'a Name>) {
        for name in services {
            match check(world, name, &self.node) {
                Some(check) => self.wanted.insert(name.clone(), check),
                None => self.wanted.remove(name),
            };
        }
        self.sync();
    }

    /// Closes and opens listeners, and tries again those that could not be opened.
    pub fn sync(&mut self) {
        let open = self.open.iter().map(|(name, open)| (name.clone(), open.port)).collect();
        let wanted = self.wanted.iter().map(|(name, check)| (name.clone(), check.port)).collect();
        let changes = diff(&open, &wanted);
        for name in changes.close {
            tracing::info!(service = %name, "health check closed");
            self.open.remove(&name);
        }
        self.failing.retain(|name| self.wanted.contains_key(name));
        for (name, port) in changes.open {
            match self.listen(&name, port) {
                Ok(open) => {
                    tracing::info!(service = %name, port, "health check open");
                    self.failing.remove(&name);
                    self.open.insert(name, open);
                }
                Err(error) => {
                    if self.failing.insert(name.clone()) {
                        tracing::error!(service = %name, "health check on port {port}: {error}; trying again");
                    }
                }
            }
        }
        for (name, check) in &self.wanted {
            if let Some(open) = self.open.get(name) {
                open.endpoints.store(check.endpoints, Ordering::Relaxed);
            }
        }
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    fn listen(&self, name: &Name, port: u16) -> std::io::Result<Open> {
        let endpoints = Arc::new(AtomicUsize::new(0));
        let handler = handler(name.clone(), self.health.clone(), Arc::clone(&endpoints));
        let listeners = self.addresses.iter().map(|ip| listen(SocketAddr::new(*ip, port)));
        let listeners = listeners.collect::<std::io::Result<Vec<_>>>()?;
        Ok(Open { port, endpoints, _server: Server::start(listeners.into_iter().flatten(), &handler)? })
    }
}

fn handler(name: Name, health: Health, endpoints: Arc<AtomicUsize>) -> Handler {
    Arc::new(move |_| {
        let local_endpoints = endpoints.load(Ordering::Relaxed);
        let healthy = health.read(|state| state.serves(Moment::now()));
        let status = if local_endpoints > 0 && healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let service = BodyName { namespace: &name.namespace, name: &name.name };
        let mut answer = Answer::json(status, &Body { service, local_endpoints, service_proxy_healthy: healthy });
        answer.headers.push((WEIGHT, HeaderValue::from(local_endpoints)));
        answer
    })
}
