//! The configuration of the service proxy: kube-proxy's file and flags, taken unchanged.
//!
//! - [`decode`]: text to [`KubeProxyConfiguration`], strictly. [`merge`]: with the command line's [`Flags`].
//! - [`Settings`]: what the proxy needs of it, checked, with notes on what means nothing here.
//! - [`KernelTable`]: the settings of the kernel's connection table as writes to its switches.
//!
//! Pure: whoever calls reads the file.

mod decode;
mod duration;
mod error;
mod flags;
mod kernel_table;
mod model;
mod settings;
#[cfg(test)]
mod tests;

pub use decode::decode;
pub use duration::GoDuration;
pub use error::{ConfigError, FieldError};
pub use flags::{Flags, merge};
pub use kernel_table::{KernelTable, Write};
pub use model::{API_VERSION, HEALTHZ_PORT, KIND, KubeProxyConfiguration, METRICS_PORT};
pub use settings::{Mode, NodePortAddresses, Settings};
