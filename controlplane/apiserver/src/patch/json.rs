//! JSON patch, RFC 6902: a list of operations, all or none.

use serde_json::Value;

use super::PatchError;

/// More operations than this in one patch are refused.
const MAX_OPERATIONS: usize = 10_000;

/// The object that the operations of `patch` make of `target`.
pub fn json_patch(target: &Value, patch: &Value) -> Result<Value, PatchError> {
    let operations =
        patch.as_array().ok_or_else(|| PatchError::Malformed("a JSON patch must be an array of operations".to_owned()))?;
    if operations.len() > MAX_OPERATIONS {
        let message = format!("The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}", operations.len());
        return Err(PatchError::Malformed(message));
    }
    let mut result = target.clone();
    for operation in operations {
        apply(&mut result, operation)?;
    }
    Ok(result)
}

fn apply(document: &mut Value, operation: &Value) -> Result<(), PatchError> {
    let string = |field: &str| {
        operation[field]
            .as_str()
            .ok_or_else(|| PatchError::Malformed(format!("operation {operation} needs the string {field:?}")))
    };
    let value = || {
        operation.get("value").cloned().ok_or_else(|| PatchError::Malformed(format!("operation {operation} needs a \"value\"")))
    };
    let path = string("path")?;
    match string("op")? {
        "add" => add("add", document, path, value()?),
        "remove" => remove("remove", document, path).map(drop),
        "replace" => {
            *find_mut("replace", document, path)? = value()?;
            Ok(())
        }
        "move" => {
            let from = string("from")?;
            if path.strip_prefix(from).is_some_and(|rest| rest.starts_with('/')) {
                return Err(fails("move", path, "a value cannot move into itself"));
            }
            let value = remove("move", document, from)?;
            add("move", document, path, value)
        }
        "copy" => {
            let value = find_mut("copy", document, string("from")?)?.clone();
            add("copy", document, path, value)
        }
        "test" => {
            let expected = value()?;
            let found = find_mut("test", document, path).map(|v| v.clone());
            match found {
                Ok(found) if equal(&found, &expected) => Ok(()),
                // Kubernetes takes an absent value for null here.
                Err(_) if expected.is_null() => Ok(()),
                _ => Err(PatchError::Test(path.to_owned())),
            }
        }
        other => Err(PatchError::Malformed(format!("unexpected kind of operation: {other:?}"))),
    }
}

fn fails(operation: &'static str, path: &str, problem: &'static str) -> PatchError {
    PatchError::Operation { operation, path: path.to_owned(), problem }
}

/// Numbers are equal by value: 1 and 1.0.
fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| equal(a, b)))
        }
        (a, b) => a == b,
    }
}

/// The parent's pointer and the last step, unescaped.
fn split<'a>(operation: &'static str, path: &'a str) -> Result<(&'a str, String), PatchError> {
    let (parent, last) = path.rsplit_once('/').ok_or_else(|| fails(operation, path, "a path begins with /"))?;
    Ok((parent, last.replace("~1", "/").replace("~0", "~")))
}

/// An array index: digits without leading zeros.
fn index(step: &str) -> Option<usize> {
    let canonical = step == "0" || (!step.starts_with('0') && step.bytes().all(|b| b.is_ascii_digit()));
    if canonical { step.parse().ok() } else { None }
}

fn find_mut<'a>(operation: &'static str, document: &'a mut Value, path: &str) -> Result<&'a mut Value, PatchError> {
    document.pointer_mut(path).ok_or_else(|| fails(operation, path, "there is no such value"))
}

fn add(operation: &'static str, document: &mut Value, path: &str, value: Value) -> Result<(), PatchError> {
    if path.is_empty() {
        *document = value;
        return Ok(());
    }
    let (parent, last) = split(operation, path)?;
    match find_mut(operation, document, parent) {
        Ok(Value::Object(map)) => {
            map.insert(last, value);
            Ok(())
        }
        Ok(Value::Array(list)) => {
            let at = if last == "-" { Some(list.len()) } else { index(&last) };
            let at = at.filter(|at| *at <= list.len()).ok_or_else(|| fails(operation, path, "the index is out of bounds"))?;
            list.insert(at, value);
            Ok(())
        }
        Ok(_) => Err(fails(operation, path, "the parent is neither an object nor an array")),
        Err(_) => Err(fails(operation, path, "there is no parent to add to")),
    }
}

