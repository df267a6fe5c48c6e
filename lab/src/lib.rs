//! The netns laboratory: nodes, pods, clients and probes on one machine.
//!
//! - [`netns`]: a network namespace that is removed with its guard, and commands and closures inside it.
//! - [`file`]: a lab whose cluster is a folder of manifests.
//! - [`topology`]: the wires of a lab cluster. [`owner`]: who owns a lab, and how one without an owner is removed.

pub mod cgroup;
pub mod checks;
pub mod cluster;
pub mod file;
pub mod http;
pub mod netns;
pub mod owner;
pub mod packet;
pub mod place;
pub mod probe;
pub mod process;
pub mod residue;
pub mod screen;
pub mod signals;
pub mod topology;
