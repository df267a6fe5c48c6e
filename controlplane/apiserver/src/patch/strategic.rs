//! Strategic merge patch: a merge patch that knows the kind, so that lists of named things merge by their names.
//!
//! Besides values a patch has directives: `$patch: delete | replace` in an object, `$retainKeys` for unions,
//! `$deleteFromPrimitiveList/field`, and `$setElementOrder/field`, which kubectl apply sends with every merged list.

use serde_json::{Map, Value};

use super::PatchError;
use crate::kinds::Kind;
use crate::schema::types::{Field, Shape, Strategy, TYPES};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ORDER: &str = "$setElementOrder/";

type Object = Map<String, Value>;

/// The object that `patch` makes of `target`, an object of `kind`.
pub fn strategic(kind: &Kind, target: &Value, patch: &Value) -> Result<Value, PatchError> {
    let (Value::Object(target), Value::Object(patch)) = (target, patch) else {
        return Err(PatchError::Malformed("a strategic merge patch must be an object".to_owned()));
    };
    let mut result = target.clone();
    merge_object(&mut result, patch, &TYPES.shape(kind), &mut Vec::new())?;
    Ok(Value::Object(result))
}

fn fails<T>(path: &[String], problem: impl Into<String>) -> Result<T, PatchError> {
    let path = if path.is_empty() { "patch".to_owned() } else { path.join(".") };
    Err(PatchError::Strategic { path, problem: problem.into() })
}

fn is_directive(key: &str) -> bool {
    key == PATCH || key == RETAIN_KEYS || key.starts_with(DELETE_FROM) || key.starts_with(ORDER)
}

/// The shape and strategy of a field of an object of this shape.
fn lookup<'a>(shape: &'a Shape, field: &str) -> (&'a Shape, &'a Strategy) {
    const ANY: &Shape = &Shape::Any;
    static NO_STRATEGY: Strategy = Strategy { merge: false, key: None, retain_keys: false };
    match shape {
        Shape::Object(id) => match TYPES.get(*id).fields.get(field) {
            Some(Field { shape, strategy }) => (shape, strategy),
            None => (ANY, &NO_STRATEGY),
        },
        Shape::Map(value) => (value, &NO_STRATEGY),
        _ => (ANY, &NO_STRATEGY),
    }
}

fn merge_object(target: &mut Object, patch: &Object, shape: &Shape, path: &mut Vec<String>) -> Result<(), PatchError> {
    match patch.get(PATCH).map(|word| word.as_str().unwrap_or_default()) {
        None | Some("merge") => {}
        Some("replace") => {
            target.clear();
            target.extend(patch.iter().filter(|(key, _)| *key != PATCH).map(|(key, value)| (key.clone(), value.clone())));
            return Ok(());
        }
        Some("delete") => {
            target.clear();
            return Ok(());
        }
        Some(other) => return fails(path, format!("unknown patch type {other:?} in {PATCH}")),
    }
    if let Some(retain) = patch.get(RETAIN_KEYS) {
        retain_keys(target, patch, retain, path)?;
    }
    for (key, value) in patch.iter().filter(|(key, _)| !is_directive(key)) {
        path.push(key.clone());
        let (shape, strategy) = lookup(shape, key);
        merge_field(target, key, value, shape, strategy, patch, path)?;
        path.pop();
    }
    for (key, value) in patch {
        if let Some(field) = key.strip_prefix(DELETE_FROM) {
            delete_from(target, field, value, path)?;
        }
    }
    for (key, order) in patch {
        if let Some(field) = key.strip_prefix(ORDER) {
            let (_, strategy) = lookup(shape, field);
            if let (Some(Value::Array(list)), Some(order)) = (target.get_mut(field), order.as_array()) {
                let original = std::mem::take(list);
                *list = reorder(original, order, strategy.key.as_deref());
            }
        }
    }
    Ok(())
}

fn merge_field(
    target: &mut Object,
    key: &str,
    value: &Value,
    shape: &Shape,
    strategy: &Strategy,
    patch: &Object,
    path: &mut Vec<String>,
) -> Result<(), PatchError> {
    match (target.get_mut(key), value) {
        (_, Value::Null) => {
            target.remove(key);
        }
        (Some(Value::Object(target)), Value::Object(value)) => merge_object(target, value, shape, path)?,
        (Some(Value::Array(target)), Value::Array(value)) if strategy.merge => {
            merge_list(target, value, shape, strategy, path)?;
        }
        // What is not there yet is built by merging into nothing: directives and nulls must not be stored.
        (_, Value::Object(value)) => {
            let mut built = Object::new();
            merge_object(&mut built, value, shape, path)?;
            if value.get(PATCH).is_none_or(|word| word != "delete") {
                target.insert(key.to_owned(), Value::Object(built));
            }
        }
        (_, Value::Array(value)) => {
            let mut built = Vec::new();
            let ordered = patch.contains_key(&format!("{ORDER}{key}"));
            if strategy.merge || ordered {
                merge_list(&mut built, value, shape, strategy, path)?;
            } else {
                built = replacement(value, shape, path)?;
            }
            target.insert(key.to_owned(), Value::Array(built));
        }
        (_, scalar) => {
            target.insert(key.to_owned(), scalar.clone());
        }
    }
    Ok(())
}

