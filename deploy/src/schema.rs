//! The part of JSON Schema that values.schema.json uses. A keyword that is not known here is an error, so that nothing
//! in the schema is believed to be checked that is not.

use anyhow::{Context, Result, bail, ensure};
use regex::Regex;
use serde_json::{Map, Value};

/// # Errors
/// Names every value that the schema does not allow; or the keyword of the schema that is not known here.
pub fn validate(value: &Value, schema: &Value) -> Result<()> {
    let mut complaints = Vec::new();
    visit(value, schema, "", &mut complaints)?;
    ensure!(complaints.is_empty(), "values: {}", complaints.join("; "));
    Ok(())
}

fn visit(value: &Value, schema: &Value, path: &str, complaints: &mut Vec<String>) -> Result<()> {
    let keywords = schema.as_object().with_context(|| format!("the schema of {path} is no object"))?;
    let mut complain = |allowed: bool, what: String| {
        if !allowed {
            complaints.push(format!("{path}: {what}"));
        }
    };
    for (keyword, wanted) in keywords {
        match keyword.as_str() {
            "$schema" | "title" | "properties" | "items" => {}
            "type" => complain(is_a(value, wanted)?, format!("{value} is not of the type {wanted}")),
            "enum" => complain(array(wanted)?.contains(value), format!("{value} is none of {wanted}")),
            "required" => {
                for field in array(wanted)? {
                    complain(value.get(field.as_str().context("required")?).is_some(), format!("{field} is missing"));
                }
            }
            "additionalProperties" => {
                ensure!(*wanted == Value::Bool(false), "additionalProperties of {path}: only false is known here");
                for field in fields(value) {
                    complain(schema["properties"].get(field).is_some(), format!("there is no value {field}"));
                }
            }
            "pattern" => {
                let pattern = Regex::new(wanted.as_str().context("pattern")?)?;
                complain(value.as_str().is_none_or(|text| pattern.is_match(text)), format!("{value} does not match {wanted}"));
            }
            "minLength" => {
                let least = wanted.as_u64().context("minLength")?;
                complain(
                    value.as_str().is_none_or(|text| text.chars().count() as u64 >= least),
                    format!("{value} is too short"),
                );
            }
            "minimum" => complain(value.as_i64() >= wanted.as_i64(), format!("{value} is less than {wanted}")),
            "maximum" => complain(value.as_i64() <= wanted.as_i64(), format!("{value} is more than {wanted}")),
            other => bail!("the schema of {path}: the keyword {other} is not known here"),
        }
    }
    for field in fields(value) {
        if let Some(inner) = schema["properties"].get(field) {
            visit(&value[field], inner, &format!("{path}/{field}"), complaints)?;
        }
    }
    if let (Some(items), Some(inner)) = (value.as_array(), keywords.get("items")) {
        for (index, item) in items.iter().enumerate() {
            visit(item, inner, &format!("{path}/{index}"), complaints)?;
        }
    }
    Ok(())
}

fn is_a(value: &Value, wanted: &Value) -> Result<bool> {
    Ok(match wanted.as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_i64() || value.is_u64(),
        _ => bail!("the type {wanted} is not known here"),
    })
}

fn array(value: &Value) -> Result<&Vec<Value>> {
    value.as_array().with_context(|| format!("{value} is no list"))
}

fn fields(value: &Value) -> impl Iterator<Item = &String> {
    value.as_object().into_iter().flat_map(Map::keys)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(value: &Value, schema: &Value, wanted: Result<(), &str>) {
        let result = validate(value, schema).map_err(|error| format!("{error:#}"));
        match (&result, wanted) {
            (Ok(()), Ok(())) => {}
            (Err(error), Err(words)) if error.contains(words) => {}
            (_, wanted) => panic!("{result:?}, wanted {wanted:?}"),
        }
    }

    #[test]
    fn values_are_held_against_the_schema() {
        let schema = json!({"type": "object", "additionalProperties": false, "required": ["a"], "properties": {
            "a": {"type": "integer", "minimum": 1, "maximum": 3},
            "b": {"type": "array", "items": {"type": "string", "pattern": "^x", "minLength": 2}},
            "c": {"enum": ["on", "off"]}, "d": {"type": "boolean"}}});
        check(&json!({"a": 2, "b": ["xy"], "c": "on", "d": true}), &schema, Ok(()));
        check(&json!({}), &schema, Err("\"a\" is missing"));
        check(&json!({"a": 0}), &schema, Err("/a: 0 is less than 1"));
        check(&json!({"a": 4}), &schema, Err("/a: 4 is more than 3"));
        check(&json!({"a": "2"}), &schema, Err("/a: \"2\" is not of the type"));
        check(&json!({"a": 1, "b": ["xy", "ab"]}), &schema, Err("/b/1: \"ab\" does not match"));
        check(&json!({"a": 1, "b": ["x"]}), &schema, Err("/b/0: \"x\" is too short"));
        check(&json!({"a": 1, "c": "maybe"}), &schema, Err("/c: \"maybe\" is none of"));
        check(&json!({"a": 1, "e": 1}), &schema, Err("there is no value e"));
    }

    #[test]
    fn what_is_not_known_here_is_not_passed_over() {
        check(&json!({}), &json!({"allOf": []}), Err("the keyword allOf is not known here"));
        check(&json!({}), &json!({"type": "number"}), Err("the type \"number\" is not known here"));
        check(&json!({}), &json!({"additionalProperties": {}}), Err("only false is known here"));
    }
}
