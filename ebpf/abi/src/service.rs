//! SERVICES: hash from a service number to its name, so that what is in the kernel can be read without the agent.
//! SERVICE_STATS: what a service is asked.

use crate::map_type;

/// Value of SERVICE_STATS, an array by service number. Written with atomic additions.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct ServiceStats {
    /// Connections, and first datagrams, that the socket load balancer translated.
    pub sockets: u64,
    /// Flows that tc began.
    pub flows: u64,
}
map_type!(ServiceStats, 16);

/// `namespace/name`, zero-padded: two labels of at most 63 bytes and the slash.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ServiceName {
    pub bytes: [u8; 128],
}
map_type!(ServiceName, 128);

impl ServiceName {
    /// Truncates what does not fit; Kubernetes names always do.
    pub fn new(text: &str) -> Self {
        let mut bytes = [0; 128];
        let len = text.len().min(bytes.len());
        bytes[..len].copy_from_slice(&text.as_bytes()[..len]);
        Self { bytes }
    }

    /// The name, or an empty string when the bytes are not text.
    pub fn as_str(&self) -> &str {
        let len = self.bytes.iter().position(|byte| *byte == 0).unwrap_or(self.bytes.len());
        core::str::from_utf8(&self.bytes[..len]).unwrap_or("")
    }
}
