//! The object store: a versioned key space with compare-and-swap and watch.
//!
//! One [`Store`] trait, several homes for the data. [`Embedded`] keeps the current state in memory and on disk in one redb
//! file; the trait is shaped so that etcd fits behind it as well. [`conformance`] is the suite that every home passes.

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod embedded;
mod model;
mod store;
mod watch;

pub use embedded::{Embedded, Options};
pub use model::{Compare, Event, Get, KeyValue, Op, Outcome, Page, Range, Txn};
pub use store::{Result, Store, StoreError};
pub use watch::{Watch, WatchControl, WatchItem};
