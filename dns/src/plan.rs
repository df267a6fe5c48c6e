//! What is done with a query that the cluster's zone does not answer: the server blocks of a configuration, made ready.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::cache::Cache;
use crate::config::max_udp;
use crate::corefile::{Forward, ServerBlock, Target};
use crate::forward::Group;
use crate::name::{self, WireName};

/// All blocks; a query meets the one with the longest zone that its name is in.
#[derive(Default)]
pub struct Plan {
    /// Longest zones first.
    blocks: Vec<(WireName, Arc<Block>)>,
    /// Largest UDP payload.
    pub bufsize: usize,
}

/// One server block, behind any number of zones.
pub struct Block {
    pub cache: Option<Arc<Cache>>,
    groups: Vec<Arc<Group>>,
    detect_loops: bool,
}

// === impl Plan ===

impl Plan {
    /// `resolve` gives the addresses behind a target. A cache of `before` goes on when its options are the same and so are
    /// those who are asked: what others said is nothing that these would say.
    ///
    /// # Errors
    /// Whatever `resolve` says.
    pub fn new<E>(
        servers: &[ServerBlock],
        before: Option<&Self>,
        resolve: &dyn Fn(&Target) -> Result<Vec<SocketAddr>, E>,
    ) -> Result<Self, E> {
        let mut plan = Self { blocks: Vec::new(), bufsize: max_udp(servers) };
        for server in servers {
            let group = |forward: &Forward| {
                let mut addresses: Vec<SocketAddr> = Vec::new();
                for target in &forward.to {
                    for address in resolve(target)? {
                        if !addresses.contains(&address) {
                            addresses.push(address);
                        }
                    }
                }
                Ok(Arc::new(Group::new(forward.clone(), addresses)))
            };
            let groups = server.forwards.iter().map(group).collect::<Result<Vec<_>, E>>()?;
            let cache = server.cache.as_ref().map(|options| {
                let zone = server.keys.first().map(|key| &key.zone);
                let old = before.and_then(|before| before.blocks.iter().find(|(held, _)| Some(held) == zone));
                let old = old.filter(|(_, block)| same_sources(&block.groups, &groups));
                let old = old.and_then(|(_, block)| block.cache.clone()).filter(|cache| cache.options() == options);
                old.unwrap_or_else(|| Arc::new(Cache::new(options.clone())))
            });
            let block = Arc::new(Block { cache, groups, detect_loops: server.detect_loops });
            plan.blocks.extend(server.keys.iter().map(|key| (key.zone.clone(), block.clone())));
        }
        plan.blocks.sort_by_key(|(zone, _)| std::cmp::Reverse(zone.len()));
        Ok(plan)
    }

    /// Who is responsible for a lower-cased name.
    pub fn block(&self, name: &[u8]) -> Option<&Block> {
        self.blocks.iter().find(|(zone, _)| name::is_within(name, zone)).map(|(_, block)| &**block)
    }

    /// Whether anybody is asked at all.
    pub fn forwards(&self) -> bool {
        self.groups().next().is_some()
    }

    /// Each once.
    pub fn blocks(&self) -> impl Iterator<Item = (&WireName, &Arc<Block>)> {
        self.blocks.iter().enumerate().filter_map(|(index, (zone, block))| {
            let seen = self.blocks[..index].iter().any(|(_, other)| Arc::ptr_eq(other, block));
            (!seen).then_some((zone, block))
        })
    }

    pub fn groups(&self) -> impl Iterator<Item = &Arc<Group>> {
        self.blocks().flat_map(|(_, block)| &block.groups)
    }

    pub fn detects_loops(&self, group: &Arc<Group>) -> bool {
        self.blocks().any(|(_, block)| block.detect_loops && block.groups.iter().any(|held| Arc::ptr_eq(held, group)))
    }
}

/// Whether every name is asked of the same servers.
fn same_sources(one: &[Arc<Group>], other: &[Arc<Group>]) -> bool {
    let same = |(one, other): (&Arc<Group>, &Arc<Group>)| {
        one.options.from == other.options.from
            && one.options.except == other.options.except
            && one.upstreams.iter().map(|upstream| upstream.address).eq(other.upstreams.iter().map(|upstream| upstream.address))
    };
    one.len() == other.len() && one.iter().zip(other).all(same)
}

// === impl Block ===

impl Block {
    /// The first line that is for a name, as CoreDNS has it.
    pub fn group(&self, name: &[u8]) -> Option<&Arc<Group>> {
        self.groups.iter().find(|group| group.takes(name))
    }

    pub fn groups(&self) -> &[Arc<Group>] {
        &self.groups
    }
}
