//! The query string: parameters by name, percent-decoded, and the options of a request read from them.

use crate::status::{ApiError, Result};

#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

// === impl Query ===

impl Query {
    pub(crate) fn parse(text: &str) -> Self {
        let pair = |part: &str| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            (unescape(&name.replace('+', " ")), unescape(&value.replace('+', " ")))
        };
        Self(text.split('&').filter(|part| !part.is_empty()).map(pair).collect())
    }

    /// The first value of a parameter, empty when absent.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    /// Every value of a parameter that may be repeated.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(key, _)| key == name)
    }

    /// A boolean as Go's converter reads it: present without a value is true.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.has(name) && !matches!(self.get(name), "false" | "0" | "False" | "FALSE")
    }

    /// A number, `None` when absent.
    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>> {
        match self.get(name) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| ApiError::bad_request(format!("invalid value {text:?} for {name}"))),
        }
    }

    /// Whether the request only tries: `dryRun=All`.
    pub(crate) fn dry_run(&self) -> Result<bool> {
        match self.get("dryRun") {
            "" => Ok(false),
            "All" => Ok(true),
            other => Err(ApiError::bad_request(format!("invalid dryRun {other:?}: the only value is All"))),
        }
    }
}

/// Decodes `%xx`; what is no valid escape, or no UTF-8, is kept as it can be.
pub(crate) fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        match escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if bytes[at] == b'%' => {
                out.push(byte);
                at += 3;
            }
            _ => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The reverse of [`unescape`]: everything but letters, digits and `-._~` becomes `%xx`.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_found_and_decoded() {
        let query = Query::parse("labelSelector=app%3Dweb%2Ctier+in+%28a%29&watch=1&limit=500&timeout&bad=%zz%4");
        assert_eq!(query.get("labelSelector"), "app=web,tier in (a)");
        assert!(query.flag("watch") && query.flag("timeout") && !query.flag("none"));
        assert_eq!(query.number("limit").unwrap(), Some(500));
        assert_eq!(query.number("none").unwrap(), None);
        assert!(query.number("bad").is_err());
        assert_eq!(query.get("bad"), "%zz%4");
        assert!(!Query::parse("watch=false").flag("watch"));
        assert!(Query::parse("dryRun=All").dry_run().unwrap());
        assert!(Query::parse("dryRun=Some").dry_run().is_err());
    }

    #[test]
    fn escapes_are_undone() {
        let text = "sh -c 'echo \"ä+b\" & %41'";
        assert_eq!(unescape(&escape(text)), text);
        assert_eq!(escape("a b/é"), "a%20b%2F%C3%A9");
        assert_eq!(Query::parse("command=a&x=1&command=b+c").all("command").collect::<Vec<_>>(), ["a", "b c"]);
    }
}
