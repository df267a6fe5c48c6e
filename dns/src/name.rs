//! Names in wire form: length-prefixed labels that end with the root label, lower-cased.
//!
//! Everything in the zone is stored this way or made of such labels, so that answering needs no conversion. Length bytes are
//! at most 63, below any letter, hence lower-casing a whole wire name as ASCII is safe.

use std::net::IpAddr;
use std::sync::Arc;

/// Octets of a whole name, the root label included (RFC 1035 section 3.1).
pub const MAX_NAME: usize = 255;
pub const MAX_LABEL: usize = 63;

/// A lower-cased name in wire form.
pub type WireName = Arc<[u8]>;

/// `cluster.local` or `cluster.local.` in wire form; `None` for what DNS cannot carry (an empty or long label, a long name).
pub fn encode(text: &str) -> Option<WireName> {
    let text = text.strip_suffix('.').unwrap_or(text);
    let mut wire = Vec::with_capacity(text.len() + 2);
    if !text.is_empty() {
        for label in text.split('.') {
            push_label(&mut wire, label)?;
        }
    }
    wire.push(0);
    (wire.len() <= MAX_NAME).then(|| wire.into())
}

/// `label.parent`; `None` when the label or the whole name is not representable.
pub fn child(label: &str, parent: &[u8]) -> Option<WireName> {
    let mut wire = Vec::with_capacity(label.len() + 1 + parent.len());
    push_label(&mut wire, label)?;
    wire.extend_from_slice(parent);
    (wire.len() <= MAX_NAME).then(|| wire.into())
}

/// The name below `in-addr.arpa` or `ip6.arpa` that holds the PTR of an address.
pub fn reverse(ip: IpAddr) -> WireName {
    let mut wire = Vec::with_capacity(80);
    match ip {
        IpAddr::V4(ip) => {
            for octet in ip.octets().into_iter().rev() {
                let text = octet.to_string();
                wire.push(text.len() as u8);
                wire.extend_from_slice(text.as_bytes());
            }
            wire.extend_from_slice(REVERSE_V4);
        }
        IpAddr::V6(ip) => {
            for octet in ip.octets().into_iter().rev() {
                for nibble in [octet & 15, octet >> 4] {
                    wire.extend_from_slice(&[1, b"0123456789abcdef"[usize::from(nibble)]]);
                }
            }
            wire.extend_from_slice(REVERSE_V6);
        }
    }
    wire.into()
}

pub const REVERSE_V4: &[u8] = b"\x07in-addr\x04arpa\0";
pub const REVERSE_V6: &[u8] = b"\x03ip6\x04arpa\0";

/// Where `suffix` starts in a name, when the name is `suffix` or below it.
pub fn offset_of(wire: &[u8], suffix: &[u8]) -> Option<usize> {
    let offset = wire.len().checked_sub(suffix.len())?;
    // The octets first: nearly every foreign name fails here, before its labels are walked.
    (wire[offset..] == *suffix && is_within(wire, suffix)).then_some(offset)
}

/// The name without its first label; `None` for the root.
pub fn parent(wire: &[u8]) -> Option<&[u8]> {
    match wire.first() {
        None | Some(0) => None,
        Some(&length) => wire.get(usize::from(length) + 1..),
    }
}

/// The octets of the first label; empty for the root.
pub fn first_label(wire: &[u8]) -> &[u8] {
    wire.first().and_then(|&length| wire.get(1..=usize::from(length))).unwrap_or_default()
}

/// Whether `wire` is `suffix` or a name below it, compared label by label.
pub fn is_within(wire: &[u8], suffix: &[u8]) -> bool {
    let mut rest = wire;
    while rest.len() > suffix.len() {
        match parent(rest) {
            Some(shorter) => rest = shorter,
            None => return false,
        }
    }
    rest == suffix
}

/// Dotted text, for logs.
pub fn display(wire: &[u8]) -> String {
    let mut text = String::with_capacity(wire.len());
    let mut rest = wire;
    while let Some(shorter) = parent(rest) {
        text.push_str(&String::from_utf8_lossy(first_label(rest)));
        text.push('.');
        rest = shorter;
    }
    if text.is_empty() {
        text.push('.');
    }
    text
}

/// Whether DNS can carry it as one label.
pub fn is_label(label: &str) -> bool {
    !label.is_empty() && label.len() <= MAX_LABEL && !label.contains('.')
}

/// Appends one label, lower-cased; `None` when it is not representable.
pub fn push_label(wire: &mut Vec<u8>, label: &str) -> Option<()> {
    if !is_label(label) {
        return None;
    }
    wire.push(label.len() as u8);
    wire.extend(label.bytes().map(|byte| byte.to_ascii_lowercase()));
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_dns_can_carry() {
        assert_eq!(encode("Cluster.Local").as_deref(), Some(&b"\x07cluster\x05local\0"[..]));
        assert_eq!(encode("cluster.local."), encode("cluster.local"));
        assert_eq!(encode(".").as_deref(), Some(&b"\0"[..]));
        assert_eq!(child("Web", b"\x02ns\0").as_deref(), Some(&b"\x03web\x02ns\0"[..]));
    }

    #[test]
    fn names_that_dns_cannot_carry() {
        for text in ["a..b", ".a", "a..", &"x".repeat(64), &"abcdefg.".repeat(32)] {
            assert_eq!(encode(text), None, "{text}");
        }
        for label in ["", "a.b", &"x".repeat(64)] {
            assert_eq!(child(label, b"\0"), None, "{label}");
        }
        assert!(encode(&"abcdefg.".repeat(31)).is_some());
        assert_eq!(child("abcdefgh", &encode(&"abcdefg.".repeat(31)).expect("249 octets")), None);
    }

    #[test]
    fn reverse_names() {
        assert_eq!(display(&reverse("10.96.0.1".parse().expect("v4"))), "1.0.96.10.in-addr.arpa.");
        let v6 = display(&reverse("fd00::12".parse().expect("v6")));
        assert!(v6.starts_with("2.1.0.0.") && v6.ends_with(".0.0.d.f.ip6.arpa."), "{v6}");
    }

    #[test]
    fn suffixes_are_compared_by_label() {
        let zone = encode("cluster.local").expect("name");
        for (text, within) in
            [("cluster.local", true), ("a.cluster.local", true), ("xcluster.local", false), ("local", false), ("a.b", false)]
        {
            assert_eq!(is_within(&encode(text).expect("name"), &zone), within, "{text}");
        }
        // The octets of the zone stand at the end, but inside a label.
        assert!(!is_within(b"\x0ea\x07cluster\x05local\0", &zone));
    }
}
