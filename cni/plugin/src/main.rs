//! The executable `thalweg-cni`: configuration on stdin, result or error on stdout.

use std::process::ExitCode;

fn main() -> ExitCode {
    thalweg_cni::run(&|name| std::env::var(name).ok(), &mut std::io::stdin().lock(), &mut std::io::stdout().lock())
}
