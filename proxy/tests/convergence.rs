//! Whatever is planned, whatever fails and whenever the process dies: no program ever sees a mixed set, and in the
//! end the kernel holds exactly what is desired.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use proptest::prelude::*;
use support::{Fault, Kernel, endpoint, name, plan};
use thalweg_abi::BackendState;
use thalweg_proxy::Backend as _;
use thalweg_proxy::ebpf::EbpfBackend;
use thalweg_proxy::plan::ServicePlan;

const SERVICES: u8 = 4;
/// A VIP that several services claim.
const SHARED: u8 = 100;

#[derive(Clone, Debug)]
enum Step {
    Set {
        service: u8,
        ports: u8,
        shared: bool,
        sets: [u8; 2],
        offset: u8,
        draining: u8,
    },
    Remove(u8),
    Apply,
    Advance(u64),
    /// Writes fail at random in the applies to come, one in so many; 0: no more.
    Faults(u64),
    /// The process dies after so many writes of its next apply, and starts again.
    Crash(u64),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..SERVICES, 0_u8..8, any::<bool>(), any::<[u8; 2]>(), 0_u8..3, any::<u8>()).prop_map(
            |(service, ports, shared, sets, offset, draining)| Step::Set { service, ports, shared, sets, offset, draining }
        ),
        2 => (0..SERVICES).prop_map(Step::Remove),
        8 => Just(Step::Apply),
        4 => (1_u64..8).prop_map(Step::Advance),
        2 => prop_oneof![Just(0_u64), 2_u64..20].prop_map(Step::Faults),
        1 => (0_u64..30).prop_map(Step::Crash),
        1 => Just(Step::Restart),
    ]
}

fn members(mask: u8, offset: u8) -> Vec<u8> {
    (0..8).filter(|bit| mask & (1 << bit) != 0).map(|bit| 1 + offset * 8 + bit).collect()
}

fn build(service: u8, ports: u8, shared: bool, sets: [u8; 2], offset: u8, draining: u8) -> ServicePlan {
    let sets = sets.map(|mask| members(mask, offset));
    let mut frontends: Vec<(u8, u16, &[u8])> = Vec::new();
    for port in (0..3_u8).filter(|port| ports & (1 << port) != 0) {
        frontends.push((service, 80 + u16::from(port), &sets[usize::from(port % 2)]));
    }
    if shared {
        frontends.push((SHARED, 80, &sets[0]));
    }
    let chosen: BTreeSet<u8> = frontends.iter().flat_map(|(_, _, set)| set.iter().copied()).collect();
    let draining: Vec<u8> = members(draining, offset).into_iter().filter(|n| !chosen.contains(n)).collect();
    plan(&format!("service-{service}"), &frontends, &draining)
}

struct Run {
    kernel: Kernel,
    backend: EbpfBackend,
    desired: BTreeMap<u8, ServicePlan>,
}

// === impl Run ===

impl Run {
    fn new() -> Self {
        // Room for everything at rest, not for everything that ever was: maps fill up and empty again.
        let kernel = Kernel::new(64, 160, 26, 64);
        let mut backend = kernel.adopt();
        backend.retain_only_known();
        Self { backend, kernel, desired: BTreeMap::new() }
    }

    fn allow(&self) {
        self.kernel.allow(self.desired.values());
    }

    fn apply(&mut self) -> bool {
        self.backend.apply(self.kernel.now()).is_ok_and(|applied| applied.failed.is_empty())
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Set { service, ports, shared, sets, offset, draining } => {
                let plan = build(service, ports, shared, sets, offset, draining);
                self.desired.insert(service, plan.clone());
                self.allow();
                self.backend.set(plan);
            }
            Step::Remove(service) => {
                self.desired.remove(&service);
                self.allow();
                self.backend.remove(&name(&format!("service-{service}")));
            }
            Step::Apply => {
                self.apply();
            }
            Step::Advance(seconds) => {
                self.kernel.advance(seconds);
            }
            Step::Faults(one_in) => self.kernel.lock().fault = if one_in == 0 { Fault::None } else { Fault::Random(one_in) },
            Step::Crash(writes) => {
                {
                    let mut state = self.kernel.lock();
                    state.fault = Fault::DeadAfter(state.writes + writes);
                }
                self.apply();
                self.restart();
            }
            Step::Restart => self.restart(),
        }
    }

    /// Half of the services are heard of before the listing is complete: nothing may be removed until then.
    fn restart(&mut self) {
        self.backend = self.kernel.adopt();
        {
            let mut state = self.kernel.lock();
            state.protected = state.frontends().into_keys().collect();
        }
        for plan in self.desired.iter().filter(|(service, _)| *service % 2 == 0).map(|(_, plan)| plan) {
            self.backend.set(plan.clone());
        }
        self.apply();
        self.kernel.lock().protected.clear();
        for plan in self.desired.values() {
            self.backend.set(plan.clone());
        }
        self.backend.retain_only_known();
    }

    fn finish(&mut self) {
        self.kernel.lock().fault = Fault::None;
        for _ in 0..4 {
            self.kernel.advance(6);
            self.apply();
        }
        assert!(self.apply(), "with room and without faults everything applies");
        self.kernel.assert_sound();

        let state = self.kernel.lock();
        let seen: BTreeSet<_> = state.frontends().into_keys().collect();
        let wanted: BTreeSet<_> = state.allowed.keys().copied().collect();
        assert_eq!(seen, wanted);
        let mut chosen: BTreeSet<SocketAddr> = BTreeSet::new();
        for (key, value) in &state.frontends() {
            let set = state.set_of(value).expect("a sound range");
            let owner = state.services.map.get(&value.service).expect("a named service").as_str().to_owned();
            let plan = self.desired.values().find(|plan| plan.name.to_string() == owner).expect("a desired service");
            let planned = plan.frontends.iter().find(|frontend| frontend.key() == *key).expect("a planned frontend");
            assert_eq!(set, plan.sets[planned.set].endpoints, "{key:?}");
            chosen.extend(set);
        }
        let draining: BTreeSet<SocketAddr> = self.desired.values().flat_map(|plan| plan.draining.iter().copied()).collect();
        for n in 1..=24 {
            let at = endpoint(n);
            match state.state_of(at) {
                Some(BackendState::READY) => assert!(chosen.contains(&at), "{at} is ready"),
                Some(BackendState::DRAINING) => assert!(draining.contains(&at) && !chosen.contains(&at), "{at} drains"),
                _ => assert!(!chosen.contains(&at), "{at} is gone"),
            }
        }
        let names: BTreeSet<String> = state.services.map.values().map(|name| name.as_str().to_owned()).collect();
        let wanted: BTreeSet<String> = self.desired.values().map(|plan| plan.name.to_string()).collect();
        assert_eq!(names, wanted);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_shrink_iters: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_history_ends_as_desired(steps in prop::collection::vec(step(), 1..60)) {
        let mut run = Run::new();
        for step in &steps {
            run.step(step);
        }
        run.finish();
    }
}
