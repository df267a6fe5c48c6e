//! A pod's resolv.conf by its dnsPolicy.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::PodSpec;

use crate::runtime::DnsConfig;

/// What the C libraries read at most.
const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;

/// The cluster's resolver, and the node's own.
#[derive(Debug, Clone, Default)]
pub struct Resolvers {
    pub cluster_dns: Vec<IpAddr>,
    pub cluster_domain: String,
    pub node: DnsConfig,
}

pub fn dns_config(spec: &PodSpec, namespace: &str, resolvers: &Resolvers) -> DnsConfig {
    let host_network = spec.host_network == Some(true);
    let mut config = match spec.dns_policy.as_deref() {
        Some("None") => DnsConfig::default(),
        Some("Default") => resolvers.node.clone(),
        Some("ClusterFirstWithHostNet") => cluster(namespace, resolvers),
        _ if host_network || resolvers.cluster_dns.is_empty() => resolvers.node.clone(),
        _ => cluster(namespace, resolvers),
    };
    if let Some(own) = &spec.dns_config {
        config.nameservers.extend(own.nameservers.iter().flatten().cloned());
        config.searches.extend(own.searches.iter().flatten().cloned());
        for option in own.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            config.options.retain(|o| o.split(':').next() != Some(name));
            config.options.push(option.value.as_ref().map_or_else(|| name.clone(), |v| format!("{name}:{v}")));
        }
    }
    let mut seen = Vec::new();
    config.nameservers.retain(|n| {
        !seen.contains(n) && {
            seen.push(n.clone());
            true
        }
    });
    let mut seen = Vec::new();
    config.searches.retain(|n| {
        !seen.contains(n) && {
            seen.push(n.clone());
            true
        }
    });
    config.nameservers.truncate(MAX_NAMESERVERS);
    config.searches.truncate(MAX_SEARCHES);
    config
}

fn cluster(namespace: &str, resolvers: &Resolvers) -> DnsConfig {
    let domain = resolvers.cluster_domain.trim_matches('.');
    let mut searches = Vec::new();
    if !domain.is_empty() {
        searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()];
    }
    searches.extend(resolvers.node.searches.iter().cloned());
    DnsConfig {
        nameservers: resolvers.cluster_dns.iter().map(ToString::to_string).collect(),
        searches,
        options: vec!["ndots:5".into()],
    }
}

/// Reads a resolv.conf; the last `search` line counts.
pub fn parse_resolv_conf(text: &str) -> DnsConfig {
    let mut config = DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let keyword = words.next().unwrap_or_default();
        let values = words.take_while(|w| !w.starts_with(['#', ';'])).map(str::to_owned);
        match keyword {
            "nameserver" => config.nameservers.extend(values.take(1)),
            // A trailing `.` alone is the resolver's default and would be an empty domain here.
            "search" => config.searches = values.filter(|v| v != ".").collect(),
            "options" => config.options.extend(values),
            _ => {}
        }
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(spec: Value, nameservers: &[&str], searches: &[&str], options: &[&str]) {
        let text = spec.to_string();
        let mut spec: PodSpec = serde_json::from_value(spec).expect("spec");
        spec.containers = vec![];
        let resolvers = Resolvers {
            cluster_dns: vec!["10.96.0.10".parse().expect("ip")],
            cluster_domain: "cluster.local".into(),
            node: parse_resolv_conf("# comment\nnameserver 9.9.9.9\nsearch lan . # home\noptions timeout:1\n"),
        };
        let config = dns_config(&spec, "shop", &resolvers);
        assert_eq!(config.nameservers, nameservers, "{text}");
        assert_eq!(config.searches, searches, "{text}");
        assert_eq!(config.options, options, "{text}");
    }

    #[test]
    fn policies() {
        let cluster = ["shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "lan"];
        check(json!({"containers": []}), &["10.96.0.10"], &cluster, &["ndots:5"]);
        check(json!({"containers": [], "dnsPolicy": "ClusterFirst"}), &["10.96.0.10"], &cluster, &["ndots:5"]);
        check(json!({"containers": [], "hostNetwork": true}), &["9.9.9.9"], &["lan"], &["timeout:1"]);
        check(
            json!({"containers": [], "hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}),
            &["10.96.0.10"],
            &cluster,
            &["ndots:5"],
        );
        check(json!({"containers": [], "dnsPolicy": "Default"}), &["9.9.9.9"], &["lan"], &["timeout:1"]);
        check(
            json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["x"],
                "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}}),
            &["1.1.1.1"],
            &["x"],
            &["ndots:2", "edns0"],
        );
        check(
            json!({"containers": [], "dnsConfig": {"nameservers": ["10.96.0.10", "1.1.1.1"], "options": [{"name": "ndots", "value": "1"}]}}),
            &["10.96.0.10", "1.1.1.1"],
            &cluster,
            &["ndots:1"],
        );
    }
}
