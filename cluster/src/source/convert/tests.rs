//! Every field that is converted, its defaults, and what is refused. Objects are written as manifests, which is
//! how both sources' objects look once parsed.

use super::*;
use crate::model::{Condition, EndpointSlice, Service};
use crate::source::manifest::Manifest;

/// Parses one manifest and renders what became of it.
fn check(text: &str, expected: &str) {
    let manifest = Manifest::parse(text).expect("well-formed YAML");
    let mut lines: Vec<String> = Vec::new();
    for (key, object) in &manifest.objects {
        lines.push(object.clone().map_or_else(|| format!("nothing: {key}"), |object| render(&object.change())));
    }
    lines.extend(manifest.refused.iter().map(|(_, error)| format!("refused: {error}")));
    assert_eq!(lines.join("\n"), expected, "for:\n{text}");
}

fn render(change: &Change) -> String {
    match change {
        Change::Service(_, Some(service)) => render_service(service),
        Change::EndpointSlice(_, Some(slice)) => render_slice(slice),
        Change::Node(_, Some(node)) => format!(
            "node {} at {:?} cidrs {:?} zone {} deleting {} taints {:?}",
            node.name,
            node.addresses,
            node.pod_cidrs.iter().map(ToString::to_string).collect::<Vec<_>>(),
            node.zone.as_deref().unwrap_or("-"),
            node.deleting,
            node.taints
        ),
        Change::Pod(_, Some(pod)) => format!(
            "pod {} {} on {} at {:?} host {} runtime {} notes {:?}",
            pod.name,
            pod.uid,
            pod.node,
            pod.addresses,
            pod.host_network,
            pod.runtime_class.as_deref().unwrap_or("-"),
            pod.annotations
        ),
        Change::ServiceCidr(_, Some(range)) => format!(
            "service range {} {:?} ready {}",
            range.name,
            range.cidrs.iter().map(ToString::to_string).collect::<Vec<_>>(),
            range.ready
        ),
        other => format!("{other:?}"),
    }
}

fn render_service(service: &Service) -> String {
    let mut text = format!("service {} {:?} {:?}", service.name, service.service_type, service.cluster_ips);
    for port in &service.ports {
        text += &format!(" {}:{}/{:?}/{}", port.name, port.port, port.protocol, port.node_port);
    }
    for (flag, word) in [
        (service.headless, "headless"),
        (service.internal_policy == TrafficPolicy::Local, "internal-local"),
        (service.external_policy == TrafficPolicy::Local, "external-local"),
        (service.publish_not_ready, "publish-not-ready"),
    ] {
        if flag {
            text += &format!(" {word}");
        }
    }
    for (list, word) in [
        (service.external_ips().iter().map(ToString::to_string).collect::<Vec<_>>(), "external"),
        (
            service
                .load_balancer()
                .iter()
                .map(|lb| format!("{}{}", lb.ip, if lb.proxied { "(proxied)" } else { "" }))
                .collect(),
            "lb",
        ),
        (service.source_ranges().iter().map(ToString::to_string).collect(), "from"),
        (service.affinity_seconds.iter().map(ToString::to_string).collect(), "affinity"),
        (service.external_name.iter().map(ToString::to_string).collect(), "name"),
        (service.proxy_name.iter().map(ToString::to_string).collect(), "proxy"),
    ] {
        if !list.is_empty() {
            text += &format!(" {word} {}", list.join(","));
        }
    }
    if service.health_check_node_port != 0 {
        text += &format!(" health {}", service.health_check_node_port);
    }
    text
}

