//! `rewrite [continue|stop] name|ttl …`: names that are asked under another name, and times to live that are changed.

use regex::Regex;

use super::model::{NameAnswer, Pattern, Rewrite, RewriteRule};
use super::tree::Directive;
use super::{Error, Result};

const NAME: &str = "rewrite [continue|stop] name [exact|prefix|suffix|substring|regex] FROM TO [answer auto|name FROM TO]";
const TTL: &str = "rewrite [continue|stop] ttl [exact|prefix|suffix|substring|regex] NAME SECONDS";
const MAX_TTL: u32 = i32::MAX as u32;
/// Octets that a compiled expression may take.
const REGEX_SIZE: usize = 1 << 20;

pub fn read(directive: &Directive) -> Result<Rewrite> {
    // A body is the same rule over several lines.
    let mut words: Vec<&str> = directive.arguments.iter().map(String::as_str).collect();
    for line in &directive.body {
        line.no_body()?;
        words.push(&line.name);
        words.extend(line.arguments.iter().map(String::as_str));
    }
    let mut words = words.as_slice();
    let go_on = match words {
        ["continue", ..] => true,
        ["stop", ..] => false,
        _ => {
            return Ok(Rewrite { go_on: false, rule: rule(directive, words)? });
        }
    };
    words = &words[1..];
    Ok(Rewrite { go_on, rule: rule(directive, words)? })
}

fn rule(directive: &Directive, words: &[&str]) -> Result<RewriteRule> {
    match words {
        ["name", rest @ ..] => name_rule(directive, rest),
        ["ttl", rest @ ..] => ttl_rule(directive, rest),
        [field @ ("type" | "class" | "edns0" | "rcode" | "cname"), ..] => {
            Err(directive.error(format_args!("`{field}` cannot be rewritten here"), "only name and ttl can; remove the rule"))
        }
        // The short form of early versions.
        [from, to] if from.contains('.') => name_rule(directive, &["exact", from, to]),
        _ => Err(directive.error("no rule", format!("write `{NAME}` or `{TTL}`"))),
    }
}

fn name_rule(directive: &Directive, words: &[&str]) -> Result<RewriteRule> {
    let malformed = || directive.error("the rule is malformed", format!("write `{NAME}`"));
    let (kind, words) = kind(words);
    let [from, to, rest @ ..] = words else { return Err(malformed()) };
    let from = pattern(directive, kind, from)?;
    let mut answers = Vec::new();
    let mut rest = rest;
    while let Some((first, after)) = rest.split_first() {
        rest = match (*first, after) {
            ("answer", ["auto", after @ ..]) => {
                answers.push(NameAnswer::Auto);
                after
            }
            ("answer", ["name", from, to, after @ ..]) => {
                answers.push(NameAnswer::Name { from: regex(directive, from)?, to: (*to).to_owned() });
                after
            }
            ("answer", ["value", ..]) => {
                return Err(
                    directive.error("`answer value` is not supported", "remove it; the names of records are written back")
                );
            }
            _ => return Err(malformed()),
        };
    }
    let to = (*to).to_owned();
    if !matches!(from, Pattern::Regex(_)) {
        valid(directive, &to)?;
    }
    Ok(RewriteRule::Name { from, to, answers })
}

fn ttl_rule(directive: &Directive, words: &[&str]) -> Result<RewriteRule> {
    let (kind, words) = kind(words);
    let [of, seconds] = words else {
        return Err(directive.error("the rule is malformed", format!("write `{TTL}`")));
    };
    let number = |text: &str| match text {
        "" => None,
        text => text.parse().ok().filter(|ttl| *ttl <= MAX_TTL),
    };
    let bounds = match seconds.split_once('-') {
        None => number(seconds).map(|ttl| (ttl, ttl)),
        Some(("", most)) => number(most).map(|most| (0, most)),
        Some((least, "")) => number(least).map(|least| (least, MAX_TTL)),
        Some((least, most)) => number(least).zip(number(most)).filter(|(least, most)| least <= most),
    };
    let (least, most) = bounds
        .ok_or_else(|| directive.error(format_args!("`{seconds}` is no TTL"), "write SECONDS, LEAST-MOST, -MOST or LEAST-"))?;
    Ok(RewriteRule::Ttl { of: pattern(directive, kind, of)?, least, most })
}

fn kind<'w, 'a>(words: &'w [&'a str]) -> (&'a str, &'w [&'a str]) {
    match words {
        [kind @ ("exact" | "prefix" | "suffix" | "substring" | "regex"), rest @ ..] if rest.len() >= 2 => (kind, rest),
        _ => ("exact", words),
    }
}

fn pattern(directive: &Directive, kind: &str, text: &str) -> Result<Pattern> {
    if kind == "regex" {
        return Ok(Pattern::Regex(regex(directive, text)?));
    }
    valid(directive, text)?;
    let text = text.to_ascii_lowercase();
    Ok(match kind {
        "prefix" => Pattern::Prefix(text),
        "suffix" => Pattern::Suffix(absolute(text)),
        "substring" => Pattern::Substring(text),
        _ => Pattern::Exact(absolute(text)),
    })
}

/// Names that are matched end with a dot.
fn absolute(mut text: String) -> String {
    if !text.ends_with('.') {
        text.push('.');
    }
    text
}

fn valid(directive: &Directive, text: &str) -> Result<()> {
    let bad = text.is_empty() || text.len() > crate::name::MAX_NAME || !text.is_ascii();
    if bad { Err(directive.error(format_args!("`{text}` is no part of a name"), "correct it")) } else { Ok(()) }
}

/// Names are lower-cased before they are matched, so letter case means nothing.
pub fn regex(directive: &Directive, text: &str) -> Result<Regex> {
    let built = regex::RegexBuilder::new(text).case_insensitive(true).size_limit(REGEX_SIZE).build();
    built.map_err(|error| -> Error {
        let error = error.to_string();
        let last = error.lines().last().unwrap_or_default().trim().to_owned();
        directive.error(
            format_args!("`{text}` is no regular expression ({last})"),
            "correct it; look-around and back-references do not exist",
        )
    })
}
