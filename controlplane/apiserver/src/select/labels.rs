//! Label selectors, from the query (`app=web,tier in (a,b),!old,size>3`) and from objects (`matchLabels`,
//! `matchExpressions`).

use std::fmt;
use std::str::FromStr;

use serde_json::{Map, Value};

use super::SelectError;
use crate::admit::names;

/// All requirements must hold.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    /// The selector of an object that has none: it selects no object.
    nothing: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
    values: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Equals,
    NotEquals,
    In,
    NotIn,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

// === impl LabelSelector ===

impl LabelSelector {
    /// The selector in an object's field: absent selects nothing, empty selects everything.
    pub fn from_object(selector: &Value) -> Result<Self, SelectError> {
        let Some(selector) = selector.as_object() else { return Ok(Self { requirements: Vec::new(), nothing: true }) };
        let mut requirements = Vec::new();
        for (key, value) in selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
            requirements.push(Requirement::new(key, Operator::Equals, vec![value.as_str().unwrap_or_default().to_owned()])?);
        }
        for expression in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            let operator = match expression["operator"].as_str().unwrap_or_default() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(SelectError::Operator(other.to_owned())),
            };
            let values = expression["values"].as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned));
            requirements.push(Requirement::new(expression["key"].as_str().unwrap_or_default(), operator, values.collect())?);
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements, nothing: false })
    }

    /// Every label of `set` with its value, as a Service's `selector` says it; an empty set selects nothing.
    pub fn from_set(set: &Value) -> Result<Self, SelectError> {
        let mut requirements = Vec::new();
        for (key, value) in set.as_object().into_iter().flatten() {
            requirements.push(Requirement::new(key, Operator::Equals, vec![value.as_str().unwrap_or_default().to_owned()])?);
        }
        Ok(Self { nothing: requirements.is_empty(), requirements })
    }

    pub fn matches(&self, labels: &Map<String, Value>) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(labels.get(&r.key).and_then(Value::as_str)))
    }

    /// The same over an object's `metadata.labels`.
    pub fn matches_object(&self, object: &Value) -> bool {
        let label = |key: &str| object.get("metadata")?.get("labels")?.get(key)?.as_str();
        !self.nothing && self.requirements.iter().all(|r| r.matches(label(&r.key)))
    }

    /// Selects every object: nothing needs to be looked at.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }
}

impl FromStr for LabelSelector {
    type Err = SelectError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let mut parser = Parser { rest: s };
        let mut requirements = Vec::new();
        if parser.peek() != Token::End {
            loop {
                requirements.push(parser.requirement()?);
                match parser.next() {
                    Token::End => break,
                    Token::Comma => {}
                    other => return Err(other.instead_of("',' or 'end of string'")),
                }
            }
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements, nothing: false })
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, requirement) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

// === impl Requirement ===

impl Requirement {
    fn new(key: &str, operator: Operator, mut values: Vec<String>) -> Result<Self, SelectError> {
        use Operator::{DoesNotExist, Exists, GreaterThan, In, LessThan, NotIn};
        if let Some(message) = names::qualified_name(key).into_iter().next() {
            return Err(SelectError::Label(format!("key: Invalid value: {key:?}: {message}")));
        }
        match operator {
            In | NotIn if values.is_empty() => {
                return Err(SelectError::Label(
                    "values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty".into(),
                ));
            }
            Exists | DoesNotExist if !values.is_empty() => {
                return Err(SelectError::Label(
                    "values: Invalid value: values set must be empty for exists and does not exist".into(),
                ));
            }
            GreaterThan | LessThan if values.iter().any(|v| v.parse::<i64>().is_err()) => {
                return Err(SelectError::Label(format!(
                    "values[0]: Invalid value: {:?}: for 'Gt', 'Lt' operators, the value must be an integer",
                    values[0]
                )));
            }
            _ => {}
        }
        for (i, value) in values.iter().enumerate() {
            if let Some(message) = names::label_value(value).into_iter().next() {
                return Err(SelectError::Label(format!("values[{i}][{key}]: Invalid value: {value:?}: {message}")));
            }
        }
        values.sort();
        Ok(Self { key: key.to_owned(), operator, values })
    }

