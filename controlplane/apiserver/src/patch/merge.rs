//! JSON merge patch, RFC 7386: objects merge, null deletes, everything else replaces.

use serde_json::{Map, Value};

/// The object that `patch` makes of `target`.
pub fn merge_patch(target: &Value, patch: &Value) -> Value {
    let mut result = target.clone();
    merge(&mut result, patch);
    result
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key.as_str()).or_insert(Value::Null), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn the_examples_of_the_rfc() {
        let check = |target: Value, patch: Value, expected: Value| {
            assert_eq!(merge_patch(&target, &patch), expected, "{target} + {patch}");
        };
        check(json!({ "a": "b" }), json!({ "a": "c" }), json!({ "a": "c" }));
        check(json!({ "a": "b" }), json!({ "b": "c" }), json!({ "a": "b", "b": "c" }));
        check(json!({ "a": "b" }), json!({ "a": null }), json!({}));
        check(json!({ "a": "b", "b": "c" }), json!({ "a": null }), json!({ "b": "c" }));
        check(json!({ "a": ["b"] }), json!({ "a": "c" }), json!({ "a": "c" }));
        check(json!({ "a": "c" }), json!({ "a": ["b"] }), json!({ "a": ["b"] }));
        check(json!({ "a": { "b": "c" } }), json!({ "a": { "b": "d", "c": null } }), json!({ "a": { "b": "d" } }));
        check(json!({ "a": [{ "b": "c" }] }), json!({ "a": [1] }), json!({ "a": [1] }));
        check(json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"]));
        check(json!({ "a": "b" }), json!(["c"]), json!(["c"]));
        check(json!({ "a": "foo" }), json!(null), json!(null));
        check(json!({ "e": null }), json!({ "a": 1 }), json!({ "e": null, "a": 1 }));
        check(json!([1, 2]), json!({ "a": "b", "c": null }), json!({ "a": "b" }));
        check(json!({}), json!({ "a": { "bb": { "ccc": null } } }), json!({ "a": { "bb": {} } }));
    }

    fn object() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![Just(Value::Null), any::<bool>().prop_map(Value::from), any::<i32>().prop_map(Value::from)];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[a-d]", inner, 0..4).prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    fn has_null(value: &Value) -> bool {
        match value {
            Value::Null => true,
            Value::Object(map) => map.values().any(has_null),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn applying_twice_changes_nothing_more(target in object(), patch in object()) {
            let once = merge_patch(&target, &patch);
            prop_assert_eq!(merge_patch(&once, &patch), once);
        }

        #[test]
        fn an_object_without_nulls_is_a_patch_to_itself(target in object()) {
            prop_assume!(!has_null(&target));
            prop_assert_eq!(merge_patch(&target, &target), target.clone());
            prop_assert_eq!(merge_patch(&json!({}), &target), target);
        }

        #[test]
        fn an_empty_patch_keeps_an_object(target in prop::collection::btree_map("[a-d]", object(), 0..4)) {
            let target = Value::Object(target.into_iter().collect());
            prop_assert_eq!(merge_patch(&target, &json!({})), target);
        }
    }
}
