//! Sockets on wires.
