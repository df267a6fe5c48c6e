//! `cargo xtask fuzz`: mutated packets through the tc programs for as long as one likes; `cargo xtask test` plays only so
//! many as take some seconds.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};

use crate::{cargo, ebpf, packages};

#[derive(clap::Args)]
pub struct Args {
    /// For how long
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Which sequence of cases; another one every time without it
    #[arg(long)]
    seed: Option<u64>,
    /// One case again: `SEED:NUMBER` as a failure says it, or the path of a script
    #[arg(long)]
    case: Option<String>,
}

/// Builds the kernel programs and runs the fuzzer on them.
///
/// # Errors
/// When something cannot be built, or a promise is broken: the case and how to have it again are printed.
pub fn run(root: &Path, args: &Args) -> Result<()> {
    packages::ensure_root("fuzz")?;
    packages::ensure_installed(packages::LAB)?;
    ebpf::run(root, &ebpf::Args::default())?;
    let seed = args.seed.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs());
    let (seed, seconds) = (seed.to_string(), args.seconds.to_string());
    let mut env = vec![("THALWEG_FUZZ_SEED", seed.as_str()), ("THALWEG_FUZZ_SECONDS", seconds.as_str())];
    env.extend(args.case.as_deref().map(|case| ("THALWEG_FUZZ_CASE", case)));
    println!("seed {seed}, for {seconds} s");
    let fuzz = ["-p", "thalweg-loader", "--test", "fuzz", "--", "--ignored", "--nocapture", "--exact", "mutated_packets_hold"];
    let counts = cargo::test(root, &fuzz, &env)?;
    ensure!(counts.failed == 0, "a promise is broken (see above)");
    ensure!(counts.passed == 1, "the fuzzer did not run");
    Ok(())
}
