//! The Kubernetes API over HTTP: schema-driven kinds on a Store.

pub mod admit;
pub mod kinds;
pub mod patch;
pub mod schema;
pub mod select;
pub mod table;
