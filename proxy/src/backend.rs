//! What every way of programming the kernel has in common: desired state in, one `apply`.

use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use thalweg_cluster::Name;

use crate::iptables::Figures;
use crate::plan::ServicePlan;

/// Holds the desired state and brings the kernel to it.
///
/// Setting desired state touches nothing; [`Backend::apply`] makes the smallest difference.
pub trait Backend {
    /// This is how the service is to be served from now on.
    fn set(&mut self, plan: ServicePlan);

    /// This service is not to be served any more.
    fn remove(&mut self, name: &Name);

    /// The ranges that cluster IPs are allocated from, of either family, in order, each once; a range may lie in
    /// another. What is sent to an address in them that no service owns is dropped: it is nobody's, and a default route
    /// would carry it in circles. Called with the whole list whenever it changed; empty: nothing is known of any range.
    /// As everything else, it takes effect with the next [`Backend::apply`].
    fn set_service_ranges(&mut self, ranges: &[IpNetwork]) {
        let _ = ranges;
    }

    /// Every service of the cluster has been set: whatever else was found in the kernel is to go. Nothing is removed
    /// before this is called, by whatever plan.
    fn retain_only_known(&mut self);

    /// Brings the kernel to the desired state. A service that could not be brought there keeps its old state, is
    /// named in [`Applied::failed`], and is tried again by a later apply (see [`Backend::next_deadline`]).
    ///
    /// # Errors
    /// Something that belongs to no single service failed; all else has been done, and the next apply tries again.
    fn apply(&mut self, now: Instant) -> Result<Applied, thalweg_loader::Error>;

    /// What the rules are, where there are rules; for metrics.
    fn rules(&self) -> Option<Figures> {
        None
    }

    /// When `apply` should be called again although nothing new was set: something waits for its grace period, or
    /// for another try.
    fn next_deadline(&self) -> Option<Instant>;
}

/// Stages of an update, as the label of `thalweg_sync_stage_seconds` names them: desired state is made (`plan`, by
/// [`Proxy`](crate::Proxy)), compared with what is held (`stage`), written table by table (`names` has all that is said of
/// a service itself: its name, whom it admits), and what is old removed. `total` is everything between the change and the
/// kernel.
pub const STAGES: [&str; 8] = ["plan", "stage", "backends", "slots", "names", "frontends", "remove", "total"];

/// What one apply did.
#[derive(Debug, Default)]
pub struct Applied {
    /// Services that were looked at.
    pub services: usize,
    pub frontends_written: usize,
    pub slots_written: usize,
    pub backends_written: usize,
    /// Frontends removed.
    pub removed: usize,
    /// Services that could not be brought to their plan, of those that this apply looked at.
    pub failed: Vec<Failure>,
    /// Services that had failed before and are well now.
    pub recovered: Vec<Name>,
    pub took: Duration,
    /// How long each stage took, in the order in which they ended; a stage that had nothing to do may be missing. The names are
    /// those of [`STAGES`].
    pub stages: Vec<(&'static str, Duration)>,
}

/// Why a service kept its old state.
#[derive(Debug, thiserror::Error)]
#[error("service {service}: {error}")]
pub struct Failure {
    pub service: Name,
    pub error: thalweg_loader::Error,
}

// === impl Applied ===

impl Applied {
    /// True when the kernel was written to.
    pub fn changed(&self) -> bool {
        self.frontends_written + self.slots_written + self.backends_written + self.removed > 0
    }

    /// Adds what a later apply did.
    pub fn add(&mut self, other: Self) {
        let Self { services, frontends_written, slots_written, backends_written, removed, failed, recovered, took, stages } =
            other;
        self.services += services;
        self.frontends_written += frontends_written;
        self.slots_written += slots_written;
        self.backends_written += backends_written;
        self.removed += removed;
        self.failed.extend(failed);
        self.recovered.extend(recovered);
        self.took += took;
        for (stage, took) in stages {
            self.add_stage(stage, took);
        }
    }

    /// Adds to what a stage took.
    pub fn add_stage(&mut self, stage: &'static str, took: Duration) {
        match self.stages.iter_mut().find(|(name, _)| *name == stage) {
            Some((_, sum)) => *sum += took,
            None => self.stages.push((stage, took)),
        }
    }
}
