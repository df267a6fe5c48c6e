//! The machine of a run, as far as figures depend on it.

use std::fs;

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Such as `Linux 6.18.5`.
    pub kernel: String,
    pub cpu: String,
    pub cpus: usize,
    pub memory_mb: u64,
    /// Of the first CPU; empty where there is none.
    pub governor: String,
    /// Runnable processes over the last minute, when the run began: others' work.
    pub load: f64,
    /// As the kernel says it, such as `Mitigation: …`; only what is not `Not affected`.
    pub mitigations: Vec<String>,
}

// === impl Machine ===

impl Machine {
    /// What cannot be read is left empty.
    pub fn here() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        Self {
            kernel: format!("Linux {}", read("/proc/sys/kernel/osrelease").trim()),
            cpu: field(&cpuinfo, "model name").unwrap_or_default().to_owned(),
            cpus: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
            memory_mb: memory_mb(&read("/proc/meminfo")).unwrap_or_default(),
            governor: read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").trim().to_owned(),
            load: read("/proc/loadavg").split(' ').next().and_then(|load| load.parse().ok()).unwrap_or_default(),
            mitigations: mitigations(),
        }
    }

    pub fn line(&self) -> String {
        let Self { kernel, cpu, cpus, memory_mb, .. } = self;
        format!("{cpus} x {cpu}, {memory_mb} MB, {kernel}")
    }
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim())
}

fn memory_mb(meminfo: &str) -> Option<u64> {
    let kb: u64 = field(meminfo, "MemTotal")?.strip_suffix(" kB")?.parse().ok()?;
    Some(kb / 1024)
}

fn mitigations() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/sys/devices/system/cpu/vulnerabilities") else { return Vec::new() };
    let mut lines: Vec<String> = entries
        .flatten()
        .filter_map(|entry| {
            let text = fs::read_to_string(entry.path()).ok()?;
            let text = text.trim();
            (text != "Not affected").then(|| format!("{}: {text}", entry.file_name().to_string_lossy()))
        })
        .collect();
    lines.sort();
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_and_nonsense_is_not() {
        assert_eq!(field("processor : 0\nmodel name\t: A CPU @ 2 GHz\n", "model name"), Some("A CPU @ 2 GHz"));
        assert_eq!(memory_mb("MemTotal:       2048 kB\n"), Some(2));
        assert_eq!(memory_mb("MemTotal: much\n"), None);
    }
}
