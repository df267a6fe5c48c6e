//! The documents and decoding, over every served kind.

use serde_json::{Value, json};

use super::components::{COMPONENTS, REFERENCE};
use super::*;
use crate::kinds::{self, Kind, by_kind};

fn parse(document: &Document) -> Value {
    serde_json::from_slice(&document.body).unwrap()
}

fn kind(group: &str, kind: &str) -> &'static Kind {
    by_kind(group, "v1", kind).unwrap()
}

/// Every reference in a document, without where it points.
fn references<'a>(value: &'a Value, prefix: &str, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(map) => {
            if let Some(reference) = map.get("$ref").and_then(Value::as_str) {
                found.push(reference.strip_prefix(prefix).unwrap_or_else(|| panic!("{reference} points elsewhere")));
            }
            map.values().for_each(|v| references(v, prefix, found));
        }
        Value::Array(list) => list.iter().for_each(|v| references(v, prefix, found)),
        _ => {}
    }
}

#[test]
fn the_index_links_every_group_by_hash() {
    let index = parse(openapi_v3_index());
    let paths = index["paths"].as_object().unwrap();
    for kind in kinds::all() {
        let link = paths[&kind.root()]["serverRelativeURL"].as_str().unwrap();
        let document = openapi_v3(&kind.root()).unwrap();
        assert_eq!(link, format!("/openapi/v3/{}?hash={}", kind.root(), document.hash));
    }
    assert!(openapi_v3("apis/nothing/v1").is_none());
}

#[test]
fn references_of_the_documents_lead_somewhere() {
    for kind in kinds::all() {
        let document = parse(openapi_v3(&kind.root()).unwrap());
        let mut found = Vec::new();
        references(&document, REFERENCE, &mut found);
        assert!(!found.is_empty());
        for name in found {
            assert!(document["components"]["schemas"][name].is_object(), "{name} in {}", kind.root());
        }
    }
    let document = parse(openapi_v2());
    let mut found = Vec::new();
    references(&document, "#/definitions/", &mut found);
    for name in found {
        assert!(document["definitions"][name].is_object(), "{name}");
    }
}

#[test]
fn paths_tell_clients_how_to_patch() {
    for kind in kinds::all() {
        let document = parse(openapi_v3(&kind.root()).unwrap());
        let namespace = if kind.namespaced { "namespaces/{namespace}/" } else { "" };
        let path = format!("/{}/{namespace}{}/{{name}}", kind.root(), kind.plural);
        let patch = &document["paths"][&path]["patch"];
        let gvk = json!({ "group": kind.group, "version": kind.version, "kind": kind.kind });
        assert_eq!(patch["x-kubernetes-group-version-kind"], gvk, "{path}");
        assert!(patch["parameters"].as_array().unwrap().iter().any(|p| p["name"] == "fieldValidation"), "{path}");
        assert!(patch["requestBody"]["content"]["application/strategic-merge-patch+json"].is_object(), "{path}");

        let old = &parse(openapi_v2())["paths"][&path]["patch"];
        assert_eq!(old["x-kubernetes-group-version-kind"], gvk, "{path}");
        assert!(old["parameters"].as_array().unwrap().iter().any(|p| p["name"] == "fieldValidation"), "{path}");
    }
}

