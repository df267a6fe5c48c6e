//! The packet that goes to an upstream, and what is to be thought of one that comes back. Pure.
//!
//! Whoever wants to forge an answer must guess an identifier, the port of a socket that lives for one question, and the
//! casing of the name (0x20): an upstream repeats the question as it was written.

use hickory_proto::op::Message;
use hickory_proto::rr::Name;
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

use super::question::Question;
use super::reply::Reply;
use crate::query::{HEADER, MAX_UDP, be16};

/// Random octets that [`write_query`] uses: the identifier, and a bit for each letter of the name.
pub const RANDOM: usize = 2 + 32;

/// What came back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Not the answer to what was sent: it may be forged, and the answer may still come.
    Ignore,
    /// The answer, but for the casing of the name: TCP tells whether it is forged.
    Casing,
    /// Not all of it: TCP has the rest.
    Truncated,
    /// An error without a question: the server did not understand.
    Refused(u8),
    /// The answer, and it cannot be read.
    Malformed,
    Answer(Box<Reply>),
}

/// Writes the query into `out`, which is cleared first.
pub fn write_query(question: &Question, recursion_desired: bool, random: &[u8; RANDOM], out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&random[..2]);
    let flags = if question.checking_disabled() { 0x10 } else { 0 };
    out.extend_from_slice(&[u8::from(recursion_desired), flags, 0, 1, 0, 0, 0, 0, 0, 1]);
    let start = out.len();
    out.extend_from_slice(question.wire());
    let mut at = start;
    while let Some(&length) = out.get(at).filter(|&&length| length != 0) {
        let end = at + 1 + usize::from(length);
        for (index, letter) in out.iter_mut().enumerate().take(end).skip(at + 1) {
            let bit = index - start;
            if letter.is_ascii_alphabetic() && random[2 + bit / 8 % (RANDOM - 2)] >> (bit % 8) & 1 == 1 {
                *letter ^= 0x20;
            }
        }
        at += usize::from(length) + 1;
    }
    let [high, low] = (MAX_UDP as u16).to_be_bytes();
    let dnssec_ok = if question.dnssec_ok() { 0x80 } else { 0 };
    out.extend_from_slice(&[0, 0, crate::query::rtype::OPT as u8, high, low, 0, 0, dnssec_ok, 0, 0, 0]);
}

/// Judges a packet that came to the socket from which `sent` went. Over TCP, casing is forgiven: nobody can forge there.
pub fn judge(sent: &[u8], received: &[u8], question: &Question, tcp: bool) -> Verdict {
    let (Some(header), Some(asked)) = (received.get(..HEADER), sent.get(HEADER..HEADER + question.wire().len())) else {
        return Verdict::Ignore;
    };
    let (is_reply, opcode, rcode) = (header[2] & 0x80 != 0, header[2] >> 3 & 15, header[3] & 15);
    if header[..2] != sent[..2] || !is_reply || opcode != 0 {
        return Verdict::Ignore;
    }
    if be16(received, 4) == Some(0) && rcode != 0 {
        return Verdict::Refused(rcode);
    }
    let Some(repeated) = received.get(HEADER..HEADER + asked.len()) else { return Verdict::Ignore };
    if be16(received, 4) != Some(1) || !repeated.eq_ignore_ascii_case(asked) {
        return Verdict::Ignore;
    }
    // Type and class are compared with the name: they hold no letters that could hide a difference but these.
    let tail = asked.len() - 4;
    if repeated[tail..] != asked[tail..] {
        return Verdict::Ignore;
    }
    if repeated != asked && !tcp {
        return Verdict::Casing;
    }
    if header[2] & 2 != 0 && !tcp {
        return Verdict::Truncated;
    }
    // In lower case, so that what is compressed to the question does not show clients the casing of ours.
    let mut lowered = received.to_vec();
    lowered[HEADER..HEADER + asked.len()].copy_from_slice(question.wire());
    let reply = Message::from_vec(&lowered).ok().and_then(|message| Reply::take(message, question));
    reply.map_or(Verdict::Malformed, |reply| Verdict::Answer(Box::new(reply)))
}

/// A name in wire form, without compression.
pub fn decode_name(wire: &[u8]) -> Option<Name> {
    Name::read(&mut BinDecoder::new(wire)).ok()
}

#[cfg(test)]
mod tests;
