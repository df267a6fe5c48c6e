//! Calls of cargo: builds, and test runs whose summaries are counted.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// How many tests ran, over several runners.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub passed: u64,
    pub failed: u64,
    /// Marked `#[ignore]` and not run.
    pub ignored: u64,
}

// === impl Counts ===

impl Counts {
    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }

    /// From a line such as `test result: ok. 4 passed; 0 failed; 1 ignored; 0 measured; …`.
    fn from_line(line: &str) -> Option<Self> {
        let rest = line.trim().strip_prefix("test result: ")?;
        let number = |word: &str| -> Option<u64> {
            let (before, _) = rest.split_once(&format!(" {word}"))?;
            before.rsplit([' ', '.', ';']).next()?.parse().ok()
        };
        Some(Self { passed: number("passed")?, failed: number("failed")?, ignored: number("ignored")? })
    }
}

pub fn command(root: &Path) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root);
    cargo
}

/// Runs cargo with its own output.
///
/// # Errors
/// When cargo ends with a failure.
pub fn run(root: &Path, args: &[&str]) -> Result<()> {
    let status = command(root).args(args).status().context("cannot run cargo")?;
    ensure!(status.success(), "`cargo {}` failed (see above)", args.join(" "));
    Ok(())
}

/// Runs `cargo test` with more arguments, shows what it prints, and counts.
///
/// # Errors
/// When cargo cannot run, or ends with a failure although no test failed (it did not compile).
pub fn test(root: &Path, args: &[&str], env: &[(&str, &str)]) -> Result<Counts> {
    let mut command = command(root);
    command.arg("test").args(args).envs(env.iter().copied()).stdout(Stdio::piped()).stdin(Stdio::null());
    let mut child = command.spawn().context("cannot run cargo")?;
    let mut counts = Counts::default();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line.context("read what the tests print")?;
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            counts.add(Counts::from_line(&line).unwrap_or_default());
        }
    }
    let status = child.wait().context("wait for cargo")?;
    ensure!(status.success() || counts.failed > 0, "`cargo test {}` failed before its tests ran (see above)", args.join(" "));
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::Counts;

    #[test]
    fn summaries_are_counted_and_other_lines_are_not() {
        let line = "test result: FAILED. 14 passed; 2 failed; 3 ignored; 0 measured; 0 filtered out; finished in 0.01s";
        assert_eq!(Counts::from_line(line), Some(Counts { passed: 14, failed: 2, ignored: 3 }));
        assert_eq!(Counts::from_line("test tests::passed ... ok"), None);
        assert_eq!(Counts::from_line("test result: ok."), None);
    }
}
