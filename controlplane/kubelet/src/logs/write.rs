//! Writing a log: lines from a pipe, a file that is renamed when it is full.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::{Stream, format_line};

/// A longer line is cut into parts, as the container runtimes cut it.
const MAX_LINE: u64 = 16 * 1024;
const MAX_FILE: u64 = 10 * 1024 * 1024;
const KEEP: usize = 4;

/// The log of one container. When the file is full it becomes `.1`, the former `.1` becomes `.2`, up to four.
#[derive(Debug)]
pub struct LogWriter {
    path: PathBuf,
    file: File,
    size: u64,
    max: u64,
    /// A rotation never tears a line apart: it waits for the line's end.
    in_line: bool,
}

// === impl LogWriter ===

impl LogWriter {
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::with_limit(path, MAX_FILE)
    }

    fn with_limit(path: &Path, max: u64) -> io::Result<Self> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let file = append(path)?;
        let size = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, size, max, in_line: false })
    }

    pub fn line(&mut self, time: Timestamp, stream: Stream, partial: bool, content: &[u8]) -> io::Result<()> {
        if self.size >= self.max && !self.in_line {
            self.rotate()?;
        }
        let mut bytes = Vec::with_capacity(content.len() + 48);
        format_line(&mut bytes, time, stream, partial, content);
        self.in_line = partial;
        // One write per line: a reader never sees two lines mixed.
        self.file.write_all(&bytes)?;
        self.size += bytes.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        for number in (1..KEEP).rev() {
            let (from, to) = (rotated(&self.path, number), rotated(&self.path, number + 1));
            if from.exists() {
                std::fs::rename(from, to)?;
            }
        }
        std::fs::rename(&self.path, rotated(&self.path, 1))?;
        self.file = append(&self.path)?;
        self.size = 0;
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    std::fs::OpenOptions::new().create(true).append(true).open(path)
}

fn rotated(path: &Path, number: usize) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

/// Hands every line of `pipe` to `line` until its end, with whether it is only part of one. Read errors end it.
pub fn copy_lines(pipe: impl Read, mut line: impl FnMut(&[u8], bool)) {
    let mut reader = BufReader::with_capacity(64 * 1024, pipe);
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        match (&mut reader).take(MAX_LINE).read_until(b'\n', &mut bytes) {
            Ok(0) | Err(_) => return,
            Ok(_) => match bytes.strip_suffix(b"\n") {
                Some(whole) => line(whole, false),
                None => line(&bytes, bytes.len() as u64 == MAX_LINE),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(input: &[u8], expected: &[(&[u8], bool)]) {
        let mut lines = Vec::new();
        copy_lines(input, |bytes, partial| lines.push((bytes.to_vec(), partial)));
        let expected: Vec<_> = expected.iter().map(|(b, p)| (b.to_vec(), *p)).collect();
        assert_eq!(lines, expected);
    }

    #[test]
    fn lines_are_cut() {
        check(b"a\n\nb", &[(b"a", false), (b"", false), (b"b", false)]);
        let long = vec![b'x'; MAX_LINE as usize + 1];
        check(&long, &[(&long[1..], true), (b"x", false)]);
        check(b"", &[]);
    }

    #[test]
    fn a_full_file_is_kept_under_another_name() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("deep/0.log");
        let mut log = LogWriter::with_limit(&path, 60).expect("open");
        for word in ["one", "two", "three", "four", "five", "six", "seven"] {
            log.line(Timestamp::now(), Stream::Stdout, false, word.as_bytes()).expect("write");
        }
        let text = |p: &Path| std::fs::read_to_string(p).expect("log file");
        assert!(text(&path).ends_with("seven\n"), "{}", text(&path));
        assert!(text(&rotated(&path, 1)).ends_with("six\n"));
        assert!(text(&rotated(&path, 3)).ends_with("two\n"));
        assert!(!rotated(&path, KEEP + 1).exists());
    }
}
