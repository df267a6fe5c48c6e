//! Pods as short words, as in the plan's tests: `a+` runs and is ready, `a~` runs and is not, `a-` waits, `a0`, `a1` ended.

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).expect("time")
}

fn exit(code: i32) -> Exit {
    let reason = if code == 0 { "Completed" } else { "Error" };
    Exit { code, signal: None, reason: reason.into(), message: None, started_at: Some(at(0)), finished_at: at(5) }
}

fn record(state: char) -> Record {
    let running = matches!(state, '+' | '~');
    let state_ = match state {
        '-' => return Record::default(),
        '+' | '~' => State::Running { started_at: at(1) },
        code => State::Exited(exit(code.to_digit(10).expect("digit") as i32)),
    };
    Record { id: Some("id".into()), state: state_, started: running, ready: state == '+', ..Record::default() }
}

fn pod(policy: &str, words: &str) -> (Pod, Records) {
    let mut spec = PodSpec { restart_policy: Some(policy.into()), ..PodSpec::default() };
    let mut records = Records::new();
    for word in words.split_whitespace() {
        let container = Container { name: word[..1].into(), image: Some("img".into()), ..Container::default() };
        match &word[..1] {
            "i" => spec.init_containers.get_or_insert_default().push(container),
            _ => spec.containers.push(container),
        }
        records.insert(word[..1].into(), record(word.chars().last().expect("state")));
    }
    let mut pod = Pod { spec: Some(spec), ..Pod::default() };
    pod.metadata.name = Some("web".into());
    pod.metadata.generation = Some(3);
    (pod, records)
}

fn status(pod: &Pod, records: &Records, back_off: &BTreeMap<String, Duration>, now: Timestamp) -> PodStatus {
    let ips = ["10.244.1.5".parse().expect("ip")];
    let host = ["172.30.0.11".parse().expect("ip")];
    let facts = Facts {
        pod,
        records,
        conditions: pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default(),
        back_off,
        sandbox_ready: true,
        pod_ips: &ips,
        host_ips: &host,
        start_time: at(0),
        verdict: None,
        runtime: "process",
    };
    pod_status(&facts, now)
}

fn conditions_of(status: &PodStatus) -> String {
    let conditions = status.conditions.iter().flatten();
    conditions.filter(|c| c.status == "True").map(|c| c.type_.as_str()).collect::<Vec<_>>().join(" ")
}

fn check(policy: &str, words: &str, phase: &str, conditions: &str) {
    let (pod, records) = pod(policy, words);
    let status = status(&pod, &records, &BTreeMap::new(), at(9));
    assert_eq!(status.phase.as_deref(), Some(phase), "{policy}: {words}");
    let expected = format!("PodReadyToStartContainers {conditions} PodScheduled");
    assert_eq!(conditions_of(&status), expected.replace("  ", " "), "{policy}: {words}");
}

#[test]
fn phases_and_conditions() {
    check("Always", "a-", "Pending", "Initialized");
    check("Always", "a+", "Running", "Initialized Ready ContainersReady");
    check("Always", "a+ b~", "Running", "Initialized");
    check("Always", "a+ b-", "Pending", "Initialized");
    check("Always", "i- a-", "Pending", "");
    check("Always", "i+ a-", "Pending", "");
    check("Always", "i1 a-", "Pending", "");
    check("Never", "i1 a-", "Failed", "");
    check("Always", "i0 a+", "Running", "Initialized Ready ContainersReady");
    check("Always", "a1", "Running", "Initialized");
    check("Never", "a0 b+", "Running", "Initialized");
    check("Never", "a0 b1", "Failed", "Initialized");
    check("Never", "a0 b0", "Succeeded", "Initialized");
    check("OnFailure", "a1", "Running", "Initialized");
    check("OnFailure", "a0", "Succeeded", "Initialized");
}

#[test]
fn a_container_in_back_off_shows_its_last_end() {
    let (pod, mut records) = pod("Always", "a1");
    records.get_mut("a").expect("a").restarts = 4;
    let back_off = BTreeMap::from([("a".to_owned(), Duration::from_secs(40))]);
    let status = status(&pod, &records, &back_off, at(9));
    let container = &status.container_statuses.as_ref().expect("statuses")[0];
    let waiting = container.state.as_ref().and_then(|s| s.waiting.as_ref()).expect("waiting");
    assert_eq!(waiting.reason.as_deref(), Some("CrashLoopBackOff"));
    assert_eq!(waiting.message.as_deref(), Some("back-off 40s restarting failed container=a pod=web"));
    let last = container.last_state.as_ref().and_then(|s| s.terminated.as_ref()).expect("last");
    assert_eq!((last.exit_code, container.restart_count, container.ready), (1, 4, false));
    assert_eq!(container.container_id.as_deref(), Some("process://id"));
}

#[test]
fn transition_times_stay_until_the_status_changes() {
    let (mut pod, records) = pod("Always", "a~");
    let time = |status: &PodStatus, kind: &str| {
        let condition = status.conditions.iter().flatten().find(|c| c.type_ == kind).expect("condition");
        condition.last_transition_time.as_ref().expect("time").0
    };
    let first = status(&pod, &records, &BTreeMap::new(), at(10));
    pod.status = Some(first);
    let ready = Records::from([("a".to_owned(), record('+'))]);
    let second = status(&pod, &ready, &BTreeMap::new(), at(20));
    assert_eq!(time(&second, "Ready"), at(20));
    assert_eq!(time(&second, "Initialized"), at(10));
}

#[test]
fn a_readiness_gate_holds_the_pod_back() {
    let (mut pod, records) = pod("Always", "a+");
    let gate = k8s_openapi::api::core::v1::PodReadinessGate { condition_type: "example.com/lb".into() };
    pod.spec.as_mut().expect("spec").readiness_gates = Some(vec![gate]);
    let shut = status(&pod, &records, &BTreeMap::new(), at(9));
    assert!(!conditions_of(&shut).contains(" Ready "));
    let open = PodCondition { type_: "example.com/lb".into(), status: "True".into(), ..PodCondition::default() };
    pod.status = Some(PodStatus { conditions: Some(vec![open]), ..PodStatus::default() });
    assert!(conditions_of(&status(&pod, &records, &BTreeMap::new(), at(9))).contains(" Ready "));
}

#[test]
fn a_verdict_stands_over_the_states() {
    let (pod, records) = pod("Always", "a1");
    let verdict = Verdict { phase: "Failed", reason: Some("DeadlineExceeded".into()), message: Some("too long".into()) };
    let facts = Facts {
        pod: &pod,
        records: &records,
        conditions: &[],
        back_off: &BTreeMap::new(),
        sandbox_ready: false,
        pod_ips: &[],
        host_ips: &[],
        start_time: at(0),
        verdict: Some(&verdict),
        runtime: "process",
    };
    let status = pod_status(&facts, at(9));
    assert_eq!((status.phase.as_deref(), status.reason.as_deref()), (Some("Failed"), Some("DeadlineExceeded")));
    assert_eq!((status.pod_ip, status.pod_ips), (None, None));
}
