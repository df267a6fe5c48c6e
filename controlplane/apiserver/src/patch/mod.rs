//! Patches: a changed object out of an object and a description of the change, in the three languages that the API
//! takes. All are pure; what comes out is decoded, defaulted and validated like any other write.

mod json;
mod merge;
mod strategic;

pub use json::json_patch;
pub use merge::merge_patch;
pub use strategic::strategic;

/// Why a patch does not apply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// Not a patch of its language; answered as 400 Bad Request.
    #[error("{0}")]
    Malformed(String),
    /// A patch that does not fit the object; answered as 422 Unprocessable Entity.
    #[error("{operation} operation does not apply: {path}: {problem}")]
    Operation { operation: &'static str, path: String, problem: &'static str },
    /// The value of a `test` operation differs; answered as 422 Unprocessable Entity.
    #[error("testing value {0} failed: test failed")]
    Test(String),
    /// A strategic merge patch that does not fit the kind; answered as 422 Unprocessable Entity.
    #[error("{path}: {problem}")]
    Strategic { path: String, problem: String },
}
