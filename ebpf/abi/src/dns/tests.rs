//! Octets eight at a time against one at a time, and the parts of a message against their bytes.

use super::*;

extern crate std;
use std::{vec, vec::Vec};

fn bytes_of<T: Copy, const N: usize>(value: T) -> [u8; N] {
    const { assert!(size_of::<T>() == N) };
    // SAFETY: as many bytes, of a type without padding.
    #[expect(unsafe_code, reason = "a value as it stands in a packet")]
    unsafe {
        core::mem::transmute_copy(&value)
    }
}

fn sum_of(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(u16::from_ne_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])));
    words.fold(Sum::ZERO, Sum::add).checksum()
}

#[test]
fn lower_casing_is_that_of_ascii_in_every_place() {
    for octet in 0..=u8::MAX {
        for at in 0..8 {
            for others in [0, b'A', b'z', 0xff] {
                let mut octets = [others; 8];
                octets[at] = octet;
                let expected = octets.map(|octet| octet.to_ascii_lowercase());
                assert_eq!(lower_cased(u64::from_ne_bytes(octets)).to_ne_bytes(), expected, "{octets:?}");
            }
        }
    }
}

#[test]
fn octets_before_an_end_are_kept() {
    let octets = *b"abcdefgh";
    for at in [0, 8, 16] {
        for end in 0..32 {
            let mut expected = octets;
            for (index, octet) in (at..).zip(&mut expected) {
                if index >= end {
                    *octet = 0;
                }
            }
            assert_eq!(before(u64::from_ne_bytes(octets), at, end).to_ne_bytes(), expected, "{at} {end}");
        }
    }
}

#[test]
fn names_that_are_taken() {
    let labels = |count: usize, length: u8| -> Vec<u8> {
        let label: Vec<u8> = core::iter::once(length).chain((0..length).map(|_| b'x')).collect();
        [vec![label; count].concat(), vec![0]].concat()
    };
    for (wire, is_taken) in [
        (labels(1, 63), true),
        (labels(16, 6), true),
        (labels(17, 1), false),
        (labels(2, 63), false),
        (labels(2, 62), true),
        (labels(0, 0), false),
        (b"\x03abc".to_vec(), false),
        (Vec::new(), false),
    ] {
        let name = DnsName::new(&wire);
        assert_eq!(name.is_some(), is_taken, "{wire:?}");
        if let Some(DnsName(octets)) = name {
            assert!(octets.starts_with(&wire) && octets[wire.len()..].iter().all(|octet| *octet == 0));
        }
    }
}

#[test]
fn queries_that_are_taken() {
    let query = [0x12, 0x34, 0x01, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    let header = |bytes: [u8; 12]| -> DnsHeader {
        let word = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        let [questions, answers, authorities, additionals] = [4, 6, 8, 10].map(|at| Be16(word(at)));
        DnsHeader { id: word(0), flags: [bytes[2], bytes[3]], questions, answers, authorities, additionals }
    };
    assert!(header(query).is_query() && header(query).has_additional());
    for (at, value, is_taken) in [
        (2, 0x80, false),
        (2, 0x08, false),
        (2, 0x07, true),
        (3, 0xff, true),
        (4, 1, false),
        (5, 0, false),
        (5, 2, false),
        (7, 1, false),
        (8, 1, false),
        (11, 0, true),
        (11, 2, false),
        (10, 1, false),
    ] {
        let mut other = query;
        other[at] = value;
        assert_eq!(header(other).is_query(), is_taken, "{at}: {value}");
    }
    let mut asked = query;
    (asked[2], asked[3]) = (0x07, 0xff);
    let reply = |flags, exists, answers| bytes_of::<_, 12>(header(asked).reply(DnsZoneFlags(flags), exists, answers));
    assert_eq!(reply(0, true, 0x102), [0x12, 0x34, 0x85, 0x10, 0, 1, 1, 2, 0, 0, 0, 1]);
    assert_eq!(reply(DnsZoneFlags::RECURSION, true, 0), [0x12, 0x34, 0x85, 0x90, 0, 1, 0, 0, 0, 1, 0, 1]);
    assert_eq!(reply(DnsZoneFlags::COMPLETE, false, 0), [0x12, 0x34, 0x85, 0x13, 0, 1, 0, 0, 0, 1, 0, 1]);
    assert_eq!(header(query).sum().checksum(), sum_of(&query));
}

#[test]
fn opt_records() {
    let opt = DnsOpt { name: 0, kind: [0, 41], udp_size: [0x10, 0], rcode: 7, version: 0, flags: [0xff, 1], length: [0, 12] };
    assert!(opt.is_known());
    assert!(!DnsOpt { version: 1, ..opt }.is_known());
    assert!(!DnsOpt { name: 1, ..opt }.is_known());
    assert!(!DnsOpt { kind: [0, 1], ..opt }.is_known());
    let reply = opt.reply(1232);
    assert_eq!(bytes_of::<_, DNS_OPT>(reply), [0, 0, 41, 4, 0xd0, 0, 0, 0x80, 0, 0, 0]);
    assert_eq!(reply.sum().checksum(), sum_of(&bytes_of::<_, DNS_OPT>(reply)));
    assert_eq!(opt.sum().checksum(), sum_of(&bytes_of::<_, DNS_OPT>(opt)));
}

#[test]
fn records_are_their_octets() {
    let record = DnsRecordA::new(0x0102_0304, [u16::from_ne_bytes([10, 96]), u16::from_ne_bytes([0, 1])]);
    assert_eq!(bytes_of::<_, 16>(record), [0xc0, 12, 0, 1, 0, 1, 1, 2, 3, 4, 0, 4, 10, 96, 0, 1]);
    let record = bytes_of::<_, 28>(DnsRecordAaaa::new(5, [0xabab; 8]));
    assert_eq!((&record[..12], &record[12..]), (&[0xc0, 12, 0, 28, 0, 1, 0, 0, 0, 5, 0, 16][..], &[0xab; 16][..]));
    let zone = DnsZone { serial: 0x0a0b_0c0d, ttl: 30, ..DnsZone::default() };
    let soa = bytes_of::<_, 56>(DnsSoa::new(0x115, &zone));
    let expected =
        b"\xc1\x15\x00\x06\x00\x01\x00\x00\x00\x1e\x00\x2a\x02ns\x03dns\xc1\x15\x0ahostmaster\xc1\x15\x0a\x0b\x0c\x0d\
        \x00\x00\x1c\x20\x00\x00\x07\x08\x00\x01\x51\x80\x00\x00\x00\x1e";
    assert_eq!(soa[..DNS_SOA], expected[..]);
}
