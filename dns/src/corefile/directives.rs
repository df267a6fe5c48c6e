//! A server block from its directives: each is read by its own function, at most once unless CoreDNS lets it stand often.

use std::collections::BTreeMap;
use std::time::Duration;

use super::model::{Bind, Health, Log, LogClass, Reload, ServerBlock};
use super::tree::{Block, Directive};
use super::values::{DNS_PORT, domain, duration, listener, number, zone, zones};
use super::{Autopath, Key};
use super::{Error, Result, access, cache, forward, hosts, kubernetes, rewrite, unsupported};

const HEALTH: &str = ":8080";
const READY: &str = ":8181";
const PROMETHEUS: &str = "localhost:9153";
/// Octets of UDP payload (the DNS flag day of 2020).
const BUFSIZE: u16 = 1232;
const RELOAD: Reload = Reload { interval: Duration::from_secs(30), jitter: Duration::from_secs(15) };
/// CoreDNS refuses to look more often.
const SHORTEST_RELOAD: Duration = Duration::from_secs(2);

/// What may stand more than once in a block.
const REPEATED: &[&str] = &["forward", "rewrite", "acl", "hosts", "log", "bind"];

pub fn server(block: &Block) -> Result<ServerBlock> {
    let mut server = ServerBlock { line: block.line, ..ServerBlock::default() };
    for text in &block.keys {
        server.keys.extend(keys(block.line, text)?);
    }
    let mut seen = BTreeMap::new();
    for directive in &block.directives {
        if let Some(first) = seen.insert(directive.name.as_str(), directive.line)
            && !REPEATED.contains(&directive.name.as_str())
        {
            return Err(directive.error(format_args!("stands in line {first} already"), "keep one of them"));
        }
        read(directive, &mut server)?;
    }
    Ok(server)
}

/// `ZONE[:PORT]`, `dns://ZONE[:PORT]`; a network gives its reverse zones.
fn keys(line: usize, text: &str) -> Result<Vec<Key>> {
    if text.starts_with('(') {
        return Err(Error::new(line, format!("`{text}` defines a snippet"), "write its lines where they are imported"));
    }
    let bare = match text.split_once("://") {
        None => text,
        Some(("dns", bare)) => bare,
        Some((transport, _)) => {
            let advice = "serve the zone as plain DNS and let TLS be ended elsewhere";
            return Err(Error::new(line, format!("`{text}`: {transport} is not served by a Corefile here"), advice));
        }
    };
    let bad = || Error::new(line, format!("`{text}` is no zone to serve"), "write ZONE:PORT, such as .:53 or cluster.local:53");
    let (name, port) = match bare.rsplit_once(':') {
        Some((name, port)) => (name, port.parse().map_err(|_| bad())?),
        None => (bare, DNS_PORT),
    };
    let name = if name.is_empty() { "." } else { name };
    Ok(zone(name).ok_or_else(bad)?.into_iter().map(|zone| Key { zone, port }).collect())
}

fn read(directive: &Directive, server: &mut ServerBlock) -> Result<()> {
    match directive.name.as_str() {
        "errors" => {
            errors(directive)?;
            server.errors = true;
        }
        "log" => server.log.push(log(directive)?),
        "health" => server.health = Some(health(directive)?),
        "ready" => {
            directive.arguments_between(0, 1, "ready [ADDRESS]")?;
            ready_options(directive)?;
            server.ready = Some(listener(directive, directive.argument(0).unwrap_or(READY))?);
        }
        "kubernetes" => server.kubernetes = Some(kubernetes::read(directive, &server.keys)?),
        "prometheus" => {
            directive.arguments_between(0, 1, "prometheus [ADDRESS]")?;
            directive.no_body()?;
            server.prometheus = Some(listener(directive, directive.argument(0).unwrap_or(PROMETHEUS))?);
        }
        "forward" => server.forwards.push(forward::read(directive)?),
        "cache" => server.cache = Some(cache::read(directive)?),
        "loop" => {
            directive.bare()?;
            server.detect_loops = true;
        }
        "reload" => server.reload = reload(directive)?,
        "loadbalance" => {
            loadbalance(directive)?;
            server.loadbalance = true;
        }
        "hosts" => server.hosts.push(hosts::read(directive)?),
        "rewrite" => server.rewrites.push(rewrite::read(directive)?),
        "bind" => server.bind.extend(bind(directive)?),
        "bufsize" => {
            directive.arguments_between(0, 1, "bufsize [OCTETS]")?;
            directive.no_body()?;
            let size = directive.argument(0).map_or(Ok(u32::from(BUFSIZE)), |size| number(directive, size, 512, 4096))?;
            server.bufsize = u16::try_from(size).ok();
        }
        "acl" => server.acl.push(access::read(directive)?),
        "autopath" => server.autopath = Some(autopath(directive)?),
        // What these ask for is always so here.
        "minimal" | "cancel" | "any" | "multisocket" => {}
        _ => return Err(unsupported::error(directive)),
    }
    Ok(())
}

