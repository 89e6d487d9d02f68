//! `glancefs doctor`: looks at this host, the cloud, the folders and a mount, and tells what is wrong with its cure.
//!
//! Nothing is changed: no folder is made or made private, no image is made, and of the cloud only the list and
//! one byte per store are asked. Each look is bounded in time, so that what hangs is a finding and not a hanging doctor.

mod cloud;
mod folders;
mod host;
mod live;

use std::fmt::{self, Display};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use crate::config::{CacheConfig, SpoolConfig};
use crate::error::Result;
use crate::manage::Connection;

/// What is to be looked at. A part that could not be made of the options is a finding by itself.
#[derive(Debug)]
pub struct Order {
    /// How the cloud is reached.
    pub connection: Result<Connection>,
    /// The cache folder.
    pub cache: Result<CacheConfig>,
    /// The spool folder.
    pub spool: Result<SpoolConfig>,
    /// The mount, or where one shall be.
    pub mountpoint: Option<PathBuf>,
    /// For programs.
    pub json: bool,
    /// Findings only.
    pub quiet: bool,
}

/// What one look showed.
#[derive(Debug, Serialize)]
struct Look {
    /// What was looked at.
    check: &'static str,
    /// Something is wrong.
    found: bool,
    said: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    cure: Option<String>,
}

/// All that was looked at, in the order in which things depend on each other.
#[derive(Debug, Default, Serialize)]
struct Report {
    looks: Vec<Look>,
}

impl Report {
    fn well(&mut self, check: &'static str, said: impl Display) {
        self.looks.push(Look { check, found: false, said: one_line(said), cure: None });
    }

    fn found(&mut self, check: &'static str, said: impl Display, cure: impl Display) {
        self.looks.push(Look { check, found: true, said: one_line(said), cure: Some(one_line(cure)) });
    }

    fn findings(&self) -> usize {
        self.looks.iter().filter(|look| look.found).count()
    }
}

/// Names and what servers said stay one line and move no cursor.
fn one_line(said: impl Display) -> String {
    said.to_string().replace(char::is_control, " ")
}

impl Display for Look {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.found { "FOUND" } else { "ok" };
        write!(f, "{mark:<6} {}: {}", self.check, self.said)?;
        match &self.cure {
            Some(cure) => write!(f, "\n       cure: {cure}"),
            None => Ok(()),
        }
    }
}

/// Looks, tells, and gives the exit code: 0 when nothing is wrong, 1 when something is.
pub fn doctor(order: &Order) -> ExitCode {
    let mut report = Report::default();
    host::look(&mut report);
    let live = order.mountpoint.as_deref().and_then(|mountpoint| live::look(&mut report, mountpoint));
    folders::look(&mut report, order, live.as_ref());
    cloud::look(&mut report, order, live.is_some());
    // Nobody reading it is no failure of ours.
    let _ = tell(&report, order, &mut std::io::stdout().lock());
    if report.findings() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn tell(report: &Report, order: &Order, out: &mut impl Write) -> std::io::Result<()> {
    let shown: Vec<&Look> = report.looks.iter().filter(|look| look.found || !order.quiet).collect();
    if order.json {
        let document = serde_json::json!({ "findings": report.findings(), "looks": shown });
        return writeln!(out, "{document:#}");
    }
    for look in shown {
        writeln!(out, "{look}")?;
    }
    match report.findings() {
        0 if order.quiet => Ok(()),
        0 => writeln!(out, "nothing is wrong"),
        1 => writeln!(out, "1 finding"),
        many => writeln!(out, "{many} findings"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, Kind};

    fn told(report: &Report, json: bool, quiet: bool) -> String {
        let wrong = || Error::new(Kind::Config, "not given");
        let order = Order {
            connection: Err(wrong()),
            cache: Err(wrong()),
            spool: Err(wrong()),
            mountpoint: None,
            json,
            quiet,
        };
        let mut out = Vec::new();
        tell(report, &order, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn each_finding_has_its_cure_and_stays_on_its_line() {
        let mut report = Report::default();
        report.well("kernel", "Linux");
        report.found("cache", "a\nb\x1b[2J", "make room");
        let text = told(&report, false, false);
        assert_eq!(text, "ok     kernel: Linux\nFOUND  cache: a b [2J\n       cure: make room\n1 finding\n");
        assert!(!told(&report, false, true).contains("kernel"));
        let json: serde_json::Value = serde_json::from_str(&told(&report, true, false)).unwrap();
        assert_eq!((&json["findings"], &json["looks"][1]["cure"]), (&1.into(), &"make room".into()));
    }

    #[test]
    fn without_findings_quiet_says_nothing() {
        let mut report = Report::default();
        report.well("kernel", "Linux");
        assert_eq!(told(&report, false, true), "");
        assert!(told(&report, false, false).ends_with("nothing is wrong\n"));
    }
}
