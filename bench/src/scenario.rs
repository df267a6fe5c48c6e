//! What a scenario is, and which there are.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use crate::bench::Bench;
use crate::scenarios::{self, traffic};
use crate::settings::Settings;

/// Something that a scenario cannot do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    Root,
    /// Installed: a program, and the Debian package that brings it.
    Program(&'static str, &'static str),
    /// Beside this program, or in `--bin`.
    Ours(&'static str),
}

/// One question, asked of several sides.
pub trait Scenario {
    fn name(&self) -> &'static str;
    /// One line.
    fn about(&self) -> &'static str;
    /// Ours.
    fn ours(&self) -> &'static [&'static str];
    /// What can be compared with by `--against`.
    fn against(&self) -> &'static [&'static str];
    fn needs(&self) -> &'static [Need] {
        LAB
    }
    /// How many cases these settings make: what progress is counted in.
    fn cases(&self, settings: &Settings) -> usize;
    /// Measures them all; what is measured goes into the run at once.
    ///
    /// # Errors
    /// When a case cannot be measured. What was measured before stays.
    fn run(&self, bench: &mut Bench<'_>) -> Result<()>;
}

/// What every lab needs.
pub const LAB: &[Need] = &[
    Need::Root,
    Need::Program("ip", "iproute2"),
    Need::Program("nsenter", "util-linux"),
    Need::Ours("thalweg"),
    Need::Ours("thalweg-cni"),
];

/// What a lab with an API server needs besides.
pub const CLUSTER: &[Need] = &[
    Need::Root,
    Need::Program("ip", "iproute2"),
    Need::Program("nsenter", "util-linux"),
    Need::Program("kubectl", "kubernetes-client"),
    Need::Ours("thalweg"),
    Need::Ours("thalweg-cni"),
];

/// In the order of `list` and of `run all`.
pub fn all() -> Vec<Box<dyn Scenario>> {
    let mut all: Vec<Box<dyn Scenario>> = Vec::new();
    all.extend(traffic::all().into_iter().map(|traffic| Box::new(traffic) as Box<dyn Scenario>));
    all.extend(scenarios::others());
    all
}

/// The scenarios of these names, each once; `all` means all of them.
///
/// # Errors
/// For a name that none has, with the names that there are.
pub fn choose(names: &[String]) -> Result<Vec<Box<dyn Scenario>>> {
    let all = all();
    let known: Vec<&str> = all.iter().map(|scenario| scenario.name()).collect();
    for name in names {
        ensure!(name == "all" || known.contains(&name.as_str()), "no scenario {name:?}: choose from all, {}", known.join(", "));
    }
    let chosen = |name: &str| names.iter().any(|wanted| wanted == name || wanted == "all");
    Ok(all.into_iter().filter(|scenario| chosen(scenario.name())).collect())
}

// === impl Need ===

impl Need {
    /// # Errors
    /// One line that says what to do.
    pub fn check(self, settings: &Settings) -> Result<()> {
        match self {
            Self::Root => ensure!(
                nix::unistd::geteuid().is_root(),
                "benchmarks make network namespaces and load kernel programs: run this as root"
            ),
            Self::Program(program, package) => {
                ensure!(on_path(program), "{program} is not installed: try `apt-get install {package}`");
            }
            Self::Ours(program) => {
                let path = settings.bin.join(program);
                ensure!(
                    path.is_file(),
                    "{} is missing: build it (`cargo build --release -p {program}`), or say where it is with --bin",
                    path.display()
                );
            }
        }
        Ok(())
    }
}

pub fn on_path(program: &str) -> bool {
    find(program).is_some()
}

/// Where a program is installed.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_words_and_each_is_there_once() {
        let mut names: Vec<&str> = all().iter().map(|scenario| scenario.name()).collect();
        assert!(names.iter().all(|name| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')), "{names:?}");
        assert!(!names.contains(&"all"));
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn scenarios_are_chosen_by_name_and_unknown_ones_refused() {
        let names = |wanted: &[&str]| -> Result<Vec<&'static str>> {
            let wanted: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
            Ok(choose(&wanted)?.iter().map(|scenario| scenario.name()).collect())
        };
        assert_eq!(names(&["services-rr", "services-rr"]).expect("known"), ["services-rr"]);
        assert_eq!(names(&["all"]).expect("all").len(), all().len());
        let error = names(&["services-crr", "teleport"]).expect_err("unknown").to_string();
        assert!(error.starts_with("no scenario \"teleport\"") && error.contains("services-crr"), "{error}");
    }

    #[test]
    fn what_is_missing_says_what_to_do() {
        assert!(!on_path("thalweg-no-such-program"));
        let args = crate::settings::RunArgs { bin: Some("/nonexistent".into()), lab: "bench".to_owned(), ..Default::default() };
        let settings = Settings::new(&args, 2).expect("settings");
        let error = Need::Program("thalweg-no-such-program", "thalweg-none").check(&settings).expect_err("missing");
        assert!(error.to_string().contains("apt-get install thalweg-none"), "{error}");
        let error = Need::Ours("thalweg").check(&settings).expect_err("missing");
        assert!(error.to_string().contains("/nonexistent/thalweg is missing"), "{error}");
    }
}
