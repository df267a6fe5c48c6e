//! Backends that have left a service while they stand behind another one. Their id lives on, so the data path sees nothing
//! wrong with a flow that the service once gave them. TCP may finish what it has begun; datagrams would go there for as long
//! as there are any, so whoever keeps the flows is told.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;

use thalweg_abi::Proto;

use super::EbpfBackend;
use super::backends::At;
use crate::plan::Key;

#[derive(Debug, Default)]
pub(super) struct Left {
    /// By service number: backends that a UDP frontend, or draining, has lost in this apply.
    candidates: HashMap<u32, HashSet<u32>>,
    /// Numbers of services and ids of backends that nobody asked for yet.
    pairs: BTreeSet<(u32, u32)>,
}

// === impl EbpfBackend ===

impl EbpfBackend {
    /// Which services have lost a backend that others still have, and with which UDP flows may be left: numbers of services
    /// with ids of backends, since this was last asked.
    pub fn take_left(&mut self) -> Vec<(u32, u32)> {
        std::mem::take(&mut self.left.pairs).into_iter().collect()
    }

    /// A frontend of this service does not point at that range any more.
    pub(super) fn lose_block(&mut self, key: &Key, number: u32, block: Option<u32>) {
        if key.protocol == Proto::UDP
            && let Some(block) = block.and_then(|base| self.blocks.get(base))
        {
            self.left.candidates.entry(number).or_default().extend(&block.members);
        }
    }

    /// These do not drain any more.
    pub(super) fn lose_draining(&mut self, number: u32, drained: &[SocketAddr]) {
        let ids = drained.iter().filter_map(|at| self.backends.id_of(At::from(*at)));
        self.left.candidates.entry(number).or_default().extend(ids);
    }

    /// Everything is written: what a service has lost in one place, it may still have in another.
    pub(super) fn settle_left(&mut self) {
        for (number, lost) in std::mem::take(&mut self.left.candidates) {
            let kept = self.of_udp(number);
            let left = lost.into_iter().filter(|id| !kept.contains(id) && self.backends.is_alive(*id));
            self.left.pairs.extend(left.map(|id| (number, id)));
        }
    }

    /// The backends that flows of a service may go to.
    fn of_udp(&self, number: u32) -> HashSet<u32> {
        let Some(record) = self.numbers.owner(number).and_then(|owner| self.services.get(owner)) else {
            return HashSet::new();
        };
        let keys = record.frontends.iter().filter(|key| key.protocol == Proto::UDP);
        let bases: BTreeSet<u32> = keys.filter_map(|key| self.mirror.get(key)?.block).collect();
        let members =
            bases.into_iter().filter_map(|base| self.blocks.get(base)).flat_map(|block| block.members.iter().copied());
        let draining = record.draining().iter().filter_map(|at| self.backends.id_of(At::from(*at)));
        members.chain(draining).collect()
    }
}
