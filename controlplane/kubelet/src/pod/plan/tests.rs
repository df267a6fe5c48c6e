//! Pods as short words: `a+` runs, `a-` has not begun, `a0` and `a1` ended with that code; `i`, `j` are init containers, `s` a sidecar.

use k8s_openapi::api::core::v1::Container;

use super::super::backoff::BackoffConfig;
use super::*;
use crate::runtime::Exit;

fn now() -> Timestamp {
    Timestamp::from_second(1_700_000_000).expect("time")
}

fn record(state: char) -> Record {
    let id = (state != '-').then(|| "id".to_owned());
    let state = match state {
        '-' => return Record::default(),
        '+' => State::Running { started_at: now() },
        code => State::Exited(Exit {
            code: code.to_digit(10).expect("digit") as i32,
            signal: None,
            reason: String::new(),
            message: None,
            started_at: None,
            finished_at: now(),
        }),
    };
    Record { id, started: matches!(state, State::Running { .. }), state, ..Record::default() }
}

fn pod(policy: &str, words: &str) -> (PodSpec, Records) {
    let mut spec = PodSpec { restart_policy: Some(policy.into()), init_containers: Some(vec![]), ..PodSpec::default() };
    let mut records = Records::new();
    for word in words.split_whitespace() {
        let (name, state) = (word[..1].to_owned(), word.chars().last().expect("state"));
        let mut container = Container { name: name.clone(), ..Container::default() };
        match name.as_str() {
            "i" | "j" => spec.init_containers.get_or_insert_default().push(container),
            "s" => {
                container.restart_policy = Some("Always".into());
                spec.init_containers.get_or_insert_default().push(container);
            }
            _ => spec.containers.push(container),
        }
        records.insert(name, record(state));
    }
    (spec, records)
}

fn check(policy: &str, words: &str, start: &str, outcome: Option<Outcome>) {
    let (spec, records) = pod(policy, words);
    let plan = plan(&spec, &records, &Backoffs::new(BackoffConfig::default()), now());
    assert_eq!((plan.start.join(" "), plan.outcome), (start.to_owned(), outcome), "{policy}: {words}");
}

#[test]
fn containers_start_in_order() {
    check("Always", "a- b-", "a b", None);
    check("Always", "a+ b-", "b", None);
    check("Always", "a+ b+", "", None);
    check("Always", "i- j- a-", "i", None);
    check("Always", "i+ j- a-", "", None);
    check("Always", "i0 j- a-", "j", None);
    check("Always", "i0 j0 a- b-", "a b", None);
    check("Always", "i1 j- a-", "i", None);
    check("OnFailure", "i1 a-", "i", None);
    check("Never", "i1 a-", "", Some(Outcome::Failed));
    // An init container whose record is lost does not run again below running main containers.
    check("Always", "i- a+", "", None);
}

#[test]
fn sidecars_start_before_and_run_beside() {
    check("Always", "s- a-", "s", None);
    check("Always", "s+ a-", "a", None);
    check("Always", "s+ i- a-", "i", None);
    check("Never", "s1 a+", "s", None);
    check("Never", "s+ a0", "", Some(Outcome::Succeeded));
    let (spec, mut records) = pod("Always", "s+ a-");
    records.get_mut("s").expect("sidecar").started = false;
    assert_eq!(plan(&spec, &records, &Backoffs::new(BackoffConfig::default()), now()), Plan::default());
}

#[test]
fn the_restart_policy_decides_about_ended_containers() {
    check("Always", "a0 b1", "a b", None);
    check("OnFailure", "a0 b1", "b", None);
    check("OnFailure", "a0 b0", "", Some(Outcome::Succeeded));
    check("OnFailure", "a0 b+", "", None);
    check("Never", "a0 b+", "", None);
    check("Never", "a0 b1", "", Some(Outcome::Failed));
    check("Never", "a0 b0", "", Some(Outcome::Succeeded));
    check("Never", "a0 b-", "b", None);
}

#[test]
fn a_container_in_back_off_waits() {
    let (spec, records) = pod("Always", "a1 b1");
    let mut backoffs = Backoffs::new(BackoffConfig::default());
    backoffs.restarted("a", now());
    let seconds = |s| now() + SignedDuration::from_secs(s);
    let early = plan(&spec, &records, &backoffs, seconds(4));
    assert_eq!((early.start, early.again_in), (vec!["b".to_owned()], Some(Duration::from_secs(6))));
    assert_eq!(early.back_off["a"], Duration::from_secs(10));
    let late = plan(&spec, &records, &backoffs, seconds(10));
    assert_eq!((late.start.join(" "), late.again_in), ("a b".to_owned(), None));
}

#[test]
fn a_container_that_could_not_be_made_is_tried_again_later() {
    let (spec, mut records) = pod("Never", "a-");
    records.get_mut("a").expect("a").state =
        State::Waiting { reason: "CreateContainerError".into(), message: None, since: Some(now()) };
    let backoffs = Backoffs::new(BackoffConfig::default());
    let early = plan(&spec, &records, &backoffs, now() + SignedDuration::from_secs(1));
    assert_eq!((early.start.len(), early.again_in, early.back_off.len()), (0, Some(Duration::from_secs(9)), 0));
    assert_eq!(plan(&spec, &records, &backoffs, now() + SignedDuration::from_secs(10)).start, ["a"]);
}
