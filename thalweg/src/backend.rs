//! The service proxy's way to the kernel: one of two, chosen when it starts.

use std::io::ErrorKind;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use ipnetwork::IpNetwork;
use nix::errno::Errno;
use thalweg_cluster::Name;
use thalweg_loader::{Datapath, Error};
use thalweg_proxy::iptables::{self, Programs, Stop, Variant};
use thalweg_proxy::plan::ServicePlan;
use thalweg_proxy::{Applied, Backend, EbpfBackend, IptablesBackend};

use crate::datapath::NoCgroup2;
use crate::rights::Rights;
use crate::rules::{Report, Rules, Ticket};

/// How services are to be served.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum ProxyMode {
    /// eBPF where this machine can do it, else iptables; the log says why
    Auto,
    /// eBPF, or not at all
    Ebpf,
    /// Rules of iptables
    Iptables,
}

/// Either backend.
pub enum AnyBackend {
    Ebpf(Box<EbpfBackend>),
    Iptables(Rules),
}

/// The opened data path; `None` for iptables, as configured or because this machine cannot do better.
///
/// # Errors
/// What `open` said, when falling back would only hide it.
pub fn choose(mode: ProxyMode, rights: Rights, open: impl FnOnce() -> Result<Datapath>) -> Result<Option<Datapath>> {
    let lacking = rights.missing_for_iptables();
    if mode == ProxyMode::Iptables {
        if !lacking.is_empty() {
            bail!(
                "iptables may not be used by this process, which lacks {}: run it as root, or with these",
                lacking.join(", ")
            );
        }
        tracing::info!("services are served by iptables, as configured");
        return Ok(None);
    }
    match open() {
        Ok(datapath) => {
            tracing::info!("services are served by eBPF");
            Ok(Some(datapath))
        }
        Err(error) if mode == ProxyMode::Auto && is_unable(&error) => {
            let needed = rights.missing_for_ebpf();
            if !lacking.is_empty() {
                bail!(
                    "neither eBPF nor iptables may be used by this process, which lacks {} for eBPF and {} for iptables: run it \
                     as root, or with these ({error:#})",
                    needed.join(", "),
                    lacking.join(", ")
                );
            }
            tracing::warn!(lacking = needed.join(", "), "eBPF is not possible here, so iptables it is: {error:#}");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// True when this kernel, this process or this build cannot do it at all, so that trying again would not help.
fn is_unable(error: &anyhow::Error) -> bool {
    error.is::<NoCgroup2>() || error.downcast_ref::<Error>().is_some_and(is_beyond_this_machine)
}

fn is_beyond_this_machine(error: &Error) -> bool {
    match error {
        // Whatever its verifier does not like: another kernel may.
        Error::NoObject | Error::NoProgram { .. } | Error::Program { .. } | Error::Probe { .. } => true,
        // No such file system, or no place for one.
        Error::Bpffs { source, .. } => {
            let kinds = [ErrorKind::PermissionDenied, ErrorKind::NotFound, ErrorKind::ReadOnlyFilesystem];
            kinds.contains(&source.kind()) || source.raw_os_error() == Some(Errno::ENODEV as i32)
        }
        error => error.is_unsupported(),
    }
}

/// A backend on the programs that are installed here.
fn rules(options: iptables::Options, stop: Stop) -> Result<IptablesBackend> {
    let programs = Programs::new(Variant::Default).stopped_by(stop);
    if !programs.installed() {
        bail!("iptables is not installed: install the package `iptables`, or choose the mode ebpf");
    }
    Ok(IptablesBackend::new(programs, options)?)
}

// === impl AnyBackend ===

impl AnyBackend {
    /// A backend on the maps, knowing what an earlier process left in them.
    ///
    /// # Errors
    /// When the maps cannot be read.
    pub fn ebpf(datapath: &Datapath) -> Result<Self> {
        let backend = EbpfBackend::adopt(datapath.maps()?).context("read what an earlier agent left in the maps")?;
        Ok(Self::Ebpf(Box::new(backend)))
    }

    /// # Errors
    /// When iptables is not installed, or the options make no sense.
    pub fn iptables(options: iptables::Options) -> Result<Self> {
        let stop = Stop::default();
        Ok(Self::Iptables(Rules::start(rules(options, stop.clone())?, stop)?))
    }

    /// Rules by other options from now on: everything is to be set again. Does nothing to maps.
    ///
    /// # Errors
    /// As [`Self::iptables`].
    pub fn replace(&self, options: iptables::Options) -> Result<()> {
        if let Self::Iptables(own) = self {
            own.replace(rules(options, own.stop())?);
        }
        Ok(())
    }

    /// The latest apply, when that is done elsewhere, and [`Self::report`] tells of it.
    pub fn asked(&self) -> Option<Ticket> {
        match self {
            Self::Ebpf(_) => None,
            Self::Iptables(rules) => Some(rules.last()),
        }
    }

    /// What was done elsewhere: for ever in the future where applies do their work themselves.
    pub async fn report(&mut self) -> Report {
        match self {
            Self::Ebpf(_) => std::future::pending().await,
            Self::Iptables(rules) => rules.report().await,
        }
    }

    /// See [`IptablesBackend::set_lenient`].
    pub fn set_lenient(&self, lenient: bool) {
        if let Self::Iptables(rules) = self {
            rules.set_lenient(lenient);
        }
    }

    /// Whether backends have become free since this was last asked that sockets may be connected to.
    pub fn has_lost(&mut self) -> bool {
        match self {
            Self::Ebpf(backend) => !backend.take_gone().is_empty(),
            // It looks after the flows itself, and translates no sockets.
            Self::Iptables(_) => false,
        }
    }

    /// Numbers of services with ids of backends that they have lost and others still have, since this was last asked.
    pub fn take_left(&mut self) -> Vec<(u32, u32)> {
        match self {
            Self::Ebpf(backend) => backend.take_left(),
            Self::Iptables(_) => Vec::new(),
        }
    }

    /// Looks after what others may have changed: rules.
    pub fn repair(&self) {
        if let Self::Iptables(rules) = self {
            rules.repair();
        }
    }

    /// As `/proxyMode` and the logs call it.
    pub fn mode(&self) -> &'static str {
        match self {
            Self::Ebpf(_) => "ebpf",
            Self::Iptables(_) => "iptables",
        }
    }

    fn inner(&self) -> &dyn Backend {
        match self {
            Self::Ebpf(backend) => &**backend,
            Self::Iptables(rules) => rules,
        }
    }

    fn inner_mut(&mut self) -> &mut dyn Backend {
        match self {
            Self::Ebpf(backend) => &mut **backend,
            Self::Iptables(rules) => rules,
        }
    }
}

impl Backend for AnyBackend {
    fn set(&mut self, plan: ServicePlan) {
        self.inner_mut().set(plan);
    }

    fn remove(&mut self, name: &Name) {
        self.inner_mut().remove(name);
    }

    fn set_service_ranges(&mut self, ranges: &[IpNetwork]) {
        self.inner_mut().set_service_ranges(ranges);
    }

    fn retain_only_known(&mut self) {
        self.inner_mut().retain_only_known();
    }

    fn apply(&mut self, now: Instant) -> Result<Applied, Error> {
        self.inner_mut().apply(now)
    }

    fn rules(&self) -> Option<iptables::Figures> {
        self.inner().rules()
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.inner().next_deadline()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn too_old() -> Result<Datapath> {
        Err(Error::Kernel { what: "tc programs on links (TCX)", needed: "6.6" }).context("load the kernel programs")
    }

    fn busy() -> Result<Datapath> {
        Err(Error::Busy { path: "/sys/fs/bpf/thalweg".into() }).context("load the kernel programs")
    }

    fn bpffs(errno: Errno) -> Result<Datapath> {
        let source = std::io::Error::from_raw_os_error(errno as i32);
        Err(Error::Bpffs { path: "/sys/fs/bpf/thalweg".into(), action: "cannot mount a bpffs", source }).context("load")
    }

    fn falls_back(mode: ProxyMode, open: impl FnOnce() -> Result<Datapath>) -> bool {
        choose(mode, Rights::ALL, open).is_ok_and(|datapath| datapath.is_none())
    }

    #[test]
    fn iptables_take_over_only_where_ebpf_is_impossible() {
        assert!(falls_back(ProxyMode::Auto, too_old));
        assert!(falls_back(ProxyMode::Auto, || Err(Error::NoObject.into())));
        assert!(falls_back(ProxyMode::Auto, || Err(NoCgroup2.into())));
        for errno in [Errno::ENODEV, Errno::EROFS, Errno::EPERM, Errno::EACCES] {
            assert!(falls_back(ProxyMode::Auto, || bpffs(errno)), "{errno}");
        }
        assert!(!falls_back(ProxyMode::Auto, || bpffs(Errno::ENOSPC)));
        // Another agent that runs is no reason for a second kind of service proxy beside it.
        assert!(!falls_back(ProxyMode::Auto, busy));
    }

    #[test]
    fn what_is_said_counts() {
        assert!(!falls_back(ProxyMode::Ebpf, too_old));
        assert!(falls_back(ProxyMode::Iptables, || panic!("not to be opened")));
    }

    #[test]
    fn who_may_do_neither_is_told_what_is_missing() {
        let said = |mode, rights| match choose(mode, rights, || bpffs(Errno::EPERM)) {
            Ok(_) => "nothing".to_owned(),
            Err(error) => format!("{error:#}"),
        };
        let neither = said(ProxyMode::Auto, Rights::NONE);
        assert!(
            neither.contains("neither") && neither.contains("CAP_BPF") && neither.contains("CAP_NET_ADMIN for iptables"),
            "{neither}"
        );
        assert_eq!(said(ProxyMode::Auto, Rights::NETWORK), "nothing");
        let rules = said(ProxyMode::Iptables, Rights::NONE);
        assert!(rules.contains("lacks CAP_NET_ADMIN"), "{rules}");
    }
}
