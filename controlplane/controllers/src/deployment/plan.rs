//! How many replicas each set gets: rolling update, recreation, and scaling in proportion. Numbers only.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// The numbers of a ReplicaSet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    pub name: String,
    pub created: Timestamp,
    /// Wanted replicas.
    pub size: i32,
    /// Replicas that have been ready for long enough.
    pub available: i32,
    /// Replicas of the deployment, and with surge, when this set was last scaled.
    pub desired: Option<i32>,
    pub max: Option<i32>,
}

/// The numbers of a Deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub replicas: i32,
    /// Pods above `replicas` that may exist during a rolling update, and below it that need not be available.
    pub surge: i32,
    pub unavailable: i32,
    pub rolling: bool,
}

/// New sizes by name; sets that keep theirs may be left out.
pub type Sizes = BTreeMap<String, i32>;

// === impl Wanted ===

impl Wanted {
    pub fn of(deployment: &Deployment) -> Self {
        let spec = deployment.spec.as_ref();
        let replicas = spec.and_then(|spec| spec.replicas).unwrap_or(1).max(0);
        let strategy = spec.and_then(|spec| spec.strategy.as_ref());
        if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate") {
            return Self { replicas, surge: 0, unavailable: 0, rolling: false };
        }
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let quarter = IntOrString::String("25%".to_owned());
        let part = |value: Option<&IntOrString>, up| resolve(value.unwrap_or(&quarter), replicas, up);
        let surge = part(rolling.and_then(|rolling| rolling.max_surge.as_ref()), true);
        let unavailable = part(rolling.and_then(|rolling| rolling.max_unavailable.as_ref()), false);
        // Nothing could ever move: rounding must not bring a rollout to a halt.
        let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable };
        Self { replicas, surge, unavailable: unavailable.min(replicas), rolling: true }
    }

    /// Pods that may exist at most.
    pub fn max(&self) -> i32 {
        self.replicas.saturating_add(self.surge)
    }

    /// Pods that have to be available at least.
    pub fn min_available(&self) -> i32 {
        self.replicas - self.unavailable
    }
}

/// A number, or a percentage of `total`, rounded up or down. What is neither counts as none.
fn resolve(value: &IntOrString, total: i32, up: bool) -> i32 {
    match value {
        IntOrString::Int(number) => (*number).max(0),
        IntOrString::String(text) => {
            let Some(percent) = text.strip_suffix('%').and_then(|number| number.parse::<i64>().ok()) else { return 0 };
            let product = i64::from(total) * percent.max(0);
            i32::try_from(if up { product.div_euclid(100) + i64::from(product % 100 != 0) } else { product / 100 })
                .unwrap_or(i32::MAX)
        }
    }
}

/// Whether the deployment was scaled since its sets were: some living set was sized for another number of replicas.
pub fn scaled(wanted: &Wanted, sets: &[&Set]) -> bool {
    sets.iter().any(|set| set.size > 0 && set.desired.is_some_and(|desired| desired != wanted.replicas))
}

/// Sizes after the deployment was scaled: one living set takes the number as it is, several share the difference.
pub fn scale(wanted: &Wanted, new: Option<&Set>, old: &[&Set]) -> Sizes {
    let living: Vec<&Set> = old.iter().copied().chain(new).filter(|set| set.size > 0).collect();
    let only = match living[..] {
        [] => new.or_else(|| old.iter().copied().max_by_key(|set| set.created)),
        [only] => Some(only),
        _ => None,
    };
    if let Some(only) = only {
        return [(only.name.clone(), wanted.replicas)].into();
    }
    if let Some(new) = new
        && new.size == wanted.replicas
        && new.desired == Some(wanted.replicas)
        && new.available == wanted.replicas
    {
        return old.iter().filter(|set| set.size > 0).map(|set| (set.name.clone(), 0)).collect();
    }
    if !wanted.rolling {
        return Sizes::new();
    }
    share(wanted, living)
}

