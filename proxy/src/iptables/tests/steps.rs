//! Random changes, step by step, with programs that time out now and then: in the end the kernel holds what one leap
//! would have written, and packets meet what the plans say.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use thalweg_abi::{FrontendFlags, Proto, Scope};

use super::*;
use crate::plan::PlannedFrontend;

const POD: &str = "10.244.200.9";
const CLIENT: &str = "172.30.0.100";

/// A small generator: the same seed gives the same numbers.
struct Random(u64);

// === impl Random ===

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    /// A service whose addresses crowd in some places, so that chains split and join. Service 0 has NodePorts.
    fn plan(&mut self, family: Family, index: u64) -> ServicePlan {
        let vip = match index % 4 {
            0 => format!("10.96.0.{index}"),
            1 => format!("10.96.{}.{index}", index % 5),
            2 => format!("10.{}.3.{index}", 96 + index % 3),
            _ => format!("192.0.2.{index}"),
        };
        let mut lines = vec![format!("ours {vip}")];
        let endpoints = |random: &mut Self| {
            let count = random.below(4);
            (0..count).map(|member| format!("10.244.{member}.{}:80", random.below(30))).collect::<Vec<_>>().join(" ")
        };
        let most = if index == 2 { 40 } else { 7 };
        for port in 0..self.below(most) {
            let set = endpoints(self);
            let flag = if self.below(4) == 0 { "drop" } else { "" };
            let protocol = ["tcp", "tcp", "udp", "sctp"][self.below(4) as usize];
            let number = 80 + port * 37;
            lines.push(format!("{vip}:{number}/{protocol} {flag} -> {set}"));
            if self.below(3) == 0 {
                let number = 30_000 + index * 40 + port;
                lines.push(format!("172.30.0.11:{number}/{protocol} -> {set}"));
                let outside = endpoints(self);
                lines.push(format!(
                    "172.30.0.11:{number}/{protocol} ext {} -> {outside}",
                    if flag.is_empty() { "local" } else { "" }
                ));
            }
        }
        service(family, &format!("s{index}"), &lines.iter().map(String::as_str).collect::<Vec<_>>())
    }
}

/// What the plan says of one of its frontends, from inside or outside.
fn promised(plan: &ServicePlan, frontend: &PlannedFrontend) -> BTreeSet<String> {
    let set = &plan.sets[frontend.set].endpoints;
    if set.is_empty() {
        return [if frontend.flags.has(FrontendFlags::DROP_WHEN_EMPTY) { "dropped" } else { "refused" }.to_owned()].into();
    }
    let masquerade = frontend.scope == Scope::EXTERNAL && !frontend.flags.has(FrontendFlags::LOCAL_ONLY);
    set.iter().map(|to| format!("{to}{}", if masquerade { "/masquerade" } else { "" })).collect()
}

#[test]
fn many_steps_lead_where_one_leap_does() {
    let mut timed_out = 0;
    for seed in 0..12 {
        let family = FAMILIES[seed as usize % 2];
        let mut random = Random(seed);
        let kernel = Kernel::default();
        kernel.cut_after(if seed % 3 == 0 { 5 } else { 10_000 });
        let mut stepwise = backend(&kernel);
        let mut plans: BTreeMap<u64, ServicePlan> = BTreeMap::new();
        for _ in 0..25 {
            for _ in 0..=random.below(12) {
                let index = random.below(70);
                if random.below(3) == 0 {
                    plans.remove(&index);
                    stepwise.remove(&name(&format!("s{index}")));
                } else {
                    let plan = random.plan(family, index);
                    plans.insert(index, plan.clone());
                    stepwise.set(plan);
                }
            }
            // Now and then a program is stopped, and nobody knows whether it was done.
            if random.below(4) == 0 {
                kernel.time_out_after(random.below(4));
                timed_out += u32::from(stepwise.sync(Instant::now()).is_err());
            }
            kernel.in_time();
            apply(&mut stepwise);
        }
        let fresh = Kernel::default();
        let mut leap = backend(&fresh);
        for plan in plans.values() {
            leap.set(plan.clone());
        }
        apply(&mut leap);
        assert_eq!(kernel.rules(family, "nat"), fresh.rules(family, "nat"), "seed {seed}");
        for plan in plans.values() {
            for frontend in plan.frontends.iter().filter(|frontend| !frontend.flags.has(FrontendFlags::WILDCARD)) {
                let from = if frontend.scope == Scope::EXTERNAL { CLIENT } else { POD };
                let protocol = match frontend.protocol {
                    Proto::UDP => "udp",
                    Proto::SCTP => "sctp",
                    _ => "tcp",
                };
                let packet = Packet {
                    source: Some(of(family, from).parse().expect("an address")),
                    to: SocketAddr::new(frontend.vip, frontend.port),
                    protocol,
                };
                assert_eq!(outcomes(&kernel, &packet), promised(plan, frontend), "seed {seed}: {packet:?}");
            }
        }
        for index in plans.keys() {
            stepwise.remove(&name(&format!("s{index}")));
        }
        apply(&mut stepwise);
        let nothing = Kernel::default();
        apply(&mut backend(&nothing));
        assert_eq!(kernel.rules(family, "nat"), nothing.rules(family, "nat"), "seed {seed}: all services gone");
    }
    assert!(timed_out > 10, "only {timed_out}");
}