fn render_slice(slice: &EndpointSlice) -> String {
    let mut text = format!("slice {} of {} {:?}", slice.name, slice.service, slice.family);
    for port in &slice.ports {
        text += &format!(" {}:{}/{:?}", port.name, port.port, port.protocol);
    }
    for endpoint in &slice.endpoints {
        text += &format!(" [{}", endpoint.address);
        let Condition { ready, serving, terminating } = endpoint.condition;
        for (flag, word) in [(ready, "ready"), (serving, "serving"), (terminating, "terminating")] {
            if flag {
                text += &format!(" {word}");
            }
        }
        for (field, word) in [(endpoint.node.as_deref(), "on"), (endpoint.hostname.as_deref(), "host")] {
            if let Some(field) = field {
                text += &format!(" {word} {field}");
            }
        }
        for (hints, word) in [(endpoint.hint_zones(), "zones"), (endpoint.hint_nodes(), "nodes")] {
            if !hints.is_empty() {
                text += &format!(" {word} {hints:?}");
            }
        }
        if let Some(pod) = &endpoint.pod {
            text += &format!(" pod {pod}");
        }
        text += "]";
    }
    if let Some(time) = slice.last_change {
        text += &format!(" caused {:?}", time.duration_since(std::time::UNIX_EPOCH).expect("after the epoch"));
    }
    text
}

fn check_service(spec: &str, expected: &str) {
    check(&format!("{{apiVersion: v1, kind: Service, metadata: {{name: web}}, {spec}}}"), expected);
}

fn check_slice(rest: &str, expected: &str) {
    let label = "labels: {kubernetes.io/service-name: web}";
    check(
        &format!(
            "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: web-1, namespace: shop, {label}}}, {rest}}}"
        ),
        expected,
    );
}

#[test]
fn service_ports_and_addresses() {
    check_service("spec: {clusterIP: 10.96.0.7, ports: [{port: 80}]}", "service default/web ClusterIp [10.96.0.7] :80/Tcp/0");
    check_service(
        "spec: {type: NodePort, clusterIPs: [10.96.0.7, 'fd00::7'], clusterIP: 10.96.0.7,
          ports: [{name: dns, port: 53, protocol: UDP, nodePort: 30053}, {name: sctp, port: 9, protocol: SCTP}]}",
        "service default/web NodePort [10.96.0.7, fd00::7] dns:53/Udp/30053 sctp:9/Sctp/0",
    );
    check_service("spec: {clusterIP: None}", "service default/web ClusterIp [] headless");
    check_service("spec: {clusterIPs: [None], clusterIP: None}", "service default/web ClusterIp [] headless");
    check_service("spec: {clusterIP: ''}", "service default/web ClusterIp []");
    check_service(
        "spec: {type: ExternalName, externalName: example.org}",
        "service default/web ExternalName [] name example.org",
    );
    check_service(
        "spec: {type: LoadBalancer, externalIPs: [192.0.2.1], loadBalancerSourceRanges: [' 10.0.0.0/8'], healthCheckNodePort: 31000},
         status: {loadBalancer: {ingress: [{ip: 192.0.2.9}, {ip: 192.0.2.8, ipMode: Proxy}, {hostname: lb.example.org}]}}",
        "service default/web LoadBalancer [] external 192.0.2.1 lb 192.0.2.9,192.0.2.8(proxied) from 10.0.0.0/8 health 31000",
    );
}

/// What the API's older, laxer validation let into objects that still exist.
#[test]
fn addresses_as_the_api_has_let_them_pass() {
    check_service(
        "spec: {clusterIP: 010.096.0.7, externalIPs: ['::ffff:192.0.2.1'], loadBalancerSourceRanges: ['010.0.0.0/8 ']}",
        "service default/web ClusterIp [10.96.0.7] external 192.0.2.1 from 10.0.0.0/8",
    );
    check_service(
        "spec: {loadBalancerSourceRanges: [10.0.0.1]}",
        "refused: Service default/web: spec.loadBalancerSourceRanges[0]: \"10.0.0.1\" is not a CIDR, as in 10.96.0.0/12",
    );
}

