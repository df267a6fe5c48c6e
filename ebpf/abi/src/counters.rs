//! COUNTERS, DROPS and DNS_COUNTS: per-CPU arrays of u64, indexed by these enums.

macro_rules! indexed {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident => $text:literal,)* }) => {
        $(#[$meta])*
        #[repr(u32)]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum $name { $($(#[$vmeta])* $variant,)* }

        impl $name {
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            pub const COUNT: u32 = Self::ALL.len() as u32;

            /// The name shown to people and in metrics.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

indexed! {
    /// Index into COUNTERS.
    Counter {
        /// Socket load balancer: look-ups at connect or sendmsg.
        SockLookup => "sock_lookups",
        /// Socket load balancer: destinations translated.
        SockTranslated => "sock_translated",
        /// Socket load balancer: connections refused for want of endpoints or of a port.
        SockRefused => "sock_refused",
        /// tc: packets looked at.
        TcPackets => "tc_packets",
        /// tc: frontend look-ups.
        TcLookup => "tc_lookups",
        /// tc: flows created in CONNTRACK.
        TcFlow => "tc_flows",
        /// tc: packets that matched an entry of CONNTRACK.
        TcTracked => "tc_tracked",
        /// tc: packets answered with TCP RST or ICMP port-unreachable.
        TcRefused => "tc_refused",
        /// tc: packets delivered straight into a local pod.
        TcToPod => "tc_to_pod",
        /// tc: packets sent to another node or outside without the host's stack.
        TcToWire => "tc_to_wire",
        /// tc: source ports reallocated because the reply tuple was taken.
        TcPortRealloc => "tc_port_reallocated",
        /// tc: UDP flows moved because their backend was gone.
        TcReselected => "tc_reselected",
        /// tc: packets answered with ICMP fragmentation-needed or time-exceeded.
        TcAnswered => "tc_answered",
        /// Socket load balancer: calls left to tc because the pod opted out.
        SockOptOut => "sock_opted_out",
        /// Socket load balancer: translated sockets that could not be remembered, SOCK_BACKENDS being full.
        SockBackendsFull => "sock_backends_full",
        /// Sockets of the node that were kept from taking a NodePort as their local port.
        SockBindRefused => "sock_bind_refused",
        /// Connections that kept the backend of an earlier one.
        AffinityHit => "affinity_hits",
        /// Clients that could not be remembered, AFFINITY being full.
        AffinityFull => "affinity_full",
        /// tc: fragments held until the first of their datagram came.
        TcFragmentHeld => "tc_fragments_held",
        /// tc: held fragments sent on.
        TcFragmentReleased => "tc_fragments_released",
    }
}

indexed! {
    /// Index into DROPS: why a packet was dropped.
    DropReason {
        /// The packet is too short or its headers contradict each other.
        Malformed => "malformed",
        /// A pod sent from an address that is not its own.
        Spoofed => "spoofed",
        /// A Local traffic policy allows no endpoint on this node.
        NoLocalEndpoint => "no_local_endpoint",
        /// CONNTRACK is full.
        ConntrackFull => "conntrack_full",
        /// No free source port for a translation.
        NoSourcePort => "no_source_port",
        /// The flow's TCP backend is gone.
        BackendGone => "backend_gone",
        /// A slot or backend index outside its array: a defect of ours.
        BadSlot => "bad_slot",
        /// The kernel could not route the translated packet.
        NoRoute => "no_route",
        /// A helper failed while the packet was rewritten.
        RewriteFailed => "rewrite_failed",
        /// A fragment that cannot be attributed to a flow.
        Fragment => "fragment",
        /// Sent to a service's address, belongs to no flow, and must not be answered: a stray TCP RST or ICMP message,
        /// or what a process of the node has sent there past the socket load balancer.
        NoFlow => "no_flow",
        /// The service's loadBalancerSourceRanges do not admit the client.
        SourceRange => "source_range",
        /// An address from the services' ranges that no service has.
        NoService => "no_service",
    }
}

indexed! {
    /// Index into DNS_COUNTS: what became of a query that a pod sent to the cluster's DNS.
    DnsOutcome {
        /// Answered with addresses.
        Answered => "answered",
        /// Answered: the name has no such records.
        NoData => "nodata",
        /// Answered: there is no such name.
        NxDomain => "nxdomain",
        /// Passed up: not a plain query with one question, or not the shortest form of its packet.
        PassedForm => "passed_form",
        /// Passed up: another type or class than the addresses of the Internet.
        PassedType => "passed_type",
        /// Passed up: a name that is too long or has too many labels.
        PassedName => "passed_name",
        /// Passed up: in none of the zones here.
        PassedOutside => "passed_outside",
        /// Passed up: only user space knows what there is.
        PassedUnknown => "passed_unknown",
        /// Passed up: the agent has not been heard of for too long.
        PassedStale => "passed_stale",
    }
}
