//! Services that a Local policy leaves without endpoints on this node: what they are sent is dropped, which their owners
//! should be able to see.

use std::collections::BTreeMap;

use thalweg_abi::{FrontendFlags, Scope};
use thalweg_cluster::Name;

use crate::metrics::NoLocal;
use crate::plan::ServicePlan;
use crate::plan::family::{PerFamily, family_of};

/// Kept up with every plan.
#[derive(Default, Debug)]
pub(super) struct Lonely(BTreeMap<Name, PerFamily<Drops>>);

/// By which policies a service drops.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Drops {
    internal: bool,
    external: bool,
}

// === impl Lonely ===

impl Lonely {
    pub fn set(&mut self, plan: &ServicePlan) {
        let mut drops = PerFamily::<Drops>::default();
        for frontend in plan.frontends.iter().filter(|frontend| frontend.flags.has(FrontendFlags::DROP_WHEN_EMPTY)) {
            let drops = drops.of_mut(family_of(frontend.vip));
            drops.internal |= frontend.scope == Scope::INTERNAL;
            drops.external |= frontend.scope == Scope::EXTERNAL;
        }
        if drops == PerFamily::default() {
            self.0.remove(&plan.name);
        } else {
            self.0.insert(plan.name.clone(), drops);
        }
    }

    pub fn count(&self) -> NoLocal {
        let mut count = NoLocal::default();
        for drops in self.0.values() {
            for (index, drops) in [drops.v4, drops.v6].into_iter().enumerate() {
                count.internal[index] += usize::from(drops.internal);
                count.external[index] += usize::from(drops.external);
            }
        }
        count
    }
}
