//! Allocation of cluster addresses and node ports to services.
//!
//! The allocator is a set in memory, loaded from the stored services at start. A request takes what it needs, writes
//! the object, and then either [`ServiceAllocator::commit`]s (what the old object no longer uses becomes free) or
//! [`ServiceAllocator::rollback`]es (what was taken becomes free). Addresses are handed out from the upper part of the
//! range, so that the lower part stays free for those who choose an address themselves, and one after the other, so
//! that an address rests for long before it is used again.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use serde_json::{Map, Value, json};

use super::{Cause, Path};

#[cfg(test)]
mod tests;

const TAKEN: &str = "provided port is already allocated";
/// More addresses than this are not searched one by one.
const MAX_ADDRESSES: u128 = 1 << 20;

/// What the services of a cluster hold.
#[derive(Debug)]
pub struct ServiceAllocator {
    network: IpNetwork,
    /// Usable offsets into the network: from 1 to here, inclusive.
    last: u128,
    /// Where the part for dynamic allocation begins.
    dynamic: u128,
    next: u128,
    addresses: HashSet<IpAddr>,
    ports: Ports,
}

#[derive(Debug)]
struct Ports {
    first: u16,
    last: u16,
    dynamic: u16,
    next: u16,
    taken: HashSet<u16>,
}

