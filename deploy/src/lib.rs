//! The manifests and the chart of this folder, read as kubectl reads them and rendered as Helm renders them. Nothing
//! that runs on a node uses this: it is for the tests of what operators apply.
//!
//! - [`Manifest`]: the documents of YAML files. [`kinds`]: whether one is what its kind allows.
//! - [`Chart`]: values in, manifests out.

mod chart;
mod functions;
pub mod kinds;
mod manifest;
mod schema;

pub use chart::{Chart, Rendered};
pub use manifest::{Manifest, folder};
