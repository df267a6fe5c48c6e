//! A compiler and a linker for BPF: what is there is taken, otherwise Debian's packages are unpacked into a folder of
//! their own. Nothing is installed into the system, so nothing can conflict with what the user has.
//!
//! In this order:
//! 1. the private folder target/toolchain (or $THALWEG_TOOLCHAIN), from an earlier run;
//! 2. a rustc of the system with a ready `core` for BPF, or a rustup nightly with rust-src, if `bpf-linker` is on the PATH;
//! 3. Debian's rustc-web with its BPF `core`, unpacked into the private folder, and a bpf-linker built against the
//!    LLVM library that this rustc itself uses: both sides then speak the same bitcode.

use std::{
    ffi::OsString,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

use crate::step;

/// The bpf-linker that is built when there is none.
const BPF_LINKER: &str = "0.13.0";

/// Raised when the layout of the private folder changes.
const LAYOUT: &str = "1";

/// Libraries that LLVM needs besides the C and C++ run time; taken along when the system lacks them.
const LIBRARIES: [&str; 8] = ["libz3-4", "libedit2", "libbsd0", "libmd0", "libxml2", "libicu72", "libffi8", "libtinfo6"];

/// What builds the kernel programs.
#[derive(Debug)]
pub struct Toolchain {
    pub rustc: PathBuf,
    /// bpf-linker.
    pub linker: PathBuf,
    /// There is no ready `core` for BPF: cargo builds it from rust-src.
    pub build_std: bool,
    /// Where the compiler's shared libraries are; none when they are the system's.
    libraries: Vec<PathBuf>,
    /// For people: what was picked, and from where.
    pub description: String,
}

// === impl Toolchain ===

impl Toolchain {
    /// LD_LIBRARY_PATH for the compiler and the linker, in front of what the caller has.
    pub fn library_path(&self) -> Option<OsString> {
        (!self.libraries.is_empty()).then(|| search_path(&self.libraries)).flatten()
    }

    fn private(dir: &Path, version: &str) -> Self {
        Self {
            rustc: dir.join("rust/usr/bin/rustc"),
            linker: dir.join("bin/bpf-linker"),
            build_std: false,
            libraries: libraries(dir).into(),
            description: format!("{version} and bpf-linker {BPF_LINKER} in {}", dir.display()),
        }
    }
}

/// Finds a toolchain, or makes one (about a minute and 130 MB of downloads, once).
///
/// # Errors
/// Says what is missing, and what can be done about it.
pub fn find_or_install(root: &Path) -> Result<Toolchain> {
    let dir = match std::env::var_os("THALWEG_TOOLCHAIN") {
        Some(dir) => PathBuf::from(dir),
        None => root.join("target/toolchain"),
    };
    if let Some(toolchain) = private(&dir) {
        return Ok(toolchain);
    }
    if let Some(toolchain) = system()? {
        return Ok(toolchain);
    }
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    // Two builds that start at once must not unpack over each other.
    let lock = File::create(dir.join("lock")).context("cannot create the toolchain's lock file")?;
    lock.lock().context("cannot lock the toolchain's folder")?;
    match private(&dir) {
        Some(toolchain) => Ok(toolchain),
        None => install(&dir),
    }
}

/// The toolchain of an earlier run, if it was completed.
fn private(dir: &Path) -> Option<Toolchain> {
    let stamp = fs::read_to_string(dir.join("ready")).ok()?;
    let (layout, version) = stamp.split_once('\n')?;
    let toolchain = Toolchain::private(dir, version.trim());
    (layout == layout_stamp() && toolchain.rustc.exists() && toolchain.linker.exists()).then_some(toolchain)
}

fn layout_stamp() -> String {
    format!("layout {LAYOUT}, bpf-linker {BPF_LINKER}")
}

/// Debian's packages put libraries into either; the first one has those of the compiler.
fn libraries(dir: &Path) -> [PathBuf; 2] {
    ["rust/usr/lib", "rust/lib"].map(|folder| dir.join(folder).join(format!("{}-linux-gnu", std::env::consts::ARCH)))
}

fn search_path(folders: &[PathBuf]) -> Option<OsString> {
    let existing = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let existing = std::env::split_paths(&existing).filter(|folder| !folder.as_os_str().is_empty());
    std::env::join_paths(folders.iter().cloned().chain(existing)).ok()
}

/// A toolchain that the user already has. A linker from elsewhere must be there too: one that we would build for it
/// needs that compiler's own LLVM.
fn system() -> Result<Option<Toolchain>> {
    let Some(linker) = on_path("bpf-linker") else { return Ok(None) };
    let debian = PathBuf::from("/usr/bin/rustc");
    if debian.exists() && Path::new("/usr/lib/rustlib/bpfel-unknown-none").exists() {
        let version = step::output(Command::new(&debian).arg("--version"))?;
        let description = format!("{} with its core for BPF, and {}", version.trim(), linker.display());
        return Ok(Some(Toolchain { rustc: debian, linker, build_std: false, libraries: Vec::new(), description }));
    }
    let Ok(rustc) = step::output(Command::new("rustup").args(["which", "--toolchain", "nightly", "rustc"])) else {
        return Ok(None);
    };
    let rustc = PathBuf::from(rustc.trim());
    let sysroot = step::output(Command::new(&rustc).args(["--print", "sysroot"]))?;
    if !Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core").exists() {
        return Ok(None);
    }
    let version = step::output(Command::new(&rustc).arg("--version"))?;
    let description = format!("{} building core from rust-src, and {}", version.trim(), linker.display());
    Ok(Some(Toolchain { rustc, linker, build_std: true, libraries: Vec::new(), description }))
}

