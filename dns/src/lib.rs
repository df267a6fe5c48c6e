//! Cluster DNS: sockets, names, answers (pure), zone, forwarding.
