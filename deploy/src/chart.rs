//! A chart, rendered as Helm renders it: values over the chart's own, held against the schema, through every template.
//! Stricter than Helm where that finds mistakes: a value that the chart does not have is an error, not an empty text.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result, bail, ensure};
use gotmpl::{MissingKey, Template, Value as Data};
use serde_json::{Map, Value, json};

use crate::manifest::Manifest;
use crate::{functions, schema};

/// Named templates live here and nowhere else.
const HELPERS: &str = "_helpers.tpl";
const NOTES: &str = "NOTES.txt";
/// What Helm prints for a value that is not there.
const NOTHING: &str = "<no value>";

/// A chart as it is on disk.
pub struct Chart {
    /// Chart.yaml
    pub metadata: Value,
    /// values.yaml
    pub defaults: Value,
    /// values.schema.json
    pub schema: Value,
    /// By file name.
    templates: BTreeMap<String, String>,
}

/// What `helm install` would send, and what it would print.
pub struct Rendered {
    pub manifests: Vec<Manifest>,
    pub notes: String,
}

// === impl Chart ===

impl Chart {
    /// # Errors
    /// Names the file that is missing or cannot be read.
    pub fn open(folder: &Path) -> Result<Self> {
        let read = |path: PathBuf| fs::read_to_string(&path).with_context(|| path.display().to_string());
        let yaml = |name: &str| -> Result<Value> {
            let value: serde_yaml_ng::Value = serde_yaml_ng::from_str(&read(folder.join(name))?).context(name.to_owned())?;
            Ok(serde_json::to_value(value)?)
        };
        let schema = serde_json::from_str(&read(folder.join("values.schema.json"))?).context("values.schema.json")?;
        let mut templates = BTreeMap::new();
        for entry in fs::read_dir(folder.join("templates")).context("templates")? {
            let entry = entry?;
            templates.insert(entry.file_name().to_string_lossy().into_owned(), read(entry.path())?);
        }
        Ok(Self { metadata: yaml("Chart.yaml")?, defaults: yaml("values.yaml")?, schema, templates })
    }

    /// Renders a release `thalweg` in the namespace kube-system; `values` are merged over the chart's own.
    ///
    /// # Errors
    /// When the schema refuses the values, a template asks for what is not there, or the outcome is no YAML.
    pub fn render(&self, values: &Value) -> Result<Rendered> {
        let mut merged = self.defaults.clone();
        merge(&mut merged, values);
        schema::validate(&merged, &self.schema)?;
        let data = self.data(&merged);
        let helpers = Arc::new(OnceLock::new());
        let _ = helpers.set(self.parse("helpers", "", &helpers)?);
        let mut rendered = Rendered { manifests: Vec::new(), notes: String::new() };
        for (file, body) in self.templates.iter().filter(|(file, _)| *file != HELPERS) {
            ensure!(
                !body.contains("{{ define") && !body.contains("{{- define"),
                "{file}: named templates belong into {HELPERS}"
            );
            let text = self.parse(file, body, &helpers)?.execute_to_string(&data).with_context(|| file.clone())?;
            ensure!(!text.contains(NOTHING), "{file}: a value that is not there is printed:\n{text}");
            match file.as_str() {
                NOTES => rendered.notes = text,
                file if file.ends_with(".yaml") => {
                    let manifests = Manifest::documents(file, &text).with_context(|| text.clone())?;
                    rendered.manifests.extend(manifests);
                }
                file => bail!("templates/{file}: neither a manifest nor {HELPERS} nor {NOTES}"),
            }
        }
        Ok(rendered)
    }

    /// A file with the helpers before it.
    fn parse(&self, name: &str, body: &str, helpers: &Arc<OnceLock<Template>>) -> Result<Template> {
        let shared = self.templates.get(HELPERS).with_context(|| format!("templates/{HELPERS} is missing"))?;
        Template::new(name)
            .missing_key(MissingKey::Error)
            .funcs(functions::all(helpers))
            .parse(shared)
            .and_then(|template| template.parse(body))
            .with_context(|| format!("templates/{name}"))
    }

