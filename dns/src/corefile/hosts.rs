//! `hosts [FILE [ZONES…]] { … }`: names with fixed addresses; and the lines of a hosts file.

use std::net::IpAddr;
use std::time::Duration;

use super::model::{Fallthrough, Hosts};
use super::tree::Directive;
use super::values::{duration, number, zones};
use super::{Result, kubernetes};
use crate::name::{self, WireName};

/// As CoreDNS, seconds.
const TTL: u32 = 3600;
const RELOAD: Duration = Duration::from_secs(5);

pub fn read(directive: &Directive) -> Result<Hosts> {
    let (file, named) = directive.arguments.split_first().map_or((None, &[][..]), |(file, named)| (Some(file), named));
    if let Some(file) = file.filter(|file| !file.starts_with('/')) {
        return Err(directive.error(format_args!("`{file}` is no file"), "write the whole path, such as /etc/hosts"));
    }
    let mut hosts = Hosts {
        file: file.map(Into::into),
        zones: zones(directive, named)?,
        inline: Vec::new(),
        ttl: TTL,
        reverse: true,
        reload: RELOAD,
        fallthrough: Fallthrough::default(),
    };
    for option in &directive.body {
        option.no_body()?;
        match option.name.as_str() {
            "ttl" => {
                option.arguments_between(1, 1, "ttl SECONDS")?;
                hosts.ttl = number(option, &option.arguments[0], 1, 65535)?;
            }
            "no_reverse" => {
                option.bare()?;
                hosts.reverse = false;
            }
            "reload" => {
                option.arguments_between(1, 1, "reload DURATION")?;
                hosts.reload = duration(option, &option.arguments[0])?;
            }
            "fallthrough" => hosts.fallthrough = kubernetes::fallthrough(option)?,
            _ => hosts.inline.push(inline(option)?),
        }
    }
    Ok(hosts)
}

/// `ADDRESS NAMES…`
fn inline(option: &Directive) -> Result<(IpAddr, Vec<WireName>)> {
    let address = option.name.parse().map_err(|_| {
        option.error(
            "no option of hosts, and no address",
            "write `ADDRESS NAMES…`, or one of ttl, no_reverse, reload, fallthrough",
        )
    })?;
    option.arguments_between(1, usize::MAX, "ADDRESS NAMES…")?;
    let name =
        |text: &String| name::encode(text).ok_or_else(|| option.error(format_args!("`{text}` is no name"), "correct it"));
    Ok((address, option.arguments.iter().map(name).collect::<Result<_>>()?))
}
