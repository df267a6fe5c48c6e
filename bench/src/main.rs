//! The benchmark scenarios behind docs/NUMBERS.md.

fn main() {}
