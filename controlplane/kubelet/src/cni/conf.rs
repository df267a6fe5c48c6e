//! Network configuration lists: found by name, read, and turned into one plugin's input.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::CniError;

/// The versions whose results we read, newest first.
const VERSIONS: [&str; 5] = ["1.1.0", "1.0.0", "0.4.0", "0.3.1", "0.3.0"];

/// A network: plugins in the order of ADD.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetworkList {
    pub name: String,
    pub cni_version: String,
    pub plugins: Vec<Map<String, Value>>,
}

/// The first network by file name, as every runtime picks it.
pub fn load(dir: &Path) -> Result<NetworkList, CniError> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(dir).map(|entries| entries.filter_map(|e| e.ok().map(|e| e.path())).collect()).unwrap_or_default();
    files.retain(|f| f.extension().is_some_and(|e| e == "conflist" || e == "conf" || e == "json"));
    files.sort();
    let path = files.into_iter().next().ok_or_else(|| CniError::NoConfiguration(dir.to_owned()))?;
    let bad = |reason: String| CniError::BadConfiguration { path: path.clone(), reason };
    let text = std::fs::read_to_string(&path).map_err(|e| bad(e.to_string()))?;
    parse(&text).map_err(bad)
}

fn parse(text: &str) -> Result<NetworkList, String> {
    let value: Map<String, Value> = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let name = value.get("name").and_then(Value::as_str).filter(|n| !n.is_empty()).ok_or("it has no name")?.to_owned();
    let cni_version = version(&value)?;
    let plugins = match value.get("plugins") {
        Some(Value::Array(plugins)) => plugins.iter().map(|p| p.as_object().cloned()).collect::<Option<Vec<_>>>(),
        Some(_) => None,
        None => Some(vec![value.clone()]), // a single plugin's configuration
    };
    let plugins = plugins.filter(|p| !p.is_empty()).ok_or("`plugins` is not a list of objects with at least one")?;
    for plugin in &plugins {
        match plugin.get("type").and_then(Value::as_str) {
            Some(kind) if !kind.is_empty() && !kind.contains('/') => {}
            other => return Err(format!("a plugin has no usable `type`: {other:?}")),
        }
    }
    Ok(NetworkList { name, cni_version, plugins })
}

/// The newest version that both the configuration and we know.
fn version(value: &Map<String, Value>) -> Result<String, String> {
    let one = value.get("cniVersion").and_then(Value::as_str).unwrap_or("0.3.1");
    let listed = value.get("cniVersions").and_then(Value::as_array);
    let offered: Vec<&str> = listed.into_iter().flatten().filter_map(Value::as_str).chain([one]).collect();
    VERSIONS
        .iter()
        .find(|v| offered.contains(v))
        .map(|v| (*v).to_owned())
        .ok_or_else(|| format!("cniVersion {} is none of {}", offered.join(", "), VERSIONS.join(", ")))
}

impl NetworkList {
    /// The executable's name.
    pub fn plugin(&self, index: usize) -> &str {
        self.plugins[index].get("type").and_then(Value::as_str).unwrap_or_default()
    }

    /// What plugin `index` reads on stdin: its configuration, the network's name and version, the arguments of the
    /// capabilities it declares, and the former plugin's result.
    pub fn input(&self, index: usize, capabilities: &Map<String, Value>, previous: Option<&Value>) -> Value {
        let mut input = self.plugins[index].clone();
        input.insert("name".into(), self.name.clone().into());
        input.insert("cniVersion".into(), self.cni_version.clone().into());
        let declared = input.remove("capabilities");
        let declared = declared.as_ref().and_then(Value::as_object);
        let wanted = |name: &String| declared.is_some_and(|d| d.get(name) == Some(&Value::Bool(true)));
        let runtime: Map<_, _> =
            capabilities.iter().filter(|(name, _)| wanted(name)).map(|(n, v)| (n.clone(), v.clone())).collect();
        if !runtime.is_empty() {
            input.insert("runtimeConfig".into(), runtime.into());
        }
        if let Some(previous) = previous {
            input.insert("prevResult".into(), previous.clone());
        }
        input.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_first_file_by_name_wins() {
        let dir = tempfile::tempdir().expect("tempdir");
        assert!(matches!(load(dir.path()), Err(CniError::NoConfiguration(_))));
        let list = |name: &str| json!({"name": name, "cniVersion": "1.0.0", "plugins": [{"type": "bridge"}]}).to_string();
        std::fs::write(dir.path().join("20-b.conflist"), list("b")).expect("write");
        std::fs::write(dir.path().join("10-a.conflist"), list("a")).expect("write");
        std::fs::write(dir.path().join("00-readme.txt"), "not a network").expect("write");
        assert_eq!(load(dir.path()).expect("a network").name, "a");
        std::fs::write(dir.path().join("05-broken.conflist"), "{").expect("write");
        let error = load(dir.path()).expect_err("broken").to_string();
        assert!(error.contains("05-broken.conflist"), "{error}");
    }

    fn check(text: Value, expected: Result<&str, &str>) {
        match (parse(&text.to_string()), expected) {
            (Ok(list), Ok(version)) => assert_eq!(list.cni_version, version, "{text}"),
            (Err(error), Err(part)) => assert!(error.contains(part), "{text}: {error}"),
            (other, _) => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn versions_and_shapes() {
        let plugins = json!([{"type": "thalweg-cni"}]);
        check(json!({"name": "n", "cniVersion": "1.0.0", "plugins": plugins}), Ok("1.0.0"));
        check(json!({"name": "n", "cniVersion": "1.0.0", "cniVersions": ["0.4.0", "1.1.0"], "plugins": plugins}), Ok("1.1.0"));
        check(json!({"name": "n", "cniVersion": "0.4.0", "type": "bridge"}), Ok("0.4.0"));
        check(json!({"name": "n", "cniVersion": "9.0.0", "plugins": plugins}), Err("9.0.0"));
        check(json!({"cniVersion": "1.0.0", "plugins": plugins}), Err("no name"));
        check(json!({"name": "n", "cniVersion": "1.0.0", "plugins": []}), Err("at least one"));
        check(json!({"name": "n", "cniVersion": "1.0.0", "plugins": [{"type": "../sh"}]}), Err("type"));
        check(json!({"name": "n", "cniVersion": "1.0.0", "plugins": [{}]}), Err("type"));
    }

    #[test]
    fn a_plugin_gets_the_capabilities_it_declares_and_the_former_result() {
        let list = NetworkList {
            name: "net".into(),
            cni_version: "1.0.0".into(),
            plugins: vec![
                json!({"type": "a", "mtu": 1400}).as_object().cloned().expect("object"),
                json!({"type": "b", "capabilities": {"portMappings": true, "ips": false}})
                    .as_object()
                    .cloned()
                    .expect("object"),
            ],
        };
        let capabilities = json!({"portMappings": [{"hostPort": 80}], "ips": ["10.0.0.1"]});
        let capabilities = capabilities.as_object().expect("object");
        assert_eq!(list.input(0, capabilities, None), json!({"type": "a", "mtu": 1400, "name": "net", "cniVersion": "1.0.0"}));
        assert_eq!(
            list.input(1, capabilities, Some(&json!({"ips": []}))),
            json!({
                "type": "b", "name": "net", "cniVersion": "1.0.0",
                "runtimeConfig": {"portMappings": [{"hostPort": 80}]}, "prevResult": {"ips": []}
            })
        );
    }
}
