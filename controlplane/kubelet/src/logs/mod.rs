//! Container logs in CRI format: one line of the program per line, behind its time, stream and a tag that says whether it
//! is whole (`F`) or only part of a line (`P`). The shim writes them, the kubelet's server reads them.

mod index;
mod read;
mod write;

pub use index::{LogIndex, LogKey, LogPlace};
pub use read::{LogOptions, LogReader, filter_line};
pub use write::{LogWriter, copy_lines};

use jiff::Timestamp;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// One line of a log file, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// As written, RFC 3339 with nanoseconds.
    pub time: &'a str,
    pub stream: Stream,
    pub partial: bool,
    /// Without the line's end.
    pub content: &'a [u8],
}

// === impl Stream ===

impl Stream {
    pub fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

// === impl Line ===

impl<'a> Line<'a> {
    /// Takes a line of the file apart; `None` when it is not one (a write that a crash cut off).
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let mut parts = line.splitn(4, |b| *b == b' ');
        let time = std::str::from_utf8(parts.next()?).ok()?;
        let stream = match parts.next()? {
            b"stdout" => Stream::Stdout,
            b"stderr" => Stream::Stderr,
            _ => return None,
        };
        let partial = match parts.next()? {
            b"F" => false,
            b"P" => true,
            _ => return None,
        };
        time.parse::<Timestamp>().ok()?;
        Some(Self { time, stream, partial, content: parts.next().unwrap_or_default() })
    }

    /// When it was written.
    pub fn timestamp(&self) -> Option<Timestamp> {
        self.time.parse().ok()
    }
}

/// Appends one line in CRI format.
pub fn format_line(out: &mut Vec<u8>, time: Timestamp, stream: Stream, partial: bool, content: &[u8]) {
    let tag = if partial { 'P' } else { 'F' };
    out.extend_from_slice(format!("{time:.9} {} {tag} ", stream.name()).as_bytes());
    out.extend_from_slice(content);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_survives_the_round_trip() {
        let time: Timestamp = "2026-01-02T03:04:05.000000067Z".parse().expect("time");
        for (stream, partial, content) in [
            (Stream::Stdout, false, b"hello  world ".as_slice()),
            (Stream::Stderr, true, b""),
            (Stream::Stdout, false, b"\xff\x00"),
        ] {
            let mut bytes = Vec::new();
            format_line(&mut bytes, time, stream, partial, content);
            let line = Line::parse(&bytes).expect("our own line");
            assert_eq!(line, Line { time: "2026-01-02T03:04:05.000000067Z", stream, partial, content });
            assert_eq!(line.timestamp(), Some(time));
        }
    }

    #[test]
    fn garbage_is_no_line() {
        for bad in ["", "hello", "2026-01-02T03:04:05Z stdin F x", "2026-01-02T03:04:05Z stdout X x", "yesterday stdout F x"] {
            assert_eq!(Line::parse(bad.as_bytes()), None, "{bad}");
        }
    }
}
