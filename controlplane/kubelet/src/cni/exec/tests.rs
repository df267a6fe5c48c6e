//! Plugins played by shell scripts.

use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use super::*;

struct Lab {
    dir: tempfile::TempDir,
    cni: Cni,
}

impl Lab {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let cni = Cni { bin_dir: dir.path().to_owned(), conf_dir: dir.path().to_owned() };
        Self { dir, cni }
    }

    /// Every call appends `command plugin` to `calls` and its input to `<plugin>.<command>`.
    fn plugin(&self, name: &str, body: &str) {
        let dir = self.dir.path().display();
        let script = format!("#!/bin/sh\necho $CNI_COMMAND {name} >> {dir}/calls\ncat > {dir}/{name}.$CNI_COMMAND\n{body}\n");
        let path = self.dir.path().join(name);
        std::fs::write(&path, script).expect("write plugin");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()
    }

    fn list(&self, plugins: &[&str]) -> NetworkList {
        let plugins: Vec<_> = plugins.iter().map(|p| json!({"type": p})).collect();
        let text = json!({"name": "net", "cniVersion": "1.0.0", "plugins": plugins}).to_string();
        std::fs::write(self.dir.path().join("10-net.conflist"), text).expect("write");
        self.cni.network().expect("network")
    }
}

fn attachment() -> Attachment {
    Attachment {
        container_id: "abc".into(),
        netns: Some("/run/netns/x".into()),
        interface: "eth0".into(),
        args: vec![("K8S_POD_NAME".into(), "web".into()), ("K8S_POD_NAMESPACE".into(), "default".into())],
        capabilities: Map::new(),
    }
}

#[tokio::test]
async fn a_chain_hands_the_result_on_and_is_undone_in_reverse() {
    let lab = Lab::new();
    lab.plugin("first", r#"echo '{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.5/24"}]}'"#);
    lab.plugin(
        "second",
        r#"echo "{\"ips\":[{\"address\":\"10.0.0.5/24\"}],\"env\":\"$CNI_CONTAINERID $CNI_NETNS $CNI_IFNAME $CNI_ARGS\"}""#,
    );
    let list = lab.list(&["first", "second"]);
    let (result, ips) = lab.cni.add(&list, &attachment()).await.expect("add");
    assert_eq!(ips, ["10.0.0.5".parse::<std::net::IpAddr>().expect("address")]);
    assert_eq!(result["env"], "abc /run/netns/x eth0 K8S_POD_NAME=web;K8S_POD_NAMESPACE=default");
    let input: Value = serde_json::from_str(&lab.read("second.ADD")).expect("input");
    assert_eq!(input["prevResult"]["ips"][0]["address"], "10.0.0.5/24");
    lab.cni.del(&list, &Attachment { netns: None, ..attachment() }, Some(&result)).await.expect("del");
    assert_eq!(lab.read("calls"), "ADD first\nADD second\nDEL second\nDEL first\n");
    let input: Value = serde_json::from_str(&lab.read("first.DEL")).expect("input");
    assert_eq!(input["prevResult"], result);
}

#[tokio::test]
async fn an_error_object_ends_the_chain() {
    let lab = Lab::new();
    lab.plugin("first", r#"echo '{"code":7,"msg":"bad subnet"}'; exit 1"#);
    lab.plugin("second", "echo '{}'");
    let error = lab.cni.add(&lab.list(&["first", "second"]), &attachment()).await.expect_err("fails");
    assert_eq!(error.to_string(), "CNI ADD by first failed (code 7): bad subnet");
    assert_eq!(lab.read("calls"), "ADD first\n");
}

#[tokio::test]
async fn try_again_is_tried_again() {
    let lab = Lab::new();
    let dir = lab.dir.path().display().to_string();
    let body = format!(
        r#"if [ -e {dir}/again ]; then echo '{{"ips":[{{"address":"10.0.0.6/24"}}]}}'; else touch {dir}/again; echo '{{"code":11,"msg":"later"}}'; exit 1; fi"#
    );
    lab.plugin("first", &body);
    lab.cni.add(&lab.list(&["first"]), &attachment()).await.expect("second try");
    assert_eq!(lab.read("calls"), "ADD first\nADD first\n");
}

#[tokio::test]
async fn every_plugin_is_undone_even_when_one_fails() {
    let lab = Lab::new();
    lab.plugin("first", "");
    lab.plugin("second", "echo broken >&2; exit 3");
    let error = lab.cni.del(&lab.list(&["first", "second"]), &attachment(), None).await.expect_err("fails");
    assert!(error.to_string().contains("broken"), "{error}");
    assert_eq!(lab.read("calls"), "DEL second\nDEL first\n");
}

#[tokio::test]
async fn a_missing_plugin_a_broken_and_an_empty_result_are_named() {
    let lab = Lab::new();
    let error = lab.cni.add(&lab.list(&["absent"]), &attachment()).await.expect_err("no file");
    assert!(error.to_string().contains("absent"), "{error}");
    lab.plugin("first", "echo hello");
    let error = lab.cni.add(&lab.list(&["first"]), &attachment()).await.expect_err("no json");
    assert!(matches!(error, CniError::BadResult { .. }), "{error}");
    lab.plugin("first", "echo '{}'");
    let error = lab.cni.add(&lab.list(&["first"]), &attachment()).await.expect_err("no address");
    assert!(error.to_string().contains("no address"), "{error}");
}
