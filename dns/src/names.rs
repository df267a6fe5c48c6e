//! What becomes of names before the cluster's zone and the upstreams are asked: rules that rewrite them, and addresses
//! that the configuration itself gives. Pure.

use std::path::Path;

use crate::config::max_udp;
use crate::corefile::ServerBlock;
use crate::name::{self, WireName};
use crate::query::Query;

mod hosts;
mod rewrite;

use hosts::HostTable;
pub use rewrite::Rewritten;
use rewrite::Rules;

/// The rules and tables of each block, longest zones first; only of blocks that have some.
#[derive(Default)]
pub struct Names {
    blocks: Vec<(WireName, std::sync::Arc<Block>)>,
    /// The largest reply over UDP, in octets.
    max_udp: usize,
}

struct Block {
    rules: Rules,
    tables: Vec<HostTable>,
}

// === impl Names ===

impl Names {
    /// `read` gives the text of a hosts file; one that cannot be read is as good as empty, as in CoreDNS.
    pub fn new(servers: &[ServerBlock], read: &dyn Fn(&Path) -> Option<String>) -> Self {
        let mut blocks = Vec::new();
        for server in servers {
            let zones: Vec<WireName> = server.keys.iter().map(|key| key.zone.clone()).collect();
            let tables = server.hosts.iter().map(|hosts| HostTable::new(hosts, &zones, read)).collect();
            let block = std::sync::Arc::new(Block { rules: Rules::new(&server.rewrites), tables });
            blocks.extend(zones.into_iter().map(|zone| (zone, block.clone())));
        }
        if blocks.iter().all(|(_, block)| block.rules.is_empty() && block.tables.is_empty()) {
            blocks.clear();
        }
        blocks.sort_by_key(|(zone, _)| std::cmp::Reverse(zone.len()));
        Self { blocks, max_udp: max_udp(servers) }
    }

    /// Whether no name meets anything here.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// The query under the name that it is to be asked, with what is needed to answer the client under its own; `None`
    /// when no rule is for it.
    pub fn rewrite(&self, query: &Query<'_>) -> Option<Rewritten> {
        self.block(query.name.wire())?.rules.apply(query, self.max_udp)
    }

    /// Writes what the tables say; false: they say nothing, and others are to be asked.
    pub fn answer(&self, query: &Query<'_>, out: &mut Vec<u8>) -> bool {
        let Some(block) = self.block(query.name.wire()).filter(|block| !block.tables.is_empty()) else { return false };
        let query = query.clone().bounded(self.max_udp);
        block.tables.iter().any(|table| table.answer(&query, out))
    }

    fn block(&self, name: &[u8]) -> Option<&Block> {
        self.blocks.iter().find(|(zone, _)| name::is_within(name, zone)).map(|(_, block)| &**block)
    }
}

#[cfg(test)]
mod tests;
