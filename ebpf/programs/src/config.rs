//! Runtime options as `.rodata` globals: the loader writes them before it loads the programs, so the verifier
//! prunes what is off.

use aya_ebpf::Global;

/// The node's own address, as it stands in a packet ([`thalweg_abi::Be32`]).
#[unsafe(no_mangle)]
pub static NODE_ADDR: Global<u32> = Global::new(0);

/// The node's own IPv6 address, as it stands in a packet ([`thalweg_abi::Be128`]); zero when it has none.
#[unsafe(no_mangle)]
pub static NODE_ADDR6: Global<[u32; 4]> = Global::new([0; 4]);

/// The cookie of the node's own network namespace.
#[unsafe(no_mangle)]
pub static NODE_NETNS: Global<u64> = Global::new(0);

/// 1: the socket load balancer translates at connect and sendmsg. 0: its programs let everything pass.
#[unsafe(no_mangle)]
pub static SOCKET_LB: Global<u32> = Global::new(1);

/// 1: these programs serve for the moment in which a node's programs are switched to other tables of flows (see `flows`).
#[unsafe(no_mangle)]
pub static SWITCHING: Global<u32> = Global::new(0);
