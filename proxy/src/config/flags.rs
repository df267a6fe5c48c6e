//! kube-proxy's command line, by its own names, and how it merges with a configuration file.

use super::GoDuration;
use super::model::{HEALTHZ_PORT, KubeProxyConfiguration, METRICS_PORT, bare};

macro_rules! flags {
    ($($(#[$meta:meta])* $field:ident: $type:ty = $flag:literal => |$config:ident, $value:ident| $set:expr,)*) => {
        /// kube-proxy's flags. With a configuration file all but `--hostname-override` are ignored, as kube-proxy does.
        #[derive(clap::Args, Clone, Default, Debug)]
        pub struct Flags {
            $($(#[$meta])* #[arg(long = $flag)] pub $field: Option<$type>,)*
        }

        impl Flags {
            fn apply(self, config: &mut KubeProxyConfiguration) {
                $(if let Some($value) = self.$field {
                    let $config = &mut *config;
                    $set;
                })*
            }

            /// The flags on the command line.
            fn given(&self) -> Vec<&'static str> {
                let mut given = Vec::new();
                $(if self.$field.is_some() { given.push(concat!("--", $flag)); })*
                given
            }
        }
    };
}

flags! {
    /// Name of this node (default: the host name).
    hostname_override: String = "hostname-override" => |config, value| config.hostname_override = value,
    /// The node's primary address; nothing is bound to it.
    bind_address: String = "bind-address" => |config, value| config.bind_address = value,
    /// Address of the health server; empty turns it off (default: 0.0.0.0:10256).
    healthz_bind_address: String = "healthz-bind-address" => |config, value| config.healthz_bind_address = port(value, HEALTHZ_PORT),
    /// Address of the metrics server; empty turns it off (default: 127.0.0.1:10249).
    metrics_bind_address: String = "metrics-bind-address" => |config, value| config.metrics_bind_address = port(value, METRICS_PORT),
    /// 0 turns the health server off.
    #[arg(hide = true)]
    healthz_port: u16 = "healthz-port" => |config, value| if value == 0 { config.healthz_bind_address.clear() },
    /// 0 turns the metrics server off.
    #[arg(hide = true)]
    metrics_port: u16 = "metrics-port" => |config, value| if value == 0 { config.metrics_bind_address.clear() },
    /// End when one of these servers cannot listen; without it they try again.
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    bind_address_hard_fail: bool = "bind-address-hard-fail" => |config, value| config.bind_address_hard_fail = value,
    /// How to reach the API server (without one: the service account of this pod, or $KUBECONFIG).
    kubeconfig: String = "kubeconfig" => |config, value| config.client_connection.kubeconfig = value,
    kube_api_content_type: String = "kube-api-content-type" => |config, value| config.client_connection.content_type = value,
    kube_api_burst: i32 = "kube-api-burst" => |config, value| config.client_connection.burst = value,
    kube_api_qps: f64 = "kube-api-qps" => |config, value| config.client_connection.qps = value,
    /// ebpf or iptables; nftables and ipvs are taken for ebpf.
    proxy_mode: String = "proxy-mode" => |config, value| config.mode = value,
    /// Ranges of the node's addresses that NodePorts are served on, or `primary` (default: all).
    #[arg(value_delimiter = ',')]
    nodeport_addresses: Vec<String> = "nodeport-addresses" => |config, value| config.node_port_addresses = value,
    cluster_cidr: String = "cluster-cidr" => |config, value| config.cluster_cidr = value,
    detect_local_mode: String = "detect-local-mode" => |config, value| config.detect_local_mode = value,
    pod_bridge_interface: String = "pod-bridge-interface" => |config, value| config.detect_local.bridge_interface = value,
    pod_interface_name_prefix: String = "pod-interface-name-prefix" =>
        |config, value| config.detect_local.interface_name_prefix = value,
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    masquerade_all: bool = "masquerade-all" => |config, value| config.iptables.masquerade_all = value,
    iptables_masquerade_bit: i32 = "iptables-masquerade-bit" => |config, value| config.iptables.masquerade_bit = Some(value),
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    iptables_localhost_nodeports: bool = "iptables-localhost-nodeports" =>
        |config, value| config.iptables.localhost_node_ports = Some(value),
    iptables_sync_period: GoDuration = "iptables-sync-period" => |config, value| config.iptables.sync_period = value,
    iptables_min_sync_period: GoDuration = "iptables-min-sync-period" => |config, value| config.iptables.min_sync_period = value,
    ipvs_sync_period: GoDuration = "ipvs-sync-period" => |config, value| config.ipvs.sync_period = value,
    ipvs_min_sync_period: GoDuration = "ipvs-min-sync-period" => |config, value| config.ipvs.min_sync_period = value,
    ipvs_scheduler: String = "ipvs-scheduler" => |config, value| config.ipvs.scheduler = value,
    #[arg(value_delimiter = ',')]
    ipvs_exclude_cidrs: Vec<String> = "ipvs-exclude-cidrs" => |config, value| config.ipvs.exclude_cidrs = value,
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    ipvs_strict_arp: bool = "ipvs-strict-arp" => |config, value| config.ipvs.strict_arp = value,
    ipvs_tcp_timeout: GoDuration = "ipvs-tcp-timeout" => |config, value| config.ipvs.tcp_timeout = value,
    ipvs_tcpfin_timeout: GoDuration = "ipvs-tcpfin-timeout" => |config, value| config.ipvs.tcp_fin_timeout = value,
    ipvs_udp_timeout: GoDuration = "ipvs-udp-timeout" => |config, value| config.ipvs.udp_timeout = value,
    #[arg(allow_hyphen_values = true)]
    oom_score_adj: i32 = "oom-score-adj" => |config, value| config.oom_score_adj = Some(value),
    conntrack_max_per_core: i32 = "conntrack-max-per-core" => |config, value| config.conntrack.max_per_core = Some(value),
    conntrack_min: i32 = "conntrack-min" => |config, value| config.conntrack.min = Some(value),
    conntrack_tcp_timeout_established: GoDuration = "conntrack-tcp-timeout-established" =>
        |config, value| config.conntrack.tcp_established_timeout = Some(value),
    conntrack_tcp_timeout_close_wait: GoDuration = "conntrack-tcp-timeout-close-wait" =>
        |config, value| config.conntrack.tcp_close_wait_timeout = Some(value),
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    conntrack_tcp_be_liberal: bool = "conntrack-tcp-be-liberal" => |config, value| config.conntrack.tcp_be_liberal = value,
    conntrack_udp_timeout: GoDuration = "conntrack-udp-timeout" => |config, value| config.conntrack.udp_timeout = value,
    conntrack_udp_timeout_stream: GoDuration = "conntrack-udp-timeout-stream" =>
        |config, value| config.conntrack.udp_stream_timeout = value,
    config_sync_period: GoDuration = "config-sync-period" => |config, value| config.config_sync_period = value,
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    profiling: bool = "profiling" => |config, value| config.enable_profiling = value,
    show_hidden_metrics_for_version: String = "show-hidden-metrics-for-version" =>
        |config, value| config.show_hidden_metrics_for_version = value,
    /// `Gate=true,Other=false`.
    #[arg(value_delimiter = ',', value_parser = gate)]
    feature_gates: Vec<(String, bool)> = "feature-gates" => |config, value| config.feature_gates = value.into_iter().collect(),
    #[arg(short = 'v')]
    verbosity: u32 = "v" => |config, value| config.logging.verbosity = value,
    vmodule: String = "vmodule" => |config, value| config.logging.vmodule = vec![value.into()],
    logging_format: String = "logging-format" => |config, value| config.logging.format = value,
    log_flush_frequency: GoDuration = "log-flush-frequency" =>
        |config, value| config.logging.flush_frequency = value.to_string().into(),
}

/// Merges a file and the command line, defaults included. Without a file the flags count; with one only
/// `--hostname-override` does, and what else was given is named in the notes.
pub fn merge(file: Option<KubeProxyConfiguration>, mut flags: Flags) -> (KubeProxyConfiguration, Vec<String>) {
    let hostname = flags.hostname_override.take().filter(|name| !name.is_empty());
    let mut notes = Vec::new();
    let mut config = match file {
        Some(mut config) => {
            config.complete();
            let ignored = flags.given();
            if !ignored.is_empty() {
                notes.push(format!("{}: ignored, because there is a configuration file", ignored.join(", ")));
            }
            config
        }
        None => {
            // The addresses of the servers follow the family of the bind address, unless they are said.
            let mut config =
                KubeProxyConfiguration { bind_address: flags.bind_address.take().unwrap_or_default(), ..Default::default() };
            config.complete();
            flags.apply(&mut config);
            config
        }
    };
    if let Some(name) = hostname {
        config.hostname_override = name;
    }
    (config, notes)
}

fn port(address: String, port: u16) -> String {
    bare(&address).map_or(address, |address| std::net::SocketAddr::new(address, port).to_string())
}

fn gate(text: &str) -> Result<(String, bool), String> {
    let refuse = || format!("{text:?}: a feature gate is NAME=true or NAME=false");
    let (name, value) = text.split_once('=').ok_or_else(refuse)?;
    Ok((name.trim().to_owned(), value.trim().parse().map_err(|_| refuse())?))
}
