//! Lifecycle hooks: postStart and preStop.

use std::time::Duration;

use k8s_openapi::api::core::v1::{HTTPGetAction, LifecycleHandler};

use crate::probe::Target;
use crate::runtime::Runtime;

/// Runs a hook to its end, bounded by `limit`.
pub(super) async fn run<R: Runtime>(handler: &LifecycleHandler, target: &Target<R>, limit: Duration) -> Result<(), String> {
    let work = async {
        if let Some(action) = &handler.exec {
            return target.exec(action.command.as_deref().unwrap_or_default(), limit).await;
        }
        if let Some(action) = &handler.http_get {
            return http(target, action).await;
        }
        if let Some(action) = &handler.sleep {
            tokio::time::sleep(Duration::from_secs(action.seconds.unsigned_abs())).await;
            return Ok(());
        }
        match &handler.tcp_socket {
            Some(action) => target.tcp(action).await,
            None => Ok(()),
        }
    };
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(format!("it did not end within {} s", limit.as_secs())))
}

async fn http<R: Runtime>(target: &Target<R>, action: &HTTPGetAction) -> Result<(), String> {
    target.http(action).await.map_err(|e| e.replacen("HTTP probe", "HTTP hook", 1))
}
