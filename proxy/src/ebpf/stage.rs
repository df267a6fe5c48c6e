//! Staging: decides in memory what one service needs written, and takes room for all of it or for nothing.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use thalweg_abi::{Be16, Frontend, Proto};
use thalweg_cluster::Name;
use thalweg_loader::Error;

use super::backends::At;
use super::{Desired, EbpfBackend, full};
use crate::plan::{Key, PlannedFrontend, ServicePlan};

/// What one service needs written.
pub(super) struct Staged {
    pub name: Name,
    /// `None`: it is to go.
    pub plan: Option<Arc<ServicePlan>>,
    /// Ranges made for it in this apply.
    pub fresh: Vec<u32>,
    /// Ranges it has already and goes on using; referenced here until all is written, for frontends may swap them.
    pub pinned: Vec<u32>,
    /// Frontends the kernel does not have, with their ranges.
    pub inserts: Vec<(Key, Frontend, Option<u32>)>,
    /// Frontends that change.
    pub flips: Vec<(Key, Frontend, Option<u32>)>,
    /// Why it keeps its old state.
    pub failed: Option<Error>,
    /// Why it admits fewer clients than it should.
    pub shut: Option<Error>,
}

/// What is left of one service to remove and to say once all is written.
pub(super) struct Outcome {
    pub name: Name,
    pub plan: Option<Arc<ServicePlan>>,
    pub failed: Option<Error>,
    pub shut: Option<Error>,
}

/// What services staged earlier in this apply have taken.
pub(super) struct Pass {
    /// Room left in FRONTENDS and in FRONTENDS6.
    pub room: [usize; 2],
    /// Frontends that pass to another service, or are new.
    pub taken: HashSet<Key>,
}

// === impl EbpfBackend ===

impl EbpfBackend {
    /// Decides what one service needs; everything it needs room for is taken, or nothing.
    pub(super) fn stage(&mut self, name: &Name, pass: &mut Pass, now: Instant) -> Staged {
        let mut staged = Staged::new(name);
        let Some(Desired::Plan(plan)) = self.services.get(name).map(|record| &record.desired) else { return staged };
        let plan = plan.clone();
        staged.plan = Some(plan.clone());
        if let Err(error) = self.stage_plan(&plan, pass, &mut staged) {
            staged.inserts.clear();
            staged.flips.clear();
            staged.failed = Some(error);
            self.settle(&mut staged, now);
        }
        staged
    }

    fn stage_plan(&mut self, plan: &ServicePlan, pass: &mut Pass, staged: &mut Staged) -> Result<(), Error> {
        let mut wanted: Vec<&PlannedFrontend> = Vec::with_capacity(plan.frontends.len());
        for frontend in &plan.frontends {
            let key = frontend.key();
            if pass.taken.contains(&key) || self.is_anothers(&key, &plan.name) {
                self.claims.wait(&plan.name, key);
            } else {
                wanted.push(frontend);
            }
        }
        let number = self.number(&plan.name)?;
        let mut new = [0; 2];
        for frontend in wanted.iter().filter(|frontend| self.mirror.get(&frontend.key()).is_none()) {
            let ipv6 = frontend.vip.is_ipv6();
            new[usize::from(ipv6)] += 1;
            if new[usize::from(ipv6)] > pass.room[usize::from(ipv6)] {
                let (table, capacity) = self.tables.frontends.table_of(ipv6);
                return Err(full(table, capacity));
            }
        }

        // The range of each set, once it has been asked for.
        let mut blocks: Vec<Option<Option<u32>>> = vec![None; plan.sets.len()];
        for frontend in &wanted {
            let block = match blocks.get(frontend.set) {
                Some(Some(block)) => *block,
                _ => {
                    let endpoints = plan.sets.get(frontend.set).map_or(&[][..], |set| &set.endpoints);
                    let block = self.block(&plan.name, endpoints, staged)?;
                    if let Some(known) = blocks.get_mut(frontend.set) {
                        *known = Some(block);
                    }
                    block
                }
            };
            let held = self.mirror.get(&frontend.key());
            let value = Frontend {
                service: number,
                generation: held.map_or(0, |held| held.value.generation),
                base: block.unwrap_or_default(),
                count: block.and_then(|base| self.blocks.get(base)).map_or(0, |block| block.len),
                flags: frontend.flags,
                affinity_seconds: frontend.affinity_seconds,
                service_port: Be16::from_host(frontend.service_port),
                pad: 0,
            };
            let next = Frontend { generation: value.generation.wrapping_add(1), ..value };
            match held {
                None => staged.inserts.push((frontend.key(), next, block)),
                Some(held) if held.value != value => staged.flips.push((frontend.key(), next, block)),
                Some(_) => {}
            }
        }
        pass.room[0] -= new[0];
        pass.room[1] -= new[1];
        pass.taken.extend(staged.inserts.iter().map(|(key, ..)| *key));
        pass.taken.extend(staged.flips.iter().map(|(key, ..)| *key));
        Ok(())
    }

