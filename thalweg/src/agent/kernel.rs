//! What an agent puts its plans into, as configured or as possible: the eBPF data path or rules, and what goes with each.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, bail};
use thalweg_loader::Maps;
use thalweg_network::PodDatapath;
use thalweg_proxy::iptables::{self, Inside};

use super::args::AgentArgs;
use super::plain::PlainPods;
use super::pods::PodAttacher;
use crate::addresses::NodeAddresses;
use crate::backend::{self, AnyBackend};
use crate::datapath;
use crate::handover::{self, Drain, Switch};
use crate::rights::Rights;

/// What goes with the backend.
pub enum Kernel {
    Ebpf {
        attacher: Arc<PodAttacher>,
    },
    Iptables {
        pods: Arc<PlainPods>,
        /// An earlier eBPF data path.
        drain: Option<Box<Drain>>,
        repaired: Instant,
    },
}

// === impl Kernel ===

impl Kernel {
    pub fn pod_datapath(&self) -> Arc<dyn PodDatapath> {
        match self {
            Self::Ebpf { attacher } => Arc::clone(attacher) as Arc<dyn PodDatapath>,
            Self::Iptables { pods, .. } => Arc::clone(pods) as Arc<dyn PodDatapath>,
        }
    }
}

/// The maps, for whoever has them to himself.
pub struct OwnMaps {
    pub state: Maps,
    pub keeper: Maps,
}

/// A backend, what goes with it, the way to it, and the maps for metrics and for the rest.
pub type Opened = (AnyBackend, Kernel, Switch, Option<(Maps, OwnMaps)>);

/// The backend, as configured or as possible.
///
/// # Errors
/// When neither way can be gone.
pub fn open(args: &AgentArgs, node: NodeAddresses) -> Result<Opened> {
    let Some(datapath) = backend::choose(args.proxy_mode, Rights::own(), || args.datapath.open(node))? else {
        if args.uplink.starts_with("tw") {
            bail!("--uplink {}: rules tell pods by their links, whose names begin with tw: rename it", args.uplink);
        }
        let options = iptables::Options {
            inside: Inside::Interfaces(vec!["tw+".to_owned()]),
            masquerade_all: false,
            masquerade_bit: 14,
            refuse_bit: 15,
        };
        let backend = AnyBackend::iptables(options)?;
        let drain = Drain::find(&args.datapath.bpffs, args.drain_timeout())?;
        backend.set_lenient(drain.is_some());
        let pods = Arc::new(PlainPods::beside(drain.as_ref())?);
        let kernel = Kernel::Iptables { pods, drain: drain.map(Box::new), repaired: Instant::now() };
        return Ok((backend, kernel, Switch::Over, None));
    };
    let backend = AnyBackend::ebpf(&datapath)?;
    let maps = (datapath.maps()?, OwnMaps { state: datapath.maps()?, keeper: datapath.maps()? });
    let (filled, own) = (datapath::is_filled(&datapath)?, datapath.maps()?);
    let attacher = Arc::new(PodAttacher::new(datapath)?);
    let switch = if filled {
        // What an earlier agent filled works on at once, with this build's programs.
        attacher.go_live(&args.uplink)?;
        // It may have been killed while it took over.
        handover::drain_rules(own, args.drain_timeout());
        Switch::Over
    } else {
        Switch::Waiting(Box::new(own))
    };
    Ok((backend, Kernel::Ebpf { attacher }, switch, Some(maps)))
}
