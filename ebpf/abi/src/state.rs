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
    /// 1 once the maps have held a complete snapshot; [`DRAINING`] while another way of serving has taken over.
    Synced,
}

/// Value of [`StateKey::Synced`]: flows that were begun here go on, and everything else is the host's stack's, past which no
/// packet is to go: its answers must meet the rules by which its questions were translated.
pub const DRAINING: u64 = 2;

impl StateKey {
    pub const COUNT: u32 = 5;
}
