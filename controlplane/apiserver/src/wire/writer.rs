//! The protobuf encoding, written. Messages are built from the inside out: an inner message is bytes of the outer one.

/// One message under construction.
#[derive(Default)]
pub(super) struct Writer {
    bytes: Vec<u8>,
}

// === impl Writer ===

impl Writer {
    pub(super) fn bytes(&mut self, number: u32, value: &[u8]) {
        self.varint(u64::from(number << 3 | 2));
        self.varint(value.len() as u64);
        self.bytes.extend_from_slice(value);
    }

    pub(super) fn string(&mut self, number: u32, value: &str) {
        self.bytes(number, value.as_bytes());
    }

    pub(super) fn message(&mut self, number: u32, build: impl FnOnce(&mut Writer)) {
        let mut inner = Writer::default();
        build(&mut inner);
        self.bytes(number, &inner.bytes);
    }

    pub(super) fn bool(&mut self, number: u32, value: bool) {
        self.int(number, i64::from(value));
    }

    pub(super) fn int(&mut self, number: u32, value: i64) {
        self.varint(u64::from(number << 3));
        self.varint(value.cast_unsigned());
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }
}
