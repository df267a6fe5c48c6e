//! Field selectors: `spec.nodeName=a,status.phase!=Running`, over the fields that the kind table lists.

use std::fmt;
use std::str::FromStr;

use serde_json::Value;

use super::SelectError;
use crate::kinds::Kind;

/// All terms must hold.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct FieldSelector {
    terms: Vec<Term>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Term {
    field: String,
    equal: bool,
    value: String,
}

// === impl FieldSelector ===

impl FieldSelector {
    /// Refuses fields that the kind cannot be selected by.
    pub fn check(&self, kind: &Kind) -> Result<(), SelectError> {
        let known = |field: &str| {
            field == "metadata.name" || (field == "metadata.namespace" && kind.namespaced) || kind.fields.contains(&field)
        };
        match self.terms.iter().find(|t| !known(&t.field)) {
            Some(term) => Err(SelectError::UnsupportedField(term.field.clone())),
            None => Ok(()),
        }
    }

    pub fn matches(&self, kind: &Kind, object: &Value) -> bool {
        self.terms.iter().all(|t| (value(kind, object, &t.field) == t.value) == t.equal)
    }

    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// The value that a field must have, when the selector pins it: `metadata.name=x` makes a list a get.
    pub fn pinned(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|t| t.equal && t.field == field).map(|t| t.value.as_str())
    }
}

/// The value of a selectable field, as a string; "" when it is not set.
fn value(kind: &Kind, object: &Value, field: &str) -> String {
    let field = match (kind.kind, field) {
        ("Namespace", "name") => "metadata.name",
        ("Event", "source") => match object["source"]["component"].as_str() {
            None | Some("") => "reportingComponent",
            Some(_) => "source.component",
        },
        (_, field) => field,
    };
    match field.split('.').fold(object, |value, segment| &value[segment]) {
        Value::String(s) => s.clone(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => n.to_string(),
        _ => match field {
            "spec.unschedulable" | "spec.hostNetwork" => "false".to_owned(),
            "status.replicas" => "0".to_owned(),
            _ => String::new(),
        },
    }
}

impl FromStr for FieldSelector {
    type Err = SelectError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let cannot = |term: &str| SelectError::Field { selector: s.to_owned(), term: term.to_owned() };
        let mut terms = Vec::new();
        for term in split_unescaped(s) {
            if term.is_empty() {
                continue;
            }
            let (at, sign, equal) = ["!=", "==", "="]
                .iter()
                .filter_map(|sign| Some((term.find(sign)?, *sign, *sign != "!=")))
                .min_by_key(|(at, sign, _)| (*at, usize::MAX - sign.len()))
                .ok_or_else(|| cannot(term))?;
            let value = unescape(&term[at + sign.len()..]).ok_or_else(|| cannot(term))?;
            terms.push(Term { field: term[..at].to_owned(), equal, value });
        }
        Ok(Self { terms })
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, term) in self.terms.iter().enumerate() {
            let value = term.value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
            write!(f, "{}{}{}{value}", if i > 0 { "," } else { "" }, term.field, if term.equal { "=" } else { "!=" })?;
        }
        Ok(())
    }
}

fn split_unescaped(s: &str) -> Vec<&str> {
    let (mut terms, mut start, mut escaped) = (Vec::new(), 0, false);
    for (i, c) in s.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&s[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    terms.push(&s[start..]);
    terms
}

/// `\,`, `\=` and `\\` stand for themselves; an unescaped `=` is an error.
fn unescape(value: &str) -> Option<String> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next()? {
                escaped @ ('\\' | ',' | '=') => out.push(escaped),
                _ => return None,
            },
            '=' => return None,
            _ => out.push(c),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::by_kind;

    #[test]
    fn fields_of_a_kind_select() {
        let check = |kind: &str, object: Value, selector: &str, expected: bool| {
            let kind = by_kind("", "v1", kind).unwrap();
            let parsed: FieldSelector = selector.parse().unwrap();
            parsed.check(kind).unwrap();
            assert_eq!(parsed.matches(kind, &object), expected, "{selector}");
            assert_eq!(parsed.to_string().parse::<FieldSelector>().unwrap(), parsed, "{selector} survives being printed");
        };
        let pod = json!({ "metadata": { "name": "a", "namespace": "x" }, "spec": { "nodeName": "n1" }, "status": { "phase": "Running" } });
        check("Pod", pod.clone(), "", true);
        check("Pod", pod.clone(), "metadata.name=a,metadata.namespace==x", true);
        check("Pod", pod.clone(), "spec.nodeName=n1,status.phase!=Failed", true);
        check("Pod", pod.clone(), "spec.nodeName!=n1", false);
        check("Pod", pod.clone(), "spec.nodeName=", false);
        check("Pod", pod, "status.podIP=", true);
        check("Node", json!({}), "spec.unschedulable=false", true);
        check("Node", json!({ "spec": { "unschedulable": true } }), "spec.unschedulable=true", true);
        check(
            "Event",
            json!({ "involvedObject": { "name": "a", "kind": "Pod" } }),
            "involvedObject.name=a,involvedObject.kind=Pod",
            true,
        );
        check("Event", json!({ "reportingComponent": "kubelet" }), "source=kubelet", true);
        check("Secret", json!({ "type": "a,b=c" }), "type=a\\,b\\=c", true);
        check("Namespace", json!({ "metadata": { "name": "default" }, "status": { "phase": "Active" } }), "name=default", true);
    }

    #[test]
    fn unknown_fields_and_bad_syntax_are_named() {
        let pods = by_kind("", "v1", "Pod").unwrap();
        let unsupported = "spec.foo=1".parse::<FieldSelector>().unwrap().check(pods).unwrap_err();
        assert_eq!(unsupported.to_string(), "field label not supported: spec.foo");
        let nodes = by_kind("", "v1", "Node").unwrap();
        assert!("metadata.namespace=a".parse::<FieldSelector>().unwrap().check(nodes).is_err());
        let bad = "metadata.name".parse::<FieldSelector>().unwrap_err();
        assert_eq!(bad.to_string(), "invalid selector: 'metadata.name'; can't understand 'metadata.name'");
        assert!("type=a\\b".parse::<FieldSelector>().is_err());
        assert_eq!("metadata.name=a,x!=b".parse::<FieldSelector>().unwrap().pinned("metadata.name"), Some("a"));
    }
}
