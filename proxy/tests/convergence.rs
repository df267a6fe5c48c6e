//! Whatever is planned, whatever fails and whenever the process dies: no program ever sees a mixed set, an open door or
//! somebody else's memory, and in the end the kernel holds exactly what is desired.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnetwork::IpNetwork;
use proptest::prelude::*;
use support::{Fault, Kernel, dual, endpoint, endpoint6, name, plan, restricted, source_range, sticky};
use thalweg_abi::{BackendState, Proto, ServiceRanges, ServiceStats};
use thalweg_proxy::Backend as _;
use thalweg_proxy::ebpf::EbpfBackend;
use thalweg_proxy::plan::ServicePlan;

const SERVICES: u8 = 4;
/// A VIP that several services claim.
const SHARED: u8 = 100;
const CLIENTS: [&str; 3] = ["10.0.0.0/8", "10.1.0.0/16", "fd00:1::/32"];
const CIDRS: [&str; 3] = ["10.96.0.0/12", "10.96.0.0/16", "fd00:96::/112"];

#[derive(Clone, Copy, Debug)]
struct Shape {
    ports: u8,
    shared: bool,
    sets: [u8; 2],
    offset: u8,
    draining: u8,
    dual: bool,
    /// Seconds; 0 without affinity.
    affinity: u8,
    /// Which of [`CLIENTS`] are admitted; none: all.
    clients: u8,
}

#[derive(Clone, Debug)]
enum Step {
    Set(u8, Shape),
    Remove(u8),
    Apply,
    Advance(u64),
    /// A client asks every service, and keeps its backends where there is affinity.
    Serve(u8),
    /// Which of [`CIDRS`] cluster IPs come from.
    ServiceRanges(u8),
    /// Writes fail at random in the applies to come, one in so many; 0: no more.
    Faults(u64),
    /// The process dies after so many writes of its next apply, and starts again.
    Crash(u64),
    Restart,
}

fn shape() -> impl Strategy<Value = Shape> {
    let affinity = prop_oneof![3 => Just(0_u8), 1 => Just(10), 1 => Just(60)];
    let clients = prop_oneof![2 => Just(0_u8), 2 => 1_u8..8];
    (0_u8..8, any::<bool>(), any::<[u8; 2]>(), 0_u8..3, any::<u8>(), any::<bool>(), affinity, clients).prop_map(
        |(ports, shared, sets, offset, draining, dual, affinity, clients)| Shape {
            ports,
            shared,
            sets,
            offset,
            draining,
            dual,
            affinity,
            clients,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..SERVICES, shape()).prop_map(|(service, shape)| Step::Set(service, shape)),
        2 => (0..SERVICES).prop_map(Step::Remove),
        8 => Just(Step::Apply),
        4 => (1_u64..8).prop_map(Step::Advance),
        2 => (0_u8..4).prop_map(Step::Serve),
        1 => (0_u8..8).prop_map(Step::ServiceRanges),
        2 => prop_oneof![Just(0_u64), 2_u64..20].prop_map(Step::Faults),
        1 => (0_u64..40).prop_map(Step::Crash),
        1 => Just(Step::Restart),
    ]
}

fn members(mask: u8, offset: u8) -> Vec<u8> {
    (0..8).filter(|bit| mask & (1 << bit) != 0).map(|bit| 1 + offset * 8 + bit).collect()
}

fn chosen<'a>(all: &[&'a str], mask: u8) -> Vec<&'a str> {
    (0..).zip(all).filter(|(bit, _)| mask & (1 << bit) != 0).map(|(_, text)| *text).collect()
}

