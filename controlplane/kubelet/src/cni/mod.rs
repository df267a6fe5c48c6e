//! The runtime's side of the Container Network Interface: which network, which plugins in which order with which input, and
//! what their answers mean.

mod conf;
mod exec;
mod result;

pub use conf::{NetworkList, load};
pub use exec::{Attachment, Cni};
pub use result::addresses;

use std::path::PathBuf;

/// Why a pod got no network. The text goes into the pod's events.
#[derive(Debug, thiserror::Error)]
pub enum CniError {
    #[error("no network configuration in {}: the node agent writes it when it is ready", .0.display())]
    NoConfiguration(PathBuf),
    #[error("network configuration {}: {reason}", .path.display())]
    BadConfiguration { path: PathBuf, reason: String },
    #[error("CNI plugin {plugin} is not in {}: install it or set the CNI binary directory", .dir.display())]
    NoPlugin { plugin: String, dir: PathBuf },
    /// The plugin's own error object.
    #[error("CNI {command} by {plugin} failed (code {code}): {message}{details}")]
    Plugin { command: &'static str, plugin: String, code: u64, message: String, details: String },
    #[error("CNI {command} by {plugin}: {reason}")]
    Execution { command: &'static str, plugin: String, reason: String },
    #[error("CNI ADD by {plugin} gave a result that cannot be read: {reason}")]
    BadResult { plugin: String, reason: String },
}

impl CniError {
    /// The plugin asks for another try (code 11).
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Plugin { code: 11, .. })
    }
}
