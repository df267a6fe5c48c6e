//! The controllers: from desired to observed state, by the API alone.
//!
//! Watches fill one [`cache`]; [`route`] turns every change into keys of work; the [`queue`] holds each key once; `run` hands
//! a key to its controller. A controller is a pure function of what the cache knows and the time, and answers with
//! [`action`]s, which `perform` sends to the API server and writes back into the cache, so that a controller always sees its
//! own writes.
//!
//! - [`deployment`], [`replicaset`]: workloads. [`endpoints`]: EndpointSlices and Endpoints of services.
//! - [`node`]: address ranges, health, taints, eviction, pods of vanished nodes. [`namespace`]: removal, and what each has.
//! - [`gc`]: dependents of owners that are gone or going.

mod config;
mod events;
mod perform;
mod run;
mod work;

pub mod action;
pub mod cache;
pub mod claim;
pub mod deployment;
pub mod endpoints;
pub mod gc;
pub mod meta;
pub mod namespace;
pub mod node;
pub mod pod;
pub mod queue;
pub mod replicaset;
pub mod route;
pub mod selector;

pub use config::Config;
pub use run::run;
