//! How lists and maps merge: facts of the Kubernetes API that k8s-openapi's schemas leave out. They become the
//! `x-kubernetes-list-type`, `-list-map-keys`, `-patch-merge-key` and `-patch-strategy` extensions, and they drive
//! strategic merge patches.

/// One field.
pub(super) struct Fact {
    /// Without the `io.k8s.api.` in front.
    pub(super) component: &'static str,
    pub(super) field: &'static str,
    pub(super) merge: Merge,
}

#[derive(Clone, Copy)]
pub(super) enum Merge {
    /// Replaced as a whole.
    Atomic,
    /// A list of distinct scalars; `patch`: strategic merge patches add to it.
    Set { patch: bool },
    /// A list of objects told apart by `keys`; `patch_key` is the one key that strategic merge patches know.
    Map { keys: &'static [&'static str], patch_key: Option<&'static str>, retain_keys: bool },
    /// A union: a patch names the members that stay (`$retainKeys`).
    RetainKeys,
}

/// The name of a component in the documents.
pub(super) fn full_name(component: &str) -> String {
    if component.starts_with("meta.") {
        format!("io.k8s.apimachinery.pkg.apis.{component}")
    } else {
        format!("io.k8s.api.{component}")
    }
}

const fn fact(component: &'static str, field: &'static str, merge: Merge) -> Fact {
    Fact { component, field, merge }
}

/// Merged by the same key in patches and in server-side apply.
const fn by(component: &'static str, field: &'static str, keys: &'static [&'static str]) -> Fact {
    fact(component, field, Merge::Map { keys, patch_key: Some(keys[0]), retain_keys: false })
}

/// The same for lists of unions.
const fn union(component: &'static str, field: &'static str, keys: &'static [&'static str]) -> Fact {
    fact(component, field, Merge::Map { keys, patch_key: Some(keys[0]), retain_keys: true })
}

/// Merged by a key in server-side apply only: patches replace it.
const fn keyed(component: &'static str, field: &'static str, keys: &'static [&'static str]) -> Fact {
    fact(component, field, Merge::Map { keys, patch_key: None, retain_keys: false })
}

/// Merged by a key in patches, and atomic for server-side apply.
const fn patched(component: &'static str, field: &'static str, key: &'static str) -> Fact {
    fact(component, field, Merge::Map { keys: &[], patch_key: Some(key), retain_keys: false })
}

const fn atomic(component: &'static str, field: &'static str) -> Fact {
    fact(component, field, Merge::Atomic)
}

const fn set(component: &'static str, field: &'static str) -> Fact {
    fact(component, field, Merge::Set { patch: false })
}

const fn patched_set(component: &'static str, field: &'static str) -> Fact {
    fact(component, field, Merge::Set { patch: true })
}

