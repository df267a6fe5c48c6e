//! The complete load balancer on packets: tc programs on the pods' links and on the node's uplink.
//!
//! Every packet goes the same way, one module a step: [`packet`] reads its headers, [`flow`] decides what it
//! becomes (conntrack, then frontends; [`icmp`] for messages that quote a packet, [`direct`] where an untranslated
//! packet would be taken for a translated one), [`route`] finds where that goes
//! before anything is written, [`rewrite`] changes it and [`outcome`] sends it on. What cannot be served is
//! answered by [`answer`]. The hooks themselves only choose the steps.

mod answer;
mod direct;
mod flow;
mod from_pod;
mod from_wire;
mod icmp;
mod outcome;
mod packet;
mod rewrite;
mod route;
mod select;
mod to_pod;
mod to_wire;
