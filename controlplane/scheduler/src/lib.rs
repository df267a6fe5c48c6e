//! Assigns pods to nodes: filters, scores, binding.
//!
//! - [`quantity`]: resource quantities as integers. [`model`]: nodes and pods as the scheduler needs them (pure).
//! - [`filter`]: which nodes a pod fits on, and why not on the others (pure). [`score`]: the best of them (pure).
//! - [`cluster`]: the current nodes and pods, with pods assumed where they were just bound (pure).
//! - `run`: watches, decides, binds, and tells by events and conditions.

mod run;

pub mod cluster;
pub mod filter;
pub mod model;
pub mod quantity;
pub mod score;

pub use run::{SchedulerConfig, run};