/// Shares the difference in proportion to the sizes; the largest set takes what rounding leaves.
fn share(wanted: &Wanted, mut living: Vec<&Set>) -> Sizes {
    let allowed = if wanted.replicas > 0 { wanted.max() } else { 0 };
    let total: i32 = living.iter().map(|set| set.size).sum();
    let to_add = allowed - total;
    // Growth favours the newest of equals, shrinking takes from the oldest.
    living.sort_by(|a, b| {
        let age = if to_add > 0 { b.created.cmp(&a.created) } else { a.created.cmp(&b.created) };
        b.size.cmp(&a.size).then(age).then(a.name.cmp(&b.name))
    });
    let mut added = 0;
    let mut sizes: Vec<(String, i32)> = Vec::new();
    for set in living {
        let rest = to_add - added;
        let part = fraction(wanted, set, total);
        let part = if to_add > 0 { part.min(rest).max(0) } else { part.max(rest).min(0) };
        added += part;
        sizes.push((set.name.clone(), set.size + part));
    }
    if let Some((_, size)) = sizes.first_mut() {
        *size = (*size + to_add - added).max(0);
    }
    sizes.into_iter().collect()
}

/// What one set grows by so that it keeps its part of the whole.
fn fraction(wanted: &Wanted, set: &Set, total: i32) -> i32 {
    if wanted.replicas == 0 {
        return -set.size;
    }
    // Sized for this many; a set that does not say it is measured against what there is.
    let before = set.max.filter(|max| *max > 0).unwrap_or(total).max(1);
    let (product, before) = (i64::from(set.size) * i64::from(wanted.max()), i64::from(before));
    let rounded = (2 * product + before).div_euclid(2 * before);
    i32::try_from(rounded).unwrap_or(i32::MAX) - set.size
}

/// The size of a set for the current template that does not exist yet, or grows, within what the surge allows.
pub fn grow_new(wanted: &Wanted, new_size: i32, total: i32) -> i32 {
    if !wanted.rolling {
        return wanted.replicas;
    }
    new_size + (wanted.max() - total).clamp(0, (wanted.replicas - new_size).max(0))
}

/// One step of a rolling update: the new set grows if it may, otherwise the old ones shrink.
pub fn roll(wanted: &Wanted, new: &Set, old: &[&Set]) -> Sizes {
    let total = new.size + old.iter().map(|set| set.size).sum::<i32>();
    let size = if new.size > wanted.replicas { wanted.replicas } else { grow_new(wanted, new.size, total) };
    if size != new.size {
        return [(new.name.clone(), size)].into();
    }
    shrink_old(wanted, new, old, total)
}

fn shrink_old(wanted: &Wanted, new: &Set, old: &[&Set], total: i32) -> Sizes {
    let mut old: Vec<&Set> = old.iter().copied().filter(|set| set.size > 0).collect();
    old.sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));
    // Pods of the new set that are not available yet must not be paid for twice.
    let budget = total - wanted.min_available() - (new.size - new.available);
    if old.is_empty() || budget <= 0 {
        return Sizes::new();
    }
    let mut sizes: Sizes = old.iter().map(|set| (set.name.clone(), set.size)).collect();
    let shrink = |sizes: &mut Sizes, set: &Set, by: i32| {
        if let Some(size) = sizes.get_mut(&set.name) {
            *size -= by;
        }
    };
    // Replicas that do not serve go first: nobody misses them.
    let mut cleaned = 0;
    for set in &old {
        let by = (set.size - set.available).clamp(0, budget - cleaned);
        shrink(&mut sizes, set, by);
        cleaned += by;
    }
    let available = new.available + old.iter().map(|set| set.available).sum::<i32>();
    let mut spare = available - wanted.min_available();
    for set in &old {
        let by = sizes.get(&set.name).copied().unwrap_or(0).clamp(0, spare.max(0));
        shrink(&mut sizes, set, by);
        spare -= by;
    }
    sizes.retain(|name, size| old.iter().any(|set| set.name == *name && set.size != *size));
    sizes
}

/// One step of a recreation: all old sets to nothing; then, when `old_pods` are gone, the new one to full size.
pub fn recreate(wanted: &Wanted, new: Option<&Set>, old: &[&Set], old_pods: bool) -> Sizes {
    let living: Sizes = old.iter().filter(|set| set.size > 0).map(|set| (set.name.clone(), 0)).collect();
    match new {
        _ if !living.is_empty() => living,
        Some(new) if !old_pods && new.size != wanted.replicas => [(new.name.clone(), wanted.replicas)].into(),
        _ => Sizes::new(),
    }
}

#[cfg(test)]
mod tests;
