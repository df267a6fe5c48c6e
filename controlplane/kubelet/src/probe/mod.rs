//! Probes of running containers. Each is a task that lives as long as the container runs and tells its worker what changes.

mod http;
mod threshold;

#[cfg(test)]
pub use http::any_certificate;
pub use threshold::Threshold;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Probe, TCPSocketAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::runtime::Runtime;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Startup,
    Readiness,
    Liveness,
}

/// What a probe has to tell: a failure as it happens, a verdict when a threshold is crossed.
#[derive(Debug)]
pub struct Report {
    pub container: String,
    pub id: String,
    pub kind: Kind,
    pub failure: Option<String>,
    pub verdict: Option<bool>,
}

/// Where a container's handlers are sent.
#[derive(Debug)]
pub struct Target<R> {
    pub runtime: Arc<R>,
    pub container: Arc<Container>,
    pub id: String,
    /// The pod's address; for a pod on the node's network the node's own.
    pub ip: Option<IpAddr>,
}

// === impl Kind ===

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        }
    }
}

/// Runs one probe until it is dropped. `started` is true once the startup probe has passed.
pub async fn run<R: Runtime>(
    kind: Kind,
    probe: Probe,
    target: Target<R>,
    initial: bool,
    mut started: watch::Receiver<bool>,
    reports: mpsc::Sender<Report>,
) {
    let begin = Instant::now();
    if kind != Kind::Startup && started.wait_for(|s| *s).await.is_err() {
        return;
    }
    tokio::time::sleep_until(begin + seconds(probe.initial_delay_seconds, 0)).await;
    let limit = seconds(probe.timeout_seconds, 1);
    let mut threshold = Threshold::new(probe.failure_threshold.unwrap_or(3), probe.success_threshold.unwrap_or(1), initial);
    let mut ticks = tokio::time::interval(seconds(probe.period_seconds, 10));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let result = check(&probe, &target, limit).await;
        let verdict = threshold.note(result.is_ok());
        let failure = result.err();
        if failure.is_some() || verdict.is_some() {
            let report = Report { container: target.container.name.clone(), id: target.id.clone(), kind, failure, verdict };
            if reports.send(report).await.is_err() {
                return;
            }
        }
        if kind == Kind::Startup && verdict == Some(true) {
            return;
        }
    }
}

async fn check<R: Runtime>(probe: &Probe, target: &Target<R>, limit: Duration) -> Result<(), String> {
    if let Some(action) = &probe.exec {
        return target.exec(action.command.as_deref().unwrap_or_default(), limit).await;
    }
    let dial = async {
        if let Some(action) = &probe.http_get {
            target.http(action).await
        } else if let Some(action) = &probe.tcp_socket {
            target.tcp(action).await
        } else if probe.grpc.is_some() {
            Err("grpc probes are not supported yet: use tcpSocket or exec".into())
        } else {
            Err("the probe has no action".into())
        }
    };
    tokio::time::timeout(limit, dial).await.unwrap_or_else(|_| Err(format!("no answer within {} s", limit.as_secs())))
}

fn seconds(value: Option<i32>, default: u64) -> Duration {
    let value = value.and_then(|v| u64::try_from(v).ok()).unwrap_or(default);
    // A period or timeout of 0 means the default.
    Duration::from_secs(if value == 0 { default } else { value })
}

// === impl Target ===

impl<R> Clone for Target<R> {
    fn clone(&self) -> Self {
        let (runtime, container) = (self.runtime.clone(), self.container.clone());
        Self { runtime, container, id: self.id.clone(), ip: self.ip }
    }
}

impl<R: Runtime> Target<R> {
    /// Success is exit code 0.
    pub async fn exec(&self, command: &[String], limit: Duration) -> Result<(), String> {
        match self.runtime.exec(&self.id, command, limit).await {
            Ok(output) if output.code == 0 => Ok(()),
            Ok(output) => Err(format!("command {command:?} exited with {}: {}", output.code, output.output)),
            Err(e) => Err(e.to_string()),
        }
    }

    /// Success is a status from 200 to 399.
    pub async fn http(&self, action: &HTTPGetAction) -> Result<(), String> {
        let address = self.address(action.host.as_deref(), &action.port).await?;
        http::get(address, action).await
    }

    /// Success is an accepted connection.
    pub async fn tcp(&self, action: &TCPSocketAction) -> Result<(), String> {
        let address = self.address(action.host.as_deref(), &action.port).await?;
        tokio::net::TcpStream::connect(address).await.map(|_| ()).map_err(|e| format!("dial {address}: {e}"))
    }

    async fn address(&self, host: Option<&str>, port: &IntOrString) -> Result<SocketAddr, String> {
        let port = port_number(port, &self.container)?;
        let Some(host) = host.filter(|h| !h.is_empty()) else {
            return self.ip.map(|ip| SocketAddr::new(ip, port)).ok_or_else(|| "the pod has no address".into());
        };
        let mut found = tokio::net::lookup_host((host, port)).await.map_err(|e| format!("look up {host}: {e}"))?;
        found.next().ok_or_else(|| format!("look up {host}: no address"))
    }
}

/// A number, or the name of one of the container's ports.
fn port_number(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(text) => {
            let named = container.ports.iter().flatten().find(|p| p.name.as_deref() == Some(text));
            named.map(|p| p.container_port).or_else(|| text.parse().ok())
        }
    };
    let number = number.and_then(|n| u16::try_from(n).ok()).filter(|n| *n != 0);
    number.ok_or_else(|| format!("container {} has no port {port:?}", container.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_by_number_and_by_name() {
        let json = serde_json::json!({"name": "c", "ports": [{"name": "web", "containerPort": 8080}]});
        let container: Container = serde_json::from_value(json).expect("container");
        for (port, expected) in [
            (IntOrString::Int(80), Some(80)),
            (IntOrString::String("web".into()), Some(8080)),
            (IntOrString::String("81".into()), Some(81)),
            (IntOrString::String("absent".into()), None),
            (IntOrString::Int(0), None),
            (IntOrString::Int(70000), None),
        ] {
            assert_eq!(port_number(&port, &container).ok(), expected, "{port:?}");
        }
    }
}