/// A list that replaces another: its elements without directives.
fn replacement(patch: &[Value], shape: &Shape, path: &mut Vec<String>) -> Result<Vec<Value>, PatchError> {
    let element = element_shape(shape);
    let mut built = Vec::with_capacity(patch.len());
    for value in patch {
        match value {
            Value::Object(value) => {
                if value.get(PATCH).is_some_and(|word| word == "replace" || word == "delete") && value.len() == 1 {
                    continue;
                }
                let mut object = Object::new();
                merge_object(&mut object, value, element, path)?;
                built.push(Value::Object(object));
            }
            other => built.push(other.clone()),
        }
    }
    Ok(built)
}

fn element_shape(shape: &Shape) -> &Shape {
    match shape {
        Shape::List(element) => element,
        _ => &Shape::Any,
    }
}

fn merge_list(
    target: &mut Vec<Value>,
    patch: &[Value],
    shape: &Shape,
    strategy: &Strategy,
    path: &mut Vec<String>,
) -> Result<(), PatchError> {
    if !patch.iter().chain(target.iter()).any(Value::is_object) {
        for value in patch {
            if !target.contains(value) {
                target.push(value.clone());
            }
        }
        return Ok(());
    }
    let Some(key) = strategy.key.as_deref() else {
        return fails(path, "cannot merge lists without merge key");
    };
    if patch.iter().any(|value| value[PATCH] == "replace") {
        let kept: Vec<Value> = patch.iter().filter(|value| value[PATCH] != "replace").cloned().collect();
        *target = replacement(&kept, shape, path)?;
        return Ok(());
    }
    let element = element_shape(shape);
    for value in patch {
        let Value::Object(value) = value else {
            return fails(path, "elements of a merged list must be objects");
        };
        let Some(name) = value.get(key) else {
            return fails(path, format!("map: {} does not contain declared merge key: {key}", Value::Object(value.clone())));
        };
        let delete = value.get(PATCH).is_some_and(|word| word == "delete");
        let at = target.iter().position(|existing| existing.get(key) == Some(name));
        path.push(format!("[{key}={name}]"));
        match (at, delete) {
            (_, true) => target.retain(|existing| existing.get(key) != Some(name)),
            (Some(at), false) => {
                if let Some(existing) = target[at].as_object_mut() {
                    merge_object(existing, value, element, path)?;
                }
            }
            (None, false) => {
                let mut built = Object::new();
                merge_object(&mut built, value, element, path)?;
                target.push(Value::Object(built));
            }
        }
        path.pop();
    }
    Ok(())
}

fn retain_keys(target: &mut Object, patch: &Object, retain: &Value, path: &[String]) -> Result<(), PatchError> {
    let Some(retain) = retain.as_array() else {
        return fails(path, format!("{RETAIN_KEYS} must be a list"));
    };
    if let Some(stray) = patch.iter().find(|(key, value)| !is_directive(key) && !value.is_null() && !contains(retain, key)) {
        return fails(path, format!("{RETAIN_KEYS} does not list {:?}, which the patch sets", stray.0));
    }
    target.retain(|key, _| contains(retain, key));
    Ok(())
}

fn contains(list: &[Value], word: &str) -> bool {
    list.iter().any(|value| value == word)
}

fn delete_from(target: &mut Object, field: &str, values: &Value, path: &[String]) -> Result<(), PatchError> {
    let Some(values) = values.as_array() else {
        return fails(path, format!("{DELETE_FROM}{field} must be a list"));
    };
    if let Some(Value::Array(list)) = target.get_mut(field) {
        list.retain(|value| !values.contains(value));
    }
    Ok(())
}

/// Elements that `order` names come in its order; the others keep their place relative to those that were there.
fn reorder(list: Vec<Value>, order: &[Value], key: Option<&str>) -> Vec<Value> {
    let name = |value: &Value| key.and_then(|key| value.get(key)).unwrap_or(value).clone();
    let order: Vec<Value> = order.iter().map(name).collect();
    let before: Vec<Value> = list.iter().map(name).collect();
    let place = |value: &Value| order.iter().position(|o| *o == name(value));
    let (mut named, rest): (Vec<Value>, Vec<Value>) = list.into_iter().partition(|value| place(value).is_some());
    named.sort_by_key(&place);

    let was = |value: &Value| before.iter().position(|b| *b == name(value));
    let mut merged = Vec::with_capacity(named.len() + rest.len());
    let (mut named, mut rest) = (named.into_iter().peekable(), rest.into_iter().peekable());
    loop {
        let take_rest = match (rest.peek(), named.peek()) {
            (Some(rest), Some(named)) => was(rest) < was(named),
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (None, None) => return merged,
        };
        merged.extend(if take_rest { rest.next() } else { named.next() });
    }
}

#[cfg(test)]
mod tests;
