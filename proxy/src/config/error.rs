//! What is wrong with a configuration, worded for whoever wrote it.

/// Why a configuration cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("not a KubeProxyConfiguration: {0}")]
    Syntax(String),
    #[error("{}", join(.0))]
    Fields(Vec<FieldError>),
}

/// One field that cannot be as it is.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct FieldError {
    /// Path in the file, as in `iptables.masqueradeBit`.
    pub field: String,
    pub reason: String,
}

// === impl FieldError ===

impl FieldError {
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.into() }
    }
}

impl From<FieldError> for ConfigError {
    fn from(error: FieldError) -> Self {
        Self::Fields(vec![error])
    }
}

fn join(errors: &[FieldError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