/// Options say how errors are gathered in the log; they are checked and have no effect, since each is logged once here.
fn errors(directive: &Directive) -> Result<()> {
    directive.arguments_between(0, 0, "errors")?;
    for option in &directive.body {
        match option.name.as_str() {
            "stacktrace" => option.bare()?,
            "consolidate" => {
                option.arguments_between(2, 4, "consolidate DURATION REGEXP [LEVEL]")?;
                duration(option, &option.arguments[0])?;
                rewrite::regex(option, &option.arguments[1])?;
            }
            _ => return Err(option.error("no option of errors", "errors has `stacktrace` and `consolidate`")),
        }
    }
    Ok(())
}

fn log(directive: &Directive) -> Result<Log> {
    let mut log = Log::default();
    for text in &directive.arguments {
        if text.starts_with('{') || text.contains(' ') {
            return Err(directive.error("formats of lines are not supported", "leave the format out; lines have named fields"));
        }
        log.zones.push(domain(directive, text)?);
    }
    for option in &directive.body {
        if option.name != "class" {
            return Err(option.error("no option of log", "log has `class`"));
        }
        option.arguments_between(1, 4, "class success|denial|error|all…")?;
        for class in &option.arguments {
            log.classes.push(match class.as_str() {
                "success" => LogClass::Success,
                "denial" => LogClass::Denial,
                "error" => LogClass::Error,
                "all" => LogClass::All,
                _ => return Err(option.error(format_args!("`{class}` is no class"), "write success, denial, error or all")),
            });
        }
    }
    Ok(log)
}

fn health(directive: &Directive) -> Result<Health> {
    directive.arguments_between(0, 1, "health [ADDRESS]")?;
    let listen = listener(directive, directive.argument(0).unwrap_or(HEALTH))?;
    let mut lameduck = Duration::ZERO;
    for option in &directive.body {
        if option.name != "lameduck" {
            return Err(option.error("no option of health", "health has `lameduck DURATION`"));
        }
        option.arguments_between(1, 1, "lameduck DURATION")?;
        lameduck = duration(option, &option.arguments[0])?;
    }
    Ok(Health { listen, lameduck })
}

/// When readiness is watched: here always, so what is asked for is checked only.
fn ready_options(directive: &Directive) -> Result<()> {
    for option in &directive.body {
        let known = option.name == "monitor" && matches!(option.argument(0), Some("until-ready" | "continuously"));
        if !known || option.arguments.len() != 1 {
            return Err(option.error("no option of ready", "ready has `monitor until-ready|continuously`"));
        }
    }
    Ok(())
}

fn reload(directive: &Directive) -> Result<Option<Reload>> {
    directive.arguments_between(0, 2, "reload [INTERVAL] [JITTER]")?;
    directive.no_body()?;
    if directive.argument(0) == Some("off") {
        return Ok(None);
    }
    let interval = directive.argument(0).map_or(Ok(RELOAD.interval), |text| duration(directive, text))?;
    let jitter = directive.argument(1).map_or(Ok(RELOAD.jitter.min(interval / 2)), |text| duration(directive, text))?;
    if interval < SHORTEST_RELOAD || jitter > interval / 2 {
        return Err(directive.error(
            "the file would be read too often",
            format!("give at least {SHORTEST_RELOAD:?}, and as jitter at most half of the interval"),
        ));
    }
    Ok(Some(Reload { interval, jitter }))
}

fn loadbalance(directive: &Directive) -> Result<()> {
    match directive.argument(0) {
        None | Some("round_robin") => {
            directive.arguments_between(0, 1, "loadbalance [round_robin]")?;
            directive.no_body()
        }
        Some(policy) => {
            Err(directive.error(format_args!("policy {policy} is not supported"), "write `loadbalance round_robin`"))
        }
    }
}

fn bind(directive: &Directive) -> Result<Vec<Bind>> {
    directive.arguments_between(1, usize::MAX, "bind ADDRESS|INTERFACE…")?;
    if let Some(option) = directive.body.first() {
        return Err(option.error("exceptions are not supported", "name the addresses to listen on"));
    }
    let bind = |text: &String| text.parse().map_or_else(|_| Bind::Interface(text.clone()), Bind::Address);
    Ok(directive.arguments.iter().map(bind).collect())
}

fn autopath(directive: &Directive) -> Result<Autopath> {
    directive.arguments_between(1, usize::MAX, "autopath [ZONES…] @kubernetes|FILE")?;
    directive.no_body()?;
    let (source, rest) = directive.arguments.split_last().map_or(("", &[][..]), |(last, rest)| (last.as_str(), rest));
    let resolv_conf = match source.strip_prefix('@') {
        Some("kubernetes") => None,
        Some(other) => {
            return Err(
                directive.error(format_args!("search lists of {other} are not supported"), "write @kubernetes or a file")
            );
        }
        None if source.starts_with('/') => Some(source.into()),
        None => {
            return Err(directive.error(format_args!("`{source}` is no source of search lists"), "write @kubernetes or a file"));
        }
    };
    Ok(Autopath { zones: zones(directive, rest)?, resolv_conf })
}
