//! The shell: runs the iptables programs with a bounded wait. What they say is turned into errors here.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use thalweg_cluster::{Family, sysctl};

use super::conntrack;
use super::error::Error;
use super::flows::{Filter, Flow};

/// Who runs scripts against the kernel: the programs, or a test's own kernel.
pub trait Executor {
    /// Runs a script of `iptables-restore --noflush`: one transaction per table.
    ///
    /// # Errors
    /// [`Error::Refused`] when a rule is at fault; then nothing has been changed.
    fn restore(&mut self, family: Family, script: &str) -> Result<(), Error>;

    /// All tables in the format of `iptables-save`.
    ///
    /// # Errors
    /// When the program cannot be run or fails.
    fn save(&mut self, family: Family) -> Result<String, Error>;

    /// At least these chains (table, name), those of them that are there, in the format of `iptables-save`.
    ///
    /// # Errors
    /// When the program cannot be run or fails.
    fn look(&mut self, family: Family, chains: &[(&str, String)]) -> Result<String, Error>;

    /// Removes flows from the kernel's connection table: those that match a filter and that `is_stale`. How many.
    ///
    /// # Errors
    /// When the table cannot be read.
    fn forget_flows(&mut self, filter: &Filter, is_stale: &dyn Fn(&Flow) -> bool) -> Result<usize, Error>;

    /// Lets packets to 127.0.0.1 be sent elsewhere, or forbids it again.
    ///
    /// # Errors
    /// When the kernel's setting cannot be written.
    fn route_localnet(&mut self, on: bool) -> Result<(), Error>;

    /// Lines that one script should have at most.
    fn script_lines(&mut self) -> usize;
}

/// Which of the two kinds of iptables: rules of one are not seen by the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Variant {
    /// The machine's choice.
    Default,
    Nft,
    Legacy,
}

/// The programs as installed. They work on the network namespace of the calling thread.
#[derive(Clone, Debug)]
pub struct Programs {
    variant: Variant,
    timeout: Duration,
    script_lines: Option<usize>,
    stop: Stop,
}

/// Tells programs from another thread that it is time to end: none is started any more, and one that runs is killed after a
/// moment. Each script is one transaction, so nothing is left half done.
#[derive(Clone, Default, Debug)]
pub struct Stop(Arc<AtomicBool>);

struct Ran {
    status: ExitStatus,
    stdout: String,
    stderr: String,
}

/// Off in the kernel's defaults: packets to 127.0.0.0/8 never leave the node.
const ROUTE_LOCALNET: &str = "ipv4/conf/all/route_localnet";
/// Seconds to wait for the lock that all users of legacy iptables share.
const LOCK_SECONDS: &str = "10";
/// How long one program may take.
const TIMEOUT: Duration = Duration::from_secs(60);
/// And how long when the process is about to end.
const LAST_MOMENT: Duration = Duration::from_secs(1);
/// The legacy program writes the whole table back with every script, so one long script it is.
const LEGACY_LINES: usize = 1_000_000;
/// The nft program's time grows with the square of a script's length; its every start costs some 10 ms.
const NFT_LINES: usize = 3_000;

// === impl Stop ===

impl Stop {
    pub fn stop(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub fn is_stopped(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

// === impl Programs ===

impl Programs {
    /// Found on the PATH when they are used.
    pub fn new(variant: Variant) -> Self {
        Self { variant, timeout: TIMEOUT, script_lines: None, stop: Stop::default() }
    }

    /// Heeds this.
    #[must_use]
    pub fn stopped_by(self, stop: Stop) -> Self {
        Self { stop, ..self }
    }

    /// How long one program may take; then it is killed.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// True when the programs of one family at least are there.
    pub fn installed(&self) -> bool {
        [Family::V4, Family::V6].into_iter().any(|family| self.installed_for(family))
    }

    pub(super) fn installed_for(&self, family: Family) -> bool {
        self.run(&self.program(family, "-restore"), &["--version"], "").is_ok_and(|ran| ran.status.success())
    }

    /// `ip6tables-nft-restore`
    fn program(&self, family: Family, suffix: &str) -> PathBuf {
        let name = match family {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        };
        let infix = match self.variant {
            Variant::Default => "",
            Variant::Nft => "-nft",
            Variant::Legacy => "-legacy",
        };
        PathBuf::from(format!("{name}{infix}{suffix}"))
    }

    fn run(&self, program: &Path, arguments: &[&str], input: &str) -> Result<Ran, Error> {
        let start = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => Error::Missing { program: program.to_owned() },
            _ => Error::Start { program: program.to_owned(), source },
        };
        if self.stop.is_stopped() {
            return Err(Error::Stopped { program: program.to_owned() });
        }
        let mut child = Command::new(program)
            .args(arguments)
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(start)?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        std::thread::scope(|scope| {
            // A program that ends early closes its input; its exit status says more than our failed write.
            scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(input.as_bytes())));
            let stdout = scope.spawn(move || drain(stdout));
            let stderr = scope.spawn(move || drain(stderr));
            let status = wait(&mut child, self.timeout, &self.stop);
            if status.is_err() {
                // Without this the threads would wait for it; that it is gone already is fine.
                let _ = child.kill();
            }
            let read = |handle: std::thread::ScopedJoinHandle<'_, String>| handle.join().unwrap_or_default();
            let (stdout, stderr) = (read(stdout), read(stderr));
            match status.map_err(start)? {
                Some(status) => Ok(Ran { status, stdout, stderr }),
                None if self.stop.is_stopped() => Err(Error::Stopped { program: program.to_owned() }),
                None => Err(Error::TimedOut { program: program.to_owned(), timeout: self.timeout }),
            }
        })
    }
}