fn on_path(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|dir| dir.join(name)).find(|path| path.is_file())
}

/// Unpacks Debian's compiler and builds the linker.
fn install(dir: &Path) -> Result<Toolchain> {
    if on_path("apt-get").is_none() || on_path("dpkg").is_none() {
        bail!(
            "no BPF toolchain found. On Debian it is unpacked automatically; elsewhere install a rustup nightly with rust-src \
             (`rustup toolchain install nightly --component rust-src`) and bpf-linker (https://github.com/aya-rs/bpf-linker), \
             and run this again"
        );
    }
    ensure!(on_path("cc").is_some(), "no C compiler to link with: run `apt-get install gcc libc6-dev` and try again");
    eprintln!("no BPF toolchain found: unpacking Debian's into {} (once; nothing is installed into the system)", dir.display());
    let packages = match packages() {
        Ok(packages) => packages,
        Err(_) => {
            step::run("Refreshing the package lists", Command::new("apt-get").args(["update", "-q"]))?;
            packages()?
        }
    };
    let llvm = packages.llvm;
    unpack(dir, &packages.names)?;
    let rustc = dir.join("rust/usr/bin/rustc");
    let version = step::output(
        Command::new(&rustc).arg("--version").env("LD_LIBRARY_PATH", search_path(&libraries(dir)).unwrap_or_default()),
    )
    .context("the unpacked compiler does not run: is a shared library missing? (see `ldd` on its librustc_driver)")?;
    build_linker(dir, llvm)?;
    let version = version.trim();
    fs::write(dir.join("ready"), format!("{}\n{version}\n", layout_stamp()))
        .context("cannot mark the toolchain as complete")?;
    private(dir).context("the toolchain was made but is not complete: a defect of xtask")
}

struct Packages {
    names: Vec<String>,
    /// Major version of the LLVM that the compiler uses.
    llvm: u32,
}

/// The packages to unpack. The names of two of them carry versions, so they are followed from those that do not.
fn packages() -> Result<Packages> {
    let standard = dependency("libstd-rust-web-dev", "libstd-rust-web-")?;
    let library = dependency(&standard, "libllvm")?;
    let llvm = library.trim_start_matches("libllvm").parse().with_context(|| format!("unexpected package name {library}"))?;
    let mut names: Vec<_> = ["rustc-web", "libstd-rust-web-dev", "libstd-rust-web-dev-bpf"].map(str::to_owned).into();
    names.extend([standard, library]);
    for name in &names {
        ensure!(has_candidate(name), "Debian's package {name} is not available: is the security archive in the sources?");
    }
    names.extend(LIBRARIES.into_iter().filter(|name| !is_installed(name) && has_candidate(name)).map(str::to_owned));
    Ok(Packages { names, llvm })
}

