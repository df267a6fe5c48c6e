//! Metrics, for Prometheus, and the small pages that live beside them.
//!
//! - [`Metrics`]: what the proxy counts. [`KernelReader`]: what the data path counts, read when somebody asks.
//! - [`handler`]: `/metrics`, `/configz`, `/proxyMode`, `/healthz`.

mod kernel;
mod process;
mod registry;
mod render;
mod text;

use std::sync::Arc;

use http::StatusCode;
use serde_json::json;

pub use kernel::{KernelFigures, KernelReader, MapFigure};
pub use registry::{Metrics, NoLocal, Round};
pub use text::{Exposition, Histogram, Kind};

use crate::config::KubeProxyConfiguration;
use crate::http::{Answer, Handler};

/// Answers of the metrics server. `kernel` reads what the data path counts, `None` when it cannot.
pub fn handler(
    metrics: Metrics,
    mode: &'static str,
    config: KubeProxyConfiguration,
    kernel: impl Fn() -> Option<KernelFigures> + Send + Sync + 'static,
) -> Handler {
    Arc::new(move |path| match path {
        "/metrics" => Answer {
            content_type: "text/plain; version=0.0.4; charset=utf-8",
            ..Answer::text(StatusCode::OK, metrics.render(kernel().as_ref()))
        },
        "/configz" => Answer::json(StatusCode::OK, &json!({ "kubeproxy.config.k8s.io": config })),
        "/proxyMode" => Answer::text(StatusCode::OK, mode),
        "/healthz" => Answer::text(StatusCode::OK, "ok"),
        _ => Answer::not_found(),
    })
}
