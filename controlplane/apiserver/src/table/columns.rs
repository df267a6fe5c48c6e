//! The columns of each kind, in kubectl's order.

use super::{Column, count, endpoints, events, items, nodes, pods, services, text, workloads};

pub(crate) const GENERIC: &[Column] = &[Column::name(), Column::age()];

pub(crate) const CONFIG_MAP: &[Column] = &[
    Column::name(),
    Column::text("Data", "How many keys it holds.", |o, _| (count(&o["data"]) + count(&o["binaryData"])).into()),
    Column::age(),
];

pub(crate) const SECRET: &[Column] = &[
    Column::name(),
    Column::text("Type", "What the data is for.", |o, _| o["type"].clone()),
    Column::text("Data", "How many keys it holds.", |o, _| count(&o["data"]).into()),
    Column::age(),
];

pub(crate) const SERVICE_ACCOUNT: &[Column] = &[
    Column::name(),
    Column::text("Secrets", "How many secrets its pods may use.", |o, _| items(&o["secrets"]).len().into()),
    Column::age(),
];

pub(crate) const NAMESPACE: &[Column] = &[
    Column::name(),
    Column::text("Status", "Active or Terminating.", |o, _| text(&o["status"]["phase"]).into()),
    Column::age(),
];

pub(crate) const LEASE: &[Column] = &[
    Column::name(),
    Column::text("Holder", "Who holds the lease.", |o, _| text(&o["spec"]["holderIdentity"]).into()),
    Column::age(),
];

pub(crate) const NODE: &[Column] = &[
    Column::name(),
    Column::text("Status", "Whether the node is ready and takes new pods.", nodes::status),
    Column::text("Roles", "From the node-role.kubernetes.io labels.", nodes::roles),
    Column::age(),
    Column::text("Version", "The kubelet's version.", |o, _| text(&o["status"]["nodeInfo"]["kubeletVersion"]).into()),
    Column::text("Internal-IP", "Address inside the cluster.", |o, _| nodes::address(o, "InternalIP")).wide(),
    Column::text("External-IP", "Address outside the cluster.", |o, _| nodes::address(o, "ExternalIP")).wide(),
    Column::text("OS-Image", "The operating system.", |o, _| nodes::info(o, "osImage")).wide(),
    Column::text("Kernel-Version", "The kernel's release.", |o, _| nodes::info(o, "kernelVersion")).wide(),
    Column::text("Container-Runtime", "The container runtime and its version.", |o, _| {
        nodes::info(o, "containerRuntimeVersion")
    })
    .wide(),
];

pub(crate) const POD: &[Column] = &[
    Column::name(),
    Column::text("Ready", "Containers that pass their readiness checks, of all.", |o, _| pods::Summary::of(o).ready.into()),
    Column::text("Status", "The phase, or what the containers are doing.", |o, _| pods::Summary::of(o).status.into()),
    Column::text("Restarts", "How often containers restarted, and when last.", |o, now| {
        pods::Summary::of(o).restarts(now).into()
    }),
    Column::age(),
    Column::text("IP", "The pod's address.", |o, _| pods::ip(o)).wide(),
    Column::text("Node", "The node that runs the pod.", |o, _| super::or(text(&o["spec"]["nodeName"]), "<none>").into()).wide(),
    Column::text("Nominated Node", "Where preemption makes room for the pod.", |o, _| {
        super::or(text(&o["status"]["nominatedNodeName"]), "<none>").into()
    })
    .wide(),
    Column::text("Readiness Gates", "Readiness gates that are met, of all.", |o, _| pods::readiness_gates(o)).wide(),
];

pub(crate) const SERVICE: &[Column] = &[
    Column::name(),
    Column::text("Type", "How the service is exposed.", |o, _| text(&o["spec"]["type"]).into()),
    Column::text("Cluster-IP", "The virtual address.", services::cluster_ip),
    Column::text("External-IP", "Addresses reachable from outside.", services::external_ip),
    Column::text("Port(s)", "port[:nodePort]/protocol", services::ports),
    Column::age(),
    Column::text("Selector", "Labels of the pods behind it.", |o, _| super::labels(&o["spec"]["selector"]).into()).wide(),
];

pub(crate) const ENDPOINTS: &[Column] =
    &[Column::name(), Column::text("Endpoints", "The first addresses and ports.", endpoints::endpoints), Column::age()];

pub(crate) const ENDPOINT_SLICE: &[Column] = &[
    Column::name(),
    Column::text("AddressType", "IPv4, IPv6 or FQDN.", |o, _| text(&o["addressType"]).into()),
    Column::text("Ports", "The first ports.", endpoints::slice_ports),
    Column::text("Endpoints", "The first addresses.", endpoints::slice_endpoints),
    Column::age(),
];

pub(crate) const DEPLOYMENT: &[Column] = &[
    Column::name(),
    Column::text("Ready", "Ready pods, of the wanted ones.", workloads::deployment_ready),
    Column::text("Up-to-date", "Pods of the current template.", |o, _| workloads::number(&o["status"]["updatedReplicas"])),
    Column::text("Available", "Pods ready for minReadySeconds.", |o, _| workloads::number(&o["status"]["availableReplicas"])),
    Column::age(),
    Column::text("Containers", "Names of the template's containers.", workloads::containers).wide(),
    Column::text("Images", "Images of the template's containers.", workloads::images).wide(),
    Column::text("Selector", "Labels of its pods.", workloads::selector).wide(),
];

pub(crate) const REPLICA_SET: &[Column] = &[
    Column::name(),
    Column::number("Desired", "Wanted pods.", |o, _| workloads::number(&o["spec"]["replicas"])),
    Column::number("Current", "Existing pods.", |o, _| workloads::number(&o["status"]["replicas"])),
    Column::number("Ready", "Ready pods.", |o, _| workloads::number(&o["status"]["readyReplicas"])),
    Column::age(),
    Column::text("Containers", "Names of the template's containers.", workloads::containers).wide(),
    Column::text("Images", "Images of the template's containers.", workloads::images).wide(),
    Column::text("Selector", "Labels of its pods.", workloads::selector).wide(),
];

pub(crate) const EVENT: &[Column] = &[
    Column::text("Last Seen", "Time since it was last seen.", events::last_seen),
    Column::text("Type", "Normal or Warning.", |o, _| text(&o["type"]).into()),
    Column::text("Reason", "Why it happened, in one word.", |o, _| text(&o["reason"]).into()),
    Column::text("Object", "What it is about.", events::object),
    Column::text("Subobject", "The part of the object.", |o, _| text(&o["involvedObject"]["fieldPath"]).into()).wide(),
    Column::text("Source", "Who reported it.", events::source).wide(),
    Column::text("Message", "What happened.", |o, _| text(&o["message"]).trim().into()),
    Column::text("First Seen", "Time since it was first seen.", events::first_seen).wide(),
    Column::text("Count", "How often it was seen.", events::count).wide(),
    Column { priority: 1, ..Column::name() },
];
