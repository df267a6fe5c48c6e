//! The CNI plugin: JSON in, one round trip to the node agent, JSON out.

fn main() {}