/// Port 80 is TCP's, 81 UDP's and 82 SCTP's.
fn build(service: u8, shape: Shape) -> ServicePlan {
    let sets = shape.sets.map(|mask| members(mask, shape.offset));
    let mut frontends: Vec<(u8, u16, &[u8])> = Vec::new();
    for port in (0..3_u8).filter(|port| shape.ports & (1 << port) != 0) {
        frontends.push((service, 80 + u16::from(port), &sets[usize::from(port % 2)]));
    }
    if shape.shared {
        frontends.push((SHARED, 80, &sets[0]));
    }
    let picked: BTreeSet<u8> = frontends.iter().flat_map(|(_, _, set)| set.iter().copied()).collect();
    let draining: Vec<u8> = members(shape.draining, shape.offset).into_iter().filter(|n| !picked.contains(n)).collect();
    let mut plan = plan(&format!("service-{service}"), &frontends, &draining);
    for frontend in plan.frontends.iter_mut() {
        match frontend.port {
            81 => frontend.protocol = Proto::UDP,
            82 => frontend.protocol = Proto::SCTP,
            _ => {}
        }
    }
    let clients = chosen(&CLIENTS, shape.clients);
    if !clients.is_empty() && plan.frontends.iter().any(|frontend| frontend.port != 0) {
        plan = restricted(plan, &clients);
    }
    if shape.affinity > 0 {
        plan = sticky(plan, shape.affinity.into());
    }
    if shape.dual { dual(plan) } else { plan }
}

struct Run {
    kernel: Kernel,
    backend: EbpfBackend,
    desired: BTreeMap<u8, ServicePlan>,
    service_ranges: Vec<IpNetwork>,
}

// === impl Run ===

impl Run {
    fn new() -> Self {
        // Room for everything at rest, not for everything that ever was: maps fill up and empty again, and numbers come
        // around.
        let kernel = Kernel::new(64, 180, 50, 6);
        kernel.lock().source_ranges.capacity = 12;
        let mut backend = kernel.adopt();
        backend.retain_only_known();
        Self { backend, kernel, desired: BTreeMap::new(), service_ranges: Vec::new() }
    }

    fn allow(&self) {
        self.kernel.allow(self.desired.values());
    }

    fn apply(&mut self) -> bool {
        let well = self.backend.apply(self.kernel.now()).is_ok_and(|applied| applied.failed.is_empty());
        let told: BTreeSet<(u32, u32)> = self.backend.take_gone().iter().map(|gone| (gone.backend, gone.generation)).collect();
        assert_eq!(told, std::mem::take(&mut self.kernel.lock().gone), "backends that became free");
        well
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Set(service, shape) => {
                let plan = build(service, shape);
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
            Step::Serve(client) => self.kernel.serve(client),
            Step::ServiceRanges(mask) => {
                self.service_ranges = chosen(&CIDRS, mask).iter().map(|text| text.parse().expect("a network")).collect();
                self.backend.set_service_ranges(&self.service_ranges);
            }
            Step::Faults(one_in) => self.kernel.lock().fault = if one_in == 0 { Fault::None } else { Fault::Random(one_in) },
            Step::Crash(writes) => {
                self.crash(writes);
            }
            Step::Restart => self.restart(),
        }
    }

    /// True when the process died before it was done.
    fn crash(&mut self, writes: u64) -> bool {
        let limit = {
            let mut state = self.kernel.lock();
            let limit = state.writes + writes;
            state.fault = Fault::DeadAfter(limit);
            limit
        };
        self.apply();
        let died = self.kernel.lock().writes >= limit;
        self.restart();
        died
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
        self.backend.set_service_ranges(&self.service_ranges);
        self.backend.retain_only_known();
    }

    fn finish(&mut self) {
        self.kernel.lock().fault = Fault::None;
        for _ in 0..4 {
            self.kernel.advance(6);
            self.apply();
        }
        self.kernel.advance(6);
        assert!(self.apply(), "with room and without faults everything applies");
        self.kernel.assert_sound();
        self.check_frontends();
        self.check_backends();
        self.check_services();
    }

    fn check_frontends(&self) {
        let state = self.kernel.lock();
        let frontends = state.frontends();
        assert_eq!(frontends.keys().collect::<Vec<_>>(), state.allowed.keys().collect::<Vec<_>>());
        for (key, value) in &frontends {
            let owner = state.services.map.get(&value.service).expect("a named service").as_str().to_owned();
            let plan = self.desired.values().find(|plan| plan.name.to_string() == owner).expect("a desired service");
            let planned = plan.frontends.iter().find(|frontend| frontend.key() == *key).expect("a planned frontend");
            assert_eq!(state.set_of(value).as_ref(), Some(&plan.sets[planned.set].endpoints), "{key:?}");
            assert_eq!(
                (value.flags, value.affinity_seconds, value.service_port.to_host()),
                (planned.flags, planned.affinity_seconds, planned.service_port),
                "{key:?}"
            );
        }
    }

