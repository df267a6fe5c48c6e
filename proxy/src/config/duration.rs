//! Durations as Kubernetes' configuration files and flags write them: `30s`, `1h2m`, `0`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A duration in nanoseconds. Negative ones parse, so that validation can name the field that holds one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct GoDuration(i64);

const UNITS: &[(&str, i64)] = &[
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

// === impl GoDuration ===

impl GoDuration {
    pub const fn seconds(seconds: i64) -> Self {
        Self(seconds * 1_000_000_000)
    }

    pub fn is_zero(self) -> bool {
        self.0 == 0
    }

    pub fn is_negative(self) -> bool {
        self.0 < 0
    }

    /// Negative ones become zero.
    pub fn to_std(self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0).unwrap_or_default())
    }
}

impl FromStr for GoDuration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || format!("{text:?} is no duration: write numbers with units, such as 30s, 1m30s or 500ms");
        let (sign, mut rest) = match text.as_bytes().first() {
            Some(b'-') => (-1.0, &text[1..]),
            Some(b'+') => (1.0, &text[1..]),
            _ => (1.0, text),
        };
        if rest == "0" {
            return Ok(Self(0));
        }
        if rest.is_empty() {
            return Err(refuse());
        }
        let mut total = 0.0;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(refuse)?;
            let number: f64 = rest[..digits].parse().map_err(|_| refuse())?;
            rest = &rest[digits..];
            let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
            let (_, nanos) = UNITS.iter().find(|(unit, _)| *unit == &rest[..end]).ok_or_else(refuse)?;
            #[expect(clippy::cast_precision_loss, reason = "units are far below 2^53")]
            {
                total += number * *nanos as f64;
            }
            rest = &rest[end..];
        }
        // The longest that nanoseconds in 64 bits can hold: 292 years.
        if total > 9.2e18 {
            return Err(format!("{text:?} is longer than any duration can be"));
        }
        #[expect(clippy::cast_possible_truncation, reason = "bounded above; parts of a nanosecond do not matter")]
        Ok(Self((sign * total) as i64))
    }
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 0 {
            f.write_str("-")?;
        }
        let nanos = self.0.unsigned_abs();
        if nanos != 0 && nanos < 1_000_000_000 {
            return match nanos {
                n if n % 1_000_000 == 0 => write!(f, "{}ms", n / 1_000_000),
                n if n % 1_000 == 0 => write!(f, "{}µs", n / 1_000),
                n => write!(f, "{n}ns"),
            };
        }
        let (hours, minutes) = (nanos / 3_600_000_000_000, nanos / 60_000_000_000 % 60);
        let (seconds, part) = (nanos / 1_000_000_000 % 60, nanos % 1_000_000_000);
        if hours > 0 {
            write!(f, "{hours}h")?;
        }
        if hours > 0 || minutes > 0 {
            write!(f, "{minutes}m")?;
        }
        match part {
            0 => write!(f, "{seconds}s"),
            part => write!(f, "{seconds}.{}s", format!("{part:09}").trim_end_matches('0')),
        }
    }
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
