//! Label selectors: which labels one matches. An operator that is not known matches nothing.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

pub type Labels = BTreeMap<String, String>;

/// Whether `selector` matches; an empty one matches everything.
pub fn matches(selector: &LabelSelector, labels: &Labels) -> bool {
    selector.match_labels.as_ref().is_none_or(|wanted| contains(wanted, labels))
        && selector.match_expressions.iter().flatten().all(|requirement| meets(requirement, labels))
}

/// A selector without any requirement: workloads with one own nothing.
pub fn is_empty(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
        && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
}

/// Whether `labels` has all of `wanted`.
pub fn contains(wanted: &Labels, labels: &Labels) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

fn meets(requirement: &LabelSelectorRequirement, labels: &Labels) -> bool {
    let value = labels.get(&requirement.key);
    let listed = |value: &String| requirement.values.as_ref().is_some_and(|values| values.contains(value));
    match requirement.operator.as_str() {
        "In" => value.is_some_and(listed),
        "NotIn" => !value.is_some_and(listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors_match() {
        let check = |selector: serde_json::Value, labels: &[(&str, &str)], expected: bool| {
            let labels: Labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            let parsed: LabelSelector = serde_json::from_value(selector.clone()).unwrap();
            assert_eq!(matches(&parsed, &labels), expected, "{selector} on {labels:?}");
        };
        let expression = |operator: &str, values: &[&str]| json!({"matchExpressions": [{"key": "a", "operator": operator, "values": values}]});
        check(json!({}), &[], true);
        check(json!({"matchLabels": {"a": "1"}}), &[("a", "1"), ("b", "2")], true);
        check(json!({"matchLabels": {"a": "1", "b": "2"}}), &[("a", "1")], false);
        check(expression("In", &["1", "2"]), &[("a", "2")], true);
        check(expression("In", &["1", "2"]), &[("a", "3")], false);
        check(expression("In", &["1"]), &[], false);
        check(expression("NotIn", &["1"]), &[("a", "1")], false);
        check(expression("NotIn", &["1"]), &[("a", "2")], true);
        check(expression("NotIn", &["1"]), &[], true);
        check(expression("Exists", &[]), &[("a", "")], true);
        check(expression("Exists", &[]), &[], false);
        check(expression("DoesNotExist", &[]), &[], true);
        check(expression("DoesNotExist", &[]), &[("a", "1")], false);
        check(expression("Resembles", &["1"]), &[("a", "1")], false);
    }
}
