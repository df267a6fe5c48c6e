//! Those of Helm's template functions that the chart uses, by Helm's rules. One that is missing here fails the rendering.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, OnceLock};

use gotmpl::{FuncMap, Template, TemplateError, Value, ValueFunc};
use serde_json::Value as Json;

type Result<T> = std::result::Result<T, TemplateError>;

/// The functions; `include` looks its templates up in `helpers`, which is filled once they are parsed.
pub fn all(helpers: &Arc<OnceLock<Template>>) -> FuncMap {
    let helpers = Arc::clone(helpers);
    let mut functions = FuncMap::new();
    let mut add = |name: &str, function: ValueFunc| functions.insert(name.to_owned(), function);
    add("include", Arc::new(move |args| include(&helpers, args)));
    add("toYaml", Arc::new(|args| Ok(text(to_yaml(one(args)?)?))));
    add("nindent", Arc::new(|args| Ok(text(format!("\n{}", indent(args)?)))));
    add("indent", Arc::new(|args| Ok(text(indent(args)?))));
    add("quote", Arc::new(|args| Ok(text(quote(one(args)?)))));
    add("default", Arc::new(default));
    add("required", Arc::new(required));
    add("dict", Arc::new(dict));
    add("mergeOverwrite", Arc::new(merge_overwrite));
    add("join", Arc::new(join));
    // Only that it changes with the text matters to a checksum.
    add("sha256sum", Arc::new(|args| Ok(text(digest(&one(args)?.to_string())))));
    functions
}

/// As Helm hands values to templates: every number is a float.
pub fn from_json(json: &Json) -> Value {
    match json {
        Json::Null => Value::Nil,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        Json::String(value) => text(value),
        Json::Array(items) => Value::List(items.iter().map(from_json).collect()),
        Json::Object(fields) => {
            Value::Map(Arc::new(fields.iter().map(|(name, value)| (name.as_str().into(), from_json(value))).collect()))
        }
    }
}

fn to_json(value: &Value) -> Result<Json> {
    Ok(match value {
        Value::Nil => Json::Null,
        Value::Bool(value) => Json::Bool(*value),
        Value::Int(number) => Json::from(*number),
        Value::Uint(number) => Json::from(*number),
        #[expect(clippy::cast_possible_truncation, reason = "checked to be whole and small")]
        Value::Float(number) if number.fract() == 0.0 && number.abs() < 9e15 => Json::from(*number as i64),
        Value::Float(number) => Json::from(*number),
        Value::String(value) => Json::from(value.as_ref()),
        Value::List(items) => Json::Array(items.iter().map(to_json).collect::<Result<_>>()?),
        Value::Map(fields) => {
            Json::Object(fields.iter().map(|(name, value)| Ok((name.to_string(), to_json(value)?))).collect::<Result<_>>()?)
        }
        Value::Function(_) => return Err(failed("a function is no data")),
    })
}

fn to_yaml(value: &Value) -> Result<String> {
    let yaml = serde_yaml_ng::to_string(&to_json(value)?).map_err(|error| failed(&error.to_string()))?;
    Ok(yaml.trim_end_matches('\n').to_owned())
}

fn include(helpers: &OnceLock<Template>, args: &[Value]) -> Result<Value> {
    let [Value::String(name), data] = args else { return Err(failed("include: wants a name and data")) };
    let helpers = helpers.get().ok_or_else(|| failed("include: too early"))?;
    helpers.execute_template_to_string(name, data).map(text)
}

fn indent(args: &[Value]) -> Result<String> {
    let [Value::Int(width), Value::String(lines)] = args else { return Err(failed("indent: wants a width and a text")) };
    let pad = " ".repeat(usize::try_from(*width).map_err(|_| failed("indent: wants a width"))?);
    Ok(format!("{pad}{}", lines.replace('\n', &format!("\n{pad}"))))
}

fn quote(value: &Value) -> String {
    match value {
        Value::Nil => String::new(),
        value => format!("{:?}", value.to_string()),
    }
}

fn default(args: &[Value]) -> Result<Value> {
    let [other, given] = args else { return Err(failed("default: wants two values")) };
    Ok(if given.is_truthy() { given.clone() } else { other.clone() })
}

fn required(args: &[Value]) -> Result<Value> {
    match args {
        [message, Value::Nil] => Err(failed(&message.to_string())),
        [message, Value::String(given)] if given.is_empty() => Err(failed(&message.to_string())),
        [_, given] => Ok(given.clone()),
        _ => Err(failed("required: wants a message and a value")),
    }
}

fn dict(args: &[Value]) -> Result<Value> {
    let (pairs, []) = args.as_chunks::<2>() else { return Err(failed("dict: wants names and values")) };
    let fields = pairs.iter().map(|[name, value]| match name {
        Value::String(name) => Ok((Arc::clone(name), value.clone())),
        other => Err(failed(&format!("dict: {other} is no name"))),
    });
    Ok(Value::Map(Arc::new(fields.collect::<Result<_>>()?)))
}

/// Later ones win; objects merge.
fn merge_overwrite(args: &[Value]) -> Result<Value> {
    let mut merged = BTreeMap::new();
    for value in args {
        let Value::Map(fields) = value else { return Err(failed(&format!("mergeOverwrite: {value} is no object"))) };
        for (name, value) in fields.iter() {
            let value = match (merged.get(name), value) {
                (Some(old @ Value::Map(_)), Value::Map(_)) => merge_overwrite(&[old.clone(), value.clone()])?,
                _ => value.clone(),
            };
            merged.insert(Arc::clone(name), value);
        }
    }
    Ok(Value::Map(Arc::new(merged)))
}

fn join(args: &[Value]) -> Result<Value> {
    let [Value::String(between), Value::List(items)] = args else { return Err(failed("join: wants a text and a list")) };
    Ok(text(items.iter().map(ToString::to_string).collect::<Vec<_>>().join(between)))
}

fn digest(of: &str) -> String {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    format!("{:064x}", hasher.finish())
}

fn one(args: &[Value]) -> Result<&Value> {
    match args {
        [value] => Ok(value),
        _ => Err(failed("wants one value")),
    }
}

fn text(value: impl AsRef<str>) -> Value {
    Value::String(value.as_ref().into())
}

fn failed(message: &str) -> TemplateError {
    TemplateError::Exec(message.to_owned())
}
