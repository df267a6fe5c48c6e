//! The programs on the node's interfaces, followed as interfaces come and go.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use thalweg_loader::Datapath;

use crate::interfaces::{self, Interface, Local};

/// The loaded programs, and where they are to be attached.
pub struct Links {
    datapath: Datapath,
    /// What the programs are on; `None` before they may be.
    attached: Option<BTreeSet<Interface>>,
    uplinks: Vec<String>,
    pod_interfaces: Option<String>,
    /// What could not be attached to, so that it is said once.
    refused: BTreeSet<Interface>,
}

// === impl Links ===

impl Links {
    /// `uplinks` and `pod_interfaces` as in [`interfaces::entries`].
    pub fn new(datapath: Datapath, uplinks: Vec<String>, pod_interfaces: Option<String>) -> Self {
        Self { datapath, attached: None, uplinks, pod_interfaces, refused: BTreeSet::new() }
    }

    /// Attaches to the control group and to the interfaces that there are; later calls do nothing.
    ///
    /// # Errors
    /// When the kernel refuses the control group, or every interface.
    pub fn attach(&mut self) -> Result<()> {
        if self.attached.is_none() {
            self.datapath.go_live().context("put the programs into their links")?;
            self.datapath.attach_cgroup().context("attach to the control group")?;
            self.attached = Some(BTreeSet::new());
            self.follow(&interfaces::look()?);
            if self.attached.as_ref().is_none_or(BTreeSet::is_empty) {
                bail!("the programs could not be attached to any interface");
            }
        }
        Ok(())
    }

    /// Attaches to what has come, forgets what has gone.
    pub fn follow(&mut self, local: &Local) {
        let Some(attached) = &mut self.attached else { return };
        let wanted: BTreeSet<Interface> =
            interfaces::entries(&self.uplinks, self.pod_interfaces.as_deref(), local).into_iter().collect();
        for interface in wanted.difference(attached) {
            match self.datapath.attach_uplink(&interface.name) {
                Ok(()) => {
                    tracing::info!(interface = interface.name, "programs attached");
                    self.refused.remove(interface);
                }
                Err(error) => {
                    if self.refused.insert(interface.clone()) {
                        tracing::error!("attach to {}: {error}; trying again", interface.name);
                    }
                }
            }
        }
        if attached.difference(&wanted).next().is_some()
            && let Err(error) = self.datapath.prune_links()
        {
            tracing::warn!("forget interfaces that are gone: {error}");
        }
        self.refused.retain(|interface| wanted.contains(interface));
        *attached = wanted.difference(&self.refused).cloned().collect();
    }
}
