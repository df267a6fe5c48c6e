//! A lab that is interrupted removes every trace; one that is killed is removed by the next.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use thalweg_lab::residue::Residue;

const READY: Duration = Duration::from_secs(120);

struct Up {
    child: Child,
    lines: Receiver<String>,
}

fn lab() -> PathBuf {
    let bin =
        std::env::var_os("THALWEG_BIN").expect("THALWEG_BIN is not set: `cargo xtask test lab` builds and names the binaries");
    PathBuf::from(bin).join("thalweg-lab")
}

impl Up {
    fn start(name: &str) -> Self {
        let mut child = Command::new(lab())
            .args(["up", "--name", name, "--nodes", "1"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start the lab");
        let stdout = child.stdout.take().expect("stdout");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    /// Everything printed until a line contains `text`.
    fn wait_for(&self, text: &str) -> String {
        let mut seen = String::new();
        loop {
            let line =
                self.lines.recv_timeout(READY).unwrap_or_else(|error| panic!("{text:?} was not printed ({error}):\n{seen}"));
            seen += &line;
            seen.push('\n');
            if line.contains(text) {
                return seen;
            }
        }
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = Command::new(lab()).arg("clean").status();
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn an_interrupted_lab_shows_its_cluster_and_leaves_nothing() {
    let before = Residue::look();
    let mut up = Up::start("stop");
    let screen = up.wait_for("Ctrl-C");
    for wanted in [
        "node-a",
        "Ready",
        "web",
        "10.96.",
        "web.default.svc.cluster.local",
        "100 ok, 0 failed",
        "tc_packets",
        "export KUBECONFIG=",
    ] {
        assert!(screen.contains(wanted), "the screen does not show {wanted:?}:\n{screen}");
    }
    let status = Command::new("kill").args(["-INT", &up.child.id().to_string()]).status().expect("kill");
    assert!(status.success());
    assert!(up.child.wait().expect("wait").success(), "the lab ended with an error");
    assert_eq!(Residue::look().since(&before), Vec::<String>::new());
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_killed_lab_is_removed_by_the_next_start() {
    let before = Residue::look();
    let mut up = Up::start("killed");
    up.wait_for("ready");
    up.child.kill().expect("kill");
    up.child.wait().expect("wait");
    assert!(!Residue::look().since(&before).is_empty(), "nothing was left behind by kill -9: the test shows nothing");
    let output = Command::new(lab()).arg("clean").output().expect("clean");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "removed lab killed");
    assert_eq!(Residue::look().since(&before), Vec::<String>::new());
}