pub(super) const FACTS: &[Fact] = &[
    by("meta.v1.ObjectMeta", "ownerReferences", &["uid"]),
    patched_set("meta.v1.ObjectMeta", "finalizers"),
    atomic("meta.v1.ObjectMeta", "managedFields"),
    atomic("meta.v1.DeleteOptions", "dryRun"),
    atomic("meta.v1.LabelSelector", "matchExpressions"),
    atomic("meta.v1.LabelSelectorRequirement", "values"),
    // pods
    by("core.v1.PodSpec", "containers", &["name"]),
    by("core.v1.PodSpec", "initContainers", &["name"]),
    by("core.v1.PodSpec", "ephemeralContainers", &["name"]),
    union("core.v1.PodSpec", "volumes", &["name"]),
    union("core.v1.PodSpec", "resourceClaims", &["name"]),
    by("core.v1.PodSpec", "imagePullSecrets", &["name"]),
    by("core.v1.PodSpec", "hostAliases", &["ip"]),
    by("core.v1.PodSpec", "topologySpreadConstraints", &["topologyKey", "whenUnsatisfiable"]),
    by("core.v1.PodSpec", "schedulingGates", &["name"]),
    atomic("core.v1.PodSpec", "tolerations"),
    atomic("core.v1.PodSpec", "readinessGates"),
    atomic("core.v1.PodSpec", "nodeSelector"),
    by("core.v1.PodStatus", "conditions", &["type"]),
    by("core.v1.PodStatus", "podIPs", &["ip"]),
    patched("core.v1.PodStatus", "hostIPs", "ip"),
    union("core.v1.PodStatus", "resourceClaimStatuses", &["name"]),
    atomic("core.v1.PodStatus", "nodeAllocatableResourceClaimStatuses"),
    atomic("core.v1.PodStatus", "containerStatuses"),
    atomic("core.v1.PodStatus", "initContainerStatuses"),
    atomic("core.v1.PodStatus", "ephemeralContainerStatuses"),
    by("core.v1.ContainerStatus", "volumeMounts", &["mountPath"]),
    by("core.v1.ContainerStatus", "allocatedResourcesStatus", &["name"]),
    keyed("core.v1.ResourceStatus", "resources", &["resourceID"]),
    by("core.v1.Container", "ports", &["containerPort", "protocol"]),
    by("core.v1.Container", "env", &["name"]),
    by("core.v1.Container", "volumeMounts", &["mountPath"]),
    by("core.v1.Container", "volumeDevices", &["devicePath"]),
    atomic("core.v1.Container", "args"),
    atomic("core.v1.Container", "command"),
    atomic("core.v1.Container", "envFrom"),
    atomic("core.v1.Container", "resizePolicy"),
    atomic("core.v1.Container", "restartPolicyRules"),
    by("core.v1.EphemeralContainer", "ports", &["containerPort", "protocol"]),
    by("core.v1.EphemeralContainer", "env", &["name"]),
    by("core.v1.EphemeralContainer", "volumeMounts", &["mountPath"]),
    by("core.v1.EphemeralContainer", "volumeDevices", &["devicePath"]),
    atomic("core.v1.EphemeralContainer", "args"),
    atomic("core.v1.EphemeralContainer", "command"),
    atomic("core.v1.EphemeralContainer", "envFrom"),
    atomic("core.v1.EphemeralContainer", "resizePolicy"),
    atomic("core.v1.EphemeralContainer", "restartPolicyRules"),
    keyed("core.v1.ResourceRequirements", "claims", &["name"]),
    atomic("core.v1.PodExtendedResourceClaimStatus", "requestMappings"),
    atomic("core.v1.ExecAction", "command"),
    set("core.v1.ContainerRestartRuleOnExitCodes", "values"),
    atomic("core.v1.LinuxContainerUser", "supplementalGroups"),
    atomic("core.v1.HTTPGetAction", "httpHeaders"),
    atomic("core.v1.Capabilities", "add"),
    atomic("core.v1.Capabilities", "drop"),
    atomic("core.v1.PodSecurityContext", "supplementalGroups"),
    atomic("core.v1.PodSecurityContext", "sysctls"),
    atomic("core.v1.PodDNSConfig", "nameservers"),
    atomic("core.v1.PodDNSConfig", "options"),
    atomic("core.v1.PodDNSConfig", "searches"),
    atomic("core.v1.HostAlias", "hostnames"),
    atomic("core.v1.TopologySpreadConstraint", "matchLabelKeys"),
    atomic("core.v1.NodeAffinity", "preferredDuringSchedulingIgnoredDuringExecution"),
    atomic("core.v1.PodAffinity", "preferredDuringSchedulingIgnoredDuringExecution"),
    atomic("core.v1.PodAffinity", "requiredDuringSchedulingIgnoredDuringExecution"),
    atomic("core.v1.PodAntiAffinity", "preferredDuringSchedulingIgnoredDuringExecution"),
    atomic("core.v1.PodAntiAffinity", "requiredDuringSchedulingIgnoredDuringExecution"),
    atomic("core.v1.PodAffinityTerm", "namespaces"),
    atomic("core.v1.PodAffinityTerm", "matchLabelKeys"),
    atomic("core.v1.PodAffinityTerm", "mismatchLabelKeys"),
    atomic("core.v1.NodeSelector", "nodeSelectorTerms"),
    atomic("core.v1.NodeSelectorTerm", "matchExpressions"),
    atomic("core.v1.NodeSelectorTerm", "matchFields"),
    atomic("core.v1.NodeSelectorRequirement", "values"),
    atomic("core.v1.ConfigMapVolumeSource", "items"),
    atomic("core.v1.ConfigMapProjection", "items"),
    atomic("core.v1.SecretVolumeSource", "items"),
    atomic("core.v1.SecretProjection", "items"),
    atomic("core.v1.DownwardAPIVolumeSource", "items"),
    atomic("core.v1.DownwardAPIProjection", "items"),
    atomic("core.v1.ProjectedVolumeSource", "sources"),
    atomic("core.v1.PersistentVolumeClaimSpec", "accessModes"),
    atomic("core.v1.CephFSVolumeSource", "monitors"),
    atomic("core.v1.RBDVolumeSource", "monitors"),
    atomic("core.v1.FCVolumeSource", "targetWWNs"),
    atomic("core.v1.FCVolumeSource", "wwids"),
    atomic("core.v1.ISCSIVolumeSource", "portals"),
    // services
    by("core.v1.ServiceSpec", "ports", &["port", "protocol"]),
    atomic("core.v1.ServiceSpec", "selector"),
    atomic("core.v1.ServiceSpec", "clusterIPs"),
    atomic("core.v1.ServiceSpec", "externalIPs"),
    atomic("core.v1.ServiceSpec", "ipFamilies"),
    atomic("core.v1.ServiceSpec", "loadBalancerSourceRanges"),
    by("core.v1.ServiceStatus", "conditions", &["type"]),
    atomic("core.v1.LoadBalancerStatus", "ingress"),
    atomic("core.v1.LoadBalancerIngress", "ports"),
    atomic("core.v1.Endpoints", "subsets"),
    atomic("core.v1.EndpointSubset", "addresses"),
    atomic("core.v1.EndpointSubset", "notReadyAddresses"),
    atomic("core.v1.EndpointSubset", "ports"),
    atomic("discovery.v1.EndpointSlice", "endpoints"),
    atomic("discovery.v1.EndpointSlice", "ports"),
    set("discovery.v1.Endpoint", "addresses"),
    atomic("discovery.v1.EndpointHints", "forZones"),
    atomic("discovery.v1.EndpointHints", "forNodes"),
    // nodes and namespaces
    patched_set("core.v1.NodeSpec", "podCIDRs"),
    atomic("core.v1.NodeSpec", "taints"),
    by("core.v1.NodeStatus", "conditions", &["type"]),
    by("core.v1.NodeStatus", "addresses", &["type"]),
    atomic("core.v1.NodeStatus", "images"),
    atomic("core.v1.NodeStatus", "volumesAttached"),
    atomic("core.v1.NodeStatus", "volumesInUse"),
    atomic("core.v1.NodeStatus", "runtimeHandlers"),
    atomic("core.v1.NodeStatus", "declaredFeatures"),
    atomic("core.v1.ContainerImage", "names"),
    by("core.v1.NamespaceStatus", "conditions", &["type"]),
    atomic("core.v1.NamespaceSpec", "finalizers"),
    // accounts
    by("core.v1.ServiceAccount", "secrets", &["name"]),
    atomic("core.v1.ServiceAccount", "imagePullSecrets"),
    // workloads
    fact("apps.v1.DeploymentSpec", "strategy", Merge::RetainKeys),
    by("apps.v1.DeploymentStatus", "conditions", &["type"]),
    by("apps.v1.ReplicaSetStatus", "conditions", &["type"]),
];

/// Components whose value is always replaced as a whole.
pub(super) const ATOMIC_OBJECTS: &[&str] = &[
    "meta.v1.LabelSelector",
    "meta.v1.OwnerReference",
    "core.v1.ConfigMapKeySelector",
    "core.v1.SecretKeySelector",
    "core.v1.FileKeySelector",
    "core.v1.ObjectFieldSelector",
    "core.v1.ResourceFieldSelector",
    "core.v1.LocalObjectReference",
    "core.v1.ObjectReference",
    "core.v1.TypedLocalObjectReference",
    "core.v1.NodeSelector",
    "core.v1.NodeSelectorTerm",
    "core.v1.EndpointAddress",
    "core.v1.EndpointPort",
    "discovery.v1.EndpointPort",
];