#[test]
fn components_carry_kinds_descriptions_and_merge_keys() {
    let containers = &COMPONENTS["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["x-kubernetes-patch-strategy"], "merge");
    assert_eq!(containers["x-kubernetes-list-type"], "map");
    assert!(containers["description"].as_str().unwrap().contains("List of containers"));
    let deployment = &COMPONENTS["io.k8s.api.apps.v1.Deployment"];
    let gvk = &deployment["x-kubernetes-group-version-kind"];
    assert_eq!(*gvk, json!([{ "group": "apps", "version": "v1", "kind": "Deployment" }]));
    let strategy = &COMPONENTS["io.k8s.api.apps.v1.DeploymentSpec"]["properties"]["strategy"];
    assert_eq!(strategy["x-kubernetes-patch-strategy"], "retainKeys");
    assert_eq!(strategy["allOf"][0]["$ref"], "#/components/schemas/io.k8s.api.apps.v1.DeploymentStrategy");
    let old = &parse(openapi_v2())["definitions"]["io.k8s.api.apps.v1.DeploymentSpec"]["properties"]["strategy"];
    assert_eq!(old["$ref"], "#/definitions/io.k8s.api.apps.v1.DeploymentStrategy");
}

#[test]
fn every_fact_names_a_field() {
    for fact in facts::FACTS {
        let component = &COMPONENTS.get(&facts::full_name(fact.component)).unwrap_or_else(|| panic!("{}", fact.component));
        assert!(component["properties"][fact.field].is_object(), "{}.{}", fact.component, fact.field);
    }
    for name in facts::ATOMIC_OBJECTS {
        assert!(COMPONENTS.contains_key(&facts::full_name(name)), "{name}");
    }
    // Lists say how they merge.
    for (name, component) in COMPONENTS.iter().filter(|(name, _)| name.starts_with("io.k8s.api.core.v1.Pod")) {
        for (field, schema) in component["properties"].as_object().into_iter().flatten() {
            let said = schema["x-kubernetes-list-type"].is_string() || schema["x-kubernetes-patch-strategy"].is_string();
            assert!(schema["type"] != "array" || said || field == "items", "{name}.{field}");
        }
    }
}

#[test]
fn every_kind_has_its_shape() {
    for kind in kinds::all() {
        let object = types::TYPES.of(kind);
        assert_eq!(object.component, kind.component);
        assert!(object.fields.contains_key("metadata"), "{kind:?}");
    }
}

#[test]
fn bodies_are_decoded() {
    let check = |kind: &Kind, mut body: Value, expected: Value, complaints: &[&str]| {
        assert_eq!(unknown_fields(kind, &body), complaints, "{body}");
        assert_eq!(decode(kind, &mut body).unwrap(), complaints);
        assert_eq!(body, expected);
    };
    let pod = kind("", "Pod");
    check(
        pod,
        json!({ "spec": { "containers": [{ "name": "a", "imagee": "b" }], "foo": { "bar": 1 } }, "metadata": { "nane": "x" } }),
        json!({ "spec": { "containers": [{ "name": "a" }] }, "metadata": {} }),
        &["unknown field \"metadata.nane\"", "unknown field \"spec.containers[0].imagee\"", "unknown field \"spec.foo\""],
    );
    check(
        pod,
        json!({ "metadata": { "creationTimestamp": null, "labels": { "a": null } }, "spec": { "nodeName": null } }),
        json!({ "metadata": { "labels": { "a": "" } }, "spec": {} }),
        &[],
    );
    let requests = |cpu: Value, memory: &str| json!({ "spec": { "containers": [{ "resources": { "requests": { "cpu": cpu, "memory": memory } } }] } });
    check(pod, requests(json!(0.5), "1024Mi"), requests(json!("500m"), "1Gi"), &[]);
    check(pod, requests(json!(2), "1.5Gi"), requests(json!("2"), "1536Mi"), &[]);
    let service = kind("", "Service");
    let target = |target: Value| json!({ "spec": { "ports": [{ "port": 80, "targetPort": target }] } });
    check(service, target(json!("http")), target(json!("http")), &[]);
    check(service, target(json!(8080)), target(json!(8080)), &[]);
    check(service, json!({ "spec": { "ports": [{ "port": 80.0 }] } }), json!({ "spec": { "ports": [{ "port": 80 }] } }), &[]);
}

#[test]
fn wrong_types_are_named_as_go_names_them() {
    let check = |group: &str, name: &str, mut body: Value, expected: &str| {
        assert_eq!(decode(kind(group, name), &mut body).unwrap_err().to_string(), expected);
    };
    check(
        "",
        "Service",
        json!({ "spec": { "ports": [{ "port": "80" }] } }),
        "json: cannot unmarshal string into Go struct field ServicePort.spec.ports.port of type int32",
    );
    check(
        "apps",
        "Deployment",
        json!({ "spec": { "template": { "spec": { "containers": "nginx" } } } }),
        "json: cannot unmarshal string into Go struct field PodSpec.spec.template.spec.containers of type []v1.Container",
    );
    check(
        "",
        "Pod",
        json!({ "metadata": { "labels": { "a": 1 } } }),
        "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels.a of type string",
    );
    check(
        "",
        "Service",
        json!({ "spec": { "ports": [{ "port": 99999999999i64 }] } }),
        "json: cannot unmarshal number 99999999999 into Go struct field ServicePort.spec.ports.port of type int32",
    );
    check("", "Pod", json!([]), "json: cannot unmarshal array into Go value of type v1.Pod");
    check(
        "",
        "Pod",
        json!({ "metadata": { "creationTimestamp": "yesterday" } }),
        "parsing time \"yesterday\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"yesterday\" at metadata.creationTimestamp",
    );
    let mut secret = json!({ "data": { "a": "%" } });
    assert!(decode(kind("", "Secret"), &mut secret).unwrap_err().to_string().contains("data.a: illegal base64 data"));
    let mut pod = json!({ "spec": { "containers": [{ "resources": { "limits": { "cpu": "lots" } } }] } });
    assert!(decode(kind("", "Pod"), &mut pod).unwrap_err().to_string().starts_with("quantities must match"));
}
