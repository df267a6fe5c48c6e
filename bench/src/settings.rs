//! The options of a run, and what they come to.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::measure::{FEWEST, Plan};

/// Most services that the address plan has room for.
const MOST: u32 = 200_000;
/// So that there is room for what tells the labs of a run apart, such as `iptables`, in the 20 letters of a lab's name.
const LONGEST_LAB: usize = 12;
/// More endpoint changes than these take hours and tell nothing more.
const MOST_CHANGES: u32 = 10_000;

#[derive(clap::Args, Debug, Clone, Default)]
pub struct RunArgs {
    /// Compare with these only (default: all that a scenario knows; `thalweg bench list` names them)
    #[arg(long, value_delimiter = ',', value_name = "SIDE,…")]
    pub against: Vec<String>,
    /// How many services there are; each number is a lab of its own [default: 1,10000]
    #[arg(long, value_delimiter = ',', value_name = "N,…")]
    pub services: Vec<u32>,
    /// Address families [default: 4,6]
    #[arg(long, value_delimiter = ',', value_name = "4,6", value_parser = clap::value_parser!(u8).range(4..=6))]
    pub family: Vec<u8>,
    /// Rounds; each measures every side once [default: 15]
    #[arg(long)]
    pub runs: Option<usize>,
    /// Rounds before those that count [default: 1]
    #[arg(long)]
    pub warm_up: Option<usize>,
    /// Milliseconds of one measurement [default: 400]
    #[arg(long)]
    pub millis: Option<u64>,
    /// Endpoint changes to time [default: 100]
    #[arg(long)]
    pub changes: Option<u32>,
    /// A few short rounds at one service of IPv4: whether everything works, not how fast it is
    #[arg(long)]
    pub quick: bool,
    /// CPUs of the client and of the server, or `any` [default: 0,1 where there are two]
    #[arg(long, value_name = "CLIENT,SERVER")]
    pub cpus: Option<String>,
    /// iptables is left out above this many services
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    pub iptables_most: u32,
    /// Folder of `thalweg` and `thalweg-cni` (default: where this program is)
    #[arg(long, value_name = "FOLDER")]
    pub bin: Option<PathBuf>,
    /// What the names of the labs begin with
    #[arg(long, default_value = "bench")]
    pub lab: String,
    /// Where the JSON goes [default: runs/TIME.json]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// Options with everything decided, as a run keeps them.
#[derive(Clone, Debug, Serialize)]
pub struct Settings {
    against: Vec<String>,
    pub services: Vec<u32>,
    pub families: Vec<u8>,
    pub plan: Plan,
    pub millis: u64,
    pub changes: u32,
    pub cpus: Option<[usize; 2]>,
    pub iptables_most: u32,
    pub bin: PathBuf,
    pub lab: String,
}

// === impl Settings ===

impl Settings {
    /// # Errors
    /// One line for what makes no sense, with what does.
    pub fn new(args: &RunArgs, cpus: usize) -> Result<Self> {
        let or = |given: &[u32], full: &[u32], quick: &[u32]| match (given, args.quick) {
            ([], true) => quick.to_vec(),
            ([], false) => full.to_vec(),
            (given, _) => given.to_vec(),
        };
        let services = or(&args.services, &[1, 10_000], &[1]);
        ensure!(services.iter().all(|count| (1..=MOST).contains(count)), "--services: 1 to {MOST} each");
        ensure!(args.family.iter().all(|family| *family != 5), "--family: 4, 6 or both");
        let families = match (args.family.as_slice(), args.quick) {
            ([], true) => vec![4],
            ([], false) => vec![4, 6],
            (given, _) => given.to_vec(),
        };
        let runs = args.runs.unwrap_or(if args.quick { FEWEST } else { 15 });
        ensure!((FEWEST..=1_000).contains(&runs), "--runs {runs}: {FEWEST} to 1000; fewer have no spread");
        let millis = args.millis.unwrap_or(if args.quick { 50 } else { 400 });
        ensure!((10..=30_000).contains(&millis), "--millis {millis}: 10 to 30000");
        let bin = match &args.bin {
            Some(bin) => bin.clone(),
            None => std::env::current_exe()?.parent().context("directory of this program")?.to_owned(),
        };
        let warm_up = args.warm_up.unwrap_or(1);
        ensure!(warm_up <= 100, "--warm-up {warm_up}: at most 100");
        let changes = args.changes.unwrap_or(if args.quick { 5 } else { 100 });
        ensure!((1..=MOST_CHANGES).contains(&changes), "--changes {changes}: 1 to {MOST_CHANGES}");
        let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let lab = &args.lab;
        ensure!(
            (1..=LONGEST_LAB).contains(&lab.len()) && lab.bytes().all(word),
            "--lab {lab:?}: 1 to {LONGEST_LAB} lower-case letters and digits"
        );
        Ok(Self {
            against: args.against.clone(),
            services,
            families,
            plan: Plan { runs, warm_up },
            millis,
            changes,
            cpus: processors(args.cpus.as_deref(), cpus)?,
            iptables_most: args.iptables_most,
            bin,
            lab: args.lab.clone(),
        })
    }

