//! What the proxy needs of a configuration, checked; and what of it means nothing here, said.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnetwork::IpNetwork;

use super::error::{ConfigError, FieldError};
use super::kernel_table::KernelTable;
use super::model::KubeProxyConfiguration;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// eBPF where that is possible.
    Auto,
    /// eBPF or nothing, as somebody said.
    Ebpf,
    Iptables,
}

/// Which of the node's addresses serve NodePorts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NodePortAddresses {
    /// All.
    All,
    /// Those of the Node object.
    Primary,
    Ranges(Vec<IpNetwork>),
    /// Those of the Node object, and those in ranges.
    PrimaryAnd(Vec<IpNetwork>),
}

/// A configuration that makes sense.
#[derive(Clone, PartialEq, Debug)]
pub struct Settings {
    pub mode: Mode,
    /// In lower case; `None`: the host name.
    pub hostname_override: Option<String>,
    pub kubeconfig: Option<PathBuf>,
    /// The node's address, when the configuration says it.
    pub node_address: Option<IpAddr>,
    pub healthz: Option<SocketAddr>,
    pub metrics: Option<SocketAddr>,
    /// End when a server cannot listen.
    pub hard_fail: bool,
    pub node_ports: NodePortAddresses,
    /// NodePorts are served on 127.0.0.1 too: by wish, and because the addresses above contain it.
    pub localhost_node_ports: bool,
    /// Of either family.
    pub cluster_cidrs: Vec<IpNetwork>,
    /// Interfaces that pods are behind, as far as detectLocalMode says: a name, or the start of names with a `*`.
    pub pod_interfaces: Option<String>,
    /// The bit of the firewall mark that asks for source NAT; iptables mode.
    pub masquerade_bit: u8,
    pub masquerade_all: bool,
    /// How often rules are looked after.
    pub sync_period: Duration,
    pub oom_score_adj: i32,
    /// How the kernel's connection table is to be; iptables mode.
    pub kernel_table: KernelTable,
    /// What was said and means nothing here, each worth one line in the log.
    pub notes: Vec<String>,
}

#[derive(Default)]
struct Check(Vec<FieldError>);

// === impl Settings ===

impl Settings {
    /// `config` has its defaults filled in.
    ///
    /// # Errors
    /// Names every field that makes no sense.
    pub fn new(config: &KubeProxyConfiguration) -> Result<Self, ConfigError> {
        let mut check = Check::default();
        let mut notes = Vec::new();
        let mode = check.mode(&config.mode, &mut notes);
        let bind_address: Option<IpAddr> = check.parse("bindAddress", &config.bind_address);
        let node_ports = check.node_ports(&config.node_port_addresses);
        let settings = Self {
            mode,
            hostname_override: match config.hostname_override.trim() {
                "" => None,
                name => Some(name.to_lowercase()),
            },
            kubeconfig: Some(&config.client_connection.kubeconfig).filter(|path| !path.is_empty()).map(PathBuf::from),
            node_address: bind_address.filter(|address| !address.is_unspecified()),
            healthz: check.address("healthzBindAddress", &config.healthz_bind_address),
            metrics: check.address("metricsBindAddress", &config.metrics_bind_address),
            hard_fail: config.bind_address_hard_fail,
            localhost_node_ports: config.iptables.localhost_node_ports.unwrap_or(true) && node_ports.contain_localhost(),
            node_ports,
            cluster_cidrs: check.cidrs(&config.cluster_cidr),
            pod_interfaces: match config.detect_local_mode.as_str() {
                "BridgeInterface" => Some(config.detect_local.bridge_interface.clone()),
                "InterfaceNamePrefix" => Some(format!("{}*", config.detect_local.interface_name_prefix)),
                _ => None,
            },
            masquerade_bit: check.bit("iptables.masqueradeBit", config.iptables.masquerade_bit),
            masquerade_all: config.iptables.masquerade_all,
            sync_period: config.iptables.sync_period.to_std(),
            oom_score_adj: config.oom_score_adj.unwrap_or_default(),
            kernel_table: KernelTable::new(&config.conntrack),
            notes,
        };
        check.rest(config);
        if !check.0.is_empty() {
            return Err(ConfigError::Fields(check.0));
        }
        Ok(Self { notes: settings.notes.iter().cloned().chain(idle(config, mode)).collect(), ..settings })
    }

    /// How long a change may wait before the proxy is called unhealthy.
    pub fn health_timeout(&self) -> Duration {
        self.sync_period * 2
    }
}

// === impl NodePortAddresses ===

impl NodePortAddresses {
    /// Loopback of IPv4; that of IPv6 serves no NodePorts anywhere.
    fn contain_localhost(&self) -> bool {
        match self {
            Self::All => true,
            Self::Primary => false,
            Self::Ranges(ranges) | Self::PrimaryAnd(ranges) => {
                ranges.iter().any(|range| range.contains(Ipv4Addr::LOCALHOST.into()))
            }
        }
    }
}

