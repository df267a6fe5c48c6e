//! Embeds the kernel programs that `cargo xtask ebpf` built, or nothing: the crate then compiles without a BPF
//! toolchain and says at run time what is missing.

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=THALWEG_EBPF_OBJECT");
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or("CARGO_MANIFEST_DIR is not set")?);
    let folder = manifest.join("../../target/ebpf");
    let content = match env::var_os("THALWEG_EBPF_OBJECT") {
        Some(object) => {
            println!("cargo::rerun-if-changed={}", object.display());
            fs::read(&object).map_err(|error| format!("THALWEG_EBPF_OBJECT={}: {error}", object.display()))?
        }
        None => read(&folder, "thalweg.o")?,
    };
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    fs::write(out.join("thalweg.o"), content)?;
    fs::write(out.join("driver.o"), read(&folder, "driver.o")?)?;
    Ok(())
}

/// Nothing when the object has not been built.
fn read(folder: &Path, name: &str) -> Result<Vec<u8>, Box<dyn Error>> {
    let object = folder.join(name);
    if object.exists() {
        println!("cargo::rerun-if-changed={}", object.display());
        return Ok(fs::read(&object).map_err(|error| format!("{}: {error}", object.display()))?);
    }
    // A path that does not exist would run this script in every build; an empty folder is watched instead.
    fs::create_dir_all(folder)?;
    println!("cargo::rerun-if-changed={}", folder.display());
    Ok(Vec::new())
}
