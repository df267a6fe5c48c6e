//! `kubernetes [ZONES…] { … }`: which zones the cluster's names are served in.

use super::Result;
use super::model::{Fallthrough, Key, Kubernetes, Pods};
use super::tree::Directive;
use super::values::{number, zones};
use crate::name::{self, REVERSE_V4, REVERSE_V6};

/// As CoreDNS, seconds.
const TTL: u32 = 5;
const MAX_TTL: u32 = 3600;

pub fn read(directive: &Directive, keys: &[Key]) -> Result<Kubernetes> {
    let named = match directive.arguments.as_slice() {
        [] => keys.iter().map(|key| key.zone.clone()).collect(),
        named => zones(directive, named)?,
    };
    let is_reverse = |zone: &[u8]| name::is_within(zone, REVERSE_V4) || name::is_within(zone, REVERSE_V6);
    let (reverse, forward): (Vec<_>, Vec<_>) = named.into_iter().partition(|zone| is_reverse(zone));
    if forward.iter().any(|zone| **zone == [0]) {
        return Err(directive.error("the root cannot be the cluster's zone", "name the zone, such as cluster.local"));
    }
    if forward.is_empty() && reverse.is_empty() {
        return Err(directive.error("no zone", "name the zone, such as cluster.local"));
    }
    let mut kubernetes = Kubernetes {
        zones: forward,
        reverse,
        pods: Pods::default(),
        ttl: TTL,
        fallthrough: Fallthrough::default(),
        namespaces: Vec::new(),
        endpoint_pod_names: false,
        ignore_empty_service: false,
    };
    for option in &directive.body {
        match option.name.as_str() {
            "pods" => {
                option.arguments_between(1, 1, "pods disabled|insecure|verified")?;
                kubernetes.pods = match option.arguments[0].as_str() {
                    "disabled" => Pods::Disabled,
                    "insecure" => Pods::Insecure,
                    "verified" => Pods::Verified,
                    other => {
                        return Err(option.error(format_args!("`{other}` is no mode"), "write disabled, insecure or verified"));
                    }
                };
            }
            "ttl" => {
                option.arguments_between(1, 1, "ttl SECONDS")?;
                kubernetes.ttl = number(option, &option.arguments[0], 0, MAX_TTL)?;
            }
            "fallthrough" => kubernetes.fallthrough = fallthrough(option)?,
            // The watch is the agent's; whether it serves before the first sync is not asked: it says SERVFAIL.
            "endpoint" | "tls" | "kubeconfig" => {
                return Err(option.error("the cluster is not chosen here", "remove it and give --kubeconfig to the process"));
            }
            "startup_timeout" | "apiserver_qps" | "apiserver_burst" | "apiserver_max_inflight" => {
                option.arguments_between(1, 1, &format!("{} VALUE", option.name))?;
            }
            "resyncperiod" | "upstream" => {
                return Err(option.error("it went with CoreDNS 1.7", "remove it"));
            }
            "namespaces" => {
                option.arguments_between(1, usize::MAX, "namespaces NAMES…")?;
                kubernetes.namespaces.extend(option.arguments.iter().cloned());
            }
            "endpoint_pod_names" => {
                option.bare()?;
                kubernetes.endpoint_pod_names = true;
            }
            "ignore" => {
                option.arguments_between(1, 1, "ignore empty_service")?;
                if option.arguments[0] != "empty_service" {
                    return Err(option
                        .error(format_args!("`{}` cannot be ignored", option.arguments[0]), "write `ignore empty_service`"));
                }
                kubernetes.ignore_empty_service = true;
            }
            "labels" | "namespace_labels" => {
                return Err(option.error("services are not chosen by labels", "remove it, or name `namespaces`"));
            }
            "noendpoints" | "multicluster" => {
                return Err(option.error("not supported", "remove it"));
            }
            _ => return Err(option.error("no option of kubernetes", "check its spelling, or remove it")),
        }
    }
    Ok(kubernetes)
}

/// `fallthrough [ZONES…]`
pub fn fallthrough(option: &Directive) -> Result<Fallthrough> {
    option.no_body()?;
    Ok(match option.arguments.as_slice() {
        [] => Fallthrough::Always,
        named => Fallthrough::Zones(zones(option, named)?),
    })
}