#[test]
fn service_policies() {
    check_service("spec: {sessionAffinity: ClientIP}", "service default/web ClusterIp [] affinity 10800");
    check_service(
        "spec: {sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 30}}}",
        "service default/web ClusterIp [] affinity 30",
    );
    check_service("spec: {sessionAffinity: None}", "service default/web ClusterIp []");
    check_service("spec: {internalTrafficPolicy: Local}", "service default/web ClusterIp [] internal-local");
    check_service("spec: {externalTrafficPolicy: Local}", "service default/web ClusterIp [] external-local");
    check_service(
        "spec: {publishNotReadyAddresses: true, trafficDistribution: PreferClose}",
        "service default/web ClusterIp [] publish-not-ready",
    );
    check(
        "{apiVersion: v1, kind: Service, metadata: {name: web, labels: {service.kubernetes.io/service-proxy-name: other}}, spec: {}}",
        "service default/web ClusterIp [] proxy other",
    );
    check(
        "{apiVersion: v1, kind: Service, metadata: {name: web, labels: {service.kubernetes.io/headless: ''}}, spec: {clusterIP: 10.96.0.7}}",
        "service default/web ClusterIp [10.96.0.7] proxy service.kubernetes.io/headless",
    );
}

#[test]
fn services_that_make_no_sense() {
    check_service("status: {}", "refused: Service default/web: spec: is missing");
    check_service("spec: {type: Magic}", "refused: Service default/web: spec.type: \"Magic\" is no type of service");
    check_service(
        "spec: {ports: [{port: 0}]}",
        "refused: Service default/web: spec.ports[0].port: 0 is not a port (1 to 65535)",
    );
    check_service(
        "spec: {ports: [{port: 1}, {port: 2, nodePort: 70000}]}",
        "refused: Service default/web: spec.ports[1].nodePort: 70000 is not a port (1 to 65535)",
    );
    check_service(
        "spec: {ports: [{port: 1, protocol: tcp}]}",
        "refused: Service default/web: spec.ports[0].protocol: \"tcp\" is none of TCP, UDP, SCTP",
    );
    check_service(
        "spec: {clusterIPs: [10.96.0.300]}",
        "refused: Service default/web: spec.clusterIPs[0]: \"10.96.0.300\" is not an IP address",
    );
    check_service(
        "spec: {externalTrafficPolicy: Nearby}",
        "refused: Service default/web: spec.externalTrafficPolicy: \"Nearby\" is neither Cluster nor Local",
    );
    check_service(
        "spec: {sessionAffinity: Cookie}",
        "refused: Service default/web: spec.sessionAffinity: \"Cookie\" is neither ClientIP nor None",
    );
    check_service(
        "spec: {sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: -1}}}",
        "refused: Service default/web: spec.sessionAffinityConfig.clientIP.timeoutSeconds: -1 is not a time-out",
    );
    check("{apiVersion: v1, kind: Service, metadata: {}, spec: {}}", "refused: Service (unnamed): metadata.name: is missing");
    check(
        "{apiVersion: v2, kind: Service, metadata: {name: web}, spec: {}}",
        "refused: Service default/web: apiVersion: \"v2\" is not \"v1\"",
    );
    check("{apiVersion: serving.knative.dev/v1, kind: Service, metadata: {name: web}, spec: {}}", "");
}

#[test]
fn slices() {
    check_slice("addressType: IPv4", "slice shop/web-1 of shop/web V4");
    check_slice(
        "addressType: IPv4, ports: [{name: http, port: 8080}, {port: 53, protocol: UDP}, {name: all}],
         endpoints: [{addresses: [10.244.0.5], nodeName: n1, zone: z1, hostname: web-0,
           targetRef: {kind: Pod, name: web-0, namespace: shop}, hints: {forZones: [{name: z1}], forNodes: [{name: n1}]}}]",
        "slice shop/web-1 of shop/web V4 http:8080/Tcp :53/Udp \
         [10.244.0.5 ready serving on n1 host web-0 zones [\"z1\"] nodes [\"n1\"] pod web-0]",
    );
    check_slice(
        "addressType: IPv6, endpoints: [{addresses: ['fd00::5'], conditions: {ready: false}},
           {addresses: ['fd00::6'], conditions: {ready: false, serving: true, terminating: true}}]",
        "slice shop/web-1 of shop/web V6 [fd00::5 serving] [fd00::6 serving terminating]",
    );
    check_slice("addressType: FQDN, endpoints: [{addresses: [example.org]}]", "nothing: EndpointSlice shop/web-1");
    check(
        "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: loose}, addressType: IPv4}",
        "nothing: EndpointSlice default/loose",
    );
    for (time, wanted) in [("'2026-11-20T13:21:09.5Z'", " caused 1795180869.5s"), ("yesterday", "")] {
        check(
            &format!(
                "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, metadata: {{name: web-1,
                   labels: {{kubernetes.io/service-name: web}},
                   annotations: {{endpoints.kubernetes.io/last-change-trigger-time: {time}}}}}}}"
            ),
            &format!("slice default/web-1 of default/web V4{wanted}"),
        );
    }
}

