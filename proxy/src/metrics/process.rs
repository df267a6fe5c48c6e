//! What this process uses, by the names that every Prometheus client exports.

use super::text::{Exposition, Kind};

/// /proc counts processor time in these, on every architecture.
const TICKS_PER_SECOND: f64 = 100.0;

/// Leaves out what cannot be read.
pub(super) fn render(text: &mut Exposition) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    for (name, field, help) in [
        ("process_resident_memory_bytes", "VmRSS:", "Memory in use."),
        ("process_virtual_memory_bytes", "VmSize:", "Address space in use."),
    ] {
        if let Some(bytes) = memory(&status, field) {
            text.family(name, Kind::Gauge, help).count(&[], bytes);
        }
    }
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    if let Some(ticks) = processor_ticks(&stat) {
        text.family("process_cpu_seconds_total", Kind::Counter, "Processor time used.").sample(&[], ticks / TICKS_PER_SECOND);
    }
    if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
        text.family("process_open_fds", Kind::Gauge, "Open file descriptors.").count(&[], entries.count() as u64);
    }
}

/// Bytes of a field in /proc/self/status.
fn memory(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

/// User and system time in /proc/self/stat. The name of the process is in brackets and may contain blanks.
fn processor_ticks(stat: &str) -> Option<f64> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |index: usize| fields.get(index)?.parse::<f64>().ok();
    Some(field(11)? + field(12)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_read_and_nonsense_left_out() {
        assert_eq!(memory("Name:\tx\nVmRSS:\t    2048 kB\n", "VmRSS:"), Some(2048 * 1024));
        assert_eq!(memory("VmRSS: many kB\n", "VmRSS:"), None);
        assert_eq!(processor_ticks("7 (a b) c) S 1 7 7 0 -1 4194560 100 0 0 0 25 17 0 0 20 0 1 0 5 1 1"), Some(42.0));
        assert_eq!(processor_ticks("7 (x"), None);
    }
}