    /// What templates see as the dot.
    fn data(&self, values: &Value) -> Data {
        let said = |field: &str| self.metadata[field].clone();
        functions::from_json(&json!({
            "Values": values,
            "Chart": {"Name": said("name"), "Version": said("version"), "AppVersion": said("appVersion")},
            "Release": {"Name": "thalweg", "Namespace": "kube-system", "Service": "Helm"},
        }))
    }
}

/// Helm's rule: objects merge, null removes, everything else replaces.
fn merge(into: &mut Value, from: &Value) {
    let (Value::Object(fields), Value::Object(from)) = (&mut *into, from) else {
        from.clone_into(into);
        return;
    };
    for (name, value) in from {
        match value {
            Value::Null => drop(fields.remove(name)),
            value => merge(fields.entry(name.clone()).or_insert(Value::Object(Map::new())), value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A chart of one template.
    fn chart(template: &str) -> Chart {
        let helpers = "{{ define \"a.name\" -}}\n{{ .Values.name }}-{{ .Values.n }}\n{{- end }}";
        Chart {
            metadata: json!({"name": "c", "version": "1", "appVersion": "2"}),
            defaults: json!({"name": "x", "n": 5, "on": true, "off": false, "none": "", "list": ["a"], "map": {"k": {"v": 1}}}),
            schema: json!({"type": "object"}),
            templates: [(HELPERS, helpers), ("t.yaml", template)].map(|(name, text)| (name.into(), text.into())).into(),
        }
    }

    /// The template gives this object.
    #[track_caller]
    fn check(template: &str, wanted: &Value) {
        let rendered = chart(template).render(&json!({})).unwrap_or_else(|error| panic!("{error:#}"));
        assert_eq!(&rendered.manifests[0].object, wanted, "{template}");
    }

    #[track_caller]
    fn refused(template: &str, word: &str) {
        let error = chart(template).render(&json!({})).err().map(|error| format!("{error:#}")).unwrap_or_default();
        assert!(error.contains(word), "{error:?} does not say {word:?}");
    }

    #[test]
    fn templates_render_as_helm_renders_them() {
        check("a: {{ include \"a.name\" . }}", &json!({"a": "x-5"}));
        check("a: {{ include \"a.name\" . | quote }}", &json!({"a": "x-5"}));
        check("a: {{ .Values.none | default \"y\" }}\nb: {{ .Values.name | default \"y\" }}", &json!({"a": "y", "b": "x"}));
        check("a:\n  {{- toYaml .Values.map | nindent 2 }}", &json!({"a": {"k": {"v": 1}}}));
        check("a: 1\n{{- if and .Values.on (not .Values.off) }}\nb: 2\n{{- end }}", &json!({"a": 1, "b": 2}));
        check("a: {{ join \",\" .Values.list }}{{ range .Values.list }}{{ . }}{{ end }}", &json!({"a": "aa"}));
        check(
            "{{ toYaml (mergeOverwrite (dict \"k\" (dict \"w\" 2) \"l\" 3) .Values.map) }}",
            &json!({"k": {"v": 1, "w": 2}, "l": 3}),
        );
        check("a: {{ required \"say it\" .Values.name }}", &json!({"a": "x"}));
    }

    #[test]
    fn what_would_go_wrong_is_said() {
        refused("a: {{ .Values.nmae }}", "nmae");
        refused("a: {{ required \"say it\" .Values.none }}", "say it");
        refused("a: {{ upper .Values.name }}", "upper");
        refused("a: {{ include \"a.nam\" . }}", "a.nam");
        refused("a: {{ .Values.name", "t.yaml");
        refused("a: 1\na: 2", "duplicate");
        refused("{{- define \"b\" }}{{ end }}", "named templates belong");
    }

    #[test]
    fn values_merge_as_helm_merges_them() {
        let mut values = json!({"a": {"b": 1, "c": 2}, "l": [1], "x": 1});
        merge(&mut values, &json!({"a": {"b": 3}, "l": [2, 3], "x": null, "y": {"z": 1}}));
        assert_eq!(values, json!({"a": {"b": 3, "c": 2}, "l": [2, 3], "y": {"z": 1}}));
    }
}
