//! `acl [ZONES…] { ACTION [type TYPES…] [net SOURCES…] }`: who may ask what.

use std::str::FromStr;

use hickory_proto::rr::RecordType;

use super::Result;
use super::model::{Acl, AclAction, AclRule};
use super::tree::Directive;
use super::values::{network, zones};

const FORM: &str = "allow|block|filter|drop [type TYPES…] [net SOURCES…]";

/// What follows belongs to which list.
#[derive(Clone, Copy)]
enum Section {
    None,
    Types,
    Sources,
}

pub fn read(directive: &Directive) -> Result<Acl> {
    let zones = zones(directive, &directive.arguments)?;
    if directive.body.is_empty() {
        return Err(directive.error("no rules", format!("write them between braces: `{FORM}`")));
    }
    Ok(Acl { zones, rules: directive.body.iter().map(rule).collect::<Result<_>>()? })
}

fn rule(line: &Directive) -> Result<AclRule> {
    line.no_body()?;
    let action = match line.name.as_str() {
        "allow" => AclAction::Allow,
        "block" => AclAction::Block,
        "filter" => AclAction::Filter,
        "drop" => AclAction::Drop,
        _ => return Err(line.error("no action", format!("write `{FORM}`"))),
    };
    let mut rule = AclRule { action, types: Vec::new(), sources: Vec::new() };
    let (mut section, mut all_types, mut all_sources) = (Section::None, false, false);
    for word in &line.arguments {
        match (word.as_str(), section) {
            ("type", _) => section = Section::Types,
            ("net", _) => section = Section::Sources,
            (_, Section::None) => return Err(line.error(format_args!("`{word}` cannot stand here"), format!("write `{FORM}`"))),
            ("*", Section::Types) => all_types = true,
            ("*", Section::Sources) => all_sources = true,
            (name, Section::Types) => {
                let rtype = RecordType::from_str(&name.to_ascii_uppercase());
                rule.types.push(
                    rtype
                        .map_err(|_| {
                            line.error(format_args!("`{name}` is no type of records"), "write A, AAAA, TXT or the like")
                        })?
                        .into(),
                );
            }
            (source, Section::Sources) => rule.sources.push(network(line, source)?),
        }
    }
    match line.arguments.last().map(String::as_str) {
        Some("type" | "net") => return Err(line.error("a list is empty", "write `*` for everything")),
        _ if all_types => rule.types.clear(),
        _ => {}
    }
    if all_sources {
        rule.sources.clear();
    }
    Ok(rule)
}
