//! hostPath volumes: what must be there, and what is made when it is not.

use std::os::unix::fs::FileTypeExt;
use std::path::{Component, Path, PathBuf};

/// The path, after the check that its type asks for.
pub fn check(path: &str, kind: &str) -> Result<PathBuf, String> {
    let path = Path::new(path);
    if !path.is_absolute() || path.components().any(|c| c == Component::ParentDir) {
        return Err(format!("hostPath {} must be absolute and without `..`", path.display()));
    }
    let found = std::fs::metadata(path).ok().map(|m| m.file_type());
    let failed = |e: std::io::Error| format!("hostPath {}: {e}", path.display());
    let is = |wanted: &str, fits: bool| match (&found, fits) {
        (None, _) => Err(format!("hostPath {} does not exist on this node", path.display())),
        (Some(_), false) => Err(format!("hostPath {} is not a {wanted}", path.display())),
        (Some(_), true) => Ok(()),
    };
    let fits = |test: fn(&std::fs::FileType) -> bool| found.as_ref().is_some_and(test);
    match kind {
        "" | "DirectoryOrCreate" if found.is_none() => std::fs::create_dir_all(path).map_err(failed)?,
        "FileOrCreate" if found.is_none() => drop(std::fs::File::create(path).map_err(failed)?),
        "" => {}
        "Directory" | "DirectoryOrCreate" => is("directory", fits(|t| t.is_dir()))?,
        "File" | "FileOrCreate" => is("file", fits(|t| t.is_file()))?,
        "Socket" => is("socket", fits(|t| t.is_socket()))?,
        "CharDevice" => is("character device", fits(|t| t.is_char_device()))?,
        "BlockDevice" => is("block device", fits(|t| t.is_block_device()))?,
        other => return Err(format!("hostPath type {other:?} is not known")),
    }
    Ok(path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_checked_or_made() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
        for (name, kind, error) in [
            ("a", "Directory", Some("does not exist")),
            ("a", "DirectoryOrCreate", None),
            ("a", "Directory", None),
            ("a", "File", Some("is not a file")),
            ("f", "FileOrCreate", None),
            ("f", "File", None),
            ("f", "Socket", Some("is not a socket")),
            ("f", "", None),
            ("x/../y", "", Some("without")),
            ("f", "Banana", Some("not known")),
        ] {
            match (check(&path(name), kind), error) {
                (Ok(found), None) => assert!(found.exists(), "{name} {kind}"),
                (Err(text), Some(part)) => assert!(text.contains(part), "{name} {kind}: {text}"),
                (other, _) => panic!("{name} {kind}: {other:?}"),
            }
        }
        assert!(check("relative", "").is_err());
    }
}