impl Executor for Programs {
    fn restore(&mut self, family: Family, script: &str) -> Result<(), Error> {
        let program = self.program(family, "-restore");
        let ran = self.run(&program, &["-w", LOCK_SECONDS, "--noflush"], script)?;
        if ran.status.success() { Ok(()) } else { Err(explain(&program, script, &ran.stderr)) }
    }

    fn save(&mut self, family: Family) -> Result<String, Error> {
        let program = self.program(family, "-save");
        let ran = self.run(&program, &[], "")?;
        if ran.status.success() {
            return Ok(ran.stdout);
        }
        Err(Error::Failed { program, message: tidy(&ran.stderr) })
    }

    fn look(&mut self, family: Family, chains: &[(&str, String)]) -> Result<String, Error> {
        // The legacy program reads the whole table, whatever it is asked for: once is enough.
        if self.script_lines() == LEGACY_LINES {
            return self.save(family);
        }
        let program = self.program(family, "");
        let mut found = String::new();
        for (table, chain) in chains {
            let ran = self.run(&program, &["-w", LOCK_SECONDS, "-t", table, "-S", chain], "")?;
            if ran.status.success() {
                found += &format!("*{table}\n:{chain} - [0:0]\n{}", ran.stdout);
            }
        }
        Ok(found)
    }

    fn forget_flows(&mut self, filter: &Filter, is_stale: &dyn Fn(&Flow) -> bool) -> Result<usize, Error> {
        conntrack::delete(filter, is_stale).map_err(|source| Error::Flows { source })
    }

    fn route_localnet(&mut self, on: bool) -> Result<(), Error> {
        let wanted = if on { "1" } else { "0" };
        let path = sysctl::path(ROUTE_LOCALNET);
        let fault = |source| Error::Setting { path: path.clone(), wanted, source };
        // Written only when it differs: where it is read-only, whoever owns the node may have done it.
        if fs::read_to_string(&path).map_err(fault)?.trim() == wanted {
            return Ok(());
        }
        fs::write(&path, wanted).map_err(fault)
    }

    fn script_lines(&mut self) -> usize {
        if let Some(lines) = self.script_lines {
            return lines;
        }
        let legacy = || {
            let version = |family| self.run(&self.program(family, "-restore"), &["--version"], "");
            let said = version(Family::V4).or_else(|_| version(Family::V6));
            said.is_ok_and(|ran| ran.stdout.contains("legacy"))
        };
        let lines = if legacy() { LEGACY_LINES } else { NFT_LINES };
        self.script_lines = Some(lines);
        lines
    }
}

