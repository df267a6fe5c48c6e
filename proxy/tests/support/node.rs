//! A kernel and the agent on it.

use std::net::IpAddr;

use thalweg_abi::{BackendState, Frontend, ServiceName};
use thalweg_loader::Error;
use thalweg_proxy::ebpf::EbpfBackend;
use thalweg_proxy::plan::ServicePlan;
use thalweg_proxy::{Applied, Backend as _};

use super::{Kernel, endpoint, last_byte, name};

/// With every plan that was set last.
pub struct Node {
    pub kernel: Kernel,
    pub backend: EbpfBackend,
    pub plans: Vec<ServicePlan>,
}

// === impl Node ===

impl Node {
    pub fn new(kernel: Kernel) -> Self {
        let mut backend = kernel.adopt();
        backend.retain_only_known();
        Self { kernel, backend, plans: Vec::new() }
    }

    pub fn set(&mut self, plan: ServicePlan) {
        self.plans.retain(|held| held.name != plan.name);
        self.plans.push(plan.clone());
        self.allow();
        self.backend.set(plan);
    }

    pub fn remove(&mut self, service: &str) {
        self.plans.retain(|held| held.name != name(service));
        self.allow();
        self.backend.remove(&name(service));
    }

    pub fn allow(&self) {
        self.kernel.allow(&self.plans);
    }

    pub fn apply(&mut self) -> Applied {
        let applied = self.backend.apply(self.kernel.now()).expect("no loose end");
        self.kernel.assert_sound();
        applied
    }

    /// Applies; expects success and these numbers of written frontends, slots, backends, and removed frontends.
    pub fn check(&mut self, expected: (usize, usize, usize, usize)) {
        let applied = self.apply();
        assert!(applied.failed.is_empty(), "{:?}", applied.failed);
        let seen = (applied.frontends_written, applied.slots_written, applied.backends_written, applied.removed);
        assert_eq!(seen, expected, "frontends, slots, backends, removed");
    }

    /// The clock reaches the moment when what failed is tried again.
    pub fn retry(&self) {
        let retry = self.backend.next_deadline().expect("something is to be tried again");
        assert!(retry <= self.kernel.advance(1));
    }

    /// The process is gone and comes back.
    pub fn restart(&mut self) {
        self.backend = self.kernel.adopt();
        self.plans.clear();
        self.allow();
    }

    /// Who answers on a VIP's port.
    pub fn answers(&self, vip: u8, port: u16) -> Option<Vec<u8>> {
        let state = self.kernel.lock();
        let (_, value) =
            state.frontends.map.iter().find(|(key, _)| key.vip.octets()[3] == vip && key.port.to_host() == port)?;
        Some(state.set_of(value).expect("a sound range").iter().map(last_byte).collect())
    }

    pub fn state(&self, n: u8) -> Option<BackendState> {
        self.kernel.lock().state_of(endpoint(n))
    }

    /// Applies; expects that one service is refused for want of room in that map.
    pub fn apply_full(&mut self, map: &str) -> Applied {
        let applied = self.apply();
        Self::assert_full(&applied, map);
        applied
    }

    pub fn assert_full(applied: &Applied, map: &str) {
        let [failure] = &applied.failed[..] else { panic!("{:?}", applied.failed) };
        assert!(matches!(failure.error, Error::TableFull { table, .. } if table == map), "{failure}");
        assert!(failure.to_string().contains(map), "{failure}");
    }

    /// The number of a service.
    pub fn number(&self, service: &str) -> Option<u32> {
        let state = self.kernel.lock();
        let is = |held: &&ServiceName| held.as_str() == name(service).to_string();
        state.services.map.iter().find(|(_, held)| is(held)).map(|(number, _)| *number)
    }

    /// Whom a service admits, as texts.
    pub fn admitted(&self, service: &str) -> Vec<String> {
        let Some(number) = self.number(service) else { return Vec::new() };
        let bits = |prefix: u32, addr: IpAddr| prefix - 32 - if addr.is_ipv4() { 96 } else { 0 };
        self.kernel.lock().admitted(number).into_iter().map(|(prefix, addr)| format!("{addr}/{}", bits(prefix, addr))).collect()
    }

    /// The frontend of a VIP's port.
    pub fn frontend(&self, vip: u8, port: u16) -> Option<Frontend> {
        let state = self.kernel.lock();
        let found = state.frontends.map.iter().find(|(key, _)| key.vip.octets()[3] == vip && key.port.to_host() == port);
        found.map(|(_, value)| *value)
    }
}