/// What differs from the defaults and has no meaning in this mode.
fn idle(config: &KubeProxyConfiguration, mode: Mode) -> Vec<String> {
    let default = KubeProxyConfiguration::defaults();
    let mut notes = Vec::new();
    let mut note = |said: bool, field: &str, reason: &str| {
        if said {
            notes.push(format!("{field}: {reason}"));
        }
    };
    if mode != Mode::Iptables {
        let (ours, theirs) = (&config.iptables, &default.iptables);
        let no_rules = "the eBPF data path has no rules and needs no mark";
        note(ours.masquerade_bit != theirs.masquerade_bit, "iptables.masqueradeBit", no_rules);
        note(ours.masquerade_all, "iptables.masqueradeAll", "the eBPF data path translates sources only where replies need it");
        let reason = "the eBPF data path tells local traffic by where it enters the node";
        note(!config.cluster_cidr.is_empty(), "clusterCIDR", reason);
        note(config.detect_local_mode == "NodeCIDR", "detectLocalMode", reason);
        let reason = "the eBPF data path has a table of its own, and the kernel's is left alone";
        note(config.conntrack != default.conntrack, "conntrack", reason);
    }
    let (ours, theirs) = (&config.iptables, &default.iptables);
    let said = ours.snat_node_internal_ip != theirs.snat_node_internal_ip;
    note(said, "iptables.snatNodeInternalIP", "not chosen by this: translated sources are the node's own address");
    note(ours.min_sync_period != theirs.min_sync_period, "iptables.minSyncPeriod", "every change takes effect at once");
    note(config.ipvs != default.ipvs, "ipvs", "there is no IPVS here");
    note(config.nftables != default.nftables, "nftables", "there is no nftables here");
    note(config.winkernel != default.winkernel, "winkernel", "this is not Windows");
    note(config.windows_run_as_service, "windowsRunAsService", "this is not Windows");
    note(!config.port_range.is_empty(), "portRange", "unused, as in kube-proxy");
    let (ours, theirs) = (&config.client_connection, &default.client_connection);
    let said = (ours.qps, ours.burst) != (theirs.qps, theirs.burst);
    note(said, "clientConnection.qps and burst", "the proxy only watches, so there is nothing to limit");
    let said = (&ours.content_type, &ours.accept_content_types) != (&theirs.content_type, &theirs.accept_content_types);
    note(said, "clientConnection content types", "the client chooses");
    note(config.config_sync_period != default.config_sync_period, "configSyncPeriod", "a watch needs no periodic refresh");
    note(config.enable_profiling, "enableProfiling", "there are no Go profiles here");
    note(!config.show_hidden_metrics_for_version.is_empty(), "showHiddenMetricsForVersion", "no metric is hidden");
    let gates: Vec<&str> = config.feature_gates.keys().map(String::as_str).collect();
    note(!gates.is_empty(), "featureGates", &format!("{} are kube-proxy's own", gates.join(", ")));
    let said = config.logging.verbosity > 0 || !config.logging.vmodule.is_empty() || config.logging.format != "text";
    note(said, "logging", "RUST_LOG says what is logged");
    notes
}

// === impl Check ===

impl Check {
    fn refuse(&mut self, field: &str, reason: impl Into<String>) {
        self.0.push(FieldError::new(field, reason));
    }

    fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(&mut self, field: &str, text: &str) -> Option<T> {
        match text.trim().parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.refuse(field, format!("{text:?}: {error}"));
                None
            }
        }
    }

    fn mode(&mut self, mode: &str, notes: &mut Vec<String>) -> Mode {
        match mode {
            "ebpf" => Mode::Ebpf,
            "iptables" => Mode::Iptables,
            "" => {
                notes.push("mode: not said; ebpf is used where it is possible, else iptables".to_owned());
                Mode::Auto
            }
            "nftables" | "ipvs" => {
                notes.push(format!("mode: {mode} is not known here; ebpf is used where it is possible, else iptables"));
                Mode::Auto
            }
            other => {
                self.refuse("mode", format!("{other:?}: must be ebpf, iptables, nftables, ipvs or empty"));
                Mode::Auto
            }
        }
    }

    /// Empty turns a server off.
    fn address(&mut self, field: &str, text: &str) -> Option<SocketAddr> {
        if text.is_empty() {
            return None;
        }
        let address: Option<SocketAddr> = text.parse().ok();
        if address.is_none_or(|address| address.port() == 0) {
            self.refuse(field, format!("{text:?}: must be IP:PORT with a port from 1 to 65535"));
        }
        address
    }

    fn node_ports(&mut self, texts: &[String]) -> NodePortAddresses {
        let (mut ranges, mut is_primary) = (Vec::new(), false);
        for (index, text) in texts.iter().enumerate() {
            match text.as_str() {
                "primary" => is_primary = true,
                "all" => return NodePortAddresses::All,
                "localhost" => {
                    ranges.extend(["127.0.0.0/8", "::1/128"].iter().filter_map(|range| range.parse::<IpNetwork>().ok()))
                }
                range => ranges.extend(self.range(&format!("nodePortAddresses[{index}]"), range)),
            }
        }
        // A zero range of one family does not stand for the other one.
        match (is_primary, ranges.is_empty()) {
            (true, true) => NodePortAddresses::Primary,
            (true, false) => NodePortAddresses::PrimaryAnd(ranges),
            (false, true) => NodePortAddresses::All,
            (false, false) => NodePortAddresses::Ranges(ranges),
        }
    }

    fn cidrs(&mut self, text: &str) -> Vec<IpNetwork> {
        let parts: Vec<&str> = text.split(',').filter(|part| !part.trim().is_empty()).collect();
        let cidrs: Vec<IpNetwork> = parts.iter().filter_map(|part| self.range("clusterCIDR", part)).collect();
        match cidrs.as_slice() {
            [first, second] if first.is_ipv4() == second.is_ipv4() => {
                self.refuse("clusterCIDR", format!("{text:?}: two ranges must be of two address families"));
            }
            [_, _, _, ..] => self.refuse("clusterCIDR", format!("{text:?}: one range, or one of each address family")),
            _ => {}
        }
        cidrs
    }

    /// A range has a prefix length; a bare address is a slip.
    fn range(&mut self, field: &str, text: &str) -> Option<IpNetwork> {
        if !text.contains('/') {
            self.refuse(field, format!("{text:?}: must be a range such as 10.0.0.0/8"));
            return None;
        }
        self.parse(field, text)
    }

    fn bit(&mut self, field: &str, bit: Option<i32>) -> u8 {
        match u8::try_from(bit.unwrap_or(14)) {
            Ok(bit @ 0..=31) => bit,
            _ => {
                self.refuse(field, "must be from 0 to 31");
                0
            }
        }
    }

    /// What is not used here, but would make kube-proxy refuse the file.
    fn rest(&mut self, config: &KubeProxyConfiguration) {
        self.bit("nftables.masqueradeBit", config.nftables.masquerade_bit);
        for (field, sync, least) in [
            ("iptables", config.iptables.sync_period, config.iptables.min_sync_period),
            ("ipvs", config.ipvs.sync_period, config.ipvs.min_sync_period),
            ("nftables", config.nftables.sync_period, config.nftables.min_sync_period),
        ] {
            if sync.is_negative() || sync.is_zero() {
                self.refuse(&format!("{field}.syncPeriod"), "must be longer than 0");
            }
            if least.is_negative() || least > sync {
                self.refuse(&format!("{field}.minSyncPeriod"), "must be from 0 to syncPeriod");
            }
        }
        if config.config_sync_period.is_negative() || config.config_sync_period.is_zero() {
            self.refuse("configSyncPeriod", "must be longer than 0");
        }
        if !(-1000..=1000).contains(&config.oom_score_adj.unwrap_or_default()) {
            self.refuse("oomScoreAdj", "must be from -1000 to 1000");
        }
        if config.client_connection.burst < 0 {
            self.refuse("clientConnection.burst", "must not be negative");
        }
        let conntrack = &config.conntrack;
        for (field, number) in [("maxPerCore", conntrack.max_per_core), ("min", conntrack.min)] {
            if number.is_some_and(|number| number < 0) {
                self.refuse(&format!("conntrack.{field}"), "must not be negative");
            }
        }
        for (field, time) in [
            ("tcpEstablishedTimeout", conntrack.tcp_established_timeout.unwrap_or_default()),
            ("tcpCloseWaitTimeout", conntrack.tcp_close_wait_timeout.unwrap_or_default()),
            ("udpTimeout", conntrack.udp_timeout),
            ("udpStreamTimeout", conntrack.udp_stream_timeout),
        ] {
            if time.is_negative() {
                self.refuse(&format!("conntrack.{field}"), "must not be negative");
            }
        }
        match config.detect_local_mode.as_str() {
            "ClusterCIDR" | "NodeCIDR" => {}
            "BridgeInterface" if config.detect_local.bridge_interface.is_empty() => {
                self.refuse("detectLocal.bridgeInterface", "detectLocalMode BridgeInterface needs it");
            }
            "InterfaceNamePrefix" if config.detect_local.interface_name_prefix.is_empty() => {
                self.refuse("detectLocal.interfaceNamePrefix", "detectLocalMode InterfaceNamePrefix needs it");
            }
            "BridgeInterface" | "InterfaceNamePrefix" => {}
            other => self.refuse(
                "detectLocalMode",
                format!("{other:?}: must be ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix"),
            ),
        }
    }
}