fn drain(from: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut from) = from {
        // What was read before an error is what there is to say.
        let _ = from.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// `None` when the time is over; the child is gone in any case.
fn wait(child: &mut Child, timeout: Duration, stop: &Stop) -> io::Result<Option<ExitStatus>> {
    let mut deadline = Instant::now() + timeout;
    let mut was_stopped = false;
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if !was_stopped && stop.is_stopped() {
            was_stopped = true;
            deadline = deadline.min(Instant::now() + LAST_MOMENT);
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

fn tidy(stderr: &str) -> String {
    let lines = stderr.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("Try `"));
    lines.collect::<Vec<_>>().join("; ")
}

/// Which line a program complained of. The two kinds word it differently, and legacy iptables, when it is the kernel
/// that refuses, can only name the line of the COMMIT.
pub(super) fn explain(program: &Path, script: &str, stderr: &str) -> Error {
    let message = tidy(stderr);
    if message.contains("holding the xtables lock") {
        return Error::Locked { program: program.to_owned() };
    }
    let Some(at) = stderr.match_indices("line").find_map(|(index, word)| number(&stderr[index + word.len()..])) else {
        return Error::Failed { program: program.to_owned(), message };
    };
    // The nft kind has read on by the time it looks a chain up: what it complains of is in the line before.
    let text = |line: usize| script.lines().nth(line.saturating_sub(1)).unwrap_or_default();
    let quoted = stderr.split(['`', '\'']).nth(1).filter(|word| !word.is_empty() && !word.contains('\n'));
    let before = quoted.is_some_and(|word| !text(at).contains(word) && text(at.saturating_sub(1)).contains(word));
    let line = if before { at - 1 } else { at };
    let rule = text(line).to_owned();
    Error::Refused { program: program.to_owned(), line, rule, message }
}

/// The number in `: 12`, ` 12 failed` or ` 12: …`.
fn number(text: &str) -> Option<usize> {
    let text = text.trim_start_matches([':', ' ']);
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(stderr: &str, expected: Option<(usize, &str)>) {
        let script = "*nat\n:TW-MASQ - [0:0]\n-A TW-MASQ -j NOPE\n-A TW-MASQ -j ACCEPT\nCOMMIT\n";
        let found = match explain(Path::new("iptables-restore"), script, stderr) {
            Error::Refused { line, rule, .. } => Some((line, rule)),
            _ => None,
        };
        assert_eq!(found.as_ref().map(|(line, rule)| (*line, rule.as_str())), expected, "{stderr}");
    }

    #[test]
    fn the_line_at_fault_is_named() {
        check(
            "iptables-restore v1.8.9 (legacy): Couldn't load target `NOPE':No such file or directory\n\nError occurred at line: 3\nTry `x'\n",
            Some((3, "-A TW-MASQ -j NOPE")),
        );
        check(
            "iptables-nft-restore v1.8.9 (nf_tables): Chain 'NOPE' does not exist\nError occurred at line: 4\n",
            Some((3, "-A TW-MASQ -j NOPE")),
        );
        check(
            "iptables-nft-restore v1.8.9 (nf_tables): \nline 4: CHAIN_DEL failed (Device or resource busy): chain x\n",
            Some((4, "-A TW-MASQ -j ACCEPT")),
        );
        check("iptables-restore: line 5 failed\n", Some((5, "COMMIT")));
        let missing = "ip6tables-restore v1.8.9 (legacy): can't initialize ip6tables table `nat': Table does not exist";
        check(missing, None);
        let locked =
            explain(Path::new("iptables-restore"), "", "Another app is currently holding the xtables lock; waiting for it\n");
        assert!(matches!(locked, Error::Locked { .. }), "no reason to think that something is missing: {locked}");
    }

    #[test]
    fn waits_are_bounded_and_a_missing_program_is_named() {
        let programs = Programs::new(Variant::Default).with_timeout(Duration::from_millis(50));
        let started = Instant::now();
        let stopped = programs.run(Path::new("sleep"), &["30"], "unread");
        assert!(matches!(stopped, Err(Error::TimedOut { .. })) && started.elapsed() < Duration::from_secs(20));
        let stop = Stop::default();
        let programs = Programs::new(Variant::Default).stopped_by(stop.clone());
        let begun = tempfile::tempdir().expect("a folder");
        let begun = begun.path().join("begun");
        let script = format!("touch {}; exec sleep 30", begun.display());
        let started = Instant::now();
        let killed = std::thread::scope(|scope| {
            let runs = scope.spawn(|| programs.run(Path::new("sh"), &["-c", &script], "unread"));
            while !begun.exists() && started.elapsed() < Duration::from_secs(20) {
                std::thread::sleep(Duration::from_millis(1));
            }
            stop.stop();
            runs.join().expect("no panic")
        });
        assert!(matches!(killed, Err(Error::Stopped { .. })) && started.elapsed() < Duration::from_secs(20));
        assert!(matches!(programs.run(Path::new("true"), &[], ""), Err(Error::Stopped { .. })), "none is started any more");
        let programs = Programs::new(Variant::Default);
        let missing = programs.run(Path::new("/nonexistent/iptables-restore"), &[], "");
        let Err(error @ Error::Missing { .. }) = missing else { panic!("it is missing") };
        assert!(error.to_string().contains("apt-get install iptables"), "{error}");
    }
}
