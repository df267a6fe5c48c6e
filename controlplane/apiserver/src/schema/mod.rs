//! Schemas: what fields the served kinds have. One set of facts feeds the OpenAPI documents (kubectl explain, apply),
//! the decoding of requests (unknown fields, types), and strategic merge patches.
//!
//! The source is k8s-openapi's schemars schemas, which carry the descriptions; [`facts`] adds what they leave out: how
//! lists merge.

mod components;
mod decode;
mod documents;
mod facts;
mod paths;
pub mod quantity;
#[cfg(test)]
mod tests;
pub(crate) mod types;

pub use decode::{DecodeError, decode, unknown_fields};
pub use documents::{Document, openapi_v2, openapi_v3, openapi_v3_index};
