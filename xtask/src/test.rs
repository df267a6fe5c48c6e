//! `cargo xtask test [SUBJECT…]`: every test, from formatting to a cluster on real packets; one closing line counts all.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use crate::cargo::{self, Counts};
use crate::{ebpf, packages, tidy, up};

/// Packages whose tests belong to a subject.
const SUBJECTS: &[(&str, &[&str])] = &[
    ("services", &["thalweg-abi", "thalweg-cluster", "thalweg-proxy", "thalweg-loader", "thalweg", "thalweg-deploy"]),
    ("dns", &["thalweg-dns"]),
    ("cni", &["thalweg-cni", "thalweg-network"]),
    ("api", &["thalweg-store", "thalweg-apiserver", "thalweg-controllers", "thalweg-scheduler"]),
    ("kubelet", &["thalweg-kubelet"]),
];

#[derive(clap::Args)]
pub struct Args {
    /// fmt, clippy, tidy, unit, verifier, packet, lab, e2e, services, dns, cni, api or kubelet; all of them without one
    subjects: Vec<String>,
}

/// Runs the subjects; the last line printed is the count.
///
/// # Errors
/// When a test fails or is skipped, or a step before the tests fails.
pub fn run(root: &Path, args: &Args) -> Result<()> {
    let known = ["fmt", "clippy", "tidy", "unit", "verifier", "packet", "lab", "e2e"];
    for subject in &args.subjects {
        if !known.contains(&subject.as_str()) && !SUBJECTS.iter().any(|(name, _)| name == subject) {
            let all: Vec<&str> = known.iter().copied().chain(SUBJECTS.iter().map(|(name, _)| *name)).collect();
            bail!("no subject {subject:?}: choose from {}", all.join(", "));
        }
    }
    let started = Instant::now();
    let mut counts = Counts::default();
    let result = if args.subjects.is_empty() {
        all(root, &mut counts)
    } else {
        args.subjects.iter().try_for_each(|subject| one(root, subject, &mut counts))
    };
    if let Err(error) = &result {
        counts.failed += 1;
        eprintln!("error: {error:#}");
    }
    println!("\nall subjects took {:.0} s", started.elapsed().as_secs_f64());
    // The runner's own summary line: what machines read, so it comes last and alone.
    println!("{} passed, {} failed, {} skipped", counts.passed, counts.failed, counts.ignored);
    ensure!(counts.failed == 0, "tests failed");
    ensure!(counts.ignored == 0, "{} tests were skipped: a skipped test counts as failed", counts.ignored);
    Ok(())
}

fn all(root: &Path, counts: &mut Counts) -> Result<()> {
    packages::ensure_root("test")?;
    packages::ensure_installed(packages::LAB)?;
    packages::ensure_installed(packages::TESTS)?;
    heading("fmt");
    format(root)?;
    heading("tidy");
    tidy::run(root)?;
    heading("kernel programs");
    ebpf::run(root, &ebpf::Args::default())?;
    heading("clippy");
    clippy(root)?;
    heading("unit tests");
    // The same cases in every run, so that a failure can be had again; plain `cargo test` explores.
    let unit = cargo::test(root, &["--no-fail-fast"], &[("PROPTEST_RNG_SEED", "7")])?;
    heading("what users get");
    let bin = up::build(root)?.with_file_name("");
    heading("every kernel program on this kernel");
    // Uncaptured, for its table of verified instructions; counted with the others below.
    cargo::test(root, &["-p", "thalweg-loader", "--test", "verifier", "--", "--ignored", "--nocapture"], &[])?;
    heading("tests on the kernel, in namespaces (root)");
    let env = [("THALWEG_BIN", bin.to_str().context("path of target/release")?)];
    let root_tests = cargo::test(root, &["--no-fail-fast", "--", "--ignored", "--test-threads=1"], &env)?;
    counts.add(Counts { ignored: 0, ..unit });
    counts.add(Counts { ignored: unit.ignored.saturating_sub(root_tests.passed + root_tests.failed), ..root_tests });
    ensure!(unit.failed + root_tests.failed == 0, "tests failed (see above); the cluster was not started");
    heading("end to end");
    end_to_end(root, counts)
}

fn one(root: &Path, subject: &str, counts: &mut Counts) -> Result<()> {
    heading(subject);
    match subject {
        "fmt" => return format(root),
        "tidy" => return tidy::run(root),
        "clippy" => return clippy(root),
        "unit" => {
            let unit = cargo::test(root, &["--no-fail-fast"], &[])?;
            // Without root these are not skipped but somebody else's: `cargo xtask test` runs them.
            counts.add(Counts { ignored: 0, ..unit });
            return Ok(());
        }
        _ => {}
    }
    packages::ensure_root(&format!("test {subject}"))?;
    packages::ensure_installed(packages::LAB)?;
    packages::ensure_installed(packages::TESTS)?;
    ebpf::run(root, &ebpf::Args::default())?;
    match subject {
        "e2e" => return end_to_end(root, counts),
        "verifier" => {
            let verifier = ["-p", "thalweg-loader", "--test", "verifier", "--", "--ignored", "--nocapture"];
            counts.add(cargo::test(root, &verifier, &[])?);
            return Ok(());
        }
        "packet" => return ignored(root, &["-p", "thalweg-loader"], counts),
        "lab" => return ignored(root, &["-p", "thalweg-lab", "-p", "thalweg-tests", "-p", "thalweg-network"], counts),
        _ => {}
    }
    let (_, packages) = SUBJECTS.iter().find(|(name, _)| *name == subject).context("subject")?;
    let mut select = Vec::new();
    for package in *packages {
        select.extend(["-p", package]);
    }
    let mut args = select.clone();
    args.push("--no-fail-fast");
    let unit = cargo::test(root, &args, &[])?;
    counts.add(Counts { ignored: 0, ..unit });
    ignored(root, &select, counts)?;
    // Every behaviour by real packets: in both backends and both families.
    if subject == "services" {
        ignored(root, &["-p", "thalweg-tests"], counts)?;
    }
    Ok(())
}

fn ignored(root: &Path, select: &[&str], counts: &mut Counts) -> Result<()> {
    let bin = up::build(root)?.with_file_name("");
    let mut args = select.to_vec();
    args.extend(["--no-fail-fast", "--", "--ignored", "--test-threads=1"]);
    counts.add(cargo::test(root, &args, &[("THALWEG_BIN", bin.to_str().context("path of target/release")?)])?);
    Ok(())
}

fn format(root: &Path) -> Result<()> {
    cargo::run(root, &["fmt", "--all", "--check"])
}

fn clippy(root: &Path) -> Result<()> {
    cargo::run(root, &["clippy", "--all-targets", "--quiet", "--", "-D", "warnings"])
}

/// `up --once` with the binaries that a user gets; each of its checks counts as a test.
fn end_to_end(root: &Path, counts: &mut Counts) -> Result<()> {
    let lab = up::build(root)?;
    let mut child = Command::new(&lab)
        .args(["up", "--once", "--name", "test"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {}", lab.display()))?;
    let (mut held, mut failed) = (0, 0);
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let line = line.context("read what the lab prints")?;
            held += u64::from(line.starts_with("ok  "));
            failed += u64::from(line.starts_with("FAIL"));
            println!("{line}");
        }
    }
    let status = child.wait().context("wait for the lab")?;
    counts.add(Counts { passed: held, failed, ignored: 0 });
    ensure!(status.success() || failed > 0, "the cluster did not come up (see above)");
    ensure!(!status.success() || held > 0, "the lab made no check");
    Ok(())
}

fn heading(text: &str) {
    println!("\n=== {text}");
}
