//! Just enough ELF to ask an object which sections it has, and to leave out those that only debuggers read.

use anyhow::{Result, bail};

/// Names and sizes of an ELF64 little-endian object's sections, in file order.
///
/// # Errors
/// The bytes are not such an object, or are cut short.
pub fn sections(object: &[u8]) -> Result<Vec<(String, u64)>> {
    let parsed = (|| {
        if object.get(..6)? != b"\x7fELF\x02\x01" {
            return None;
        }
        let table = usize::try_from(word(object, 0x28, 8)?).ok()?;
        let size = usize::try_from(word(object, 0x3a, 2)?).ok()?;
        let count = usize::try_from(word(object, 0x3c, 2)?).ok()?;
        let names = usize::try_from(word(object, 0x3e, 2)?).ok()?;
        let header = |index: usize| index.checked_mul(size)?.checked_add(table);
        let strings = usize::try_from(word(object, header(names)?.checked_add(0x18)?, 8)?).ok()?;
        (0..count)
            .map(|index| {
                let at = header(index)?;
                let name = object.get(strings.checked_add(usize::try_from(word(object, at, 4)?).ok()?)?..)?;
                let name = name.split(|byte| *byte == 0).next()?;
                Some((String::from_utf8_lossy(name).into_owned(), word(object, at.checked_add(0x20)?, 8)?))
            })
            .collect::<Option<Vec<_>>>()
    })();
    match parsed {
        Some(sections) => Ok(sections),
        None => bail!("not a complete little-endian ELF64 object"),
    }
}

/// The object without its DWARF, most of its size, which neither the kernel nor the loader reads (BTF stays). Sections keep
/// their numbers; those that go become empty.
///
/// # Errors
/// As [`sections`].
pub fn without_debug(object: &[u8]) -> Result<Vec<u8>> {
    let names = sections(object)?;
    match rewritten(object, &names) {
        Some(fresh) => Ok(fresh),
        None => bail!("section headers point outside of the object"),
    }
}

fn rewritten(object: &[u8], sections: &[(String, u64)]) -> Option<Vec<u8>> {
    const NOBITS: u64 = 8;
    let number = |at: usize, len: usize| usize::try_from(word(object, at, len)?).ok();
    let (table, size) = (number(0x28, 8)?, number(0x3a, 2)?);
    let mut fresh = object.get(..0x40)?.to_vec();
    let mut headers = Vec::new();
    for (index, (name, _)) in sections.iter().enumerate() {
        let at = table.checked_add(index.checked_mul(size)?)?;
        let mut header = object.get(at..at.checked_add(size)?)?.to_vec();
        if name.starts_with(".debug_") || name.starts_with(".rel.debug_") {
            // Type, offset and size.
            header[4..8].fill(0);
            header[0x18..0x28].fill(0);
        } else if word(&header, 4, 4)? != 0 {
            let (from, len) = (number(at + 0x18, 8)?, number(at + 0x20, 8)?);
            fresh.resize(fresh.len().next_multiple_of(number(at + 0x30, 8)?.max(1)), 0);
            header[0x18..0x20].copy_from_slice(&(fresh.len() as u64).to_le_bytes());
            if word(&header, 4, 4)? != NOBITS {
                fresh.extend(object.get(from..from.checked_add(len)?)?);
            }
        }
        headers.push(header);
    }
    fresh.resize(fresh.len().next_multiple_of(8), 0);
    let start = fresh.len() as u64;
    fresh[0x28..0x30].copy_from_slice(&start.to_le_bytes());
    headers.iter().for_each(|header| fresh.extend(header));
    Some(fresh)
}

/// A little-endian number of `len` bytes (at most 8).
fn word(object: &[u8], at: usize, len: usize) -> Option<u64> {
    let bytes = object.get(at..at.checked_add(len)?)?;
    Some(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::{sections, without_debug};

    #[test]
    fn reads_this_very_executable() {
        let object = std::fs::read(std::env::current_exe().expect("own path")).expect("own bytes");
        let sections = sections(&object).expect("an ELF object");
        assert!(sections.iter().any(|(name, size)| name == ".text" && *size > 0), "{sections:?}");
    }

    #[test]
    fn only_dwarf_is_left_out() {
        let object = std::fs::read(std::env::current_exe().expect("own path")).expect("own bytes");
        let slim = without_debug(&object).expect("an object");
        let (before, after) = (sections(&object).expect("before"), sections(&slim).expect("after"));
        for ((name, was), (same, is)) in before.iter().zip(&after) {
            assert_eq!((name, if name.starts_with(".debug_") { 0 } else { *was }), (same, *is));
        }
        assert!(before.len() == after.len() && slim.len() < object.len());
        assert_eq!(without_debug(&slim).expect("again"), slim);
    }

    #[test]
    fn refuses_what_is_not_an_object() {
        for bytes in [&b""[..], b"\x7fELF", b"\x7fELF\x02\x01 and then nothing", &[0xff; 128]] {
            assert!(sections(bytes).is_err(), "{bytes:?}");
        }
        let mut wild = b"\x7fELF\x02\x01".to_vec();
        wild.resize(64, 0xff);
        assert!(sections(&wild).is_err(), "offsets outside the file");
    }
}
