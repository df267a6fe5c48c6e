//! Prometheus' text exposition, version 0.0.4, written by hand: the few shapes used here are shorter than a library's
//! registry, and the names come out exactly as kube-proxy's.

use std::fmt::Write;

/// What a family's samples are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A text in the making: families in the order they are added.
#[derive(Default, Debug)]
pub struct Exposition {
    text: String,
    name: String,
}

/// Upper bounds and how many observations fell under each; the last count is of those above all bounds.
#[derive(Clone, PartialEq, Debug)]
pub struct Histogram {
    bounds: Vec<f64>,
    counts: Vec<u64>,
    sum: f64,
}

// === impl Kind ===

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

// === impl Exposition ===

impl Exposition {
    /// Opens a family; samples follow.
    pub fn family(&mut self, name: &str, kind: Kind, help: &str) -> &mut Self {
        name.clone_into(&mut self.name);
        let help = help.replace('\\', r"\\").replace('\n', r"\n");
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {}", kind.name()));
        self
    }

    #[expect(clippy::cast_precision_loss, reason = "samples are floating point numbers in this format")]
    pub fn count(&mut self, labels: &[(&str, &str)], value: u64) -> &mut Self {
        self.sample(labels, value as f64)
    }

    pub fn sample(&mut self, labels: &[(&str, &str)], value: f64) -> &mut Self {
        let name = self.name.clone();
        self.write(&name, labels, value)
    }

    pub fn histogram(&mut self, labels: &[(&str, &str)], histogram: &Histogram) -> &mut Self {
        let name = self.name.clone();
        let mut total = 0;
        let bounds = histogram.bounds.iter().map(|bound| number(*bound)).chain(["+Inf".to_owned()]);
        for (bound, count) in bounds.zip(&histogram.counts) {
            total += count;
            let labels: Vec<(&str, &str)> = labels.iter().copied().chain([("le", bound.as_str())]).collect();
            self.write_count(&format!("{name}_bucket"), &labels, total);
        }
        self.write(&format!("{name}_sum"), labels, histogram.sum);
        self.write_count(&format!("{name}_count"), labels, total);
        self
    }

    pub fn finish(self) -> String {
        self.text
    }

    #[expect(clippy::cast_precision_loss, reason = "samples are floating point numbers in this format")]
    fn write_count(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        self.write(name, labels, value as f64);
    }

    fn write(&mut self, name: &str, labels: &[(&str, &str)], value: f64) -> &mut Self {
        let value = number(value);
        if labels.is_empty() {
            self.line(format_args!("{name} {value}"));
            return self;
        }
        let labels: Vec<String> = labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escape(value))).collect();
        self.line(format_args!("{name}{{{}}} {value}", labels.join(",")));
        self
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "{line}");
    }
}

// === impl Histogram ===

impl Histogram {
    /// `bounds` in ascending order.
    pub fn new(bounds: Vec<f64>) -> Self {
        Self { counts: vec![0; bounds.len() + 1], bounds, sum: 0.0 }
    }

    /// `count` bounds: `first`, `first * factor`, and so on.
    pub fn exponential(first: f64, factor: f64, count: usize) -> Self {
        Self::new(std::iter::successors(Some(first), |bound| Some(bound * factor)).take(count).collect())
    }

    /// What was counted elsewhere: `counts` has one more than `bounds`, of what is above all of them; `sum` in seconds.
    pub fn counted(bounds: Vec<f64>, mut counts: Vec<u64>, sum: f64) -> Self {
        counts.resize(bounds.len() + 1, 0);
        Self { bounds, counts, sum }
    }

    pub fn observe(&mut self, value: std::time::Duration) {
        let value = value.as_secs_f64();
        let index = self.bounds.iter().position(|bound| value <= *bound).unwrap_or(self.bounds.len());
        self.counts[index] += 1;
        self.sum += value;
    }
}

/// Without the noise of binary fractions: 1e-05 * 4 is 0.00004.
fn number(value: f64) -> String {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        return format!("{value:.0}");
    }
    // A time since the epoch has no digits to spare.
    let text = if value.abs() < 1e6 { format!("{value:.9}") } else { format!("{value:.3}") };
    text.trim_end_matches('0').to_owned()
}

fn escape(value: &str) -> String {
    value.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_was_counted_elsewhere_is_written_alike() {
        let mut counted = Exposition::default();
        counted.family("h", Kind::Histogram, "H.").histogram(&[], &Histogram::counted(vec![1.0, 2.0], vec![3, 1, 2], 9.5));
        let text = counted.finish();
        for line in ["h_bucket{le=\"1\"} 3", "h_bucket{le=\"2\"} 4", "h_bucket{le=\"+Inf\"} 6", "h_sum 9.5", "h_count 6"] {
            assert!(text.lines().any(|held| held == line), "{line}\n{text}");
        }
    }

    #[test]
    fn families_and_samples_are_written_as_prometheus_reads_them() {
        let mut text = Exposition::default();
        text.family("a_total", Kind::Counter, "What a \\ is.\nMore.").count(&[], 7);
        text.family("b", Kind::Gauge, "B.").sample(&[("x", "q\"\\\n"), ("y", "2")], 0.25).sample(&[("x", "3")], -1.0);
        text.family("t", Kind::Gauge, "T.").sample(&[], 1_795_175_533.153);
        assert_eq!(
            text.finish(),
            "# HELP a_total What a \\\\ is.\\nMore.\n# TYPE a_total counter\na_total 7\n\
             # HELP b B.\n# TYPE b gauge\nb{x=\"q\\\"\\\\\\n\",y=\"2\"} 0.25\nb{x=\"3\"} -1\n\
             # HELP t T.\n# TYPE t gauge\nt 1795175533.153\n"
        );
    }

    #[test]
    fn buckets_are_cumulative_and_end_with_infinity() {
        let mut histogram = Histogram::exponential(0.001, 2.0, 3);
        for millis in [1, 2, 3, 500] {
            histogram.observe(Duration::from_millis(millis));
        }
        let mut text = Exposition::default();
        text.family("h_seconds", Kind::Histogram, "H.").histogram(&[("k", "v")], &histogram);
        assert_eq!(
            text.finish(),
            "# HELP h_seconds H.\n# TYPE h_seconds histogram\n\
             h_seconds_bucket{k=\"v\",le=\"0.001\"} 1\nh_seconds_bucket{k=\"v\",le=\"0.002\"} 2\n\
             h_seconds_bucket{k=\"v\",le=\"0.004\"} 3\nh_seconds_bucket{k=\"v\",le=\"+Inf\"} 4\n\
             h_seconds_sum{k=\"v\"} 0.506\nh_seconds_count{k=\"v\"} 4\n"
        );
    }
}
