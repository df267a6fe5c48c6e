//! The socket load balancer with real sockets: this process moves into a cgroup of its own and dials VIPs inside a
//! network namespace where no VIP has a route, so that only a translated call can succeed.

#[path = "../kit/mod.rs"]
mod kit;

mod bind;
mod client;
mod destroy;
mod lab;
mod registry;
mod v4;
mod v6;
