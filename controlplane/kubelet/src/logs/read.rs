//! Reading a log as `kubectl logs` wants it: since a time, the last lines, a byte limit, following while the container runs.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::Line;

const BLOCK: u64 = 64 * 1024;

/// What of a log is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    pub follow: bool,
    pub timestamps: bool,
    pub tail_lines: Option<u64>,
    pub limit_bytes: Option<u64>,
    pub since: Option<Timestamp>,
}

/// Reads a log file piece by piece, also across its rotation.
#[derive(Debug)]
pub struct LogReader {
    path: PathBuf,
    file: File,
    options: LogOptions,
    /// A line whose end is not written yet.
    rest: Vec<u8>,
    /// The former line was a part: what follows continues it.
    in_line: bool,
    sent: u64,
}

// === impl LogReader ===

impl LogReader {
    pub fn open(path: &Path, options: LogOptions) -> io::Result<Self> {
        let mut file = File::open(path)?;
        if let Some(lines) = options.tail_lines {
            let start = tail_offset(&mut file, lines)?;
            file.seek(SeekFrom::Start(start))?;
        }
        Ok(Self { path: path.to_owned(), file, options, rest: Vec::new(), in_line: false, sent: 0 })
    }

    /// What came since the last call, ready to send. Empty: nothing new.
    pub fn next_chunk(&mut self) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        while out.is_empty() && !self.exhausted() {
            let mut block = vec![0; BLOCK as usize];
            let length = self.file.read(&mut block)?;
            if length == 0 && !self.reopen()? {
                break;
            }
            self.rest.extend_from_slice(&block[..length]);
            let Some(end) = self.rest.iter().rposition(|b| *b == b'\n') else { continue };
            let whole: Vec<u8> = self.rest.drain(..=end).collect();
            for line in whole.split_inclusive(|b| *b == b'\n') {
                filter_line(line, &self.options, &mut self.in_line, &mut out);
            }
        }
        if let Some(limit) = self.options.limit_bytes {
            out.truncate(usize::try_from(limit - self.sent).unwrap_or(usize::MAX));
        }
        self.sent += out.len() as u64;
        Ok(out)
    }

    /// Whether the byte limit is reached.
    pub fn exhausted(&self) -> bool {
        self.options.limit_bytes.is_some_and(|limit| self.sent >= limit)
    }

    /// Goes on with the new file when the log was rotated.
    fn reopen(&mut self) -> io::Result<bool> {
        let Ok(now) = std::fs::metadata(&self.path) else { return Ok(false) };
        if now.ino() == self.file.metadata()?.ino() {
            return Ok(false);
        }
        self.file = File::open(&self.path)?;
        Ok(true)
    }
}

/// Appends what a client shall see of one line of the file. `in_line` carries over whether the former one was a part.
pub fn filter_line(raw: &[u8], options: &LogOptions, in_line: &mut bool, out: &mut Vec<u8>) {
    let Some(line) = Line::parse(raw) else { return };
    if options.since.is_some_and(|since| line.timestamp().is_some_and(|t| t < since)) {
        return;
    }
    if options.timestamps && !*in_line {
        out.extend_from_slice(line.time.as_bytes());
        out.push(b' ');
    }
    out.extend_from_slice(line.content);
    if !line.partial {
        out.push(b'\n');
    }
    *in_line = line.partial;
}

/// Where the last `lines` lines begin, found from the end of the file.
fn tail_offset(file: &mut File, lines: u64) -> io::Result<u64> {
    let length = file.seek(SeekFrom::End(0))?;
    let mut position = length;
    let mut newlines = 0;
    let mut block = vec![0; BLOCK as usize];
    while position > 0 {
        let size = position.min(BLOCK);
        position -= size;
        file.seek(SeekFrom::Start(position))?;
        let bytes = &mut block[..size as usize];
        file.read_exact(bytes)?;
        for (offset, _) in bytes.iter().enumerate().rev().filter(|(_, b)| **b == b'\n') {
            let at = position + offset as u64;
            // The last line's own end does not count, unless nothing at all is wanted.
            if at + 1 == length {
                if lines == 0 {
                    return Ok(length);
                }
                continue;
            }
            newlines += 1;
            if newlines == lines {
                return Ok(at + 1);
            }
        }
    }
    Ok(if lines == 0 { length } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::super::{LogWriter, Stream};
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).expect("time")
    }

    fn check(options: LogOptions, expected: &str) {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("0.log");
        let mut log = LogWriter::open(&path).expect("open");
        for (second, partial, text) in [(0, false, "one"), (1, true, "tw"), (1, false, "o"), (2, false, "three")] {
            log.line(at(second), Stream::Stdout, partial, text.as_bytes()).expect("write");
        }
        let mut reader = LogReader::open(&path, options.clone()).expect("open");
        let text = String::from_utf8(reader.next_chunk().expect("read")).expect("utf-8");
        assert_eq!(text, expected, "{options:?}");
        assert!(reader.next_chunk().expect("read").is_empty(), "{options:?}");
    }

    #[test]
    fn options_select_lines() {
        let all = LogOptions::default();
        check(all.clone(), "one\ntwo\nthree\n");
        check(LogOptions { tail_lines: Some(1), ..all.clone() }, "three\n");
        check(LogOptions { tail_lines: Some(0), ..all.clone() }, "");
        check(LogOptions { tail_lines: Some(99), ..all.clone() }, "one\ntwo\nthree\n");
        check(LogOptions { since: Some(at(2)), ..all.clone() }, "three\n");
        check(LogOptions { limit_bytes: Some(5), ..all.clone() }, "one\nt");
        check(
            LogOptions { timestamps: true, ..all },
            "2023-11-14T22:13:20.000000000Z one\n2023-11-14T22:13:21.000000000Z two\n2023-11-14T22:13:22.000000000Z three\n",
        );
    }

    #[test]
    fn following_goes_on_after_a_rotation() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("0.log");
        let mut log = LogWriter::open(&path).expect("open");
        log.line(at(0), Stream::Stdout, false, b"one").expect("write");
        let mut reader = LogReader::open(&path, LogOptions { follow: true, ..LogOptions::default() }).expect("open");
        assert_eq!(reader.next_chunk().expect("read"), b"one\n");
        std::fs::rename(&path, dir.path().join("0.log.1")).expect("rotate");
        let mut log = LogWriter::open(&path).expect("open");
        log.line(at(1), Stream::Stdout, false, b"two").expect("write");
        assert_eq!(reader.next_chunk().expect("read"), b"two\n");
    }

    #[test]
    fn a_missing_log_is_an_error() {
        assert!(LogReader::open(Path::new("/nowhere/0.log"), LogOptions::default()).is_err());
    }
}
