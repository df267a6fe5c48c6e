//! One quick run with real packets, from labs to page: that it works, not how fast anything is.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn bench(args: &[&str]) -> Output {
    // Probes are this very program, whatever else is built.
    let mut command = Command::new(env!("CARGO_BIN_EXE_thalweg-bench"));
    command.args(args).env_remove("THALWEG_BIN").env_remove("THALWEG_LAB").output().expect("start thalweg-bench")
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn bad_input_ends_in_one_line_before_anything_starts() {
    for (args, expected) in [
        (&["run", "teleport"][..], "no scenario \"teleport\""),
        (&["run", "services-crr", "--against", "ipvs"], "--against ipvs: choose from direct, iptables, plain"),
        (&["run", "services-crr", "--services", "0"], "--services"),
        (&["compare", "/nonexistent/a", "/nonexistent/b"], "/nonexistent/a"),
    ] {
        let output = bench(args);
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        assert!(!output.status.success() && said.contains(expected) && !said.contains('\n'), "{args:?}: {said}");
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_quick_run_is_measured_kept_compared_and_shown() {
    let bin = std::env::var("THALWEG_BIN").expect("THALWEG_BIN names the folder of the executables");
    let folder = tempfile::tempdir().expect("folder");
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (run, html) = (path("run.json"), path("report.html"));
    let output =
        bench(&["run", "services-crr", "--quick", "--against", "direct", "--bin", &bin, "--lab", "smoke", "--out", &run]);
    assert!(output.status.success(), "{}", text(&output));
    let json: Value = serde_json::from_slice(&std::fs::read(&run).expect("run")).expect("json");
    assert_eq!(json["complete"], true);
    assert_eq!(json["settings"]["plan"]["runs"], 3);
    let again = bench(&["run", "services-crr", "--quick", "--bin", &bin, "--lab", "smoke", "--out", &run]);
    assert!(!again.status.success() && text(&again).contains("is there already"), "{}", text(&again));
    let measured = json["measurements"].as_array().expect("measurements");
    // Two cases, each with its rates and its median times.
    assert_eq!(measured.len(), 4, "{json}");
    for case in measured {
        let names: Vec<&str> =
            case["sides"].as_array().expect("sides").iter().filter_map(|side| side["name"].as_str()).collect();
        assert_eq!(names, ["direct", "socket-lb", "tc"]);
    }
    for case in measured.iter().filter(|case| case["unit"] == "per second") {
        assert!(case["sides"][1]["latency"]["p99"].as_u64().is_some_and(|nanos| nanos > 0), "{case}");
    }
    // Of a quick run's few rounds nothing is known.
    let compared = bench(&["compare", &run, &run]);
    assert!(text(&compared).contains("0 worse, 0 better, 12 unknown, 0 not different"), "{}", text(&compared));
    let report = bench(&["report", &run, "--html", &html]);
    assert!(report.status.success() && Path::new(&html).is_file(), "{}", text(&report));
    assert!(text(&bench(&["numbers", &run])).contains("### services-crr"));
}
