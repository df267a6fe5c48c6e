//! STATE: a small array of u64 by which a restarted agent, and people, recognise a set of maps.

/// Index into STATE.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StateKey {
    /// [`crate::ABI_VERSION`] of whoever made the maps.
    Abi,
    /// Nanoseconds since the epoch when the maps were created: tells "adopted" from "rebuilt".
    CreatedAt,
    /// How often an agent has adopted these maps.
    Adoptions,
    /// Raised by one with every apply that changed something.
    Applies,
    /// 1 once the maps have held a complete snapshot.
    Synced,
}

impl StateKey {
    pub const COUNT: u32 = 5;
}
