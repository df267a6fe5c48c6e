//! `cargo xtask ebpf`: the kernel programs, as one object with BTF at target/ebpf/thalweg.o.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{elf, toolchain};

/// The target triple of the kernel programs.
const TARGET: &str = "bpfel-unknown-none";

#[derive(clap::Args, Default)]
pub struct Args {
    /// Only find or install the toolchain
    #[arg(long)]
    toolchain_only: bool,
}

/// Builds the object, or finds that it is current.
///
/// # Errors
/// No toolchain can be had, the programs do not compile, or the object has no BTF.
pub fn run(root: &Path, args: &Args) -> Result<()> {
    let toolchain = toolchain::find_or_install(root)?;
    eprintln!("kernel programs: {}", toolchain.description);
    if args.toolchain_only {
        return Ok(());
    }
    let object = build(root, &toolchain)?;
    eprintln!("kernel programs: {}", describe(root, &object)?);
    Ok(())
}

/// Compiles and links; returns the object's path.
fn build(root: &Path, toolchain: &toolchain::Toolchain) -> Result<PathBuf> {
    let target_dir = root.join("target/ebpf");
    let flags = [
        // The linker turns debug information into BTF.
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        format!("-Clinker={}", toolchain.linker.display()),
    ];
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(root)
        .args(["build", "--package", "thalweg-programs", "--profile", "bpf", "--target", TARGET])
        .env("CARGO_TARGET_DIR", &target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env("RUSTC", &toolchain.rustc)
        .env("RUSTC_BOOTSTRAP", "1");
    // What the caller's cargo or shell set is for another compiler.
    for name in ["RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTUP_TOOLCHAIN", "CARGO_BUILD_TARGET"] {
        cargo.env_remove(name);
    }
    if toolchain.build_std {
        cargo.arg("-Zbuild-std=core");
    }
    if let Some(libraries) = toolchain.library_path() {
        cargo.env("LD_LIBRARY_PATH", libraries);
    }
    let status = cargo.status().context("cannot run cargo")?;
    ensure!(status.success(), "the kernel programs did not build (see above)");

    place(&target_dir, "thalweg-driver", "driver.o")?;
    place(&target_dir, "thalweg-programs", "thalweg.o")
}

/// Checks what was built and puts it where it is embedded from. Keeps the file untouched when its content is the same,
/// so that nothing that embeds it is built again.
fn place(target_dir: &Path, binary: &str, name: &str) -> Result<PathBuf> {
    let built = target_dir.join(TARGET).join("bpf").join(binary);
    let content = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    let content = elf::without_debug(&content).with_context(|| format!("{} is not usable", built.display()))?;
    let sections = elf::sections(&content).with_context(|| format!("{} is not usable", built.display()))?;
    if !sections.iter().any(|(name, size)| name == ".BTF" && *size > 0) {
        bail!("{} has no BTF: was bpf-linker called with --btf, and with debug information?", built.display());
    }
    let object = target_dir.join(name);
    if fs::read(&object).is_ok_and(|current| current == content) {
        return Ok(object);
    }
    let fresh = target_dir.join(format!("{name}.new"));
    fs::write(&fresh, content).with_context(|| format!("cannot write {}", fresh.display()))?;
    fs::rename(&fresh, &object).with_context(|| format!("cannot move {} into place", fresh.display()))?;
    Ok(object)
}

/// One line about the object: where, how big, which programs.
fn describe(root: &Path, object: &Path) -> Result<String> {
    let content = fs::read(object).with_context(|| format!("cannot read {}", object.display()))?;
    let programs: Vec<_> = elf::sections(&content)?
        .into_iter()
        .filter(|(name, size)| *size > 0 && ["cgroup/", "classifier", "xdp"].iter().any(|prefix| name.starts_with(prefix)))
        .map(|(name, _)| name)
        .collect();
    let path = object.strip_prefix(root).unwrap_or(object).display();
    Ok(format!("{path} ({} KiB, BTF; sections {})", content.len() / 1024, programs.join(", ")))
}
