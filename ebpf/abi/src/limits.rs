//! Default sizes of maps, and times. Sizes are defaults: the loader can set others before it creates a map.

/// Frontends (VIP, port, protocol, scope).
pub const MAX_FRONTENDS: u32 = 262_144;
/// Slots of the flat array; an update needs room for the old and the new range of a service at once.
pub const MAX_SLOTS: u32 = 524_288;
/// Backend ids.
pub const MAX_BACKENDS: u32 = 131_072;
/// Entries of CONNTRACK, two per flow.
pub const MAX_CONNTRACK: u32 = 262_144;
/// Services, for their names.
pub const MAX_SERVICES: u32 = 131_072;
/// Names that DNS answers for in the kernel.
pub const MAX_DNS_NAMES: u32 = 131_072;
/// Pods of one node.
pub const MAX_LOCAL_PODS: u32 = 4_096;
/// Clients with a backend of their own.
pub const MAX_AFFINITY: u32 = 262_144;
/// Ranges of clients, over all services.
pub const MAX_SOURCE_RANGES: u32 = 65_536;
/// Network namespaces of one node.
pub const MAX_NETNS: u32 = 8_192;
/// Connected sockets of one node that the load balancer has translated.
pub const MAX_SOCK_BACKENDS: u32 = 262_144;
/// Datagrams in pieces that are remembered at one time.
pub const MAX_FRAGMENTS: u32 = 16_384;
/// Fragments that wait for the first of their datagram.
pub const MAX_HELD: u32 = 1_024;

/// Seconds after which the fragments of a datagram are forgotten (as the kernel's own reassembly does).
pub const FRAGMENT_SECONDS: u32 = 30;

/// Idle seconds after which a UDP flow with one direction seen is forgotten.
pub const UDP_NEW_SECONDS: u32 = 30;
/// Idle seconds after which a UDP flow with both directions seen is forgotten.
pub const UDP_STREAM_SECONDS: u32 = 180;
/// Idle seconds after which an SCTP association with one direction seen is forgotten.
pub const SCTP_NEW_SECONDS: u32 = 60;
/// Idle seconds for an SCTP association that both sides use; heartbeats come every 30 seconds.
pub const SCTP_ESTABLISHED_SECONDS: u32 = 210;
/// Idle seconds for a TCP flow that has not been answered.
pub const TCP_NEW_SECONDS: u32 = 60;
/// Idle seconds for an established TCP flow.
pub const TCP_ESTABLISHED_SECONDS: u32 = 86_400;
/// Idle seconds for a TCP flow with a FIN from one side.
pub const TCP_CLOSING_SECONDS: u32 = 120;
/// Idle seconds for a TCP flow that is over.
pub const TCP_CLOSED_SECONDS: u32 = 10;

/// First and last source port that the data path allocates itself. They are above the default `ip_local_port_range`, and the
/// agent reserves them (`ip_local_reserved_ports`), so that no socket of the node is given one.
pub const SNAT_PORT_MIN: u16 = 61_000;
pub const SNAT_PORT_MAX: u16 = 65_535;
