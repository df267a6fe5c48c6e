//! Protobuf requests: built by hand from the numbers of the protocol, and what comes of them.

use serde_json::{Value, json};

use super::numbers::{self, Slot};
use super::reader::{Reader, Wire};
use super::writer::Writer;
use super::*;
use crate::schema::types::TYPES;

fn body(api_version: &str, kind: &str, build: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut unknown = Writer::default();
    unknown.message(1, |w| {
        w.string(1, api_version);
        w.string(2, kind);
    });
    unknown.message(2, build);
    [b"k8s\0".as_slice(), &unknown.into_bytes()].concat()
}

#[track_caller]
fn check(api_version: &str, kind: &str, build: impl FnOnce(&mut Writer), mut expected: Value) {
    expected["apiVersion"] = api_version.into();
    expected["kind"] = kind.into();
    assert_eq!(from_protobuf(&body(api_version, kind, build)), Ok(expected));
}

fn name(w: &mut Writer, name: &str) {
    w.message(1, |w| w.string(1, name));
}

#[test]
fn a_deployment_as_kubectl_create_sends_it() {
    check(
        "apps/v1",
        "Deployment",
        |w| {
            w.message(1, |w| {
                w.string(1, "web");
                w.string(2, "");
                w.string(3, "default");
                w.int(7, 0);
                w.message(8, |_| {});
                w.message(11, |w| {
                    w.string(1, "app");
                    w.string(2, "web");
                });
            });
            w.message(2, |w| {
                w.int(1, 0);
                w.message(2, |w| {
                    w.message(1, |w| {
                        w.string(1, "app");
                        w.string(2, "web");
                    });
                });
                w.message(3, |w| {
                    w.message(2, |w| {
                        w.message(2, |w| {
                            w.string(1, "nginx");
                            w.string(2, "nginx:1");
                            w.message(6, |w| {
                                w.string(1, "");
                                w.int(2, 0);
                                w.int(3, 80);
                                w.string(4, "TCP");
                            });
                            w.message(8, |w| {
                                w.message(1, |w| {
                                    w.string(1, "cpu");
                                    w.message(2, |w| w.string(1, "500m"));
                                });
                            });
                            w.bool(16, false);
                        });
                        w.int(4, 0);
                        w.bool(11, false);
                        w.bool(21, false);
                    });
                });
                w.message(4, |w| {
                    w.string(1, "RollingUpdate");
                    w.message(2, |w| {
                        w.message(1, |w| {
                            w.int(1, 1);
                            w.int(2, 0);
                            w.string(3, "25%");
                        });
                        w.message(2, |w| {
                            w.int(1, 0);
                            w.int(2, 1);
                            w.string(3, "");
                        });
                    });
                });
                w.int(5, 0);
            });
            w.message(3, |w| w.int(1, 0));
        },
        json!({
            "metadata": { "name": "web", "namespace": "default", "labels": { "app": "web" } },
            "spec": {
                "replicas": 0,
                "selector": { "matchLabels": { "app": "web" } },
                "template": { "spec": {
                    "containers": [{
                        "name": "nginx", "image": "nginx:1", "ports": [{ "containerPort": 80, "protocol": "TCP" }],
                        "resources": { "limits": { "cpu": "500m" } },
                    }],
                    "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false,
                } },
                "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxUnavailable": "25%", "maxSurge": 1 } },
            },
            "status": {},
        }),
    );
}

