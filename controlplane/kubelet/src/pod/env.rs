//! The environment of a container, and `$(VAR)` in it and in commands.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};

use super::fields::{Place, field, resource};

/// ConfigMaps and Secrets that the container names, as text; an absent one is not there.
#[derive(Debug, Default)]
pub struct Sources {
    pub config_maps: BTreeMap<String, BTreeMap<String, String>>,
    pub secrets: BTreeMap<String, BTreeMap<String, String>>,
}

/// Names of the ConfigMaps and Secrets a container's environment needs.
pub fn references(container: &Container) -> (Vec<String>, Vec<String>) {
    let (mut maps, mut secrets) = (Vec::new(), Vec::new());
    for source in container.env_from.iter().flatten() {
        maps.extend(source.config_map_ref.iter().map(|r| r.name.clone()));
        secrets.extend(source.secret_ref.iter().map(|r| r.name.clone()));
    }
    for source in container.env.iter().flatten().filter_map(|v| v.value_from.as_ref()) {
        maps.extend(source.config_map_key_ref.iter().map(|r| r.name.clone()));
        secrets.extend(source.secret_key_ref.iter().map(|r| r.name.clone()));
    }
    for list in [&mut maps, &mut secrets] {
        list.sort();
        list.dedup();
    }
    (maps, secrets)
}

/// The variables in the order they were defined; a later one of the same name replaces the earlier.
pub fn environment(
    pod: &Pod,
    container: &Container,
    place: &Place,
    sources: &Sources,
    services: &[(String, String)],
) -> Result<Vec<(String, String)>, String> {
    let mut variables = Variables { services, own: Vec::new() };
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        let named = [
            source.config_map_ref.as_ref().map(|r| ("configmap", &r.name, r.optional, &sources.config_maps)),
            source.secret_ref.as_ref().map(|r| ("secret", &r.name, r.optional, &sources.secrets)),
        ];
        for (kind, name, optional, all) in named.into_iter().flatten() {
            match all.get(name) {
                Some(data) => data.iter().for_each(|(k, v)| variables.set(format!("{prefix}{k}"), v.clone())),
                None if optional == Some(true) => {}
                None => return Err(format!("{kind} \"{name}\" not found")),
            }
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (Some(text), _) => Some(expand(text, |name| variables.get(name))),
            (None, None) => Some(String::new()),
            (None, Some(source)) => {
                if let Some(selector) = &source.field_ref {
                    Some(field(pod, place, &selector.field_path)?)
                } else if let Some(selector) = &source.resource_field_ref {
                    Some(resource(pod, place, &container.name, selector)?)
                } else if let Some(selector) = &source.config_map_key_ref {
                    key("configmap", &sources.config_maps, &selector.name, &selector.key, selector.optional)?
                } else if let Some(selector) = &source.secret_key_ref {
                    key("secret", &sources.secrets, &selector.name, &selector.key, selector.optional)?
                } else {
                    return Err(format!("the source of variable {} is not supported", variable.name));
                }
            }
        };
        if let Some(value) = value {
            variables.set(variable.name.clone(), value);
        }
    }
    Ok(variables.all())
}

struct Variables<'a> {
    services: &'a [(String, String)],
    own: Vec<(String, String)>,
}

impl Variables<'_> {
    fn set(&mut self, name: String, value: String) {
        match self.own.iter_mut().find(|(n, _)| *n == name) {
            Some(entry) => entry.1 = value,
            None => self.own.push((name, value)),
        }
    }

    fn get(&self, name: &str) -> Option<String> {
        self.own.iter().chain(self.services).find(|(n, _)| n == name).map(|(_, v)| v.clone())
    }

    fn all(self) -> Vec<(String, String)> {
        let services = self.services.iter().filter(|(n, _)| !self.own.iter().any(|(o, _)| o == n)).cloned().collect::<Vec<_>>();
        services.into_iter().chain(self.own).collect()
    }
}

