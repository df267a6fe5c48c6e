//! Packets made from nothing: the answers of those whom translated packets reach.

use std::net::IpAddr;

use crate::{
    mutate,
    wire::{Flow, SCTP, TCP},
};

/// A packet of `flow` that carries nothing, with right checksums.
pub fn minimal(flow: Flow, tcp_flags: u8) -> Vec<u8> {
    let mut transport = vec![0; 20];
    transport[..2].copy_from_slice(&flow.sport.to_be_bytes());
    transport[2..4].copy_from_slice(&flow.dport.to_be_bytes());
    match flow.proto {
        TCP => (transport[12], transport[13]) = (0x50, tcp_flags),
        // One chunk: a heartbeat's acknowledgement.
        SCTP => {
            transport.truncate(16);
            transport[12..].copy_from_slice(&[5, 0, 0, 4]);
        }
        _ => {
            transport[4..6].copy_from_slice(&20_u16.to_be_bytes());
            transport[6..8].fill(0xff);
        }
    }
    let len = transport.len() as u8;
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    match (flow.src, flow.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            frame.extend([0x08, 0x00, 0x45, 0, 0, 20 + len, 0, 1, 0, 0, 64, flow.proto, 0, 0]);
            frame.extend([src.octets(), dst.octets()].concat());
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, len, flow.proto, 64]);
            frame.extend([src.octets(), dst.octets()].concat());
        }
        families => unreachable!("a flow between two families: {families:?}"),
    }
    frame.extend(transport);
    mutate::repair(&mut frame);
    frame
}