    /// Whether this side shall be compared with.
    pub fn wants(&self, side: &str) -> bool {
        self.against.is_empty() || self.against.iter().any(|wanted| wanted == side)
    }

    /// What is asked for that none of `known` is.
    pub fn unknown_side<'a>(&'a self, known: &[&str]) -> Option<&'a str> {
        self.against.iter().map(String::as_str).find(|wanted| !known.contains(wanted))
    }
}

/// Client and server each on a CPU of its own, where there are two: otherwise the scheduler's choice between one CPU and two
/// makes a difference larger than any that is looked for.
fn processors(text: Option<&str>, cpus: usize) -> Result<Option<[usize; 2]>> {
    match text {
        None => {
            ensure!(cpus >= 2, "client and server would share this machine's only CPU: use one with two, or say --cpus any");
            Ok(Some([0, 1]))
        }
        Some("any") => Ok(None),
        Some(text) => {
            let parsed = text.split_once(',').and_then(|(client, server)| {
                Some([client.trim().parse::<usize>().ok()?, server.trim().parse::<usize>().ok()?])
            });
            let both = parsed.with_context(|| format!("--cpus {text:?}: two numbers such as 0,1, or any"))?;
            ensure!(both.iter().all(|cpu| *cpu < cpus), "--cpus {text}: this machine has 0 to {}", cpus.saturating_sub(1));
            Ok(Some(both))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(change: impl FnOnce(&mut RunArgs)) -> Result<Settings> {
        let mut args = RunArgs { iptables_most: 10, lab: "bench".to_owned(), ..RunArgs::default() };
        change(&mut args);
        Settings::new(&args, 2)
    }

    #[test]
    fn quick_is_small_and_what_is_said_goes_before() {
        let quick = settings(|args| args.quick = true).expect("settings");
        assert_eq!((quick.services.as_slice(), quick.plan.runs), ([1].as_slice(), FEWEST));
        let said = settings(|args| {
            args.quick = true;
            args.services = vec![7];
            args.family = vec![6];
        })
        .expect("settings");
        assert_eq!((said.services.as_slice(), said.families.as_slice()), ([7].as_slice(), [6].as_slice()));
    }

    #[test]
    fn what_makes_no_sense_is_refused_in_one_line() {
        let check = |change: fn(&mut RunArgs), expected: &str| {
            let error = settings(change).expect_err(expected).to_string();
            assert!(error.starts_with(expected) && !error.contains('\n'), "{error}");
        };
        check(|args| args.services = vec![0], "--services");
        check(|args| args.services = vec![1, MOST + 1], "--services");
        check(|args| args.family = vec![5], "--family");
        check(|args| args.runs = Some(2), "--runs 2");
        check(|args| args.millis = Some(1), "--millis 1");
        check(|args| args.warm_up = Some(101), "--warm-up 101");
        check(|args| args.lab = "../bench".to_owned(), "--lab \"../bench\"");
        check(|args| args.lab = "abcdefghijklm".to_owned(), "--lab \"abcdefghijklm\": 1 to 12");
        check(|args| args.changes = Some(0), "--changes 0: 1 to 10000");
        check(|args| args.changes = Some(10_001), "--changes 10001");
        check(|args| args.cpus = Some("0".to_owned()), "--cpus \"0\"");
        check(|args| args.cpus = Some("0,2".to_owned()), "--cpus 0,2: this machine has 0 to 1");
    }

    #[test]
    fn processors_are_chosen_and_one_is_too_few() {
        assert!(processors(None, 1).expect_err("one").to_string().contains("--cpus any"));
        assert_eq!(processors(Some("any"), 1).expect("one"), None);
        assert_eq!(processors(None, 8).expect("eight"), Some([0, 1]));
        assert_eq!(processors(Some("any"), 8).expect("any"), None);
        assert_eq!(processors(Some("3, 5"), 8).expect("said"), Some([3, 5]));
    }

    #[test]
    fn sides_are_all_wanted_unless_some_are_named() {
        assert!(settings(|_| {}).expect("settings").wants("iptables"));
        let some = settings(|args| args.against = vec!["direct".to_owned(), "ipvs".to_owned()]).expect("settings");
        assert!(some.wants("direct") && !some.wants("iptables"));
        assert_eq!(some.unknown_side(&["direct", "iptables"]), Some("ipvs"));
    }
}
