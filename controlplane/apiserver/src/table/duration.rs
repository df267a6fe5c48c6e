//! Durations as kubectl writes them: two units at most, coarser the longer they are.

use jiff::SignedDuration;

/// `45s`, `3m20s`, `5h`, `2d4h`, `1y30d`; `<invalid>` for more than a second in the future.
pub fn human(duration: SignedDuration) -> String {
    let seconds = duration.as_secs();
    if seconds < -1 {
        return "<invalid>".to_owned();
    }
    let seconds = seconds.max(0);
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let (days, years) = (hours / 24, hours / 24 / 365);
    match () {
        () if seconds < 60 * 2 => format!("{seconds}s"),
        () if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        () if minutes < 60 * 3 => format!("{minutes}m"),
        () if hours < 8 => two(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if days < 8 => two(days, "d", hours % 24, "h"),
        () if years < 2 => format!("{days}d"),
        () if years < 8 => two(years, "y", days % 365, "d"),
        () => format!("{years}y"),
    }
}

fn two(first: i64, first_unit: &str, second: i64, second_unit: &str) -> String {
    if second == 0 { format!("{first}{first_unit}") } else { format!("{first}{first_unit}{second}{second_unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_coarsen_as_kubectl_does() {
        let check = |seconds: i64, expected: &str| {
            assert_eq!(human(SignedDuration::from_secs(seconds)), expected, "{seconds} s");
        };
        let (minute, hour, day, year) = (60, 3600, 86400, 365 * 86400);
        check(-2, "<invalid>");
        check(-1, "0s");
        check(0, "0s");
        check(119, "119s");
        check(2 * minute, "2m");
        check(9 * minute + 5, "9m5s");
        check(10 * minute + 5, "10m");
        check(179 * minute, "179m");
        check(3 * hour, "3h");
        check(7 * hour + 59 * minute, "7h59m");
        check(8 * hour + 59 * minute, "8h");
        check(47 * hour, "47h");
        check(2 * day, "2d");
        check(7 * day + 23 * hour, "7d23h");
        check(8 * day + 23 * hour, "8d");
        check(2 * year - 1, "729d");
        check(2 * year + day, "2y1d");
        check(8 * year + day, "8y");
    }
}
