//! `forward FROM TO… { … }`: who is asked for other names.

use super::model::{Forward, HealthCheck, Policy, Target};
use super::tree::Directive;
use super::values::{domain, duration, number, upstream, zones};
use super::{Error, Result};

/// As CoreDNS.
const MAX_UPSTREAMS: usize = 15;

/// Response codes by the names that CoreDNS knows them by.
const RCODES: &[(&str, u8)] = &[
    ("FORMERR", 1),
    ("SERVFAIL", 2),
    ("NXDOMAIN", 3),
    ("NOTIMP", 4),
    ("REFUSED", 5),
    ("YXDOMAIN", 6),
    ("YXRRSET", 7),
    ("NXRRSET", 8),
    ("NOTAUTH", 9),
    ("NOTZONE", 10),
];

pub fn read(directive: &Directive) -> Result<Forward> {
    directive.arguments_between(2, MAX_UPSTREAMS + 1, "forward FROM TO…, with at most 15 upstreams")?;
    let from = zones(directive, &directive.arguments[..1])?;
    let [from] = from.as_slice() else {
        return Err(
            directive.error("the network is several reverse zones", "write a line for each, such as 96.10.in-addr.arpa")
        );
    };
    let to = directive.arguments[1..].iter().map(|text| target(directive, text)).collect::<Result<_>>()?;
    let mut forward = Forward::new(directive.line, from.clone(), to);
    for option in &directive.body {
        option.no_body()?;
        read_option(option, &mut forward)?;
    }
    Ok(forward)
}

fn read_option(option: &Directive, forward: &mut Forward) -> Result<()> {
    let one = |form: &str| {
        option.arguments_between(1, 1, form)?;
        Ok::<_, Error>(option.arguments[0].as_str())
    };
    match option.name.as_str() {
        "except" => {
            option.arguments_between(1, usize::MAX, "except NAMES…")?;
            forward.except.extend(zones(option, &option.arguments)?);
        }
        "force_tcp" => {
            option.bare()?;
            forward.force_tcp = true;
        }
        "prefer_udp" => {
            option.bare()?;
            forward.prefer_udp = true;
        }
        "expire" => forward.expire = duration(option, one("expire DURATION")?)?,
        "max_fails" => forward.max_fails = number(option, one("max_fails NUMBER")?, 0, u32::MAX)?,
        "max_connect_attempts" => forward.max_attempts = number(option, one("max_connect_attempts NUMBER")?, 0, u32::MAX)?,
        "max_concurrent" => forward.max_concurrent = number(option, one("max_concurrent NUMBER")?, 0, u32::MAX)?,
        // Connections to upstreams over UDP are not kept: each query has a port of its own, at random.
        "max_idle_conns" => {
            number(option, one("max_idle_conns NUMBER")?, 0, u32::MAX)?;
        }
        "policy" => {
            forward.policy = match one("policy random|round_robin|sequential")? {
                "random" => Policy::Random,
                "round_robin" => Policy::RoundRobin,
                "sequential" => Policy::Sequential,
                other => {
                    return Err(option.error(format_args!("`{other}` is no policy"), "write random, round_robin or sequential"));
                }
            }
        }
        "health_check" => forward.health_check = health_check(option)?,
        "failover" => {
            option.arguments_between(1, RCODES.len(), "failover RCODE…")?;
            for name in &option.arguments {
                let code = RCODES.iter().find(|(known, _)| name.eq_ignore_ascii_case(known));
                let (_, code) = code.ok_or_else(|| {
                    option.error(
                        format_args!("`{name}` is no code to fail over on"),
                        "write SERVFAIL, REFUSED or the like, not NOERROR",
                    )
                })?;
                forward.failover.push(*code);
            }
        }
        "failfast_all_unhealthy_upstreams" => {
            option.bare()?;
            forward.failfast = true;
        }
        "tls" | "tls_servername" | "doh_method" => {
            return Err(option.error("upstreams over TLS are not supported", "forward to a local resolver that speaks TLS"));
        }
        "next" | "next_on_nodata" => {
            return Err(option.error("not supported", "name all upstreams in one `forward` and use `failover`"));
        }
        "resolver" => {
            return Err(option.error("upstreams are addresses here", "write the addresses of the upstreams, and remove it"));
        }
        "max_age" => {
            duration(option, one("max_age DURATION")?)?;
        }
        _ => return Err(option.error("no option of forward", "check its spelling, or remove it")),
    }
    Ok(())
}

fn target(directive: &Directive, text: &str) -> Result<Target> {
    let bare = match text.split_once("://") {
        Some(("dns", bare)) => bare,
        Some((transport, _)) => {
            return Err(directive.error(
                format_args!("`{text}`: upstreams over {transport} are not supported"),
                "forward to a local resolver that speaks it",
            ));
        }
        None => text,
    };
    if text.starts_with('/') {
        return Ok(Target::ResolvConf(text.into()));
    }
    upstream(bare).map(Target::Address).ok_or_else(|| {
        directive.error(
            format_args!("`{text}` is no upstream"),
            "write IP, IP:PORT, or the whole path of a file such as /etc/resolv.conf",
        )
    })
}

fn health_check(option: &Directive) -> Result<HealthCheck> {
    const FORM: &str = "health_check DURATION [no_rec] [domain NAME]";
    option.arguments_between(1, 4, FORM)?;
    let interval = duration(option, &option.arguments[0])?;
    if interval.is_zero() {
        return Err(
            option.error("without a pause between checks", "write a duration such as 0.5s; `max_fails 0` turns checks off")
        );
    }
    let mut check = HealthCheck { interval, ..HealthCheck::default() };
    let mut rest = option.arguments[1..].iter();
    while let Some(word) = rest.next() {
        match word.as_str() {
            "no_rec" => check.recursion_desired = false,
            "domain" => {
                let name = rest.next().ok_or_else(|| option.error("`domain` without a name", format!("write `{FORM}`")))?;
                check.domain = domain(option, name)?;
            }
            other => return Err(option.error(format_args!("`{other}` cannot stand here"), format!("write `{FORM}`"))),
        }
    }
    Ok(check)
}
