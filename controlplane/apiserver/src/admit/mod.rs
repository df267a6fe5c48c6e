//! Defaulting, validation and address allocation on the way into the store.
