//! Selectors: which objects a list or a watch is about, by labels and by fields.

mod fields;
mod labels;

pub use fields::FieldSelector;
pub use labels::LabelSelector;

/// Why a selector cannot be used; answered as 400 Bad Request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    #[error("unable to parse requirement: {0}")]
    Label(String),
    #[error("invalid selector: '{selector}'; can't understand '{term}'")]
    Field { selector: String, term: String },
    #[error("field label not supported: {0}")]
    UnsupportedField(String),
    #[error("{0:?} is not a valid label selector operator")]
    Operator(String),
}
