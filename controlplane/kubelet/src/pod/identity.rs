//! A pod's names: its hostname, its full name, its hosts file.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{HostAlias, Pod};

/// The longest a hostname may be.
const MAX_HOSTNAME: usize = 63;

/// The hostname, and the full name when the pod has a subdomain.
pub fn hostname(pod: &Pod, node: &str, cluster_domain: &str) -> (String, Option<String>) {
    let Some(spec) = &pod.spec else { return (String::new(), None) };
    if let Some(name) = &spec.hostname_override {
        return (name.clone(), None);
    }
    if spec.host_network == Some(true) {
        return (node.to_owned(), None);
    }
    let name = spec.hostname.as_deref().or(pod.metadata.name.as_deref()).unwrap_or_default();
    let name = name.get(..MAX_HOSTNAME).unwrap_or(name).trim_end_matches(['-', '.']);
    let full = spec.subdomain.as_deref().filter(|s| !s.is_empty()).map(|subdomain| {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        format!("{name}.{subdomain}.{namespace}.svc.{cluster_domain}")
    });
    match full {
        Some(full) if spec.set_hostname_as_fqdn == Some(true) => (full.clone(), Some(full)),
        full => (name.to_owned(), full),
    }
}

/// The hosts file of a pod with its own network.
pub fn hosts(ips: &[IpAddr], hostname: &str, full: Option<&str>, aliases: &[HostAlias]) -> String {
    let mut text = String::from(
        "# Written by the kubelet.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
    );
    for ip in ips {
        let names: Vec<_> = full.into_iter().filter(|f| *f != hostname).chain([hostname]).collect();
        text.push_str(&format!("{ip}\t{}\n", names.join("\t")));
    }
    text + &alias_lines(aliases)
}

/// The node's own hosts file with the pod's additions, for a pod on the node's network.
pub fn hosts_of_node(node: &str, aliases: &[HostAlias]) -> String {
    format!("# Written by the kubelet, from the node's own.\n{node}\n{}", alias_lines(aliases))
}

fn alias_lines(aliases: &[HostAlias]) -> String {
    let line = |a: &HostAlias| format!("{}\t{}\n", a.ip, a.hostnames.iter().flatten().cloned().collect::<Vec<_>>().join("\t"));
    let lines: String = aliases.iter().map(line).collect();
    if lines.is_empty() { lines } else { format!("\n# Entries added by HostAliases.\n{lines}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(spec: Value, hostname_expected: &str, full: Option<&str>) {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "web-0", "namespace": "shop"}, "spec": spec})).expect("pod");
        let found = hostname(&pod, "node1", "cluster.local");
        assert_eq!((found.0.as_str(), found.1.as_deref()), (hostname_expected, full), "{pod:?}");
    }

    #[test]
    fn hostnames() {
        check(json!({"containers": []}), "web-0", None);
        check(json!({"containers": [], "hostNetwork": true}), "node1", None);
        check(json!({"containers": [], "hostname": "h", "subdomain": "s"}), "h", Some("h.s.shop.svc.cluster.local"));
        let full = "web-0.s.shop.svc.cluster.local";
        check(json!({"containers": [], "subdomain": "s", "setHostnameAsFQDN": true}), full, Some(full));
        let long = format!("{}-tail", "x".repeat(62));
        check(json!({"containers": [], "hostname": long}), &"x".repeat(62), None);
    }

    #[test]
    fn the_hosts_file_names_the_pod_and_its_aliases() {
        let ip = ["10.1.0.5".parse().expect("ip")];
        let alias = HostAlias { ip: "1.2.3.4".into(), hostnames: Some(vec!["a".into(), "b".into()]) };
        let text = hosts(&ip, "h", Some("h.s.shop.svc.cluster.local"), &[alias]);
        assert!(text.contains("127.0.0.1\tlocalhost\n"), "{text}");
        assert!(text.contains("\n10.1.0.5\th.s.shop.svc.cluster.local\th\n"), "{text}");
        assert!(text.ends_with("# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"), "{text}");
        assert!(hosts_of_node("127.0.0.1 localhost", &[]).ends_with("127.0.0.1 localhost\n"));
    }
}
