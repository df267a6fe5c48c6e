//! `cache [TTL] [ZONES…] { … }`: what is remembered of the upstreams' answers, and for how long.

use std::time::Duration;

use super::Result;
use super::model::{Cache, CacheClass, Prefetch, Stale};
use super::tree::Directive;
use super::values::{duration, number, zones};

/// As CoreDNS.
const LEAST_CAPACITY: u32 = 1024;
/// Answers in a cache; each costs memory.
const MOST_CAPACITY: u32 = 1 << 24;
const MAX_TTL: u32 = 7 * 86400;
const MAX_SERVFAIL: Duration = Duration::from_secs(300);
const PREFETCH_WITHIN: Duration = Duration::from_secs(60);
const PREFETCH_PERCENTAGE: u8 = 10;

pub fn read(directive: &Directive) -> Result<Cache> {
    let mut cache = Cache::default();
    let mut named = directive.arguments.as_slice();
    if let Some((first, rest)) = named.split_first()
        && first.bytes().all(|byte| byte.is_ascii_digit())
    {
        let ttl = number(directive, first, 1, MAX_TTL)?;
        for class in [&mut cache.success, &mut cache.denial] {
            class.max_ttl = ttl;
            class.min_ttl = class.min_ttl.min(ttl);
        }
        named = rest;
    }
    cache.zones = zones(directive, named)?;
    for option in &directive.body {
        option.no_body()?;
        match option.name.as_str() {
            "success" => class(option, &mut cache.success)?,
            "denial" => class(option, &mut cache.denial)?,
            "prefetch" => cache.prefetch = prefetch(option)?,
            "serve_stale" => cache.stale = Some(stale(option)?),
            "servfail" => {
                option.arguments_between(1, 1, "servfail DURATION")?;
                cache.servfail = duration(option, &option.arguments[0])?;
                if cache.servfail > MAX_SERVFAIL {
                    return Err(option.error("failures would be remembered too long", "give at most 5m"));
                }
            }
            "disable" => {
                option.arguments_between(1, usize::MAX, "disable success|denial [ZONES…]")?;
                let mut off = zones(option, &option.arguments[1..])?;
                if off.is_empty() {
                    off.push([0u8][..].into());
                }
                match option.arguments[0].as_str() {
                    "success" => cache.no_success.extend(off),
                    "denial" => cache.no_denial.extend(off),
                    other => return Err(option.error(format_args!("`{other}` cannot be disabled"), "write success or denial")),
                }
            }
            "keepttl" => {
                option.bare()?;
                cache.keep_ttl = true;
            }
            _ => return Err(option.error("no option of cache", "check its spelling, or remove it")),
        }
    }
    Ok(cache)
}

/// `success CAPACITY [TTL] [MINTTL]`
fn class(option: &Directive, class: &mut CacheClass) -> Result<()> {
    option.arguments_between(1, 3, &format!("{} CAPACITY [TTL] [MINTTL]", option.name))?;
    // A smaller capacity is raised, as in CoreDNS: NodeLocal DNSCache asks for 5 denials.
    class.capacity = number(option, &option.arguments[0], 1, MOST_CAPACITY)?.max(LEAST_CAPACITY) as usize;
    if let Some(ttl) = option.argument(1) {
        class.max_ttl = number(option, ttl, 1, MAX_TTL)?;
    }
    match option.argument(2) {
        Some(ttl) => {
            class.min_ttl = number(option, ttl, 0, MAX_TTL)?;
            if class.min_ttl > class.max_ttl {
                return Err(option.error("the least TTL is above the greatest", "write the greatest first"));
            }
        }
        None => class.min_ttl = class.min_ttl.min(class.max_ttl),
    }
    Ok(())
}

/// `prefetch AMOUNT [[DURATION] [PERCENTAGE%]]`
fn prefetch(option: &Directive) -> Result<Option<Prefetch>> {
    option.arguments_between(1, 3, "prefetch AMOUNT [[DURATION] [PERCENTAGE%]]")?;
    let amount = number(option, &option.arguments[0], 0, u32::MAX)?;
    let within = option.argument(1).map_or(Ok(PREFETCH_WITHIN), |text| duration(option, text))?;
    let percentage = match option.argument(2) {
        None => PREFETCH_PERCENTAGE,
        Some(text) => {
            let number = text.strip_suffix('%').and_then(|text| text.parse().ok());
            number.filter(|share| (10..=90).contains(share)).ok_or_else(|| {
                option.error(format_args!("`{text}` is no share of the TTL"), "write 10% to 90%, with the sign")
            })?
        }
    };
    Ok((amount > 0).then_some(Prefetch { amount, within, percentage }))
}

/// `serve_stale [DURATION] [immediate|verify]`
fn stale(option: &Directive) -> Result<Stale> {
    option.arguments_between(0, 2, "serve_stale [DURATION] [immediate|verify]")?;
    let keep = option.argument(0).map_or(Ok(Duration::from_secs(3600)), |text| duration(option, text))?;
    let verify = match option.argument(1) {
        None | Some("immediate") => false,
        Some("verify" | "verified") => true,
        Some(other) => return Err(option.error(format_args!("`{other}` is no mode"), "write immediate or verify")),
    };
    Ok(Stale { keep, verify })
}