/// What one write took, and what it gives back once it is stored. Hand it to [`ServiceAllocator::commit`] or
/// [`ServiceAllocator::rollback`].
#[must_use = "commit it when the object is stored, roll it back when not"]
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Allocated {
    taken: Held,
    freed: Held,
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Held {
    addresses: Vec<IpAddr>,
    ports: Vec<u16>,
}

// === impl ServiceAllocator ===

impl ServiceAllocator {
    /// For services in `network`, with node ports from `node_ports.0` to `node_ports.1`, inclusive.
    pub fn new(network: IpNetwork, node_ports: (u16, u16)) -> Self {
        let size = match network {
            IpNetwork::V4(v4) => u128::from(v4.size()),
            IpNetwork::V6(v6) => v6.size(),
        }
        .min(MAX_ADDRESSES);
        // The network's own address and, for IPv4, the broadcast address are nobody's.
        let last = if network.is_ipv4() { size.saturating_sub(2) } else { size.saturating_sub(1) };
        // The first address is that of `kubernetes`.
        let dynamic = 1 + band(last, 16, 256, 16).max(1);
        let (first, last_port) = (node_ports.0, node_ports.1.max(node_ports.0));
        let count = u128::from(last_port - first) + 1;
        let offset = u16::try_from(band(count, 16, 128, 32)).unwrap_or(0);
        let ports = Ports { first, last: last_port, dynamic: first + offset, next: first + offset, taken: HashSet::new() };
        Self { network, last, dynamic, next: dynamic, addresses: HashSet::new(), ports }
    }

    /// Takes what the stored services hold. Returns, for the log, what two of them hold or what is out of range.
    pub fn load<'a>(&mut self, services: impl IntoIterator<Item = &'a Value>) -> Vec<String> {
        let mut conflicts = Vec::new();
        for service in services {
            let held = Held::of(service);
            let name = || format!("{}/{}", text(&service["metadata"]["namespace"]), text(&service["metadata"]["name"]));
            for address in held.addresses {
                match self.offset(address) {
                    None => conflicts.push(format!("service {}: {address} is not in {}", name(), self.network)),
                    Some(offset) => {
                        if !self.addresses.insert(address) {
                            conflicts.push(format!("service {}: {address} belongs to another service too", name()));
                        }
                        self.next = self.next.max(offset + 1);
                    }
                }
            }
            for port in held.ports {
                if !self.ports.taken.insert(port) {
                    conflicts.push(format!("service {}: node port {port} belongs to another service too", name()));
                }
                if self.ports.contains(port) {
                    self.ports.next = self.ports.next.max(port.saturating_add(1));
                }
            }
        }
        conflicts
    }

    /// The address of the first service, `kubernetes`.
    pub fn first_address(&self) -> IpAddr {
        self.address(1)
    }

    /// Gives a new service its addresses, families and node ports.
    pub fn allocate_for_create(&mut self, service: &mut Value) -> Result<Allocated, Cause> {
        self.allocate(None, service)
    }

    /// The same for a service that becomes another: what stays is kept, what is new is taken.
    pub fn for_update(&mut self, old: &Value, new: &mut Value) -> Result<Allocated, Cause> {
        carry_over(old, new);
        self.allocate(Some(old), new)
    }

    /// The write is stored.
    pub fn commit(&mut self, allocated: Allocated) {
        self.free(&allocated.freed);
    }

    /// The write is not stored.
    pub fn rollback(&mut self, allocated: Allocated) {
        self.free(&allocated.taken);
    }

    /// The service is deleted.
    pub fn release(&mut self, service: &Value) {
        self.free(&Held::of(service));
    }

    fn free(&mut self, held: &Held) {
        for address in &held.addresses {
            self.addresses.remove(address);
        }
        for port in &held.ports {
            self.ports.taken.remove(port);
        }
    }

    fn allocate(&mut self, old: Option<&Value>, service: &mut Value) -> Result<Allocated, Cause> {
        let before = old.map(Held::of).unwrap_or_default();
        let mut taken = Held::default();
        let done = self.families(service).and_then(|()| self.take_all(&before, service, &mut taken));
        if let Err(error) = done {
            self.free(&taken);
            return Err(error);
        }
        let after = Held::of(service);
        let freed = Held {
            addresses: before.addresses.into_iter().filter(|a| !after.addresses.contains(a)).collect(),
            ports: before.ports.into_iter().filter(|p| !after.ports.contains(p)).collect(),
        };
        Ok(Allocated { taken, freed })
    }

    /// The address family and the policy: this cluster has one family.
    fn families(&self, service: &mut Value) -> Result<(), Cause> {
        let at = Path::Root.field("spec");
        let Some(spec) = service.get_mut("spec").and_then(Value::as_object_mut) else { return Ok(()) };
        if text_of(spec, "type") == "ExternalName" {
            return Ok(());
        }
        let ours = if self.network.is_ipv4() { "IPv4" } else { "IPv6" };
        if text_of(spec, "ipFamilyPolicy") == "RequireDualStack" {
            let detail = "this cluster is not configured for dual-stack services";
            return Err(invalid(&at.field("ipFamilyPolicy"), "RequireDualStack", detail));
        }
        let families = spec.get("ipFamilies").and_then(Value::as_array).cloned().unwrap_or_default();
        if let Some(i) = families.iter().position(|family| family != ours) {
            let at = at.field("ipFamilies");
            return Err(invalid(&at.index(i), families[i].clone(), "not configured on this cluster"));
        }
        if families.is_empty() {
            spec.insert("ipFamilies".into(), json!([ours]));
        }
        if text_of(spec, "ipFamilyPolicy").is_empty() {
            spec.insert("ipFamilyPolicy".into(), "SingleStack".into());
        }
        Ok(())
    }

    fn take_all(&mut self, before: &Held, service: &mut Value, taken: &mut Held) -> Result<(), Cause> {
        let is_first = service["metadata"]["namespace"] == "default" && service["metadata"]["name"] == "kubernetes";
        let Some(spec) = service.get_mut("spec").and_then(Value::as_object_mut) else { return Ok(()) };
        if needs_address(spec) {
            self.take_address(before, spec, is_first, taken)?;
        }
        if needs_node_ports(spec) {
            self.take_ports(before, spec, taken)?;
        }
        Ok(())
    }

    fn take_address(
        &mut self,
        before: &Held,
        spec: &mut Map<String, Value>,
        is_first: bool,
        taken: &mut Held,
    ) -> Result<(), Cause> {
        let wanted = text_of(spec, "clusterIP").to_owned();
        if wanted == "None" {
            spec.insert("clusterIPs".into(), json!(["None"]));
            return Ok(());
        }
        let address = if wanted.is_empty() {
            let address = self.next_address().ok_or_else(|| full("serviceIP"))?;
            taken.addresses.push(address);
            self.addresses.insert(address);
            address
        } else {
            let refuse = |why: String| {
                let path = Path::Root.field("spec");
                invalid(&path.field("clusterIPs"), json!([wanted]), format!("failed to allocate IP {wanted}: {why}"))
            };
            let address: IpAddr = wanted.parse().map_err(|_| refuse("it is not an IP address".to_owned()))?;
            if !before.addresses.contains(&address) {
                let offset = self.offset(address).ok_or_else(|| {
                    let range = self.network;
                    refuse(format!("the provided IP ({address}) is not in the valid range. The range of valid IPs is {range}"))
                })?;
                if (offset == 1 && !is_first) || !self.addresses.insert(address) {
                    return Err(refuse("provided IP is already allocated".to_owned()));
                }
                taken.addresses.push(address);
            }
            address
        };
        spec.insert("clusterIP".into(), address.to_string().into());
        spec.insert("clusterIPs".into(), json!([address.to_string()]));
        Ok(())
    }

    fn take_ports(&mut self, before: &Held, spec: &mut Map<String, Value>, taken: &mut Held) -> Result<(), Cause> {
        let path = Path::Root.field("spec");
        let health = needs_health_port(spec);
        // Those that the client names come first, so that no other port of the service is given one of them.
        let ports = path.field("ports");
        let mut own: Vec<(i64, String, u16)> = Vec::new();
        for (i, port) in spec.get("ports").and_then(Value::as_array).into_iter().flatten().enumerate() {
            let wanted = port["nodePort"].as_i64().unwrap_or(0);
            if wanted != 0 {
                let number = self.take_port(wanted, before, taken, &ports.index(i).field("nodePort"))?;
                own.push((port["port"].as_i64().unwrap_or(0), text(&port["protocol"]).to_owned(), number));
            }
        }
        if health {
            let wanted = spec.get("healthCheckNodePort").and_then(Value::as_i64).unwrap_or(0);
            let number = match wanted {
                0 => self.next_port(taken)?,
                wanted => self.take_port(wanted, before, taken, &path.field("healthCheckNodePort"))?,
            };
            spec.insert("healthCheckNodePort".into(), number.into());
        }
        for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
            if port["nodePort"].as_i64().unwrap_or(0) != 0 {
                continue;
            }
            let (number, protocol) = (port["port"].as_i64().unwrap_or(0), text(&port["protocol"]).to_owned());
            // The same service port over TCP and UDP gets the same node port.
            let used = |node: u16| own.iter().any(|(_, p, n)| *n == node && *p == protocol);
            let shared = own.iter().find(|(p, _, node)| *p == number && !used(*node)).map(|(_, _, node)| *node);
            let node = match shared {
                Some(node) => node,
                None => self.next_port(taken)?,
            };
            own.push((number, protocol, node));
            if let Some(port) = port.as_object_mut() {
                port.insert("nodePort".into(), node.into());
            }
        }
        Ok(())
    }

    /// A port that the client names. One that this service holds already, or took for another protocol, is its own.
    fn take_port(&mut self, wanted: i64, before: &Held, taken: &mut Held, at: &Path<'_>) -> Result<u16, Cause> {
        let (first, last) = (self.ports.first, self.ports.last);
        let out_of_range = || {
            let detail = format!("provided port is not in the valid range. The range of valid ports is {first}-{last}");
            invalid(at, wanted, detail)
        };
        let port = u16::try_from(wanted).map_err(|_| out_of_range())?;
        if before.ports.contains(&port) || taken.ports.contains(&port) {
            return Ok(port);
        }
        if !self.ports.contains(port) {
            return Err(out_of_range());
        }
        if !self.ports.taken.insert(port) {
            return Err(invalid(at, wanted, TAKEN));
        }
        taken.ports.push(port);
        Ok(port)
    }

    fn next_port(&mut self, taken: &mut Held) -> Result<u16, Cause> {
        let ports = &mut self.ports;
        let upper = (ports.next.max(ports.dynamic)..=ports.last).chain(ports.dynamic..=ports.last);
        let free = upper.chain(ports.first..ports.dynamic).find(|port| !ports.taken.contains(port));
        let port = free.ok_or_else(|| full("nodePort"))?;
        ports.taken.insert(port);
        ports.next = port.saturating_add(1);
        taken.ports.push(port);
        Ok(port)
    }

    fn next_address(&mut self) -> Option<IpAddr> {
        let upper = (self.next..=self.last).chain(self.dynamic..=self.last);
        let offset =
            upper.chain(2..self.dynamic.min(self.last + 1)).find(|offset| !self.addresses.contains(&self.address(*offset)))?;
        self.next = offset + 1;
        Some(self.address(offset))
    }

    fn address(&self, offset: u128) -> IpAddr {
        match self.network.network() {
            IpAddr::V4(base) => {
                let offset = u32::try_from(offset).unwrap_or(u32::MAX);
                Ipv4Addr::from(u32::from(base).wrapping_add(offset)).into()
            }
            IpAddr::V6(base) => Ipv6Addr::from(u128::from(base).wrapping_add(offset)).into(),
        }
    }

    /// Where in the network a usable address is.
    fn offset(&self, address: IpAddr) -> Option<u128> {
        let offset = match (self.network.network(), address) {
            (IpAddr::V4(base), IpAddr::V4(address)) => u128::from(u32::from(address).checked_sub(u32::from(base))?),
            (IpAddr::V6(base), IpAddr::V6(address)) => u128::from(address).checked_sub(u128::from(base))?,
            _ => return None,
        };
        let reachable = self.network.is_ipv6() || offset <= self.last;
        (offset >= 1 && reachable && self.network.contains(address)).then_some(offset)
    }
}