    fn check_backends(&self) {
        let state = self.kernel.lock();
        let chosen: BTreeSet<SocketAddr> = state.frontends().values().flat_map(|value| state.set_of(value)).flatten().collect();
        let draining: BTreeSet<SocketAddr> = self.desired.values().flat_map(|plan| plan.draining.iter().copied()).collect();
        for at in (1..=24).flat_map(|n| [endpoint(n), endpoint6(n)]) {
            match state.state_of(at) {
                Some(BackendState::READY) => assert!(chosen.contains(&at), "{at} is ready"),
                Some(BackendState::DRAINING) => assert!(draining.contains(&at) && !chosen.contains(&at), "{at} drains"),
                _ => assert!(!chosen.contains(&at), "{at} is gone"),
            }
        }
    }

    fn check_services(&self) {
        let state = self.kernel.lock();
        let mut admitted: BTreeMap<String, BTreeSet<(u32, IpAddr)>> = BTreeMap::new();
        for (number, name) in &state.services.map {
            assert_eq!(admitted.insert(name.as_str().to_owned(), state.admitted(*number)), None, "one number for each");
        }
        let wanted = |plan: &ServicePlan| (plan.name.to_string(), plan.source_ranges.iter().map(source_range).collect());
        assert_eq!(admitted, self.desired.values().map(wanted).collect());
        let ranges: usize = admitted.values().map(BTreeSet::len).sum();
        assert_eq!(ranges, state.source_ranges.map.len(), "nobody's source ranges");

        let entry = state.service_ranges.map.get(&0).copied().unwrap_or(ServiceRanges::default());
        let is = |range: &IpNetwork| match range.network() {
            IpAddr::V4(addr) => entry.v4[..entry.used as usize].iter().any(|held| held.addr == addr.into()),
            IpAddr::V6(addr) => entry.v6[..entry.used6 as usize].iter().any(|held| held.addr == addr.into()),
        };
        assert_eq!((entry.used + entry.used6) as usize, self.service_ranges.len());
        assert!(self.service_ranges.iter().all(is), "{entry:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_shrink_iters: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    // kubernetes#121362: no endpoint is lost when a part fails. cilium#27215, cilium#29667: nor by a restart. cilium#31069: nothing half-made is ever seen.
    // cilium#26709, cilium#35254: affinity that is switched on begins anew, and is not lost while it is on.
    #[test]
    fn every_history_ends_as_desired(steps in prop::collection::vec(step(), 1..60)) {
        let mut run = Run::new();
        for step in &steps {
            run.step(step);
        }
        run.finish();
    }
}

/// The process is killed at every single write on the way from one cluster to another, and from nothing to the first.
#[test]
fn killed_at_every_write() {
    let open =
        Shape { ports: 7, shared: false, sets: [0x0f, 0x03], offset: 0, draining: 0x30, dual: true, affinity: 0, clients: 0 };
    let before = [
        Step::Set(0, Shape { shared: true, affinity: 60, ..open }),
        Step::Set(1, Shape { clients: 3, ..open }),
        Step::Set(2, Shape { clients: 4, affinity: 10, ..open }),
        Step::ServiceRanges(1),
    ];
    let after = [
        Step::Set(0, Shape { clients: 6, sets: [0x1e, 0x03], ..open }),
        Step::Set(1, Shape { shared: true, clients: 6, affinity: 60, ..open }),
        Step::Remove(2),
        Step::Set(3, Shape { affinity: 10, clients: 1, dual: false, ..open }),
        Step::ServiceRanges(6),
    ];
    let mut kills = 0;
    for writes in 0.. {
        let mut run = Run::new();
        before.iter().for_each(|step| run.step(step));
        let mut died = run.crash(writes);
        run.apply();
        run.kernel.serve(1);
        after.iter().for_each(|step| run.step(step));
        died |= run.crash(writes);
        run.finish();
        // What the last service counted is not the next one's.
        let state = run.kernel.lock();
        assert!(state.service_stats.map.iter().all(|(number, stats)| {
            *stats == ServiceStats::default()
                || state.services.map.get(number).is_none_or(|name| name.as_str() != "default/service-3")
        }));
        if !died {
            break;
        }
        kills += 1;
    }
    assert!(kills > 60, "{kills}");
}
