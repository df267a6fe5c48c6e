//! End-to-end scenarios, one file each.