    fn matches(&self, label: Option<&str>) -> bool {
        let listed = |label: &str| self.values.iter().any(|v| v == label);
        let number = |label: &str| Some((label.parse::<i64>().ok()?, self.values.first()?.parse::<i64>().ok()?));
        match self.operator {
            Operator::Equals | Operator::In => label.is_some_and(listed),
            Operator::NotEquals | Operator::NotIn => !label.is_some_and(listed),
            Operator::Exists => label.is_some(),
            Operator::DoesNotExist => label.is_none(),
            Operator::GreaterThan => label.and_then(number).is_some_and(|(label, bound)| label > bound),
            Operator::LessThan => label.and_then(number).is_some_and(|(label, bound)| label < bound),
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, values) = (&self.key, self.values.join(","));
        match self.operator {
            Operator::Equals => write!(f, "{key}={values}"),
            Operator::NotEquals => write!(f, "{key}!={values}"),
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::Exists => write!(f, "{key}"),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::GreaterThan => write!(f, "{key}>{values}"),
            Operator::LessThan => write!(f, "{key}<{values}"),
        }
    }
}

// === parser ===

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    /// An operator or a bracket.
    Sign(&'static str),
    Comma,
    End,
}

struct Parser<'a> {
    rest: &'a str,
}

impl Token<'_> {
    fn instead_of(self, expected: &str) -> SelectError {
        let found = match self {
            Token::Word(word) => word,
            Token::Sign(sign) => sign,
            Token::Comma => ",",
            Token::End => "",
        };
        SelectError::Label(format!("found '{found}', expected: {expected}"))
    }
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Token<'a> {
        Parser { rest: self.rest }.next()
    }

    fn next(&mut self) -> Token<'a> {
        const SIGNS: [&str; 8] = ["==", "!=", "=", "!", "(", ")", "<", ">"];
        self.rest = self.rest.trim_start();
        if self.rest.is_empty() {
            return Token::End;
        }
        if let Some(rest) = self.rest.strip_prefix(',') {
            self.rest = rest;
            return Token::Comma;
        }
        for sign in SIGNS {
            if let Some(rest) = self.rest.strip_prefix(sign) {
                self.rest = rest;
                return Token::Sign(sign);
            }
        }
        let is_end = |c: char| c.is_whitespace() || ",=!()<>".contains(c);
        let (word, rest) = self.rest.split_at(self.rest.find(is_end).unwrap_or(self.rest.len()));
        self.rest = rest;
        Token::Word(word)
    }

    fn requirement(&mut self) -> Result<Requirement, SelectError> {
        let key = match self.next() {
            Token::Sign("!") => match self.next() {
                Token::Word(key) => return Requirement::new(key, Operator::DoesNotExist, Vec::new()),
                other => return Err(other.instead_of("identifier")),
            },
            Token::Word(key) => key,
            other => return Err(other.instead_of("!, identifier, or 'end of string'")),
        };
        let operator = match self.peek() {
            Token::End | Token::Comma => return Requirement::new(key, Operator::Exists, Vec::new()),
            Token::Sign("=" | "==") => Operator::Equals,
            Token::Sign("!=") => Operator::NotEquals,
            Token::Sign(">") => Operator::GreaterThan,
            Token::Sign("<") => Operator::LessThan,
            Token::Word("in") => Operator::In,
            Token::Word("notin") => Operator::NotIn,
            other => return Err(other.instead_of("in, notin, =, ==, !=, gt, lt")),
        };
        self.next();
        let values = match operator {
            Operator::In | Operator::NotIn => self.set()?,
            _ => vec![self.value()?],
        };
        Requirement::new(key, operator, values)
    }

    /// One value, which may be empty.
    fn value(&mut self) -> Result<String, SelectError> {
        match self.peek() {
            Token::End | Token::Comma | Token::Sign(")") => Ok(String::new()),
            Token::Word(word) => {
                self.next();
                Ok(word.to_owned())
            }
            other => Err(other.instead_of("identifier")),
        }
    }

    fn set(&mut self) -> Result<Vec<String>, SelectError> {
        match self.next() {
            Token::Sign("(") => {}
            other => return Err(other.instead_of("'('")),
        }
        let mut values = Vec::new();
        loop {
            values.push(self.value()?);
            match self.next() {
                Token::Comma => {}
                Token::Sign(")") => return Ok(values),
                other => return Err(other.instead_of("',', or ')'")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn labels() -> Value {
        json!({ "app": "web", "tier": "front", "size": "3", "empty": "" })
    }

    #[test]
    fn the_query_language_selects() {
        let check = |selector: &str, expected: bool| {
            let parsed: LabelSelector = selector.parse().unwrap_or_else(|e| panic!("{selector}: {e}"));
            assert_eq!(parsed.matches(labels().as_object().unwrap()), expected, "{selector}");
            assert_eq!(parsed.matches_object(&json!({ "metadata": { "labels": labels() } })), expected, "{selector}");
            let again: LabelSelector = parsed.to_string().parse().unwrap();
            assert_eq!(again.to_string(), parsed.to_string(), "{selector} survives being printed");
        };
        check("", true);
        check("app=web", true);
        check("app==web,tier=front", true);
        check("app = web , tier != back", true);
        check("app=api", false);
        check("none!=x", true);
        check("none=x", false);
        check("app in (web, api)", true);
        check("app notin (web,api)", false);
        check("none notin (a)", true);
        check("app", true);
        check("!app", false);
        check("!none", true);
        check("size>2", true);
        check("size>3", false);
        check("size<4,size > 2", true);
        check("app>1", false);
        check("empty=", true);
        check("empty=,app=web", true);
        check("tier in (,front)", true);
    }

    #[test]
    fn what_cannot_be_parsed_is_named() {
        let check = |selector: &str, expected: &str| {
            let error = selector.parse::<LabelSelector>().unwrap_err().to_string();
            assert!(error.contains(expected), "{selector}: {error}");
        };
        check("app=web,,", "found ',', expected: !, identifier, or 'end of string'");
        check("=web", "found '=', expected: !, identifier");
        check("app in web", "found 'web', expected: '('");
        check("app in (web", "found '', expected: ',', or ')'");
        check("app=web tier", "found 'tier', expected: ',' or 'end of string'");
        check("app is web", "found 'is', expected: in, notin");
        check("a/b/c=x", "key: Invalid value: \"a/b/c\"");
        check("app=-x", "Invalid value: \"-x\"");
        check("size>big", "the value must be an integer");
    }

    #[test]
    fn objects_carry_selectors_too() {
        let check = |selector: Value, expected: bool, printed: &str| {
            let parsed = LabelSelector::from_object(&selector).unwrap();
            assert_eq!(parsed.matches(labels().as_object().unwrap()), expected, "{selector}");
            assert_eq!(parsed.to_string(), printed);
        };
        check(Value::Null, false, "");
        check(json!({}), true, "");
        check(json!({ "matchLabels": { "app": "web" } }), true, "app=web");
        check(
            json!({ "matchLabels": { "tier": "front" }, "matchExpressions": [{ "key": "app", "operator": "In", "values": ["api"] }] }),
            false,
            "app in (api),tier=front",
        );
        check(json!({ "matchExpressions": [{ "key": "none", "operator": "DoesNotExist" }] }), true, "!none");
        let bad = json!({ "matchExpressions": [{ "key": "a", "operator": "Like", "values": ["b"] }] });
        assert_eq!(LabelSelector::from_object(&bad), Err(SelectError::Operator("Like".into())));
        assert!(!LabelSelector::from_set(&json!({})).unwrap().matches_object(&json!({})), "an empty set selects nothing");
    }
}
