//! The kernel programs, embedded at build time; empty when they had not been built.

/// The object file, aligned as its headers need.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/thalweg.o"));

/// The programs that time the others.
pub static DRIVER: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/driver.o"));
