//! KubeProxyConfiguration, kubeproxy.config.k8s.io/v1alpha1: its fields by their names, and its defaults.
//!
//! The structures are the schema: what serialises from them is what a file may contain.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::GoDuration;

pub const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
pub const KIND: &str = "KubeProxyConfiguration";
/// Port of the health server.
pub const HEALTHZ_PORT: u16 = 10256;
/// Port of the metrics server.
pub const METRICS_PORT: u16 = 10249;

macro_rules! section {
    ($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
        #[serde(default, rename_all = "camelCase")]
        pub struct $name { $($(#[$field_meta])* pub $field: $type,)* }
    };
}

section! {
    /// The whole file.
    KubeProxyConfiguration {
        api_version: String,
        kind: String,
        feature_gates: BTreeMap<String, bool>,
        client_connection: ClientConnection,
        logging: Logging,
        hostname_override: String,
        bind_address: String,
        healthz_bind_address: String,
        metrics_bind_address: String,
        bind_address_hard_fail: bool,
        enable_profiling: bool,
        show_hidden_metrics_for_version: String,
        mode: String,
        iptables: Iptables,
        ipvs: Ipvs,
        nftables: Nftables,
        winkernel: Winkernel,
        detect_local_mode: String,
        detect_local: DetectLocal,
        #[serde(rename = "clusterCIDR")]
        cluster_cidr: String,
        node_port_addresses: Vec<String>,
        oom_score_adj: Option<i32>,
        conntrack: Conntrack,
        config_sync_period: GoDuration,
        port_range: String,
        windows_run_as_service: bool,
        /// Where later versions of the file keep what concerns Linux alone. Read, never written.
        #[serde(skip_serializing)]
        linux: Linux,
    }
}

section! {
    ClientConnection {
        kubeconfig: String,
        accept_content_types: String,
        content_type: String,
        qps: f64,
        burst: i32,
    }
}

section! {
    Logging {
        format: String,
        /// A duration, or a number of nanoseconds.
        flush_frequency: Value,
        verbosity: u32,
        vmodule: Vec<Value>,
        options: LoggingOptions,
    }
}

section! {
    LoggingOptions {
        text: LoggingStream,
        json: LoggingStream,
    }
}

section! {
    LoggingStream {
        split_stream: bool,
        /// A quantity: text or a number.
        info_buffer_size: Value,
    }
}

section! {
    Iptables {
        masquerade_bit: Option<i32>,
        masquerade_all: bool,
        localhost_node_ports: Option<bool>,
        #[serde(rename = "snatNodeInternalIP")]
        snat_node_internal_ip: Option<bool>,
        sync_period: GoDuration,
        min_sync_period: GoDuration,
    }
}

section! {
    Ipvs {
        sync_period: GoDuration,
        min_sync_period: GoDuration,
        scheduler: String,
        #[serde(rename = "excludeCIDRs")]
        exclude_cidrs: Vec<String>,
        #[serde(rename = "strictARP")]
        strict_arp: bool,
        tcp_timeout: GoDuration,
        tcp_fin_timeout: GoDuration,
        udp_timeout: GoDuration,
    }
}

section! {
    Nftables {
        masquerade_bit: Option<i32>,
        masquerade_all: bool,
        sync_period: GoDuration,
        min_sync_period: GoDuration,
    }
}

section! {
    Winkernel {
        network_name: String,
        source_vip: String,
        #[serde(rename = "enableDSR")]
        enable_dsr: bool,
        root_hns_endpoint_name: String,
        forward_health_check_vip: bool,
    }
}

section! {
    DetectLocal {
        bridge_interface: String,
        interface_name_prefix: String,
    }
}

section! {
    Conntrack {
        max_per_core: Option<i32>,
        min: Option<i32>,
        tcp_established_timeout: Option<GoDuration>,
        tcp_close_wait_timeout: Option<GoDuration>,
        tcp_be_liberal: bool,
        udp_timeout: GoDuration,
        udp_stream_timeout: GoDuration,
    }
}

section! {
    Linux {
        masquerade_all: bool,
        oom_score_adj: Option<i32>,
        conntrack: Conntrack,
    }
}

// === impl KubeProxyConfiguration ===

impl KubeProxyConfiguration {
    /// What applies without a file and without flags.
    pub fn defaults() -> Self {
        let mut config = Self::default();
        config.complete();
        config
    }

    /// As a file that [`super::decode`] reads.
    ///
    /// # Errors
    /// Never for what was read or defaulted; the serialiser's signature has it.
    pub fn to_yaml(&self) -> Result<String, serde_yaml_ng::Error> {
        serde_yaml_ng::to_string(self)
    }

    /// Fills in the defaults of what is empty.
    pub fn complete(&mut self) {
        self.api_version = API_VERSION.to_owned();
        self.kind = KIND.to_owned();
        self.adopt_linux();
        text(&mut self.bind_address, "0.0.0.0");
        // Unreadable addresses are left to validation.
        let v4 = self.bind_address.parse().is_ok_and(|address: IpAddr| address.is_ipv4());
        let (healthz, metrics) = if v4 { ("0.0.0.0", "127.0.0.1") } else { ("[::]", "[::1]") };
        address(&mut self.healthz_bind_address, healthz, HEALTHZ_PORT);
        address(&mut self.metrics_bind_address, metrics, METRICS_PORT);
        self.oom_score_adj.get_or_insert(-999);
        self.iptables.masquerade_bit.get_or_insert(14);
        self.iptables.localhost_node_ports.get_or_insert(true);
        self.iptables.snat_node_internal_ip.get_or_insert(false);
        self.nftables.masquerade_bit.get_or_insert(14);
        for (period, seconds) in [
            (&mut self.iptables.sync_period, 30),
            (&mut self.iptables.min_sync_period, 1),
            (&mut self.ipvs.sync_period, 30),
            (&mut self.nftables.sync_period, 30),
            (&mut self.nftables.min_sync_period, 1),
            (&mut self.config_sync_period, 15 * 60),
        ] {
            if period.is_zero() {
                *period = GoDuration::seconds(seconds);
            }
        }
        let conntrack = &mut self.conntrack;
        conntrack.max_per_core.get_or_insert(32 * 1024);
        conntrack.min.get_or_insert(128 * 1024);
        conntrack.tcp_established_timeout.get_or_insert(GoDuration::seconds(24 * 3600));
        conntrack.tcp_close_wait_timeout.get_or_insert(GoDuration::seconds(3600));
        text(&mut self.detect_local_mode, "ClusterCIDR");
        let client = &mut self.client_connection;
        text(&mut client.content_type, "application/vnd.kubernetes.protobuf");
        if client.qps == 0.0 {
            client.qps = 5.0;
        }
        if client.burst == 0 {
            client.burst = 10;
        }
        text(&mut self.logging.format, "text");
    }

    /// The section of later versions means the same as the fields of this one.
    fn adopt_linux(&mut self) {
        let linux = std::mem::take(&mut self.linux);
        self.iptables.masquerade_all |= linux.masquerade_all;
        self.nftables.masquerade_all |= linux.masquerade_all;
        self.oom_score_adj = self.oom_score_adj.or(linux.oom_score_adj);
        if self.conntrack == Conntrack::default() {
            self.conntrack = linux.conntrack;
        }
    }
}

fn text(field: &mut String, default: &str) {
    if field.is_empty() {
        default.clone_into(field);
    }
}

/// An address without a port gets the default one.
fn address(field: &mut String, default: &str, port: u16) {
    if field.is_empty() {
        *field = format!("{default}:{port}");
    } else if let Some(address) = bare(field) {
        *field = std::net::SocketAddr::new(address, port).to_string();
    }
}

/// An address without a port, with or without brackets.
pub(super) fn bare(text: &str) -> Option<IpAddr> {
    text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text).parse().ok()
}
