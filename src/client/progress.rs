//! How far an image is: a bar on a terminal, a line now and then elsewhere. Both on standard error.

use std::io::IsTerminal;
use std::path::Path;

use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};

use crate::ioctl::{Progress, Stage};
use crate::units::human_bytes;

/// Elsewhere than on a terminal a line comes for each tenth of the image.
const STEP_PERCENT: u64 = 10;

const FILLING: &str =
    "{prefix} {wide_bar} {binary_bytes} of {binary_total_bytes}  {binary_bytes_per_sec}  {eta}";
const VERIFYING: &str = "{prefix} {spinner} verifying {binary_total_bytes}";

/// The progress of one image on the screen; gone from a terminal when dropped.
pub(super) enum Shown {
    Bar(ProgressBar),
    Lines { path: String, next_percent: u64, verifying: bool },
}

impl Shown {
    pub(super) fn begin(path: &Path, progress: &Progress) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self::Lines { path: path.display().to_string(), next_percent: 0, verifying: false };
        }
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let bar = ProgressBar::new(progress.size)
            .with_style(style(FILLING))
            .with_prefix(name)
            .with_position(progress.cached)
            .with_finish(ProgressFinish::AndClear);
        // What was here before says nothing of the speed.
        bar.reset_eta();
        Self::Bar(bar)
    }

    pub(super) fn update(&mut self, progress: &Progress) {
        match self {
            Self::Bar(bar) => {
                if progress.stage == Stage::Verifying {
                    bar.set_style(style(VERIFYING));
                    bar.tick();
                } else {
                    bar.set_position(progress.cached);
                }
            }
            Self::Lines { path, next_percent, verifying } => {
                if progress.stage == Stage::Verifying {
                    if !std::mem::replace(verifying, true) {
                        eprintln!("{path}: verifying");
                    }
                } else if let Some(line) = line(path, progress, next_percent) {
                    eprintln!("{line}");
                }
            }
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    // A template that cannot be read is a defect that a test finds; a plain bar will do.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// The line that is due, if one is; `next` is the share from which on there is another.
fn line(path: &str, progress: &Progress, next: &mut u64) -> Option<String> {
    // Of an image without bytes all are here.
    let percent = (u128::from(progress.cached) * 100).checked_div(u128::from(progress.size)).unwrap_or(100);
    let percent = u64::try_from(percent).unwrap_or(100);
    if percent < *next {
        return None;
    }
    *next = percent - percent % STEP_PERCENT + STEP_PERCENT;
    let (cached, size) = (human_bytes(progress.cached), human_bytes(progress.size));
    Some(format!("{path}: {percent} % ({cached} of {size})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_comes_for_each_tenth_that_was_reached() {
        let mut next = 0;
        let mut at = |cached| {
            let progress = Progress { stage: Stage::Filling, size: 1000, cached, text: String::new() };
            line("a", &progress, &mut next)
        };
        assert_eq!(at(0).unwrap(), "a: 0 % (0 B of 1000 B)");
        assert_eq!(at(99), None);
        assert_eq!(at(350).unwrap(), "a: 35 % (350 B of 1000 B)");
        assert_eq!(at(399), None);
        assert!(at(400).is_some() && at(1000).is_some());
        assert_eq!(at(1000), None);
    }

    #[test]
    fn the_templates_can_be_read() {
        for template in [FILLING, VERIFYING] {
            assert!(ProgressStyle::with_template(template).is_ok());
        }
    }
}
