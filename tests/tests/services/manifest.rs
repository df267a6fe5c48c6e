//! Services and slices as the lab writes them: a builder for the fields that behaviours vary.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

/// One service with its endpoints.
#[derive(Clone, Debug)]
pub struct Manifest {
    pub name: String,
    pub vip: IpAddr,
    labels: Map<String, Value>,
    spec: Map<String, Value>,
    ports: Vec<Value>,
    ingress: Vec<Value>,
    slices: Vec<Slice>,
}

#[derive(Clone, Debug)]
struct Slice {
    ports: Vec<Value>,
    endpoints: Vec<Endpoint>,
}

/// One endpoint and its conditions.
#[derive(Clone, Debug)]
pub struct Endpoint {
    pub addr: IpAddr,
    pub node: String,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
    pub zone_hint: Option<&'static str>,
    pub node_hint: Option<String>,
}

// === impl Endpoint ===

impl Endpoint {
    pub fn terminating(self) -> Self {
        Self { ready: false, serving: true, terminating: true, ..self }
    }

    pub fn not_ready(self) -> Self {
        Self { ready: false, serving: false, ..self }
    }

    pub fn hinted(self, zone: &'static str) -> Self {
        Self { zone_hint: Some(zone), ..self }
    }

    pub fn for_node(self, node: &str) -> Self {
        Self { node_hint: Some(node.to_owned()), ..self }
    }
}

// === impl Manifest ===

impl Manifest {
    /// A ClusterIP service without ports or endpoints.
    pub fn new(name: &str, vip: IpAddr) -> Self {
        let spec = json!({"type": "ClusterIP", "clusterIP": vip, "clusterIPs": [vip]});
        let Value::Object(spec) = spec else { unreachable!("an object") };
        let (labels, ports, ingress, slices) = Default::default();
        Self { name: name.to_owned(), vip, labels, spec, ports, ingress, slices }
    }

    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.labels.insert(name.to_owned(), json!(value));
        self
    }

    pub fn unlabelled(mut self) -> Self {
        self.labels.clear();
        self
    }

    /// Sets a field of the spec.
    pub fn set(mut self, field: &str, value: Value) -> Self {
        self.spec.insert(field.to_owned(), value);
        self
    }

    /// Removes a field of the spec.
    pub fn unset(mut self, field: &str) -> Self {
        self.spec.remove(field);
        self
    }

    /// A port that leads to `target` on every endpoint; its name is the protocol's and the number's.
    pub fn port(self, protocol: &str, number: u16, target: u16) -> Self {
        self.node_port(protocol, number, target, 0)
    }

    pub fn node_port(mut self, protocol: &str, number: u16, target: u16, node_port: u16) -> Self {
        let name = format!("{}-{number}", protocol.to_lowercase());
        let mut port = json!({"name": name, "protocol": protocol, "port": number, "targetPort": target});
        if node_port != 0 {
            port["nodePort"] = json!(node_port);
            if self.spec["type"] == "ClusterIP" {
                self.spec.insert("type".to_owned(), json!("NodePort"));
            }
        }
        self.ports.push(port);
        self
    }

    /// HTTP on port 80 of `thalweg echo`.
    pub fn http(self) -> Self {
        self.port("TCP", 80, 8080)
    }

    /// A load balancer's address.
    pub fn ingress(mut self, ip: IpAddr, mode: &str) -> Self {
        self.spec.insert("type".to_owned(), json!("LoadBalancer"));
        self.ingress.push(json!({"ip": ip, "ipMode": mode}));
        self
    }

    /// One slice with these endpoints, each on the service's target ports. Replaces the slices that were there.
    pub fn endpoints(mut self, endpoints: impl IntoIterator<Item = Endpoint>) -> Self {
        let target = |port: &Value| json!({"name": port["name"], "protocol": port["protocol"], "port": port["targetPort"]});
        self.slices =
            vec![Slice { ports: self.ports.iter().map(target).collect(), endpoints: endpoints.into_iter().collect() }];
        self
    }

    /// One more slice, in which the first port leads elsewhere.
    pub fn slice(mut self, target: u16, endpoints: impl IntoIterator<Item = Endpoint>) -> Self {
        let port = json!({"name": self.ports[0]["name"], "protocol": self.ports[0]["protocol"], "port": target});
        self.slices.push(Slice { ports: vec![port], endpoints: endpoints.into_iter().collect() });
        self
    }

    /// Documents for a source that reads files.
    pub fn text(&self) -> String {
        let mut spec = self.spec.clone();
        spec.insert("ports".to_owned(), Value::Array(self.ports.clone()));
        let mut documents = vec![json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": self.name, "namespace": "lab", "labels": self.labels},
            "spec": spec, "status": {"loadBalancer": {"ingress": self.ingress}},
        })];
        for (index, slice) in self.slices.iter().enumerate() {
            let endpoints: Vec<Value> = slice.endpoints.iter().map(endpoint).collect();
            documents.push(json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {
                    "name": format!("{}-{index}", self.name), "namespace": "lab",
                    "labels": {"kubernetes.io/service-name": self.name},
                },
                "addressType": if slice.endpoints.first().map_or(self.vip, |first| first.addr).is_ipv4() { "IPv4" } else { "IPv6" },
                "ports": slice.ports, "endpoints": endpoints,
            }));
        }
        documents.iter().map(|document| format!("---\n{document}\n")).collect()
    }
}

fn endpoint(endpoint: &Endpoint) -> Value {
    let mut value = json!({
        "addresses": [endpoint.addr], "nodeName": endpoint.node,
        "conditions": {"ready": endpoint.ready, "serving": endpoint.serving, "terminating": endpoint.terminating},
    });
    if let Some(zone) = endpoint.zone_hint {
        value["hints"]["forZones"] = json!([{"name": zone}]);
    }
    if let Some(node) = &endpoint.node_hint {
        value["hints"]["forNodes"] = json!([{"name": node}]);
    }
    value
}
