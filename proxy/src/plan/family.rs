//! The two address families, and one of something for each: services are planned for each family by itself.

use std::net::IpAddr;

use thalweg_cluster::Family;

/// One for each family.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct PerFamily<T> {
    pub v4: T,
    pub v6: T,
}

// === impl PerFamily ===

impl<T> PerFamily<T> {
    pub fn of(&self, family: Family) -> &T {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    pub fn of_mut(&mut self, family: Family) -> &mut T {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }
}

pub(crate) fn family_of(address: IpAddr) -> Family {
    match address {
        IpAddr::V4(_) => Family::V4,
        IpAddr::V6(_) => Family::V6,
    }
}