    fn number(&mut self, name: &Name) -> Result<u32, Error> {
        let record = self.services.entry(name.clone()).or_default();
        match record.number {
            Some(number) => Ok(number),
            None => Ok(*record.number.insert(self.numbers.take(name)?)),
        }
    }

    /// True when another service has this frontend and is to keep it: who came first stays.
    fn is_anothers(&self, key: &Key, name: &Name) -> bool {
        self.mirror
            .get(key)
            .and_then(|held| self.numbers.owner(held.value.service))
            .filter(|owner| *owner != name)
            .and_then(|owner| self.services.get(owner))
            .is_some_and(|record| record.wants(key))
    }

    /// The range for a set: one that the service has already, or a fresh one. `None` for the empty set.
    fn block(&mut self, name: &Name, endpoints: &[SocketAddr], staged: &mut Staged) -> Result<Option<u32>, Error> {
        if endpoints.is_empty() {
            return Ok(None);
        }
        if let Some(base) = self.held_block(name, endpoints) {
            self.blocks.reference(base);
            staged.pinned.push(base);
            return Ok(Some(base));
        }
        let mut members = Vec::with_capacity(endpoints.len());
        for endpoint in endpoints {
            match self.backends.acquire(At::from(*endpoint)) {
                Some(id) => members.push(id),
                None => {
                    self.backends.release(&members);
                    return Err(full("BACKENDS", self.tables.backends.capacity()));
                }
            }
        }
        match self.blocks.create(members) {
            Ok(base) => {
                staged.fresh.push(base);
                Ok(Some(base))
            }
            Err(members) => {
                self.backends.release(&members);
                Err(full("SLOTS", self.tables.slots.capacity()))
            }
        }
    }

    /// A range that some frontend of the service points at and that holds just these endpoints.
    fn held_block(&self, name: &Name, endpoints: &[SocketAddr]) -> Option<u32> {
        let record = self.services.get(name)?;
        let mut seen = None;
        let bases = record.frontends.iter().filter_map(|key| self.mirror.get(key)?.block);
        // Neighbours mostly share their range: it is compared once.
        bases.filter(|base| seen.replace(*base) != Some(*base)).find(|base| self.holds(*base, endpoints))
    }

    fn holds(&self, base: u32, endpoints: &[SocketAddr]) -> bool {
        let Some(block) = self.blocks.get(base).filter(|block| block.sound && block.members.len() == endpoints.len()) else {
            return false;
        };
        let at = |id: &u32| self.backends.get(*id).map(|(at, _)| at);
        block.members.iter().zip(endpoints).all(|(id, endpoint)| at(id) == Some(At::from(*endpoint)))
    }

    /// Ranges that were made and never used go back; what drains takes effect when the service has been written.
    pub(super) fn settle(&mut self, service: &mut Staged, now: Instant) {
        for base in std::mem::take(&mut service.pinned) {
            self.leave(Some(base), now);
        }
        for base in std::mem::take(&mut service.fresh) {
            let members = self.blocks.discard(base);
            self.backends.release(&members);
        }
        if service.failed.is_some() {
            return;
        }
        let Some(record) = self.services.get_mut(&service.name) else { return };
        let draining = service.plan.as_ref().map_or(&[][..], |plan| &plan.draining);
        if record.draining() != draining {
            self.backends.drain(record.draining(), draining);
            let old = record.change_rare(|rare| std::mem::replace(&mut rare.draining, draining.into()));
            let is_udp = record.frontends.iter().any(|key| key.protocol == Proto::UDP);
            if let (true, Some(number)) = (is_udp, record.number) {
                self.lose_draining(number, &old);
            }
        }
    }
}

// === impl Staged ===

impl Staged {
    fn new(name: &Name) -> Self {
        Self {
            name: name.clone(),
            plan: None,
            fresh: Vec::new(),
            pinned: Vec::new(),
            inserts: Vec::new(),
            flips: Vec::new(),
            failed: None,
            shut: None,
        }
    }

    /// The first reason stands.
    pub fn fail(&mut self, error: Error) {
        self.failed.get_or_insert(error);
    }
}

// === impl Outcome ===

impl Outcome {
    /// The first reason stands.
    pub fn fail(&mut self, error: Error) {
        self.failed.get_or_insert(error);
    }
}

impl From<Staged> for Outcome {
    fn from(staged: Staged) -> Self {
        let Staged { name, plan, failed, shut, .. } = staged;
        Self { name, plan, failed, shut }
    }
}
