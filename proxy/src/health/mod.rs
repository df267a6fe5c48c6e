//! Health, for kubelets and load balancers: of the proxy, and of each service with an external traffic policy Local.
//!
//! - [`HealthState`]: whether the proxy works and the node may get traffic. Pure. [`Health`] shares one.
//! - [`DataPath`]: whether packets flow. Pure. [`Prober`] finds out.
//! - [`check`], [`diff`]: which health checks services want. Pure. [`ServiceChecks`] serves them.
//! - [`handler`]: `/healthz` and `/livez`.

mod checks;
mod data_path;
mod servers;
mod state;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::StatusCode;

pub use checks::{Changes, Check, check, diff};
pub use data_path::{DataPath, Dial, EVERY, Prober};
pub use servers::ServiceChecks;
pub use state::{FamilyReport, HealthState, Moment, Probe, Report};

use crate::http::{Answer, Handler};
use crate::metrics::Metrics;

/// One state, shared by the loop that writes it and the servers that read it.
#[derive(Clone, Debug)]
pub struct Health(Arc<Mutex<HealthState>>);

// === impl Health ===

impl Health {
    /// As [`HealthState::new`].
    pub fn new(timeout: Duration) -> Self {
        Self(Arc::new(Mutex::new(HealthState::new(timeout))))
    }

    pub fn read<T>(&self, read: impl FnOnce(&HealthState) -> T) -> T {
        read(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn update(&self, change: impl FnOnce(&mut HealthState)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Answers of the health server; each is counted.
pub fn handler(health: Health, metrics: Metrics) -> Handler {
    Arc::new(move |path| {
        let probe = match path {
            "/healthz" => Probe::Healthz,
            "/livez" => Probe::Livez,
            _ => return Answer::not_found(),
        };
        let report = health.read(|state| state.report(probe, Moment::now()));
        let status = if report.healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        metrics.probed(probe, status.as_u16());
        Answer::json(status, &report)
    })
}
