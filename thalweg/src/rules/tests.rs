//! A kernel whose programs take as long as the test lets them: what is asked for meanwhile, and what becomes of it.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use thalweg_abi::{FrontendFlags, Proto, Scope};
use thalweg_cluster::{Family, Name};
use thalweg_proxy::iptables::{Error, Executor, Filter, Flow, Inside, IptablesBackend, Options};
use thalweg_proxy::plan::{EndpointSet, PlannedFrontend};
use tokio::time::timeout;

use super::*;

/// Longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(30);

/// Every script waits for a word, and is kept. The first look at what is there may find the lock taken.
struct Slow {
    is_locked: bool,
    begun: Sender<()>,
    go: Receiver<()>,
    scripts: Arc<Mutex<Vec<String>>>,
}

/// The test's ends of it.
struct Hands {
    begun: Receiver<()>,
    go: Sender<()>,
    scripts: Arc<Mutex<Vec<String>>>,
}

impl Executor for Slow {
    fn restore(&mut self, family: Family, script: &str) -> Result<(), Error> {
        // Probes, and the other family, are not what is looked at.
        if family == Family::V4 && !script.contains("TW-PROBE") {
            let _ = self.begun.send(());
            let _ = self.go.recv();
            self.scripts.lock().expect("scripts").push(script.to_owned());
        }
        Ok(())
    }

    fn save(&mut self, _: Family) -> Result<String, Error> {
        if std::mem::take(&mut self.is_locked) {
            return Err(Error::Locked { program: "iptables-save".into() });
        }
        Ok(String::new())
    }

    fn look(&mut self, _: Family, _: &[(&str, String)]) -> Result<String, Error> {
        Ok(String::new())
    }

    fn forget_flows(&mut self, _: &Filter, _: &dyn Fn(&Flow) -> bool) -> Result<usize, Error> {
        Ok(0)
    }

    fn route_localnet(&mut self, _: bool) -> Result<(), Error> {
        Ok(())
    }

    fn script_lines(&mut self) -> usize {
        1_000_000
    }
}

fn start() -> (Rules, Hands) {
    start_with(false)
}

/// Rules of which the first sync fails, and nothing else.
pub fn locked_at_first() -> Rules {
    start_with(true).0
}

fn start_with(is_locked: bool) -> (Rules, Hands) {
    let ((begun, seen), (go, waits)) = (channel(), channel());
    let scripts = Arc::<Mutex<Vec<String>>>::default();
    let slow = Slow { is_locked, begun, go: waits, scripts: Arc::clone(&scripts) };
    let backend = IptablesBackend::new(slow, Options::default()).expect("options");
    let rules = Rules::start(backend, Stop::default()).expect("a thread");
    (rules, Hands { begun: seen, go, scripts })
}

fn plan(name: &str, vip: [u8; 4]) -> ServicePlan {
    let frontend = PlannedFrontend {
        vip: vip.into(),
        port: 80,
        protocol: Proto::TCP,
        scope: Scope::INTERNAL,
        flags: FrontendFlags(0),
        affinity_seconds: 0,
        service_port: 80,
        set: 0,
    };
    ServicePlan {
        name: Name::new("shop", name),
        frontends: vec![frontend],
        sets: vec![EndpointSet { endpoints: vec!["10.244.0.5:8080".parse().expect("endpoint")] }],
        draining: Vec::new(),
        source_ranges: Vec::new(),
    }
}

fn apply(rules: &mut Rules) -> Ticket {
    rules.apply(Instant::now()).expect("only asks");
    rules.last()
}

async fn report(rules: &mut Rules) -> Report {
    timeout(DEADLINE, rules.report()).await.expect("a report")
}

#[tokio::test]
async fn what_is_set_while_a_sync_runs_is_written_by_the_next_one() {
    let (mut rules, hands) = start();
    rules.set(plan("first", [10, 96, 0, 1]));
    rules.retain_only_known();
    let first = apply(&mut rules);
    hands.begun.recv_timeout(DEADLINE).expect("a script begins");

    // Nobody waits for the script that runs.
    for (name, last) in [("second", 2), ("third", 3), ("fourth", 4)] {
        rules.set(plan(name, [10, 96, 0, last]));
        apply(&mut rules);
    }
    rules.remove(&Name::new("shop", "third"));
    let latest = apply(&mut rules);
    assert!(latest > first && hands.scripts.lock().expect("scripts").is_empty());

    drop(hands.go);
    let done = report(&mut rules).await;
    assert!(done.ticket == first && done.result.is_ok_and(|applied| applied.frontends_written == 1));
    let done = report(&mut rules).await;
    assert!(done.ticket == latest && done.result.is_ok_and(|applied| applied.frontends_written == 2));
    let scripts = hands.scripts.lock().expect("scripts");
    // A first sync is of two tables.
    let [_, _, together] = &scripts[..] else { panic!("{scripts:?}") };
    assert!(together.contains("10.96.0.2/32") && together.contains("10.96.0.4/32") && !together.contains("10.96.0.3/32"));
    assert!(rules.rules().is_some_and(|figures| figures.tables.iter().any(|table| table.rules > 0)));
}

#[tokio::test]
async fn who_ends_in_the_middle_of_a_sync_says_nothing_more() {
    let (mut rules, hands) = start();
    rules.set(plan("first", [10, 96, 0, 1]));
    rules.retain_only_known();
    apply(&mut rules);
    hands.begun.recv_timeout(DEADLINE).expect("a script begins");
    rules.set(plan("second", [10, 96, 0, 2]));
    apply(&mut rules);
    rules.stop().stop();
    drop(hands.go);
    drop(rules);
    let scripts = hands.scripts.lock().expect("scripts").concat();
    assert!(!scripts.contains("10.96.0.2/32"), "another sync was begun: {scripts}");
}

#[tokio::test]
async fn whoever_is_lenient_stays_so_by_other_options_and_news_alone_are_written() {
    let (mut rules, hands) = start();
    drop(hands.go);
    rules.set(plan("first", [10, 96, 0, 1]));
    rules.retain_only_known();
    rules.set_lenient(true);
    apply(&mut rules);
    report(&mut rules).await.result.expect("a sync");
    let invalid = |from: usize| hands.scripts.lock().expect("scripts")[from..].concat().contains("-A TW-INVALID");
    assert!(!invalid(0), "lenient");

    let pods = Inside::Sources(vec!["10.244.0.0/16".parse().expect("a range")]);
    let other = Options { inside: pods, ..Options::default() };
    let slow = Slow { is_locked: false, begun: channel().0, go: channel().1, scripts: Arc::clone(&hands.scripts) };
    rules.replace(IptablesBackend::new(slow, other).expect("options"));
    rules.set(plan("first", [10, 96, 0, 1]));
    rules.retain_only_known();
    rules.set_lenient(true);
    let ticket = apply(&mut rules);
    let done = report(&mut rules).await;
    assert!(done.ticket == ticket && done.result.is_ok_and(|applied| applied.changed()));
    assert!(!invalid(0), "still lenient");

    let before = hands.scripts.lock().expect("scripts").len();
    rules.set_lenient(false);
    report(&mut rules).await.result.expect("a sync");
    assert!(invalid(before));
    rules.set_lenient(false);
    let ticket = apply(&mut rules);
    assert_eq!(report(&mut rules).await.ticket, ticket, "the same again is no sync of its own");
}
