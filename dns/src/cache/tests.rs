//! The cache with a clock in the hand, and whatever may happen to it.

use hickory_proto::op::{Message, OpCode, Query as WireQuestion, ResponseCode};
use hickory_proto::rr::rdata::{A, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use proptest::prelude::*;

use super::*;
use crate::name::encode;
use crate::query::rtype;

fn question(name: &str) -> Question {
    Question::plain(&encode(name).expect("a name"), rtype::A)
}

fn absolute(name: &str) -> Name {
    Name::from_ascii(format!("{name}.")).expect("a name")
}

fn message(name: &str, rcode: ResponseCode) -> Message {
    let mut message = Message::response(7, OpCode::Query);
    message.metadata.response_code = rcode;
    message.add_query(WireQuestion::query(absolute(name), RecordType::A));
    message
}

fn positive(name: &str, ttl: u32) -> Arc<Reply> {
    let mut message = message(name, ResponseCode::NoError);
    message.add_answer(Record::from_rdata(absolute(name), ttl, RData::A(A::new(192, 0, 2, 1))));
    Arc::new(Reply::take(message, &question(name)).expect("a reply"))
}

fn negative(name: &str, ttl: u32) -> Arc<Reply> {
    let mut message = message(name, ResponseCode::NXDomain);
    let zone = absolute("org");
    let soa = SOA::new(zone.clone(), zone.clone(), 1, 2, 3, 4, ttl);
    message.add_authority(Record::from_rdata(zone, 86400, RData::SOA(soa)));
    Arc::new(Reply::take(message, &question(name)).expect("a reply"))
}

fn failure(name: &str) -> Arc<Reply> {
    Arc::new(Reply::bare(2, &question(name)))
}

fn at(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn class_of(max_ttl: u32, min_ttl: u32) -> CacheClass {
    CacheClass { capacity: 1024, max_ttl, min_ttl }
}

fn options() -> corefile::Cache {
    corefile::Cache { success: class_of(3600, 5), denial: class_of(1800, 5), stale: None, ..corefile::Cache::default() }
}

/// TTL and state of what the cache has at a time.
fn seen(cache: &Cache, name: &str, seconds: f64) -> Option<(Option<u32>, State)> {
    let hit = cache.get(&question(name), at(seconds));
    hit.as_ref().map_or_else(|| cache.miss(), |hit| cache.hit(hit));
    hit.map(|hit| (hit.ttl, hit.state))
}

#[test]
fn an_answer_lives_as_long_as_its_ttl_and_says_what_is_left() {
    let cache = Cache::new(options());
    cache.put(&question("a.org"), &positive("a.org", 60), at(100.0));
    for (seconds, ttl) in [(100.0, 60), (100.5, 60), (101.0, 59), (159.0, 1), (159.9, 1)] {
        assert_eq!(seen(&cache, "a.org", seconds), Some((Some(ttl), State::Fresh)), "at {seconds}");
    }
    assert_eq!(seen(&cache, "a.org", 160.0), None);
    assert_eq!(seen(&cache, "b.org", 100.0), None);
    let stats = cache.stats();
    assert_eq!((stats.success_hits, stats.misses, stats.success_entries), (5, 2, 1));
}

#[test]
fn ttls_have_bounds_by_class() {
    let cache = Cache::new(corefile::Cache { success: class_of(30, 10), denial: class_of(20, 8), ..options() });
    for (name, reply, ttl) in [
        ("short.org", positive("short.org", 1), 10),
        ("long.org", positive("long.org", 86400), 30),
        ("no.org", negative("no.org", 300), 20),
        ("never.org", negative("never.org", 0), 8),
    ] {
        cache.put(&question(name), &reply, at(0.0));
        assert_eq!(seen(&cache, name, 0.0), Some((Some(ttl), State::Fresh)), "{name}");
        assert_eq!(seen(&cache, name, f64::from(ttl)), None, "{name}");
    }
}

#[test]
fn a_ttl_of_zero_is_not_kept_when_nothing_raises_it() {
    let cache = Cache::new(corefile::Cache { success: class_of(30, 0), ..options() });
    cache.put(&question("a.org"), &positive("a.org", 0), at(0.0));
    assert_eq!(seen(&cache, "a.org", 0.0), None);
}

#[test]
fn what_is_disabled_or_outside_is_not_kept() {
    let zones = |names: &[&str]| names.iter().map(|name| encode(name).expect("a name")).collect::<Vec<_>>();
    let (no_success, no_denial) = (zones(&["a.org"]), zones(&["."]));
    let cache = Cache::new(corefile::Cache { zones: zones(&["org"]), no_success, no_denial, ..options() });
    for (name, reply, kept) in [
        ("x.a.org", positive("x.a.org", 60), false),
        ("b.org", positive("b.org", 60), true),
        ("a.net", positive("a.net", 60), false),
        ("c.org", negative("c.org", 60), false),
        ("d.org", failure("d.org"), false),
    ] {
        cache.put(&question(name), &reply, at(0.0));
        assert_eq!(seen(&cache, name, 0.0).is_some(), kept, "{name}");
    }
}

#[test]
fn flags_and_types_are_different_questions() {
    let cache = Cache::new(options());
    cache.put(&question("a.org"), &positive("a.org", 60), at(0.0));
    let other = Question::plain(&encode("a.org").expect("a name"), rtype::AAAA);
    assert!(cache.get(&other, at(0.0)).is_none());
    assert_eq!(question("A.oRg").key(), question("a.org").key(), "casing is none");
}

#[test]
fn stale_answers_are_given_for_a_while() {
    let stale = |verify| Some(Stale { keep: at(100.0), verify });
    for verify in [true, false] {
        let cache = Cache::new(corefile::Cache { stale: stale(verify), ..options() });
        cache.put(&question("a.org"), &positive("a.org", 10), at(0.0));
        assert_eq!(seen(&cache, "a.org", 9.0), Some((Some(1), State::Fresh)));
        assert_eq!(seen(&cache, "a.org", 10.0), Some((Some(STALE_TTL), State::Stale { verify })));
        assert_eq!(seen(&cache, "a.org", 109.9), Some((Some(STALE_TTL), State::Stale { verify })));
        assert_eq!(seen(&cache, "a.org", 110.0), None);
    }
}

#[test]
fn after_a_failure_upstreams_are_left_in_peace_for_a_while() {
    let cache = Cache::new(corefile::Cache { stale: Some(Stale { keep: at(100.0), verify: true }), ..options() });
    cache.put(&question("a.org"), &positive("a.org", 10), at(0.0));
    cache.failed(&question("a.org"), at(20.0));
    cache.put(&question("a.org"), &failure("a.org"), at(20.0));
    assert_eq!(seen(&cache, "a.org", 20.0), Some((Some(STALE_TTL), State::StaleForNow)), "a failure takes nobody's place");
    assert_eq!(seen(&cache, "a.org", 30.0), Some((Some(STALE_TTL), State::Stale { verify: true })));
    cache.put(&question("a.org"), &negative("a.org", 60), at(31.0));
    assert_eq!(seen(&cache, "a.org", 31.0), Some((Some(60), State::Fresh)), "a denial does");
    assert_eq!((cache.stats().success_entries, cache.stats().denial_entries), (0, 1));
}

#[test]
fn failures_are_kept_for_seconds_and_never_stale() {
    let cache = Cache::new(corefile::Cache { stale: Some(Stale { keep: at(100.0), verify: true }), ..options() });
    cache.put(&question("a.org"), &failure("a.org"), at(0.0));
    assert_eq!(seen(&cache, "a.org", 4.9).map(|(_, state)| state), Some(State::Fresh));
    assert_eq!(seen(&cache, "a.org", 5.0), None);
    let none = Cache::new(corefile::Cache { servfail: Duration::ZERO, ..options() });
    none.put(&question("a.org"), &failure("a.org"), at(0.0));
    assert_eq!(seen(&none, "a.org", 0.0), None);
}

#[test]
fn what_is_popular_is_asked_for_again_before_it_ends_and_once() {
    let prefetch = Some(Prefetch { amount: 3, within: at(30.0), percentage: 10 });
    let cache = Cache::new(corefile::Cache { prefetch, ..options() });
    cache.put(&question("a.org"), &positive("a.org", 100), at(0.0));
    let state = |seconds| seen(&cache, "a.org", seconds).map(|(_, state)| state);
    assert_eq!([10.0, 20.0, 30.0].map(state), [Some(State::Fresh); 3], "popular, and not about to end");
    assert_eq!(state(91.0), Some(State::Fresh), "after a pause it is popular no more");
    assert_eq!(state(92.0), Some(State::Fresh));
    assert_eq!(state(93.0), Some(State::Ending));
    assert_eq!(state(94.0), Some(State::Fresh), "said once");
    assert_eq!(cache.stats().prefetches, 1);
}

#[test]
fn who_is_asked_for_stays_when_others_flood_in() {
    let cache = Cache::new(options());
    cache.put(&question("a.org"), &positive("a.org", 3600), at(0.0));
    for index in 0..5000 {
        let name = format!("n{index}.org");
        cache.put(&question(&name), &positive(&name, 3600), at(1.0));
        assert!(seen(&cache, "a.org", 1.0).is_some(), "after {index}");
    }
    let stats = cache.stats();
    assert!(stats.success_entries <= 1024 && stats.success_evictions >= 5001 - 1024, "{stats:?}");
    for index in 0..5000 {
        let name = format!("n{index}.net");
        cache.put(&question(&name), &negative(&name, 3600), at(1.0));
    }
    assert!(seen(&cache, "a.org", 1.0).is_some(), "denials have room of their own");
}

#[derive(Clone, Debug)]
enum Step {
    Put { name: u8, ttl: u32, kind: u8 },
    Get { name: u8 },
    Fail { name: u8 },
    Wait { millis: u32 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (any::<u8>(), 0..200u32, 0..3u8).prop_map(|(name, ttl, kind)| Step::Put { name, ttl, kind }),
        any::<u8>().prop_map(|name| Step::Get { name }),
        any::<u8>().prop_map(|name| Step::Fail { name }),
        (0..60_000u32).prop_map(|millis| Step::Wait { millis }),
    ]
}

proptest! {
    /// Against a table of what was put last: never beyond its bounds, never longer than the TTL or the stale window,
    /// never another answer, and a TTL that is never more than what is left.
    #[test]
    fn whatever_happens(
        steps in proptest::collection::vec(step(), 1..300),
        stale in proptest::option::of(1..200u64),
        capacity in 1..64usize,
    ) {
        let class = |max_ttl| CacheClass { capacity, max_ttl, min_ttl: 5 };
        let stale = stale.map(|seconds| Stale { keep: Duration::from_secs(seconds), verify: true });
        let keep = stale.map_or(Duration::ZERO, |stale| stale.keep);
        let cache = Cache::new(corefile::Cache { success: class(100), denial: class(50), stale, ..options() });
        let mut model: HashMap<u8, (Arc<Reply>, Duration, Duration)> = HashMap::new();
        let mut now = Duration::ZERO;
        for step in steps {
            match step {
                Step::Wait { millis } => now += Duration::from_millis(millis.into()),
                Step::Fail { name } => cache.failed(&question(&format!("n{name}.org")), now),
                Step::Put { name, ttl, kind } => {
                    let text = format!("n{name}.org");
                    let (reply, most) = match kind {
                        0 => (positive(&text, ttl), ttl.clamp(5, 100)),
                        1 => (negative(&text, ttl), ttl.clamp(5, 50)),
                        _ => (failure(&text), 5),
                    };
                    cache.put(&question(&text), &reply, now);
                    // A failure may or may not take the place of what is there.
                    if kind != 2 {
                        model.insert(name, (reply, now, Duration::from_secs(most.into())));
                    } else if model.get(&name).is_none_or(|(_, stored, ttl)| now >= *stored + *ttl + keep) {
                        model.remove(&name);
                    }
                }
                Step::Get { name } => {
                    let Some(hit) = cache.get(&question(&format!("n{name}.org")), now) else { continue };
                    if hit.reply.kind() == Kind::Failure {
                        continue;
                    }
                    let (reply, stored, ttl) = model.get(&name).expect("what was put");
                    prop_assert_eq!(&*hit.reply, &**reply);
                    let end = *stored + *ttl;
                    match hit.state {
                        State::Fresh | State::Ending => {
                            prop_assert!(now < end);
                            let left = (end - now).as_secs_f64().ceil() as u32;
                            prop_assert_eq!(hit.ttl, Some(left));
                        }
                        State::Stale { .. } | State::StaleForNow => prop_assert!(end <= now && now < end + keep),
                    }
                }
            }
            let stats = cache.stats();
            prop_assert!(stats.success_entries <= capacity as u64 && stats.denial_entries <= capacity as u64, "{:?}", stats);
            prop_assert!(stats.octets <= cache.most_octets() as u64, "{:?}", stats);
        }
    }
}