/// How much of the range is left to those who choose for themselves.
fn band(size: u128, min: u128, max: u128, step: u128) -> u128 {
    if size <= min { 0 } else { (size / step).clamp(min, max) }
}

fn invalid(at: &Path<'_>, value: impl Into<Value>, detail: impl std::fmt::Display) -> Cause {
    Cause::invalid(at, value, detail)
}

/// Nothing is left to give.
fn full(what: &str) -> Cause {
    let field = if what == "nodePort" { "ports" } else { "clusterIPs" };
    Cause::internal(&Path::Root.field("spec").field(field), format!("failed to allocate a {what}: range is full"))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn text_of<'a>(spec: &'a Map<String, Value>, field: &str) -> &'a str {
    spec.get(field).map(text).unwrap_or_default()
}

fn needs_address(spec: &Map<String, Value>) -> bool {
    matches!(text_of(spec, "type"), "ClusterIP" | "NodePort" | "LoadBalancer")
}

fn needs_node_ports(spec: &Map<String, Value>) -> bool {
    match text_of(spec, "type") {
        "NodePort" => true,
        "LoadBalancer" => spec.get("allocateLoadBalancerNodePorts").is_none_or(|allocate| *allocate != false),
        _ => false,
    }
}

fn needs_health_port(spec: &Map<String, Value>) -> bool {
    text_of(spec, "type") == "LoadBalancer" && text_of(spec, "externalTrafficPolicy") == "Local"
}

