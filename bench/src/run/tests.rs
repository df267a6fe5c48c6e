//! A run is written and read as it is; its noise says how far it can be trusted.

use super::*;

/// A run with one measurement: `direct` and `tc`, the latter `ratio` times the former.
pub fn sample(ratio: f64, noise: f64) -> Run {
    let values = [100.0, 101.0, 99.0, 101.0, 99.0, 100.0, 100.0];
    let ours: Vec<f64> = values.iter().map(|value| value * ratio).collect();
    let estimate = |values: &[f64]| Estimate::of(values).expect("values");
    let side = |name: &str, values: &[f64], ratio: Option<Estimate>| Side {
        name: name.to_owned(),
        values: values.to_vec(),
        estimate: estimate(values),
        base: ratio.map(|_| "direct".to_owned()),
        ratio,
        latency: None,
        of: None,
    };
    let again: Vec<f64> = values.iter().map(|value| value * (1.0 + noise)).collect();
    Run {
        format: FORMAT,
        started: 1_700_000_000,
        version: "0.1.0".to_owned(),
        commit: "c0ffee".to_owned(),
        versions: [("iptables".to_owned(), "iptables v1.8".to_owned())].into(),
        settings: serde_json::json!({"millis": 400}),
        command: vec!["run".to_owned(), "services-crr".to_owned()],
        machine: Machine { kernel: "Linux 6.18".to_owned(), cpu: "A <fast> CPU".to_owned(), cpus: 2, ..Machine::default() },
        measurements: vec![Measurement {
            scenario: "services-crr".to_owned(),
            case: [("services", "10000"), ("family", "IPv4")].map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            unit: "per second".to_owned(),
            better: Better::Higher,
            sides: vec![side("direct", &values, None), side("tc", &ours, Estimate::of_ratios(&ours, &values))],
            noise: Estimate::of_ratios(&again, &values),
        }],
        missing: vec![Missing {
            scenario: "cni".to_owned(),
            side: "ptp".to_owned(),
            why: "not installed".to_owned(),
            failed: false,
        }],
        complete: true,
    }
}

#[test]
fn what_is_written_is_read() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("deep/run.json");
    let run = sample(0.97, 0.01);
    run.write(&path).expect("write");
    assert_eq!(Run::read(&path).expect("read"), run);
    assert!(!path.with_extension("json.new").exists());
}

#[test]
fn a_run_that_is_there_is_not_written_over_by_another() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("run.json");
    sample(0.97, 0.01).begin(&path).expect("begin");
    let error = sample(0.5, 0.01).begin(&path).expect_err("there already").to_string();
    assert!(error.contains("is there already") && error.contains("--out"), "{error}");
    assert_eq!(Run::read(&path).expect("read"), sample(0.97, 0.01));
}

#[test]
fn a_run_is_complete_when_nothing_failed_and_nobody_stopped_it() {
    let ends = |stopped, failed| {
        let mut run = sample(0.97, 0.01);
        run.missing[0].failed = failed;
        run.end(stopped);
        run.complete
    };
    assert!(ends(false, false) && !ends(true, false) && !ends(false, true));
}

#[test]
fn what_is_no_run_is_refused_in_words() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("run.json");
    let check = |text: &str, expected: &str| {
        fs::write(&path, text).expect("write");
        let error = format!("{:#}", Run::read(&path).expect_err(expected));
        assert!(error.contains(expected), "{error}");
    };
    check("[]", "is not the JSON of `thalweg bench run`");
    let other = Run { format: 99, ..sample(1.0, 0.0) };
    check(&serde_json::to_string(&other).expect("json"), "of format 99");
    let error = Run::read(&folder.path().join("none.json")).expect_err("no file");
    assert!(error.to_string().contains("none.json"), "{error}");
}

#[test]
fn a_noisy_machine_says_so() {
    assert!(sample(1.0, 0.01).verdict().starts_with("Quiet"), "{}", sample(1.0, 0.01).verdict());
    assert!(sample(1.0, 0.2).verdict().starts_with("Noisy"), "{}", sample(1.0, 0.2).verdict());
    let mut run = sample(1.0, 0.2);
    let quiet = Measurement { unit: "µs, median".to_owned(), ..sample(1.0, 0.01).measurements.remove(0) };
    run.measurements.push(quiet);
    assert!(run.verdict().contains("20.0 % (per second), 1.0 % (µs, median)"), "{}", run.verdict());
    run.measurements.iter_mut().for_each(|measured| measured.noise = None);
    assert!(run.verdict().contains("not known"));
}
