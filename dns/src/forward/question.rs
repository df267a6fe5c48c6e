//! What is asked of an upstream, as one key: the same question, from whomever and in whatever casing, has the same key.

use crate::name::{self, MAX_NAME};
use crate::query::{Query, rtype};

/// Type, class and flags after the name.
const TAIL: usize = 5;
const DNSSEC_OK: u8 = 1;
const CHECKING_DISABLED: u8 = 2;

/// Name, type, class, and the flags that change what an upstream says.
#[derive(Clone, Copy)]
pub struct Question {
    key: [u8; MAX_NAME + TAIL],
    length: u16,
}

// === impl Question ===

impl Question {
    pub fn of(query: &Query<'_>) -> Self {
        let flags = if query.edns.is_some_and(|edns| edns.dnssec_ok) { DNSSEC_OK } else { 0 }
            | if query.packet()[3] & 0x10 != 0 { CHECKING_DISABLED } else { 0 };
        Self::new(query.name.wire(), query.rtype, query.class, flags)
    }

    /// The same question about another name, which is lower-cased here and at most 255 octets long.
    pub fn about(&self, name: &[u8]) -> Self {
        Self::new(name, self.rtype(), self.class(), self.flags())
    }

    /// A question without flags.
    pub fn plain(name: &[u8], rtype: u16) -> Self {
        Self::new(name, rtype, crate::query::class::IN, 0)
    }

    fn new(name: &[u8], rtype: u16, class: u16, flags: u8) -> Self {
        let name = if name.len() <= MAX_NAME { name } else { &[0] };
        let mut key = [0; MAX_NAME + TAIL];
        key[..name.len()].copy_from_slice(name);
        key[..name.len()].make_ascii_lowercase();
        let tail = &mut key[name.len()..name.len() + TAIL];
        tail[..2].copy_from_slice(&rtype.to_be_bytes());
        tail[2..4].copy_from_slice(&class.to_be_bytes());
        tail[4] = flags;
        Self { key, length: (name.len() + TAIL) as u16 }
    }

    /// Two questions are the same when their keys are.
    pub fn key(&self) -> &[u8] {
        &self.key[..usize::from(self.length)]
    }

    /// Lower-cased, in wire form.
    pub fn name(&self) -> &[u8] {
        &self.key[..usize::from(self.length) - TAIL]
    }

    /// Name, type and class as they stand in a message.
    pub fn wire(&self) -> &[u8] {
        &self.key[..usize::from(self.length) - 1]
    }

    pub fn rtype(&self) -> u16 {
        let tail = &self.key()[self.name().len()..];
        u16::from_be_bytes([tail[0], tail[1]])
    }

    pub fn class(&self) -> u16 {
        let tail = &self.key()[self.name().len()..];
        u16::from_be_bytes([tail[2], tail[3]])
    }

    pub fn dnssec_ok(&self) -> bool {
        self.flags() & DNSSEC_OK != 0
    }

    pub fn checking_disabled(&self) -> bool {
        self.flags() & CHECKING_DISABLED != 0
    }

    /// Whether a record of this type answers it.
    pub fn wants(&self, rtype: u16) -> bool {
        self.rtype() == rtype || self.rtype() == rtype::ANY
    }

    fn flags(&self) -> u8 {
        self.key[usize::from(self.length) - 1]
    }
}

impl std::fmt::Debug for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} type {}", name::display(self.name()), self.rtype())
    }
}