// === impl Ports ===

impl Ports {
    fn contains(&self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

// === impl Held ===

impl Held {
    fn of(service: &Value) -> Self {
        let spec = &service["spec"];
        let list = |field: &str| spec[field].as_array().map(Vec::as_slice).unwrap_or_default();
        let mut addresses: Vec<IpAddr> =
            list("clusterIPs").iter().chain([&spec["clusterIP"]]).filter_map(|ip| text(ip).parse().ok()).collect();
        addresses.dedup();
        let numbers = list("ports").iter().map(|port| &port["nodePort"]).chain([&spec["healthCheckNodePort"]]);
        let mut ports: Vec<u16> = numbers.filter_map(|n| u16::try_from(n.as_u64()?).ok()).filter(|port| *port != 0).collect();
        ports.sort_unstable();
        ports.dedup();
        Self { addresses, ports }
    }
}

/// What an update leaves out and the service has been given before stays; what the new type does not have goes, unless
/// the client set it anew.
pub(crate) fn carry_over(old: &Value, new: &mut Value) {
    let Some(old) = old["spec"].as_object() else { return };
    let Some(new) = new.get_mut("spec").and_then(Value::as_object_mut) else { return };

    if needs_address(old) && needs_address(new) {
        if text_of(new, "clusterIP").is_empty() {
            copy(old, new, "clusterIP");
        }
        if new.get("clusterIPs").is_none() && new.get("clusterIP") == old.get("clusterIP") {
            copy(old, new, "clusterIPs");
        }
        for field in ["ipFamilies", "ipFamilyPolicy"] {
            if new.get(field).is_none() {
                copy(old, new, field);
            }
        }
    }
    if needs_address(old) && !needs_address(new) {
        drop_unchanged(old, new, &["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"]);
    }
    if needs_node_ports(old) && needs_node_ports(new) {
        keep_node_ports(old, new);
    }
    let given = |spec: &Map<String, Value>| -> Vec<Value> {
        let ports = spec.get("ports").and_then(Value::as_array);
        ports.into_iter().flatten().map(|port| port["nodePort"].clone()).filter(|port| !port.is_null()).collect()
    };
    if needs_node_ports(old) && !needs_node_ports(new) && given(new).iter().all(|port| given(old).contains(port)) {
        for port in new.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(port) = port.as_object_mut() {
                port.remove("nodePort");
            }
        }
    }
    match (needs_health_port(old), needs_health_port(new)) {
        (true, true) if new.get("healthCheckNodePort").is_none() => copy(old, new, "healthCheckNodePort"),
        (true, false) => drop_unchanged(old, new, &["healthCheckNodePort"]),
        _ => {}
    }
    if text_of(old, "type") == "LoadBalancer" && text_of(new, "type") != "LoadBalancer" {
        drop_unchanged(old, new, &["allocateLoadBalancerNodePorts", "loadBalancerClass"]);
    }
    let external_ips = new.get("externalIPs").and_then(Value::as_array).is_some_and(|ips| !ips.is_empty());
    if matches!(text_of(new, "type"), "ExternalName" | "ClusterIP") && !external_ips {
        drop_unchanged(old, new, &["externalTrafficPolicy"]);
    }
}

fn copy(old: &Map<String, Value>, new: &mut Map<String, Value>, field: &str) {
    if let Some(value) = old.get(field) {
        new.insert(field.to_owned(), value.clone());
    }
}

fn drop_unchanged(old: &Map<String, Value>, new: &mut Map<String, Value>, fields: &[&str]) {
    for field in fields {
        if new.get(*field) == old.get(*field) {
            new.remove(*field);
        }
    }
}

/// Ports without a node port keep the one that the same port had, unless another port of the service names it now.
fn keep_node_ports(old: &Map<String, Value>, new: &mut Map<String, Value>) {
    let old_ports = old.get("ports").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let Some(ports) = new.get_mut("ports").and_then(Value::as_array_mut) else { return };
    let key = |port: &Value| (text(&port["protocol"]).to_owned(), port["nodePort"].as_i64().unwrap_or(0));
    let named: Vec<_> = ports.iter().map(key).filter(|(_, node)| *node != 0).collect();
    for port in ports.iter_mut().filter(|port| port["nodePort"].as_i64().unwrap_or(0) == 0) {
        let before = old_ports.iter().find(|old| old["port"] == port["port"] && old["protocol"] == port["protocol"]);
        if let Some(before) = before
            && before["nodePort"].is_number()
            && !named.contains(&key(before))
            && let Some(port) = port.as_object_mut()
        {
            port.insert("nodePort".into(), before["nodePort"].clone());
        }
    }
}