/// The package below `package` whose name begins with `prefix`.
fn dependency(package: &str, prefix: &str) -> Result<String> {
    let text = step::output(Command::new("apt-cache").args(["depends", "--important", package]))?;
    let found = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: ")).find(|name| name.starts_with(prefix));
    found
        .map(str::to_owned)
        .with_context(|| format!("Debian's package {package} is not available: are bookworm-security's lists up to date?"))
}

fn has_candidate(package: &str) -> bool {
    step::output(Command::new("apt-cache").args(["show", "--no-all-versions", package])).is_ok_and(|text| !text.is_empty())
}

fn is_installed(package: &str) -> bool {
    step::output(Command::new("dpkg-query").args(["-W", "-f=${db:Status-Status}", package]))
        .is_ok_and(|text| text == "installed")
}

fn unpack(dir: &Path, packages: &[String]) -> Result<()> {
    let downloads = dir.join("downloads");
    let rust = dir.join("rust");
    for stale in [&downloads, &rust] {
        if stale.exists() {
            fs::remove_dir_all(stale).with_context(|| format!("cannot remove {}", stale.display()))?;
        }
        fs::create_dir_all(stale).with_context(|| format!("cannot create {}", stale.display()))?;
    }
    let download = || {
        let mut apt = Command::new("apt-get");
        // The folder is ours alone; apt's own user could not write there.
        apt.current_dir(&downloads).args(["download", "-q", "-o", "APT::Sandbox::User=root"]).args(packages);
        step::run(&format!("Downloading {}", packages.join(", ")), &mut apt)
    };
    if download().is_err() {
        // The lists may be older than the archive.
        step::run("Refreshing the package lists", Command::new("apt-get").args(["update", "-q"]))?;
        download()?;
    }
    let spinner = step::Spinner::start("Unpacking");
    for entry in fs::read_dir(&downloads).with_context(|| format!("cannot read {}", downloads.display()))? {
        let package = entry?.path();
        spinner.show(&package.file_name().unwrap_or_default().to_string_lossy());
        step::output(Command::new("dpkg").arg("-x").arg(&package).arg(&rust))?;
    }
    fs::remove_dir_all(&downloads).with_context(|| format!("cannot remove {}", downloads.display()))?;
    spinner.done();
    Ok(())
}

/// Builds bpf-linker against the unpacked LLVM library. It needs no headers and no llvm-config: its own build script
/// asks for a folder with lib/libLLVM.so only, and writes that folder into the executable's search path.
fn build_linker(dir: &Path, llvm: u32) -> Result<()> {
    let lib = dir.join("llvm/lib");
    fs::create_dir_all(&lib).with_context(|| format!("cannot create {}", lib.display()))?;
    let [compiler, _] = libraries(dir);
    let shared = fs::read_dir(&compiler)
        .with_context(|| format!("cannot read {}", compiler.display()))?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .find(|name| name.starts_with(&format!("libLLVM.so.{llvm}")))
        .with_context(|| format!("libllvm{llvm} brought no libLLVM.so.{llvm}"))?;
    for name in ["libLLVM.so", shared.as_str()] {
        let link = lib.join(name);
        if link.symlink_metadata().is_ok() {
            fs::remove_file(&link)?;
        }
        std::os::unix::fs::symlink(compiler.join(&shared), &link).with_context(|| format!("cannot link {}", link.display()))?;
    }
    let work = dir.join("linker-build");
    let feature = format!("llvm-{llvm}");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        // Outside the repository, or its cargo configuration would apply to a foreign crate.
        .current_dir("/")
        .args(["install", "bpf-linker", "--version", BPF_LINKER, "--locked", "--force", "--no-default-features", "--features"])
        .arg(&feature)
        .arg("--root")
        .arg(dir)
        .env("CARGO_TARGET_DIR", &work)
        .env("LLVM_PREFIX", dir.join("llvm"))
        .env("LD_LIBRARY_PATH", search_path(&libraries(dir)).unwrap_or_default());
    for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTC", "CARGO_BUILD_TARGET"] {
        cargo.env_remove(name);
    }
    step::run(&format!("Building bpf-linker {BPF_LINKER} for LLVM {llvm}"), &mut cargo)?;
    fs::remove_dir_all(&work).with_context(|| format!("cannot remove {}", work.display()))?;
    Ok(())
}