#[test]
fn slices_that_make_no_sense() {
    check_slice("addressType: IPX", "refused: EndpointSlice shop/web-1: addressType: \"IPX\" is none of IPv4, IPv6, FQDN");
    check_slice(
        "addressType: IPv4, endpoints: [{addresses: []}]",
        "refused: EndpointSlice shop/web-1: endpoints[0].addresses: holds no address",
    );
    check_slice(
        "addressType: IPv4, endpoints: [{addresses: ['fd00::5']}]",
        "refused: EndpointSlice shop/web-1: endpoints[0].addresses: fd00::5 is not of the slice's addressType",
    );
    check_slice(
        "addressType: IPv4, ports: [{port: 65536}]",
        "refused: EndpointSlice shop/web-1: ports[0].port: 65536 is not a port (1 to 65535)",
    );
}

#[test]
fn nodes() {
    check(
        "{apiVersion: v1, kind: Node, metadata: {name: n1, labels: {topology.kubernetes.io/zone: z1}, deletionTimestamp: '2026-01-01T00:00:00Z'},
          spec: {podCIDR: 10.244.1.0/24, podCIDRs: [10.244.1.0/24, 'fd00:1::/64'], taints: [{key: down, effect: NoExecute}]},
          status: {addresses: [{type: Hostname, address: n1}, {type: InternalIP, address: 172.30.0.11}]}}",
        "node n1 at [172.30.0.11] cidrs [\"10.244.1.0/24\", \"fd00:1::/64\"] zone z1 deleting true taints [\"down:NoExecute\"]",
    );
    check(
        "{apiVersion: v1, kind: Node, metadata: {name: n2}, spec: {podCIDR: 10.244.2.0/24}}",
        "node n2 at [] cidrs [\"10.244.2.0/24\"] zone - deleting false taints []",
    );
    check(
        "{apiVersion: v1, kind: Node, metadata: {name: n3}, spec: {podCIDRs: [10.244.2.0]}, status: {addresses: [{type: InternalIP, address: n3}]}}",
        "refused: Node n3: status.addresses[0].address: \"n3\" is not an IP address",
    );
}

#[test]
fn pods() {
    check(
        "{apiVersion: v1, kind: Pod, metadata: {name: web-0, namespace: shop, uid: u1, annotations: {a: b}},
          spec: {nodeName: n1, hostNetwork: true, containers: []}, status: {phase: Running, podIP: 10.244.0.5, podIPs: [{ip: 10.244.0.5}]}}",
        "pod shop/web-0 u1 on n1 at [10.244.0.5] host true runtime - notes {\"a\": \"b\"}",
    );
    check(
        "{apiVersion: v1, kind: Pod, metadata: {name: boxed, uid: u2, annotations: {kubectl.kubernetes.io/last-applied-configuration: '{}', c: d}},
          spec: {nodeName: n1, runtimeClassName: gvisor, containers: []}, status: {podIPs: [{ip: 10.244.0.6}, {ip: 'fd00::6'}]}}",
        "pod default/boxed u2 on n1 at [10.244.0.6, fd00::6] host false runtime gvisor notes {\"c\": \"d\"}",
    );
    check("{apiVersion: v1, kind: Pod, metadata: {name: waiting}, spec: {containers: []}}", "nothing: Pod default/waiting");
    check(
        "{apiVersion: v1, kind: Pod, metadata: {name: done}, spec: {nodeName: n1, containers: []}, status: {phase: Succeeded}}",
        "nothing: Pod default/done",
    );
}

