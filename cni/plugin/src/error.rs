//! The error object of the specification, and its codes. The agent answers with the same type.

use serde::{Deserialize, Serialize};

/// Codes 1 to 99 are the specification's, 100 and above are ours.
pub mod code {
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    pub const UNSUPPORTED_FIELD: u32 = 2;
    pub const UNKNOWN_CONTAINER: u32 = 3;
    pub const INVALID_ENVIRONMENT: u32 = 4;
    pub const IO: u32 = 5;
    pub const DECODE: u32 = 6;
    pub const INVALID_CONFIG: u32 = 7;
    pub const TRY_AGAIN: u32 = 11;
    pub const UNAVAILABLE: u32 = 50;
    /// A link, address or route could not be set.
    pub const LINK: u32 = 100;
    /// The container already has an interface of that name, and it is not ours.
    pub const INTERFACE_EXISTS: u32 = 101;
    /// CHECK found something else than ADD had left.
    pub const CHANGED: u32 = 102;
    /// A requested address belongs to somebody else.
    pub const ADDRESS_IN_USE: u32 = 103;
    /// The data path refused the pod.
    pub const DATAPATH: u32 = 104;
    /// Another pod of the node has a hostPort that this one asks for.
    pub const HOST_PORT_IN_USE: u32 = 105;
    /// A defect of ours.
    pub const INTERNAL: u32 = 199;
}

/// What went wrong, in the shape a runtime expects. `details` tells the operator what to check.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[error("{msg} (code {code}){}{details}", if details.is_empty() { "" } else { ": " })]
pub struct CniError {
    pub code: u32,
    pub msg: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
}

// === impl CniError ===

impl CniError {
    pub fn new(code: u32, msg: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: String::new() }
    }

    #[must_use]
    pub fn details(mut self, details: impl ToString) -> Self {
        self.details = details.to_string();
        self
    }
}
