//! Staging: decides in memory what one service needs written, and takes room for all of it or for nothing.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use thalweg_abi::{Be16, Frontend};
use thalweg_cluster::Name;
use thalweg_loader::Error;

use super::{Desired, EbpfBackend, Record, full};
use crate::plan::{Key, ServicePlan};

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
    pub failed: Option<Error>,
}

/// What services staged earlier in this apply have taken.
pub(super) struct Pass {
    /// Room left in FRONTENDS and in FRONTENDS6.
    pub room: [usize; 2],
    pub taken: HashSet<Key>,
}

// === impl EbpfBackend ===

impl EbpfBackend {
    /// Decides what one service needs; everything it needs room for is taken, or nothing.
    pub(super) fn stage(&mut self, name: &Name, pass: &mut Pass, now: Instant) -> Staged {
        let mut staged = Staged {
            name: name.clone(),
            plan: None,
            fresh: Vec::new(),
            pinned: Vec::new(),
            inserts: Vec::new(),
            flips: Vec::new(),
            failed: None,
        };
        let plan = match self.services.get(name).map(|record| &record.desired) {
            Some(Desired::Plan(plan)) => plan.clone(),
            _ => return staged,
        };
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
        let number = self.number(&plan.name)?;
        let mut wanted = Vec::new();
        for frontend in &plan.frontends {
            let key = frontend.key();
            if pass.taken.contains(&key) || self.is_anothers(&key, &plan.name) {
                self.waiting.entry(key).or_default().insert(plan.name.clone());
            } else {
                wanted.push((key, frontend));
            }
        }
        let mut new = [0; 2];
        for (key, _) in wanted.iter().filter(|(key, _)| !self.kernel.contains_key(key)) {
            let family = usize::from(key.vip.is_ipv6());
            new[family] += 1;
            if new[family] > pass.room[family] {
                let (table, capacity) = self.tables.frontends.table_of(key.vip);
                return Err(full(table, capacity));
            }
        }

        let mut bases: HashMap<usize, Option<u32>> = HashMap::new();
        for (key, frontend) in &wanted {
            let block = match bases.get(&frontend.set) {
                Some(block) => *block,
                None => {
                    let endpoints = plan.sets.get(frontend.set).map_or(&[][..], |set| &set.endpoints);
                    let block = self.block(&plan.name, endpoints, staged)?;
                    bases.insert(frontend.set, block);
                    block
                }
            };
            let held = self.kernel.get(key);
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
                None => staged.inserts.push((*key, next, block)),
                Some(held) if held.value != value || held.owner.as_ref() != Some(&plan.name) => {
                    staged.flips.push((*key, next, block))
                }
                Some(_) => {}
            }
        }
        pass.room[0] -= new[0];
        pass.room[1] -= new[1];
        pass.taken.extend(wanted.iter().map(|(key, _)| *key));
        Ok(())
    }

    fn number(&mut self, name: &Name) -> Result<u32, Error> {
        let record = self.services.entry(name.clone()).or_insert_with(Record::new);
        match record.number {
            Some(number) => Ok(number),
            None => Ok(*record.number.insert(self.numbers.take()?)),
        }
    }

    /// True when another service has this frontend and is to keep it: who came first stays.
    fn is_anothers(&self, key: &Key, name: &Name) -> bool {
        self.kernel
            .get(key)
            .and_then(|held| held.owner.as_ref())
            .filter(|owner| *owner != name)
            .and_then(|owner| self.services.get(owner))
            .is_some_and(|record| record.wants(key))
    }

    /// The range for a set: one that the service has already, or a fresh one. `None` for the empty set.
    fn block(&mut self, name: &Name, endpoints: &[SocketAddr], staged: &mut Staged) -> Result<Option<u32>, Error> {
        if endpoints.is_empty() {
            return Ok(None);
        }
        let own = self.services.get(name).into_iter().flat_map(|record| &record.frontends);
        let holds = |base: &u32| self.blocks.get(*base).is_some_and(|block| block.content.as_deref() == Some(endpoints));
        if let Some(base) = own.filter_map(|key| self.kernel.get(key)?.block).find(holds) {
            self.blocks.reference(base);
            staged.pinned.push(base);
            return Ok(Some(base));
        }
        let mut members = Vec::with_capacity(endpoints.len());
        for endpoint in endpoints {
            match self.backends.acquire(*endpoint) {
                Some(id) => members.push(id),
                None => {
                    self.backends.release(&members);
                    return Err(full("BACKENDS", self.tables.backends.capacity()));
                }
            }
        }
        match self.blocks.create(members.clone(), endpoints.to_vec()) {
            Some(base) => {
                staged.fresh.push(base);
                Ok(Some(base))
            }
            None => {
                self.backends.release(&members);
                Err(full("SLOTS", self.tables.slots.capacity()))
            }
        }
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
        if let Some(record) = self.services.get_mut(&service.name) {
            let draining = service.plan.as_ref().map(|plan| plan.draining.clone()).unwrap_or_default();
            self.backends.drain(&record.draining, &draining);
            record.draining = draining;
        }
    }
}