#[test]
fn service_ranges() {
    let range =
        |rest: &str| format!("{{apiVersion: networking.k8s.io/v1, kind: ServiceCIDR, metadata: {{name: kubernetes}}, {rest}}}");
    let sound = "spec: {cidrs: [10.96.0.0/12, 'fd00:96::/112']}";
    let known = "service range kubernetes [\"10.96.0.0/12\", \"fd00:96::/112\"]";
    let condition = |status: &str| {
        format!(
            "{sound}, status: {{conditions: [{{type: Ready, status: '{status}', reason: R, message: '', lastTransitionTime: '2026-01-01T00:00:00Z'}}]}}"
        )
    };
    check(&range(sound), &format!("{known} ready true"));
    check(&range(&condition("True")), &format!("{known} ready true"));
    check(&range(&condition("False")), &format!("{known} ready false"));
    check(&range("spec: {cidrs: []}"), "refused: ServiceCIDR kubernetes: spec.cidrs: holds no CIDR");
    check(
        &range("spec: {cidrs: [10.96.0.0/40]}"),
        "refused: ServiceCIDR kubernetes: spec.cidrs[0]: \"10.96.0.0/40\" is not a CIDR, as in 10.96.0.0/12",
    );
}

#[test]
fn several_objects_in_one_file() {
    check(
        "---\n# empty\n---\n{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}}\n---\n\
         {apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: Node, metadata: {name: n1}}]}\n---\n\
         {apiVersion: v1, kind: NodeList, items: [{metadata: {name: n2}}, {metadata: {}}]}\n---\n{no: kind}\n",
        "node n1 at [] cidrs [] zone - deleting false taints []\n\
         node n2 at [] cidrs [] zone - deleting false taints []\n\
         refused: Node (unnamed): metadata.name: is missing\n\
         refused: object (unnamed): kind: is missing: not a Kubernetes object",
    );
}

#[test]
fn a_field_of_the_wrong_type_names_the_object() {
    let manifest =
        Manifest::parse("{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {ports: [{port: many}]}}").expect("YAML");
    let [(Some(Key::Service(name)), error)] = &manifest.refused[..] else { panic!("{manifest:?}") };
    assert_eq!(name.to_string(), "default/web");
    assert_eq!(error.to_string(), "Service default/web: spec.ports[0].port: invalid type: string \"many\", expected i32");
}

#[test]
fn fields_that_are_not_known_are_all_named_and_the_object_is_not_used() {
    let manifest = Manifest::parse(
        "{apiVersion: v1, kind: Service, metadata: {name: web, lables: {}}, kindness: none,
          spec: {clusterIP: 10.96.0.7, selector: {any: thing}, ports: [{port: 80}, {port: 81, nodePrt: 30081}], type: null}}",
    )
    .expect("YAML");
    let unknown: Vec<String> = manifest.refused.iter().map(|(_, error)| error.to_string()).collect();
    assert_eq!(
        unknown,
        [
            "Service default/web: kindness: is no field that is known",
            "Service default/web: metadata.lables: is no field that is known",
            "Service default/web: spec.ports[1].nodePrt: is no field that is known",
        ]
    );
    assert!(manifest.refused.iter().all(|(key, _)| key.is_some()), "{manifest:?}");
    assert!(manifest.objects.is_empty(), "{manifest:?}");
}

#[test]
fn text_that_is_not_yaml_is_refused_as_a_whole() {
    for text in ["a: [1, 2", "{apiVersion: v1, kind: Node, metadata: {name: n1}}\n---\n\tx: 1"] {
        let reason = Manifest::parse(text).expect_err(text);
        assert!(reason.starts_with("document "), "{reason}");
    }
}
