//! Samples in the text format of Prometheus (version 0.0.4).
//!
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>

use std::fmt::Write;

use super::families::{Family, Kind};
use super::histogram::Histogram;

/// A text that grows by one family after the other.
#[derive(Debug, Default)]
pub struct Text {
    text: String,
    /// The family that the last sample belongs to: its heading stands already.
    last: Option<&'static str>,
}

impl Text {
    /// The content type of the whole.
    pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

    /// One value. All samples of a family are to be given one after the other.
    pub fn sample(&mut self, family: &'static Family, labels: &[(&str, &str)], value: impl Into<Value>) {
        self.heading(family);
        self.line(family.name, "", labels, value.into());
    }

    /// The same of a family that has no labels, where the value is known.
    pub fn optional(&mut self, family: &'static Family, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.sample(family, &[], value);
        }
    }

    /// All counts of a histogram.
    pub fn histogram(&mut self, family: &'static Family, labels: &[(&str, &str)], histogram: &Histogram) {
        self.heading(family);
        let (bounds, count) = histogram.cumulative();
        let bounds = bounds.into_iter().map(|(bound, below)| (bound.to_string(), below));
        for (bound, below) in bounds.chain([("+Inf".to_owned(), count)]) {
            let labels = [labels, &[("le", bound.as_str())]].concat();
            self.line(family.name, "_bucket", &labels, below.into());
        }
        self.line(family.name, "_sum", labels, histogram.sum().into());
        self.line(family.name, "_count", labels, count.into());
    }

    /// All of it.
    pub fn finish(self) -> String {
        self.text
    }

    fn heading(&mut self, family: &'static Family) {
        if self.last == Some(family.name) {
            return;
        }
        self.last = Some(family.name);
        let Family { name, kind, help, .. } = family;
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {}", kind.word());
    }

    fn line(&mut self, name: &str, end: &str, labels: &[(&str, &str)], value: Value) {
        let _ = write!(self.text, "{name}{end}");
        for (at, (label, value)) in labels.iter().enumerate() {
            let before = if at == 0 { '{' } else { ',' };
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.text, "{before}{label}=\"{value}\"");
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let _ = match value {
            Value::Whole(value) => writeln!(self.text, " {value}"),
            Value::Fraction(value) => writeln!(self.text, " {value}"),
        };
    }
}

/// The value of a sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    /// Counts and bytes, exact.
    Whole(u64),
    /// Seconds.
    Fraction(f64),
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<usize> for Value {
    fn from(value: usize) -> Self {
        Self::Whole(value as u64)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Whole(value.into())
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Fraction(value)
    }
}

impl Kind {
    /// As the format has it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::families::{BUILD_INFO, OPENS, REQUEST_DURATION};

    #[test]
    fn a_family_has_one_heading_and_labels_are_escaped() {
        let mut text = Text::default();
        text.sample(&OPENS, &[("mode", "a\"b\\c\nd")], 3_u64);
        text.sample(&OPENS, &[("mode", "cached")], 4_u64);
        text.sample(&BUILD_INFO, &[], 1_u64);
        let text = text.finish();
        assert_eq!(text.matches("# TYPE glancefs_opens_total counter\n").count(), 1, "{text}");
        assert!(text.contains("glancefs_opens_total{mode=\"a\\\"b\\\\c\\nd\"} 3\n"), "{text}");
        assert!(text.ends_with("glancefs_build_info 1\n"), "{text}");
    }

    #[test]
    fn a_histogram_ends_with_all_of_it() {
        let (mut text, histogram) = (Text::default(), Histogram::new());
        histogram.observe(Duration::from_millis(2));
        histogram.observe(Duration::from_secs(100));
        text.histogram(&REQUEST_DURATION, &[("operation", "list")], &histogram);
        let text = text.finish();
        for line in [
            "glancefs_request_duration_seconds_bucket{operation=\"list\",le=\"0.00005\"} 0",
            "glancefs_request_duration_seconds_bucket{operation=\"list\",le=\"0.0025\"} 1",
            "glancefs_request_duration_seconds_bucket{operation=\"list\",le=\"30\"} 1",
            "glancefs_request_duration_seconds_bucket{operation=\"list\",le=\"+Inf\"} 2",
            "glancefs_request_duration_seconds_sum{operation=\"list\"} 100.002",
            "glancefs_request_duration_seconds_count{operation=\"list\"} 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in {text}");
        }
    }
}