fn remove(operation: &'static str, document: &mut Value, path: &str) -> Result<Value, PatchError> {
    let (parent, last) = split(operation, path)?;
    let missing = || fails(operation, path, "there is no such value");
    match find_mut(operation, document, parent).map_err(|_| missing())? {
        Value::Object(map) => map.remove(&last).ok_or_else(missing),
        Value::Array(list) => {
            let at = index(&last).filter(|at| *at < list.len()).ok_or_else(missing)?;
            Ok(list.remove(at))
        }
        _ => Err(missing()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_examples_of_the_rfc() {
        let check = |target: Value, patch: Value, expected: Value| {
            assert_eq!(json_patch(&target, &patch), Ok(expected), "{target} + {patch}");
        };
        let op = |op: &str, path: &str, value: Value| json!([{ "op": op, "path": path, "value": value }]);
        check(json!({ "foo": "bar" }), op("add", "/baz", json!("qux")), json!({ "baz": "qux", "foo": "bar" }));
        check(json!({ "foo": ["bar", "baz"] }), op("add", "/foo/1", json!("qux")), json!({ "foo": ["bar", "qux", "baz"] }));
        check(json!({ "foo": ["bar"] }), op("add", "/foo/-", json!(["abc"])), json!({ "foo": ["bar", ["abc"]] }));
        check(json!({ "a": 1 }), op("add", "", json!({ "b": 2 })), json!({ "b": 2 }));
        check(json!({ "baz": 1, "foo": 2 }), json!([{ "op": "remove", "path": "/baz" }]), json!({ "foo": 2 }));
        check(json!({ "foo": [1, 2, 3] }), json!([{ "op": "remove", "path": "/foo/1" }]), json!({ "foo": [1, 3] }));
        check(json!({ "baz": "qux" }), op("replace", "/baz", json!("boo")), json!({ "baz": "boo" }));
        check(
            json!({ "foo": { "bar": 1, "waldo": 2 }, "qux": {} }),
            json!([{ "op": "move", "from": "/foo/waldo", "path": "/qux/thud" }]),
            json!({ "foo": { "bar": 1 }, "qux": { "thud": 2 } }),
        );
        check(
            json!({ "foo": [1, 2, 3] }),
            json!([{ "op": "move", "from": "/foo/0", "path": "/foo/2" }]),
            json!({ "foo": [2, 3, 1] }),
        );
        check(json!({ "a": [1] }), json!([{ "op": "copy", "from": "/a", "path": "/b" }]), json!({ "a": [1], "b": [1] }));
        check(json!({ "a": { "b": 1 } }), op("test", "/a", json!({ "b": 1.0 })), json!({ "a": { "b": 1 } }));
        check(json!({}), op("test", "/absent", json!(null)), json!({}));
        check(json!({ "/": 9, "~1": 10 }), op("test", "/~01", json!(10)), json!({ "/": 9, "~1": 10 }));
        check(
            json!({ "metadata": { "labels": {} } }),
            op("add", "/metadata/labels/app.kubernetes.io~1name", json!("x")),
            json!({ "metadata": { "labels": { "app.kubernetes.io/name": "x" } } }),
        );
    }

    #[test]
    fn operations_that_do_not_fit_are_named_and_change_nothing() {
        let check = |target: Value, operation: Value, expected: &str| {
            let first = json!({ "op": "add", "path": "/marker", "value": 1 });
            let error = json_patch(&target, &json!([first, operation])).unwrap_err().to_string();
            assert!(error.contains(expected), "{operation}: {error}");
        };
        check(
            json!({}),
            json!({ "op": "remove", "path": "/a" }),
            "remove operation does not apply: /a: there is no such value",
        );
        check(json!({}), json!({ "op": "replace", "path": "/a", "value": 1 }), "replace operation does not apply: /a");
        check(json!({}), json!({ "op": "add", "path": "/a/b", "value": 1 }), "there is no parent");
        check(json!({ "a": [1] }), json!({ "op": "add", "path": "/a/2", "value": 1 }), "out of bounds");
        check(json!({ "a": [1] }), json!({ "op": "add", "path": "/a/01", "value": 1 }), "out of bounds");
        check(json!({ "a": 1 }), json!({ "op": "test", "path": "/a", "value": 2 }), "testing value /a failed");
        check(json!({ "a": {} }), json!({ "op": "move", "from": "/a", "path": "/a/b" }), "cannot move into itself");
        check(json!({}), json!({ "op": "grow", "path": "/a" }), "unexpected kind");
        check(json!({}), json!({ "op": "add", "path": "/a" }), "needs a \"value\"");
        check(json!({}), json!({ "op": "add", "value": 1 }), "needs the string \"path\"");
        check(json!({}), json!({ "op": "add", "path": "a", "value": 1 }), "a path begins with /");
        assert!(matches!(json_patch(&json!({}), &json!({})), Err(PatchError::Malformed(_))));
    }
}
