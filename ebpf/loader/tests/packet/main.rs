//! Packets through the tc programs: what goes in beside what must come out, then what conntrack and the counters
//! say. One packet at a time by BPF_PROG_TEST_RUN, and in `real` with sockets on wires.

mod apart;
mod cluster_ip;
mod direct;
mod dns;
mod dns_passed;
mod fragments;
mod icmp;
mod ipv6;
mod lifetime;
mod malformed;
mod node;
mod node_port;
mod policy;
mod real;
mod refusal;
mod sctp;
mod tables;
