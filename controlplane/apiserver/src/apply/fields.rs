//! Sets of fields, as managedFields write them (FieldsV1): a tree whose nodes are fields, list items by key, and set members.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Map, Value, json};

/// One step into an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    /// `f:name`
    Field(String),
    /// `k:{"name":"c"}`: the item of a list whose key fields have these values, as compact JSON with sorted keys.
    Key(String),
    /// `v:"x"`: the member of a set, as JSON.
    Member(String),
}

/// A set of fields. The root is the object itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fields {
    /// Whether this node itself belongs to the set, not only some below it.
    pub here: bool,
    pub below: BTreeMap<Step, Fields>,
}

// === impl Fields ===

impl Fields {
    pub(crate) fn is_empty(&self) -> bool {
        !self.here && self.below.is_empty()
    }

    /// What is in both sets.
    pub(crate) fn and(&self, other: &Self) -> Self {
        self.combine(other, |a, b| a && b, false, false)
    }

    /// What is in this set and not in the other.
    pub(crate) fn minus(&self, other: &Self) -> Self {
        self.combine(other, |a, b| a && !b, true, false)
    }

    pub(crate) fn or(&self, other: &Self) -> Self {
        self.combine(other, |a, b| a || b, true, true)
    }

    fn combine(&self, other: &Self, here: fn(bool, bool) -> bool, keep_mine: bool, keep_theirs: bool) -> Self {
        let mut result = Self { here: here(self.here, other.here), below: BTreeMap::new() };
        for (step, mine) in &self.below {
            let node = match other.below.get(step) {
                Some(theirs) => mine.combine(theirs, here, keep_mine, keep_theirs),
                None if keep_mine => mine.clone(),
                None => continue,
            };
            if !node.is_empty() {
                result.below.insert(step.clone(), node);
            }
        }
        if keep_theirs {
            for (step, theirs) in other.below.iter().filter(|(step, _)| !self.below.contains_key(step)) {
                result.below.insert(step.clone(), theirs.clone());
            }
        }
        result
    }

    /// Takes a field and all below it away.
    pub(crate) fn remove(&mut self, path: &[&str]) {
        let Some((first, rest)) = path.split_first() else { return };
        let step = Step::Field((*first).to_owned());
        if rest.is_empty() {
            self.below.remove(&step);
        } else if let Some(node) = self.below.get_mut(&step) {
            node.remove(rest);
            if node.is_empty() {
                self.below.remove(&step);
            }
        }
    }

    /// Every path of the set.
    pub(crate) fn paths(&self) -> Vec<Vec<Step>> {
        let mut paths = Vec::new();
        self.collect(&mut Vec::new(), &mut paths);
        paths
    }

    fn collect(&self, path: &mut Vec<Step>, paths: &mut Vec<Vec<Step>>) {
        if self.here {
            paths.push(path.clone());
        }
        for (step, node) in &self.below {
            path.push(step.clone());
            node.collect(path, paths);
            path.pop();
        }
    }

    pub(crate) fn to_value(&self) -> Value {
        let mut map = Map::new();
        if self.here && !self.below.is_empty() {
            map.insert(".".into(), json!({}));
        }
        for (step, node) in &self.below {
            let name = match step {
                Step::Field(name) => format!("f:{name}"),
                Step::Key(key) => format!("k:{key}"),
                Step::Member(value) => format!("v:{value}"),
            };
            map.insert(name, node.to_value());
        }
        Value::Object(map)
    }

    /// Reads FieldsV1; what it does not understand it leaves out.
    pub(crate) fn from_value(value: &Value) -> Self {
        let mut fields = Self::default();
        let map = value.as_object();
        if map.is_some_and(Map::is_empty) {
            fields.here = true;
        }
        for (name, below) in map.into_iter().flatten() {
            let step = match name.split_once(':') {
                Some(("f", name)) => Step::Field(name.to_owned()),
                Some(("k", key)) => Step::Key(canonical(key)),
                Some(("v", value)) => Step::Member(canonical(value)),
                _ => {
                    fields.here |= name == ".";
                    continue;
                }
            };
            fields.below.insert(step, Self::from_value(below));
        }
        fields
    }
}

/// A path as conflict messages show it: `.spec.containers[name="c"].image`.
pub(crate) fn shown(path: &[Step]) -> String {
    let mut out = String::new();
    for step in path {
        // Writing to a String cannot fail.
        let _ = match step {
            Step::Field(name) => write!(out, ".{name}"),
            Step::Member(value) => write!(out, "[={value}]"),
            Step::Key(key) => {
                let key: Map<String, Value> = serde_json::from_str(key).unwrap_or_default();
                let pairs: Vec<_> = key.iter().map(|(name, value)| format!("{name}={value}")).collect();
                write!(out, "[{}]", pairs.join(","))
            }
        };
    }
    out
}

/// JSON in one form, so that equal keys are equal text.
fn canonical(text: &str) -> String {
    serde_json::from_str::<Value>(text).map_or_else(|_| text.to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(value: Value) -> Fields {
        Fields::from_value(&value)
    }

    #[test]
    fn sets_are_written_as_they_are_read() {
        for value in [
            json!({"f:spec": {"f:replicas": {}}}),
            json!({"f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:image": {}}}}}),
            json!({"f:metadata": {"f:finalizers": {".": {}, "v:\"x\"": {}}}}),
        ] {
            assert_eq!(set(value.clone()).to_value(), value);
        }
        let spaced = set(json!({"k:{ \"b\": 1, \"a\": 2 }": {}}));
        assert_eq!(spaced.to_value(), json!({"k:{\"a\":2,\"b\":1}": {}}));
    }

    #[test]
    fn sets_are_combined() {
        let a = set(json!({"f:x": {}, "f:y": {"f:z": {}, "f:w": {}}}));
        let b = set(json!({"f:y": {"f:z": {}}, "f:v": {}}));
        assert_eq!(a.and(&b).to_value(), json!({"f:y": {"f:z": {}}}));
        assert_eq!(a.minus(&b).to_value(), json!({"f:x": {}, "f:y": {"f:w": {}}}));
        assert_eq!(a.or(&b).to_value(), json!({"f:x": {}, "f:y": {"f:z": {}, "f:w": {}}, "f:v": {}}));
        assert!(a.minus(&a).is_empty());
    }

    #[test]
    fn paths_are_shown_as_kubernetes_shows_them() {
        let fields = set(json!({"f:spec": {"f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {"f:nodePort": {}}}}}));
        let shown: Vec<_> = fields.paths().iter().map(|path| shown(path)).collect();
        assert_eq!(shown, [".spec.ports[port=80,protocol=\"TCP\"].nodePort"]);
    }
}
