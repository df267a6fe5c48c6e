//! Just enough ELF to ask an object which sections it has.

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

/// A little-endian number of `len` bytes (at most 8).
fn word(object: &[u8], at: usize, len: usize) -> Option<u64> {
    let bytes = object.get(at..at.checked_add(len)?)?;
    Some(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::sections;

    #[test]
    fn reads_this_very_executable() {
        let object = std::fs::read(std::env::current_exe().expect("own path")).expect("own bytes");
        let sections = sections(&object).expect("an ELF object");
        assert!(sections.iter().any(|(name, size)| name == ".text" && *size > 0), "{sections:?}");
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
