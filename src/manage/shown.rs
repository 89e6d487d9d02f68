//! How far an order is: one line that changes on a terminal, a line for each change elsewhere. Both on standard error.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};

use crate::units::human_bytes;

const WAITING: &str = "{prefix} {spinner} {msg}";
const SENDING: &str =
    "{prefix} {wide_bar} {binary_bytes} of {binary_total_bytes}  {binary_bytes_per_sec}  {eta}";

/// How often the sign of life of a terminal turns.
const TURN: Duration = Duration::from_millis(120);

/// Elsewhere than on a terminal a line comes for each tenth of what is sent.
const STEP_PERCENT: u64 = 10;

/// The progress of one image; gone from a terminal when dropped.
pub(super) struct Shown {
    name: String,
    bar: Option<ProgressBar>,
    told: String,
    next_percent: u64,
}

impl Shown {
    pub(super) fn begin(name: &str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::no_length()
                .with_style(style(WAITING))
                .with_prefix(name.to_owned())
                .with_finish(ProgressFinish::AndClear);
            bar.enable_steady_tick(TURN);
            bar
        });
        Self { name: name.to_owned(), bar, told: String::new(), next_percent: 0 }
    }

    /// What goes on.
    pub(super) fn state(&mut self, text: &str) {
        if self.told == text {
            return;
        }
        text.clone_into(&mut self.told);
        match &self.bar {
            Some(bar) => {
                bar.set_style(style(WAITING));
                bar.set_message(text.to_owned());
            }
            None => eprintln!("{}: {text}", self.name),
        }
    }

    /// So much of `size` bytes was sent.
    pub(super) fn sent(&mut self, bytes: u64, size: u64) {
        if let Some(bar) = &self.bar {
            if bar.length() != Some(size) {
                bar.set_style(style(SENDING));
                bar.set_length(size);
            }
            bar.set_position(bytes);
            return;
        }
        let percent = (u128::from(bytes) * 100).checked_div(u128::from(size)).unwrap_or(100);
        let percent = u64::try_from(percent).unwrap_or(100);
        if percent >= self.next_percent {
            self.next_percent = percent - percent % STEP_PERCENT + STEP_PERCENT;
            eprintln!("{}: {percent} % ({} of {})", self.name, human_bytes(bytes), human_bytes(size));
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    // A template that cannot be read is a defect that a test finds; a plain bar will do.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_can_be_read() {
        for template in [WAITING, SENDING] {
            assert!(ProgressStyle::with_template(template).is_ok());
        }
    }
}
