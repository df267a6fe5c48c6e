//! What is a query and what is not, octet by octet.

use super::*;
use crate::name::offset_of;

const HEAD: &[u8] = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00";
const QUESTION: &[u8] = b"\x03wEb\x02nS\x00\x00\x01\x00\x01";

fn packet(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

/// The header with its four counts.
fn head(counts: [u8; 4]) -> Vec<u8> {
    let mut head = HEAD.to_vec();
    for (index, count) in counts.into_iter().enumerate() {
        head[5 + 2 * index] = count;
    }
    head
}

fn refused(packet: &[u8], expected: Malformed, why: &str) {
    match Query::parse(packet, Transport::Udp) {
        Err(got) => assert_eq!(got, expected, "{why}"),
        Ok(_) => panic!("accepted: {why}"),
    }
}

#[test]
fn a_plain_question() {
    let bytes = packet(&[HEAD, QUESTION]);
    let query = Query::parse(&bytes, Transport::Udp).expect("a query");
    assert_eq!(query.name.wire(), b"\x03web\x02ns\0");
    assert_eq!(query.question(), QUESTION, "casing is kept");
    assert_eq!((query.rtype, query.class, query.edns, query.limit()), (rtype::A, class::IN, None, 512));
    assert_eq!(offset_of(query.name.wire(), b"\x02ns\0"), Some(4));
    assert_eq!(offset_of(query.name.wire(), b"\x03web\0"), None);
}

#[test]
fn the_size_that_a_client_offers() {
    for (offer, limit) in [(0u16, 512), (511, 512), (512, 512), (1000, 1000), (1232, 1232), (4096, 1232), (65535, 1232)] {
        let opt = packet(&[b"\0\0\x29", &offer.to_be_bytes(), b"\0\0\x80\0\0\0"]);
        let bytes = packet(&[&head([1, 0, 0, 1]), QUESTION, &opt]);
        let query = Query::parse(&bytes, Transport::Udp).expect("a query");
        assert_eq!(query.limit(), limit, "{offer}");
        assert_eq!(query.edns, Some(Edns { udp_size: offer, version: 0, dnssec_ok: true }));
        assert_eq!(Query::parse(&bytes, Transport::Tcp).expect("a query").limit(), 65535);
    }
}

#[test]
fn the_size_that_the_operator_allows() {
    let opt = packet(&[&head([1, 0, 0, 1]), QUESTION, b"\0\0\x29\x10\0\0\0\0\0\0\0"]);
    for (allowed, limit) in [(0, 512), (512, 512), (700, 700), (1232, 1232), (4096, 1232)] {
        let read = |transport| Query::parse(&opt, transport).expect("a query").bounded(allowed);
        assert_eq!((read(Transport::Udp).limit(), read(Transport::Tcp).limit()), (limit, 65535), "{allowed}");
    }
}

#[test]
fn records_before_the_opt_are_stepped_over() {
    let other = b"\xc0\x0c\x00\x10\x00\x01\x00\x00\x00\x00\x00\x02\x01x";
    let opt = b"\0\0\x29\x04\xd0\0\x01\0\0\0\0";
    let bytes = packet(&[&head([1, 1, 1, 2]), QUESTION, other, other, other, opt]);
    let query = Query::parse(&bytes, Transport::Udp).expect("a query");
    assert_eq!(query.edns, Some(Edns { udp_size: 1232, version: 1, dnssec_ok: false }));
}

#[test]
fn what_is_dropped() {
    refused(b"", Malformed::Drop, "empty");
    refused(&HEAD[..11], Malformed::Drop, "short header");
    let mut reply = packet(&[HEAD, QUESTION]);
    reply[2] |= 0x80;
    refused(&reply, Malformed::Drop, "a reply");
}

#[test]
fn what_is_a_format_error() {
    let bad = Malformed::Reply(Rcode::FormErr);
    let opt: &[u8] = b"\0\0\x29\x04\xd0\0\0\0\0\0\0";
    refused(&packet(&[&head([0, 0, 0, 0])]), bad, "no question");
    refused(&packet(&[&head([2, 0, 0, 0]), QUESTION, QUESTION]), bad, "two questions");
    refused(HEAD, bad, "question missing");
    refused(&packet(&[HEAD, &QUESTION[..9]]), bad, "type cut");
    refused(&packet(&[HEAD, b"\x03we"]), bad, "label cut");
    refused(&packet(&[HEAD, b"\xc0\x0c\0\x01\0\x01"]), bad, "a pointer in the question");
    refused(&packet(&[HEAD, b"\x40", &[b'x'; 64], b"\0\0\x01\0\x01"]), bad, "label of 64");
    refused(&packet(&[HEAD, &b"\x07abcdefg".repeat(32), b"\0\0\x01\0\x01"]), bad, "name of 257");
    refused(&packet(&[&head([1, 0, 0, 1]), QUESTION]), bad, "promised record missing");
    refused(&packet(&[&head([1, 0, 0, 1]), QUESTION, b"\0\0\x29\x04\xd0\0\0\0\0\0\x01"]), bad, "record data cut");
    refused(&packet(&[&head([1, 0, 0, 2]), QUESTION, opt, opt]), bad, "two OPT");
    refused(&packet(&[&head([1, 0, 0, 1]), QUESTION, b"\x01x", opt]), bad, "OPT not at the root");
    refused(&packet(&[&head([1, 0, 0, 1]), QUESTION, b"\x80", opt]), bad, "reserved label type");
}

#[test]
fn the_longest_name() {
    let longest = packet(&[&b"\x07abcdefg".repeat(31), b"\x05abcde\0"]);
    assert_eq!(longest.len(), 255);
    let bytes = packet(&[HEAD, &longest, b"\0\x01\0\x01"]);
    assert_eq!(Query::parse(&bytes, Transport::Udp).expect("a query").name.wire(), longest);
    let longer = packet(&[&b"\x07abcdefg".repeat(31), b"\x06abcdef\0"]);
    refused(&packet(&[HEAD, &longer, b"\0\x01\0\x01"]), Malformed::Reply(Rcode::FormErr), "name of 256");
}

#[test]
fn other_opcodes_are_not_implemented() {
    for opcode in 1..16u8 {
        let mut bytes = packet(&[HEAD, QUESTION]);
        bytes[2] = opcode << 3;
        refused(&bytes, Malformed::Reply(Rcode::NotImp), "opcode");
    }
}

#[test]
fn rotations_are_even_for_every_nth_query() {
    for stride in 1..=6 {
        for count in [2u64, 3, 5] {
            let rotation = Rotation::default();
            let mut seen = vec![0u32; count as usize];
            for _ in 0..600 {
                seen[((u64::from(rotation.next()) * count) >> 32) as usize] += 1;
                for _ in 1..stride {
                    rotation.next();
                }
            }
            let even = 600 / count as u32;
            assert!(seen.iter().all(|&times| times.abs_diff(even) <= even / 5), "every {stride}th of {count}: {seen:?}");
        }
    }
}
