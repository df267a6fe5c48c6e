//! The netns laboratory: nodes, pods, clients and probes on one machine.
//!
//! - [`netns`]: a network namespace that is removed with its guard, and commands and closures inside it.

pub mod netns;
