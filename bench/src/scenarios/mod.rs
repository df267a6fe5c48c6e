//! The scenarios. Those that are loads over a network share [`traffic`]; the others are a file each.

pub mod cni;
mod dns;
mod first_light;
mod follow;
mod packets;
mod programming;
mod restart;
pub mod traffic;

use crate::scenario::Scenario;

/// Besides the loads.
pub fn others() -> Vec<Box<dyn Scenario>> {
    vec![
        Box::new(packets::Packets),
        Box::new(programming::Programming),
        Box::new(cni::Cni),
        Box::new(dns::Dns),
        Box::new(restart::Restart),
        Box::new(follow::Follow),
        Box::new(first_light::FirstLight),
    ]
}
