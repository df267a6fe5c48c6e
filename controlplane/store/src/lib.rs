//! The object store: a versioned key space with compare-and-swap and watch.
