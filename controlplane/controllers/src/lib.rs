//! The controllers: from desired to observed state, by the API alone.
