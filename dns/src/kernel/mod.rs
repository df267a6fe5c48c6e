//! The zone as the kernel's tables have it, which answer pods' queries without this process.
//!
//! - [`export`] (pure): which entries a snapshot of the zone means.
//! - [`Follower`]: keeps the tables at the newest snapshot, by the smallest difference.
//!
//! What the tables hold: the names that a zone has of itself, its namespaces, and its services with up to eight addresses of
//! each family. Names below services (endpoints, ports), names of pods, aliases, and larger sets are marked as ours to answer.

mod export;
mod follow;

pub use follow::{Follower, Settings};

#[cfg(test)]
mod differential;
#[cfg(test)]
mod tests;
