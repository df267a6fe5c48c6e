//! Volumes in a temporary directory, from an API that holds two objects.

use serde_json::json;

use super::*;
use crate::api::ApiError;

struct Shelf;

impl ClusterApi for Shelf {
    async fn config_map(&self, _: &str, name: &str) -> Result<Data, ApiError> {
        match name {
            "settings" => Ok(Data::from([("color".into(), b"blue".to_vec()), ("size".into(), b"7".to_vec())])),
            _ => Err(ApiError::NotFound),
        }
    }

    async fn secret(&self, _: &str, name: &str) -> Result<Data, ApiError> {
        match name {
            "keys" => Ok(Data::from([("token".into(), b"\x00\xff".to_vec())])),
            _ => Err(ApiError::NotFound),
        }
    }

    async fn token(&self, _: &PodId, account: &str, audience: Option<&str>, _: i64) -> Result<String, ApiError> {
        Ok(format!("{account}@{}", audience.unwrap_or("default")))
    }

    async fn patch_status(&self, _: &PodId, _: serde_json::Value) -> Result<String, ApiError> {
        Err(ApiError::NotFound)
    }

    async fn delete_pod(&self, _: &PodId) -> Result<(), ApiError> {
        Err(ApiError::NotFound)
    }

    async fn create_event(&self, _: k8s_openapi::api::core::v1::Event) -> Result<(), ApiError> {
        Err(ApiError::NotFound)
    }

    async fn patch_event(&self, _: &str, _: &str, _: serde_json::Value) -> Result<(), ApiError> {
        Err(ApiError::NotFound)
    }
}

async fn make(dir: &Path, volume: serde_json::Value) -> Result<PathBuf, String> {
    let pod = json!({"metadata": {"name": "web", "namespace": "shop", "uid": "u", "labels": {"app": "web"}},
        "spec": {"containers": [], "serviceAccountName": "robot", "volumes": [volume]}});
    let pod: Pod = serde_json::from_value(pod).expect("pod");
    let id = PodId { namespace: "shop".into(), name: "web".into(), uid: "u".into() };
    prepare(&Shelf, &pod, &id, &Place::default(), dir).await.map(|mut places| places.remove("v").expect("the volume"))
}

async fn check(volume: serde_json::Value, expected: Result<&[(&str, &[u8])], &str>) {
    let dir = tempfile::tempdir().expect("tempdir");
    match (make(dir.path(), volume.clone()).await, expected) {
        (Ok(path), Ok(files)) => {
            for (name, bytes) in files {
                assert_eq!(std::fs::read(path.join(name)).expect("file"), *bytes, "{volume} {name}");
            }
            let visible = std::fs::read_dir(&path).expect("dir").flatten();
            let visible = visible.filter(|e| !e.file_name().to_string_lossy().starts_with("..")).count();
            assert_eq!(visible, files.len(), "{volume}");
        }
        (Err(error), Err(part)) => assert!(error.contains(part), "{volume}: {error}"),
        (other, _) => panic!("{volume}: {other:?}"),
    }
}

#[tokio::test]
async fn every_source() {
    check(json!({"name": "v", "configMap": {"name": "settings"}}), Ok(&[("color", b"blue"), ("size", b"7")])).await;
    let items = json!([{"key": "color", "path": "deep/c.txt"}]);
    check(json!({"name": "v", "configMap": {"name": "settings", "items": items}}), Ok(&[("deep/c.txt", b"blue")])).await;
    check(json!({"name": "v", "secret": {"secretName": "keys"}}), Ok(&[("token", b"\x00\xff")])).await;
    check(json!({"name": "v", "secret": {"secretName": "none", "optional": true}}), Ok(&[])).await;
    check(json!({"name": "v", "emptyDir": {}}), Ok(&[])).await;
    let downward = json!([{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]);
    check(json!({"name": "v", "downwardAPI": {"items": downward}}), Ok(&[("labels", b"app=\"web\"")])).await;
    let sources = json!([{"serviceAccountToken": {"path": "token", "audience": "a"}}, {"configMap": {"name": "settings"}}]);
    let files: &[(&str, &[u8])] = &[("token", b"robot@a"), ("color", b"blue"), ("size", b"7")];
    check(json!({"name": "v", "projected": {"sources": sources}}), Ok(files)).await;
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    check(json!({"name": "v", "configMap": {"name": "none"}}), Err("configmap \"none\" not found")).await;
    let items = json!([{"key": "shape", "path": "x"}]);
    check(json!({"name": "v", "configMap": {"name": "settings", "items": items}}), Err("no key \"shape\"")).await;
    let items = json!([{"key": "color", "path": "../../etc/passwd"}]);
    check(json!({"name": "v", "configMap": {"name": "settings", "items": items}}), Err("not a path inside")).await;
    check(json!({"name": "v", "nfs": {"server": "s", "path": "/"}}), Err("not supported")).await;
}

#[test]
fn a_payload_is_replaced_as_a_whole() {
    let dir = tempfile::tempdir().expect("tempdir");
    let payload = |files: &[(&str, &str)]| -> Payload {
        files.iter().map(|(p, t)| (PathBuf::from(p), File { bytes: t.as_bytes().to_vec(), mode: 0o640 })).collect()
    };
    payload::write(dir.path(), &payload(&[("a", "1"), ("b/c", "2")]), None).expect("write");
    let first = std::fs::read_link(dir.path().join("..data")).expect("link");
    payload::write(dir.path(), &payload(&[("a", "1"), ("b/c", "2")]), None).expect("write");
    assert_eq!(std::fs::read_link(dir.path().join("..data")).expect("link"), first, "unchanged content is not written again");
    payload::write(dir.path(), &payload(&[("b/c", "3")]), None).expect("write");
    assert_eq!(std::fs::read_to_string(dir.path().join("b/c")).expect("file"), "3");
    assert!(std::fs::symlink_metadata(dir.path().join("a")).is_err());
    assert!(!dir.path().join(first).exists());
    assert_eq!(std::fs::metadata(dir.path().join("b/c")).expect("file").permissions().mode() & 0o777, 0o640);
    remove(dir.path()).expect("remove");
    remove(dir.path()).expect("remove again");
}

#[test]
fn tokens_are_renewed_in_time() {
    use base64::Engine;
    let token = |claims: &str| format!("head.{}.sign", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims));
    let at = |second| Timestamp::from_second(second).expect("time");
    let hour = token(r#"{"iat": 1000, "exp": 4600}"#);
    for (text, now, fresh) in [
        (hour.as_str(), 1500, true),
        (&hour, 3879, true),
        (&hour, 3880, false),
        (&token("{}"), 0, false),
        ("garbage", 0, false),
    ] {
        assert_eq!(token_is_fresh(text.as_bytes(), at(now)), fresh, "{text} at {now}");
    }
}