fn key(
    kind: &str,
    all: &BTreeMap<String, BTreeMap<String, String>>,
    name: &str,
    key: &str,
    optional: Option<bool>,
) -> Result<Option<String>, String> {
    match (all.get(name), optional) {
        (Some(data), _) if data.contains_key(key) => Ok(data.get(key).cloned()),
        (_, Some(true)) => Ok(None),
        (Some(_), _) => Err(format!("couldn't find key {key} in {kind} \"{name}\"")),
        (None, _) => Err(format!("{kind} \"{name}\" not found")),
    }
}

/// Replaces `$(NAME)`; `$$` is a dollar sign, and an unknown name stays as it is written.
pub fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|r| r.split_once(')')) {
            match lookup(name) {
                Some(value) => out.push_str(&value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn expansion() {
        let lookup = |name: &str| (name == "A").then(|| "1".to_owned());
        for (text, expected) in [
            ("plain", "plain"),
            ("$(A)-$(A)", "1-1"),
            ("$(B)", "$(B)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$A ${A}", "$A ${A}"),
            ("$(A", "$(A"),
            ("end$", "end$"),
            ("é$(A)é", "é1é"),
        ] {
            assert_eq!(expand(text, lookup), expected, "{text}");
        }
    }

    fn check(container: Value, expected: Result<&[(&str, &str)], &str>) {
        let mut container: Container = serde_json::from_value(container).expect("container");
        container.name = "c".into();
        let mut pod = Pod::default();
        pod.metadata.name = Some("web".into());
        let table = |name: &str, key: &str, value: &str| {
            BTreeMap::from([(name.to_owned(), BTreeMap::from([(key.to_owned(), value.to_owned())]))])
        };
        let sources = Sources { config_maps: table("settings", "COLOR", "blue"), secrets: table("keys", "TOKEN", "abc") };
        let services = [("SVC".to_owned(), "10.0.0.1".to_owned())];
        let result = environment(&pod, &container, &Place::default(), &sources, &services);
        let expected = expected.map(|list| list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<Vec<_>>());
        assert_eq!(result, expected.map_err(str::to_owned), "{container:?}");
    }

    #[test]
    fn every_source_and_their_order() {
        let svc = ("SVC", "10.0.0.1");
        check(json!({"name": ""}), Ok(&[svc]));
        check(
            json!({"name": "", "env": [{"name": "A", "value": "x$(SVC)"}, {"name": "B", "value": "$(A)$(LATER)"}, {"name": "SVC", "value": "own"}]}),
            Ok(&[("A", "x10.0.0.1"), ("B", "x10.0.0.1$(LATER)"), ("SVC", "own")]),
        );
        check(
            json!({"name": "", "envFrom": [{"prefix": "P_", "configMapRef": {"name": "settings"}}, {"secretRef": {"name": "keys"}}],
                "env": [{"name": "TOKEN", "value": "mine"}]}),
            Ok(&[svc, ("P_COLOR", "blue"), ("TOKEN", "mine")]),
        );
        check(
            json!({"name": "", "env": [
                {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "COLOR"}}},
                {"name": "B", "valueFrom": {"secretKeyRef": {"name": "absent", "key": "x", "optional": true}}},
                {"name": "C", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}),
            Ok(&[svc, ("A", "blue"), ("C", "web")]),
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        check(json!({"name": "", "envFrom": [{"configMapRef": {"name": "nope"}}]}), Err("configmap \"nope\" not found"));
        check(json!({"name": "", "envFrom": [{"secretRef": {"name": "nope", "optional": true}}]}), Ok(&[("SVC", "10.0.0.1")]));
        check(
            json!({"name": "", "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "x"}}}]}),
            Err("couldn't find key x in secret \"keys\""),
        );
    }

    #[test]
    fn references_are_collected_once() {
        let container: Container = serde_json::from_value(json!({"name": "c",
            "envFrom": [{"configMapRef": {"name": "b"}}, {"configMapRef": {"name": "a"}}, {"secretRef": {"name": "s"}}],
            "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "a", "key": "k"}}}]}))
        .expect("container");
        assert_eq!(references(&container), (vec!["a".to_owned(), "b".to_owned()], vec!["s".to_owned()]));
    }
}
