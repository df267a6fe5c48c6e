//! What a cluster has from the start: its first namespaces and the `kubernetes` service; and the one thing the server cleans up
//! itself, old events.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use ipnetwork::IpNetwork;
use serde_json::{Value, json};
use thalweg_store::{Op, Outcome, Range, Txn};

use crate::admit;
use crate::api::Api;
use crate::config::Config;
use crate::kinds::{self, Kind};
use crate::object;
use crate::prepare;
use crate::read::{key, prefix};

const NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];
/// Events are kept for an hour, as in Kubernetes.
const EVENT_AGE: Duration = Duration::from_secs(3600);
const EVENT_SWEEP: Duration = Duration::from_secs(300);

/// Brings the store to what every cluster has.
pub(crate) async fn run(api: &Api, config: &Config) -> Result<()> {
    load_services(api).await?;
    for name in NAMESPACES {
        ensure(api, "", "Namespace", "", json!({"metadata": {"name": name}}), false).await?;
    }
    let address = first_service_address(config.service_cidr)?;
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let service = json!({
        "metadata": {"name": "kubernetes", "labels": labels},
        "spec": {"clusterIP": address, "clusterIPs": [address], "type": "ClusterIP",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": config.advertise.port()}]},
    });
    ensure(api, "", "Service", "default", service, false).await?;
    let port = json!({"name": "https", "port": config.advertise.port(), "protocol": "TCP"});
    let endpoints = json!({
        "metadata": {"name": "kubernetes", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{"addresses": [{"ip": config.advertise.ip()}], "ports": [port]}],
    });
    ensure(api, "", "Endpoints", "default", endpoints, true).await?;
    let slice = json!({
        "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": if config.advertise.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{"addresses": [config.advertise.ip()], "conditions": {"ready": true}}],
        "ports": [port],
    });
    ensure(api, "discovery.k8s.io", "EndpointSlice", "default", slice, true).await
}

/// The address of the `kubernetes` service.
pub(crate) fn first_service_address(cidr: IpNetwork) -> Result<IpAddr> {
    match cidr.iter().nth(1) {
        Some(address) => Ok(address),
        None => bail!("the service CIDR {cidr} is too small: it needs at least two addresses"),
    }
}

/// Every few minutes, until shutdown: removes events that are older than an hour.
pub(crate) async fn expire_events(api: Arc<Api>) {
    let mut sweep = tokio::time::interval(EVENT_SWEEP);
    loop {
        tokio::select! {
            _ = sweep.tick() => {}
            () = api.shutdown.cancelled() => return,
        }
        if let Err(error) = sweep_events(&api).await {
            tracing::warn!(%error, "removing old events failed");
        }
    }
}

async fn sweep_events(api: &Api) -> Result<()> {
    let kind = kind("", "Event")?;
    let oldest = object::timestamp(jiff::Timestamp::now() - EVENT_AGE);
    let page = api.store.range(Range { prefix: prefix(kind, ""), ..Range::default() }).await?;
    for item in page.items {
        let event: Value = serde_json::from_slice(&item.value)?;
        let newest =
            [event["lastTimestamp"].as_str(), event["series"]["lastObservedTime"].as_str(), event["eventTime"].as_str()]
                .into_iter()
                .flatten()
                .chain([object::meta(&event, "creationTimestamp")])
                .max()
                .unwrap_or_default();
        // Both are RFC 3339 in UTC, which sorts as text.
        if newest < oldest.as_str() {
            api.store.txn(Txn::delete(item.key, item.mod_revision)).await?;
        }
    }
    Ok(())
}

/// Tells the allocators which addresses and ports are taken.
async fn load_services(api: &Api) -> Result<()> {
    let page = api.store.range(Range { prefix: prefix(kind("", "Service")?, ""), ..Range::default() }).await?;
    let services = page.items.iter().map(object::decode_item).collect::<Result<Vec<_>, _>>()?;
    for conflict in api.services.lock().unwrap_or_else(PoisonError::into_inner).load(&services) {
        tracing::warn!(conflict, "two services hold the same address or port");
    }
    Ok(())
}

fn kind(group: &str, name: &str) -> Result<&'static Kind> {
    kinds::by_kind(group, "v1", name).with_context(|| format!("{name} is not served"))
}

/// Makes an object that is not there; brings one that differs to its wanted content when `follow`.
async fn ensure(api: &Api, group: &str, kind_name: &str, namespace: &str, mut object: Value, follow: bool) -> Result<()> {
    let kind = kind(group, kind_name)?;
    object["kind"] = json!(kind.kind);
    object["apiVersion"] = json!(kind.api_version());
    prepare::for_create(kind, &mut object, namespace)?;
    admit::default(kind, &mut object);
    let key = key(kind, namespace, object::name(&object));
    let Some(item) = api.store.get(&key, None).await?.item else {
        let reservation = api.reserve_new(kind, &mut object)?;
        if let Outcome::Committed(_) = api.store.txn(Txn::create(key, object::encode(kind, &object)?)).await? {
            reservation.keep();
        }
        return Ok(());
    };
    let old = object::decode_item(&item)?;
    prepare::for_update(kind, &mut object, &old, prepare::Part::Main);
    let value = object::encode(kind, &object)?;
    if follow && value != item.value {
        api.store.txn(Txn { compares: Vec::new(), ops: vec![Op::Put { key, value }] }).await?;
    }
    Ok(())
}
