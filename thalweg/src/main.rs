//! The one binary: subcommands, wiring, configuration.

fn main() {}
