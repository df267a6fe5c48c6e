//! Records as they stand in a reply.
//!
//! The owner of a record is a compression pointer: to the question's name, so that the answer carries the client's own
//! casing, or to where a record before it spells the name out.

use std::io::Write;
use std::net::IpAddr;

use crate::query::{HEADER, class, rtype};

/// A compression pointer to the question's name, which always starts right after the header.
pub const QUESTION_POINTER: u16 = 0xc000 | HEADER as u16;
/// Octets of a record before its data: pointer, type, class, TTL, length.
pub const FIXED: usize = 12;

/// A compression pointer to an offset of the message, of at most 14 bits.
pub fn pointer(offset: usize) -> u16 {
    0xc000 | offset as u16
}

/// Appends all of a record but its data, which has `length` octets.
pub fn push_head(bytes: &mut Vec<u8>, owner: u16, rtype: u16, ttl: u32, length: u16) {
    let mut head = [0; FIXED];
    head[..2].copy_from_slice(&owner.to_be_bytes());
    head[2..4].copy_from_slice(&rtype.to_be_bytes());
    head[4..6].copy_from_slice(&class::IN.to_be_bytes());
    head[6..10].copy_from_slice(&ttl.to_be_bytes());
    head[10..].copy_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(&head);
}

/// Appends one record.
pub fn push_record(bytes: &mut Vec<u8>, owner: u16, rtype: u16, ttl: u32, data: &[u8]) {
    push_head(bytes, owner, rtype, ttl, data.len() as u16);
    bytes.extend_from_slice(data);
}

/// Appends an A or AAAA record; `octets` are 4 or 16.
pub fn push_address(bytes: &mut Vec<u8>, owner: u16, ttl: u32, octets: &[u8]) {
    push_record(bytes, owner, if octets.len() == 4 { rtype::A } else { rtype::AAAA }, ttl, octets);
}

/// Says how long the data of a record is that was begun at `start`.
pub fn end_record(bytes: &mut [u8], start: usize) {
    let length = (bytes.len() - start - FIXED) as u16;
    bytes[start + FIXED - 2..start + FIXED].copy_from_slice(&length.to_be_bytes());
}

/// Appends the label that spells an address.
pub fn push_dashed(bytes: &mut Vec<u8>, ip: IpAddr) {
    let start = bytes.len();
    bytes.push(0);
    // Writing into a vector does not fail.
    let _written = write!(bytes, "{ip}");
    bytes[start] = (bytes.len() - start - 1) as u8;
    for byte in &mut bytes[start + 1..] {
        if matches!(byte, b'.' | b':') {
            *byte = b'-';
        }
    }
}
