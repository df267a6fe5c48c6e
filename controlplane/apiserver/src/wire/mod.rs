//! Protobuf: what typed clients send (client-go since 1.32) and what kubectl asks of /openapi/v2.
//!
//! Requests are transcoded into the JSON form of the object by a table of field numbers; the types come from the same
//! schema as everything else. Answers are always JSON, which every client takes.

mod decode;
mod numbers;
mod openapi;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

pub use decode::{WireError, from_protobuf};
pub use openapi::openapi_v2_protobuf;

/// The media type of a request or answer in protobuf.
pub const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
/// The media type by which kubectl asks for the OpenAPI v2 document in protobuf.
pub const OPENAPI_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
/// The `Content-Type` of the answer to that: clients cannot parse the `@`.
pub const OPENAPI_PROTOBUF_ANSWER: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
