//! The corpus: frames in `seeds/*.hex`, each with a line that says what it is. Written once by hand and script; what the
//! fuzzer finds is kept as a script in `found/` (see [`crate::script`]), because a fault takes a state and an order too.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};

pub struct Seed {
    pub what: String,
    pub frame: Vec<u8>,
}

pub fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz").join(name)
}

/// Every seed, always in the same order.
pub fn load() -> Result<Vec<Seed>> {
    let folder = folder("seeds");
    let mut files = fs::read_dir(&folder)
        .with_context(|| format!("read {}", folder.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    files.sort();
    let mut seeds = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        parse(&text, &mut seeds).with_context(|| format!("in {}", file.display()))?;
    }
    Ok(seeds)
}

fn parse(text: &str, seeds: &mut Vec<Seed>) -> Result<()> {
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with("##") {
            continue;
        }
        if let Some(what) = line.strip_prefix('#') {
            seeds.push(Seed { what: what.trim().to_owned(), frame: Vec::new() });
        } else {
            let seed = seeds.last_mut().context("a frame without a line that says what it is")?;
            seed.frame.extend(unhex(line)?);
        }
    }
    Ok(())
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn unhex(text: &str) -> Result<Vec<u8>> {
    ensure!(text.len().is_multiple_of(2) && text.is_ascii(), "{text:?} is no hex text");
    let digits = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).with_context(|| format!("{text:?} is no hex text"));
    (0..text.len()).step_by(2).map(digits).collect()
}

#[test]
fn the_corpus_is_whole() {
    let seeds = load().expect("the corpus");
    assert!(seeds.len() >= 300, "{} seeds", seeds.len());
    for seed in &seeds {
        assert!(seed.frame.len() >= 14 && seed.frame.len() <= 3_000, "{}: {} bytes", seed.what, seed.frame.len());
    }
    let mut frames: Vec<_> = seeds.iter().map(|seed| &seed.frame).collect();
    frames.sort();
    frames.dedup();
    assert_eq!(frames.len(), seeds.len(), "a frame is there twice");
    assert!(unhex("0g").is_err() && unhex("123").is_err());
}
