//! `thalweg bench`: becomes `thalweg-bench`, which lies beside this program. Nodes do not measure: what only a laboratory
//! needs (labs, load generators, reports) is not in the executable that every node runs.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Never returns when all is well.
///
/// # Errors
/// When the program is not there, with what to do.
pub fn run(args: &[OsString]) -> Result<()> {
    let own = std::env::current_exe().context("find this executable")?;
    become_bench(&own.with_file_name("thalweg-bench"), args)
}

fn become_bench(program: &Path, args: &[OsString]) -> Result<()> {
    ensure!(
        program.is_file(),
        "{} is missing: benchmarks are a program of their own, `cargo build --release -p thalweg-bench` makes it",
        program.display()
    );
    let error = Command::new(program).args(args).exec();
    Err(error).with_context(|| format!("start {}", program.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_named_with_what_makes_it() {
        let error = become_bench(Path::new("/nonexistent/thalweg-bench"), &[]).expect_err("missing").to_string();
        assert!(error.starts_with("/nonexistent/thalweg-bench is missing") && error.contains("cargo build"), "{error}");
    }
}
