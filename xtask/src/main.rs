//! Build, test and run Thalweg: one module per verb.

fn main() {}