#[test]
fn embedded_messages_bytes_times_and_raw_json() {
    check(
        "v1",
        "Pod",
        |w| {
            w.message(2, |w| {
                w.message(1, |w| {
                    w.string(1, "config");
                    // VolumeSource is embedded, and so is the reference within the config map's source.
                    w.message(2, |w| w.message(19, |w| w.message(1, |w| w.string(1, "settings"))));
                });
                w.message(2, |w| {
                    w.string(1, "a");
                    w.message(10, |w| {
                        w.message(1, |w| {
                            w.message(3, |w| {
                                w.message(1, |w| {
                                    w.int(1, 0);
                                    w.int(2, 8080);
                                })
                            })
                        });
                        w.int(3, 0);
                        w.int(4, 5);
                    });
                });
            });
        },
        json!({ "spec": {
            "volumes": [{ "name": "config", "configMap": { "name": "settings" } }],
            "containers": [{ "name": "a", "livenessProbe": { "tcpSocket": { "port": 8080 }, "periodSeconds": 5 } }],
        } }),
    );
    check(
        "v1",
        "Secret",
        |w| {
            name(w, "s");
            w.message(2, |w| {
                w.string(1, "key");
                w.bytes(2, &[0, 255]);
            });
        },
        json!({ "metadata": { "name": "s" }, "data": { "key": "AP8=" } }),
    );
    check(
        "coordination.k8s.io/v1",
        "Lease",
        |w| {
            w.message(1, |w| {
                w.message(8, |w| w.int(1, 1_767_268_800));
                w.message(17, |w| {
                    w.string(1, "me");
                    w.message(7, |w| w.bytes(1, br#"{"f:spec":{}}"#));
                });
            });
            w.message(2, |w| {
                w.int(2, 40);
                w.message(4, |w| {
                    w.int(1, 1_767_268_800);
                    w.int(2, 123_456_000);
                });
            });
        },
        json!({
            "metadata": { "creationTimestamp": "2026-01-01T12:00:00Z", "managedFields": [{ "manager": "me", "fieldsV1": { "f:spec": {} } }] },
            "spec": { "leaseDurationSeconds": 40, "renewTime": "2026-01-01T12:00:00.123456Z" },
        }),
    );
}

#[test]
fn bodies_of_subresources_and_negative_numbers() {
    check("autoscaling/v1", "Scale", |w| w.message(2, |w| w.int(1, -1)), json!({ "spec": { "replicas": -1 } }));
    check("apps/v1", "DeleteOptions", |w| w.int(1, 0), json!({ "gracePeriodSeconds": 0 }));
    check("policy/v1", "Eviction", |w| name(w, "web"), json!({ "metadata": { "name": "web" } }));
    check(
        "discovery.k8s.io/v1",
        "EndpointSlice",
        |w| {
            w.message(2, |w| {
                w.string(1, "10.0.0.1");
                w.message(2, |w| w.bool(1, false));
            })
        },
        json!({ "endpoints": [{ "addresses": ["10.0.0.1"], "conditions": { "ready": false } }] }),
    );
}

#[test]
fn json_within_the_envelope() {
    let mut unknown = Writer::default();
    unknown.message(1, |w| {
        w.string(1, "v1");
        w.string(2, "ConfigMap");
    });
    unknown.bytes(2, br#"{"data":{"a":"b"}}"#);
    unknown.string(4, "application/json");
    let body = [b"k8s\0".as_slice(), &unknown.into_bytes()].concat();
    assert_eq!(from_protobuf(&body), Ok(json!({ "apiVersion": "v1", "kind": "ConfigMap", "data": { "a": "b" } })));
}

#[test]
fn what_is_no_protobuf_is_refused() {
    assert_eq!(from_protobuf(b"{}"), Err(WireError::Magic));
    let unknown = from_protobuf(&body("v1", "Ghost", |_| {})).unwrap_err().to_string();
    assert_eq!(unknown, "no kind \"Ghost\" is registered for version \"v1\"");
    let wrong = from_protobuf(&body("apps/v1", "Deployment", |w| w.message(2, |w| w.string(1, "three")))).unwrap_err();
    assert!(wrong.to_string().starts_with("field replicas of DeploymentSpec:"), "{wrong}");
    let whole = body("v1", "Pod", |w| name(w, "web"));
    for cut in 5..whole.len() {
        // Cut short it is malformed, or, where a field ends, another object; it never panics.
        if let Ok(object) = from_protobuf(&whole[..cut]) {
            assert!(object["kind"].is_string());
        }
    }
    assert_eq!(from_protobuf(&[b"k8s\0".as_slice(), &[0xff; 12]].concat()), Err(WireError::Malformed));
}

#[test]
fn every_field_number_names_a_field() {
    let mut fields = 0;
    for line in include_str!("numbers.txt").lines().filter(|line| !line.starts_with('#')) {
        let (component, _) = line.split_once(' ').unwrap();
        let numbers = numbers::of(component).unwrap();
        let full = if component.starts_with("meta.") { "io.k8s.apimachinery.pkg.apis." } else { "io.k8s.api." };
        for slot in numbers.values() {
            match (slot, TYPES.by_component(&format!("{full}{component}"))) {
                (Slot::Field(name), Some(object)) => {
                    assert!(object.fields.contains_key(*name), "{component}.{name}");
                    fields += 1;
                }
                (Slot::Embedded(embedded), Some(_)) => {
                    let package = component.rsplit_once('.').unwrap().0;
                    assert!(numbers::of(&format!("{package}.{embedded}")).is_some(), "{embedded}");
                }
                // VolumeSource and its like exist in protobuf alone.
                (_, None) => {
                    assert!(["VolumeSource", "ProbeHandler", "EphemeralContainerCommon"].iter().any(|e| component.ends_with(e)))
                }
            }
        }
    }
    assert!(fields > 700, "{fields} fields");
}

#[test]
fn every_component_has_its_numbers() {
    for kind in crate::kinds::all() {
        assert!(numbers::of(kind.component).is_some(), "{kind:?}");
    }
}

#[test]
fn the_openapi_document_can_be_read_back() {
    let document = openapi_v2_protobuf();
    let mut reader = Reader::new(&document.body);
    let (mut swagger, mut definitions) = (String::new(), 0);
    while let Some((number, wire)) = reader.field().unwrap() {
        match (number, wire) {
            (1, Wire::Bytes(version)) => swagger = String::from_utf8(version.to_vec()).unwrap(),
            (9, Wire::Bytes(list)) => {
                let mut list = Reader::new(list);
                while list.field().unwrap().is_some() {
                    definitions += 1;
                }
            }
            _ => {}
        }
    }
    assert_eq!(swagger, "2.0");
    assert!(definitions > 150, "{definitions} definitions");
}
