//! The entries of the kind table.

use k8s_openapi::api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::DeleteOptions;
use schemars::{JsonSchema, Schema, SchemaGenerator};

use super::Kind;
use crate::admit::{alloc, defaults, names, validate};
use crate::table::columns;

fn schema<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// What most entries share.
const BASE: Kind = Kind {
    group: "",
    version: "v1",
    kind: "",
    plural: "",
    singular: "",
    short: &[],
    categories: &[],
    list_kind: "",
    namespaced: true,
    status: false,
    scale: false,
    graceful: false,
    generation: false,
    subresources: &[],
    fields: &[],
    component: "",
    schema: schema::<DeleteOptions>,
    columns: columns::GENERIC,
    name_rule: names::dns_subdomain,
    defaults: |_| {},
    carry_over: None,
    validate: |_, _| {},
    validate_update: |_, _, _| {},
};

pub(super) static KINDS: &[Kind] = &[
    Kind {
        kind: "ConfigMap",
        plural: "configmaps",
        singular: "configmap",
        short: &["cm"],
        list_kind: "ConfigMapList",
        component: "io.k8s.api.core.v1.ConfigMap",
        schema: schema::<api::core::v1::ConfigMap>,
        columns: columns::CONFIG_MAP,
        validate: validate::data::config_map,
        validate_update: validate::data::config_map_update,
        ..BASE
    },
    Kind {
        kind: "Endpoints",
        plural: "endpoints",
        singular: "endpoints",
        short: &["ep"],
        list_kind: "EndpointsList",
        component: "io.k8s.api.core.v1.Endpoints",
        schema: schema::<api::core::v1::Endpoints>,
        columns: columns::ENDPOINTS,
        defaults: defaults::endpoints,
        validate: validate::service::endpoints,
        ..BASE
    },
    Kind {
        kind: "Event",
        plural: "events",
        singular: "event",
        short: &["ev"],
        list_kind: "EventList",
        fields: &[
            "involvedObject.apiVersion",
            "involvedObject.fieldPath",
            "involvedObject.kind",
            "involvedObject.name",
            "involvedObject.namespace",
            "involvedObject.resourceVersion",
            "involvedObject.uid",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        component: "io.k8s.api.core.v1.Event",
        schema: schema::<api::core::v1::Event>,
        columns: columns::EVENT,
        validate: validate::data::event,
        ..BASE
    },
    Kind {
        kind: "Namespace",
        plural: "namespaces",
        singular: "namespace",
        short: &["ns"],
        list_kind: "NamespaceList",
        namespaced: false,
        status: true,
        subresources: &["finalize"],
        fields: &["name", "status.phase"],
        component: "io.k8s.api.core.v1.Namespace",
        schema: schema::<api::core::v1::Namespace>,
        columns: columns::NAMESPACE,
        name_rule: names::dns_label,
        defaults: defaults::namespace,
        ..BASE
    },
    Kind {
        kind: "Node",
        plural: "nodes",
        singular: "node",
        short: &["no"],
        list_kind: "NodeList",
        namespaced: false,
        status: true,
        fields: &["spec.unschedulable"],
        component: "io.k8s.api.core.v1.Node",
        schema: schema::<api::core::v1::Node>,
        columns: columns::NODE,
        defaults: defaults::node,
        validate: validate::node::node,
        validate_update: validate::node::node_update,
        ..BASE
    },
    Kind {
        kind: "Pod",
        plural: "pods",
        singular: "pod",
        short: &["po"],
        categories: &["all"],
        list_kind: "PodList",
        status: true,
        graceful: true,
        generation: true,
        subresources: &["attach", "binding", "eviction", "exec", "log", "portforward"],
        fields: &[
            "spec.hostNetwork",
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "status.nominatedNodeName",
            "status.phase",
            "status.podIP",
        ],
        component: "io.k8s.api.core.v1.Pod",
        schema: schema::<api::core::v1::Pod>,
        columns: columns::POD,
        defaults: defaults::pod::pod,
        validate: validate::pod::pod,
        validate_update: validate::pod::pod_update,
        ..BASE
    },
    Kind {
        kind: "Secret",
        plural: "secrets",
        singular: "secret",
        list_kind: "SecretList",
        fields: &["type"],
        component: "io.k8s.api.core.v1.Secret",
        schema: schema::<api::core::v1::Secret>,
        columns: columns::SECRET,
        defaults: defaults::secret,
        validate: validate::data::secret,
        validate_update: validate::data::secret_update,
        ..BASE
    },
    Kind {
        kind: "ServiceAccount",
        plural: "serviceaccounts",
        singular: "serviceaccount",
        short: &["sa"],
        list_kind: "ServiceAccountList",
        subresources: &["token"],
        component: "io.k8s.api.core.v1.ServiceAccount",
        schema: schema::<api::core::v1::ServiceAccount>,
        columns: columns::SERVICE_ACCOUNT,
        ..BASE
    },
    Kind {
        kind: "Service",
        plural: "services",
        singular: "service",
        short: &["svc"],
        categories: &["all"],
        list_kind: "ServiceList",
        status: true,
        fields: &["spec.clusterIP", "spec.type"],
        component: "io.k8s.api.core.v1.Service",
        schema: schema::<api::core::v1::Service>,
        columns: columns::SERVICE,
        name_rule: names::dns1035_label,
        defaults: defaults::service,
        carry_over: Some(alloc::carry_over),
        validate: validate::service::service,
        validate_update: validate::service::service_update,
        ..BASE
    },
    Kind {
        group: "apps",
        kind: "Deployment",
        plural: "deployments",
        singular: "deployment",
        short: &["deploy"],
        categories: &["all"],
        list_kind: "DeploymentList",
        status: true,
        scale: true,
        generation: true,
        component: "io.k8s.api.apps.v1.Deployment",
        schema: schema::<api::apps::v1::Deployment>,
        columns: columns::DEPLOYMENT,
        defaults: defaults::deployment,
        validate: validate::workload::deployment,
        validate_update: validate::workload::deployment_update,
        ..BASE
    },
    Kind {
        group: "apps",
        kind: "ReplicaSet",
        plural: "replicasets",
        singular: "replicaset",
        short: &["rs"],
        categories: &["all"],
        list_kind: "ReplicaSetList",
        status: true,
        scale: true,
        generation: true,
        fields: &["status.replicas"],
        component: "io.k8s.api.apps.v1.ReplicaSet",
        schema: schema::<api::apps::v1::ReplicaSet>,
        columns: columns::REPLICA_SET,
        defaults: defaults::replica_set,
        validate: validate::workload::replica_set,
        validate_update: validate::workload::replica_set_update,
        ..BASE
    },
    Kind {
        group: "coordination.k8s.io",
        kind: "Lease",
        plural: "leases",
        singular: "lease",
        list_kind: "LeaseList",
        component: "io.k8s.api.coordination.v1.Lease",
        schema: schema::<api::coordination::v1::Lease>,
        columns: columns::LEASE,
        validate: validate::node::lease,
        ..BASE
    },
    Kind {
        group: "discovery.k8s.io",
        kind: "EndpointSlice",
        plural: "endpointslices",
        singular: "endpointslice",
        list_kind: "EndpointSliceList",
        generation: true,
        component: "io.k8s.api.discovery.v1.EndpointSlice",
        schema: schema::<api::discovery::v1::EndpointSlice>,
        columns: columns::ENDPOINT_SLICE,
        defaults: defaults::endpoint_slice,
        validate: validate::service::endpoint_slice,
        validate_update: validate::service::endpoint_slice_update,
        ..BASE
    },
];

/// Kinds that have no storage of their own: the bodies of subresources, and reviews. DeleteOptions comes first: [`super::delete_options`].
pub(super) static SUBRESOURCE_KINDS: &[Kind] = &[
    Kind {
        kind: "DeleteOptions",
        namespaced: false,
        component: "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions",
        schema: schema::<DeleteOptions>,
        ..BASE
    },
    Kind {
        group: "autoscaling",
        kind: "Scale",
        component: "io.k8s.api.autoscaling.v1.Scale",
        schema: schema::<api::autoscaling::v1::Scale>,
        validate: validate::workload::scale,
        ..BASE
    },
    Kind {
        kind: "Binding",
        component: "io.k8s.api.core.v1.Binding",
        schema: schema::<api::core::v1::Binding>,
        validate: validate::node::binding,
        ..BASE
    },
    Kind {
        group: "policy",
        kind: "Eviction",
        component: "io.k8s.api.policy.v1.Eviction",
        schema: schema::<api::policy::v1::Eviction>,
        ..BASE
    },
    Kind {
        group: "authentication.k8s.io",
        kind: "TokenRequest",
        component: "io.k8s.api.authentication.v1.TokenRequest",
        schema: schema::<api::authentication::v1::TokenRequest>,
        ..BASE
    },
    Kind {
        group: "authentication.k8s.io",
        kind: "SelfSubjectReview",
        component: "io.k8s.api.authentication.v1.SelfSubjectReview",
        schema: schema::<api::authentication::v1::SelfSubjectReview>,
        ..BASE
    },
    Kind {
        group: "authorization.k8s.io",
        kind: "LocalSubjectAccessReview",
        component: "io.k8s.api.authorization.v1.LocalSubjectAccessReview",
        schema: schema::<api::authorization::v1::LocalSubjectAccessReview>,
        ..BASE
    },
    Kind {
        group: "authorization.k8s.io",
        kind: "SelfSubjectAccessReview",
        component: "io.k8s.api.authorization.v1.SelfSubjectAccessReview",
        schema: schema::<api::authorization::v1::SelfSubjectAccessReview>,
        ..BASE
    },
    Kind {
        group: "authorization.k8s.io",
        kind: "SelfSubjectRulesReview",
        component: "io.k8s.api.authorization.v1.SelfSubjectRulesReview",
        schema: schema::<api::authorization::v1::SelfSubjectRulesReview>,
        ..BASE
    },
    Kind {
        group: "authorization.k8s.io",
        kind: "SubjectAccessReview",
        component: "io.k8s.api.authorization.v1.SubjectAccessReview",
        schema: schema::<api::authorization::v1::SubjectAccessReview>,
        ..BASE
    },
];
