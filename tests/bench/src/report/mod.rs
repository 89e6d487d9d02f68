//! Results as text: the requirements, then a table for each place, in Markdown.

mod requirements;

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

pub use requirements::verdict;

use crate::arguments::Arguments;
use crate::cases::{Phase, Unit};
use crate::contender::Contender;
use crate::meter::Sample;
use crate::process::run;
use crate::results::{Results, Spread};
use crate::site::{Place, Site};
use crate::{PROJECT, Result};

const MIB: f64 = 1048576.0;
const GIB: f64 = 1024.0 * MIB;

const END: &str = "<!-- to here -->";

/// All that a run has found.
pub fn text(results: &Results, arguments: &Arguments, site: &Site) -> String {
    let mut text = String::new();
    heading(&mut text, arguments, site);
    text.push_str(&requirements::table(results));
    for place in results.places() {
        table(&mut text, results, place);
    }
    for (title, lines) in [("Failures of glancefs", results.failures()), ("Not measured", results.left_out())]
    {
        if !lines.is_empty() {
            let _ = writeln!(text, "\n### {title}\n");
            lines.iter().for_each(|line| text.push_str(&format!("- {line}\n")));
        }
    }
    text
}

/// One line for the progress of a run.
pub fn brief(phase: Phase, sample: &Sample) -> String {
    format!(
        "{phase:36} {:>12}  fetched {}  requests {}  CPU {:.2} + {:.2} s, server {:.2} s",
        speed(phase, sample),
        fetched(sample.traffic.bytes as f64, sample),
        sample.traffic.requests,
        sample.daemon_cpu,
        sample.daemon_cpu_after,
        sample.server_cpu
    )
}

/// Writes the text of a script into `docs/benchmarks.md`, between the script's marks.
pub fn record(script: &str, text: &str) -> Result<()> {
    let begin = format!("<!-- {script} --record writes from here -->");
    let path = Path::new(PROJECT).join("docs/benchmarks.md");
    let document = fs::read_to_string(&path)?;
    let (head, rest) =
        document.split_once(&begin).ok_or("the first mark is missing in docs/benchmarks.md")?;
    let (_, tail) = rest.split_once(END).ok_or("the second mark is missing in docs/benchmarks.md")?;
    Ok(fs::write(&path, format!("{head}{begin}\n\n{}\n\n{END}{tail}", text.trim()))?)
}

/// When, where and on what it ran.
fn heading(text: &mut String, arguments: &Arguments, site: &Site) {
    let quick = if arguments.quick { ", `--quick`" } else { "" };
    let _ = writeln!(text, "{}{quick}.\n", circumstances());
    let version = |program: &str| say(program, &["--version"]).lines().next().unwrap_or_default().to_owned();
    let _ = writeln!(
        text,
        "Peers: {}; {}; nbdfuse {}; {}.\n",
        version("rclone"),
        version("nbdkit"),
        version("nbdfuse"),
        version("curl").split(" (").next().unwrap_or_default()
    );
    let _ = site;
}

/// What a program prints, without blanks at its ends; nothing where it fails.
fn say(program: &str, words: &[&str]) -> String {
    let mut command = Command::new(program);
    run(command.args(words).current_dir(PROJECT)).unwrap_or_default().trim().to_owned()
}

/// Day, commit and machine.
pub fn circumstances() -> String {
    let changed = if say("git", &["status", "--porcelain", "--", "src", "Cargo.lock"]).is_empty() {
        ""
    } else {
        " with changes"
    };
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory =
        memory.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default() >> 20;
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    format!(
        "{}, commit {}{changed}, {cores} cores ({}), {memory} GiB, Linux {}",
        say("date", &["-u", "+%Y-%m-%d"]),
        say("git", &["rev-parse", "--short", "HEAD"]),
        cpu.trim_start_matches([' ', '\t', ':']),
        say("uname", &["-r"]),
    )
}

fn table(text: &mut String, results: &Results, place: Place) {
    let _ = write!(
        text,
        "\n### {place}\n\n\
         | case | who | speed | glancefs is | fetched | requests | CPU | server CPU | peak RSS |\n\
         | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n"
    );
    let mut before = None;
    for (phase, contender) in results.rows(place) {
        let case = if before == Some(phase) { String::new() } else { phase.to_string() };
        before = Some(phase);
        let median = |figure: &dyn Fn(&Sample) -> f64| {
            results.figure(place, phase, contender, figure).map_or(0.0, |spread| spread.median)
        };
        let sample = Sample {
            time: std::time::Duration::from_secs_f64(median(&|sample| sample.time.as_secs_f64())),
            read: median(&|sample| sample.read as f64) as u64,
            reads: median(&|sample| sample.reads as f64) as u64,
            ..Sample::default()
        };
        let cost = |figure: &dyn Fn(&Sample) -> f64| match phase.unit() {
            Unit::Bytes => format!("{:.2} s/GiB", median(figure) / (sample.read as f64 / GIB)),
            Unit::Reads => format!("{:.0} µs/read", median(figure) / sample.reads as f64 * 1e6),
            Unit::Latency => format!("{:.0} ms", median(figure) * 1e3),
        };
        let (mut daemon, mut peak) = (String::new(), String::new());
        if contender.has_daemon() {
            let during = cost(&|sample| sample.daemon_cpu);
            let during = during.split(' ').next().unwrap_or_default();
            daemon = format!("{during} + {}", cost(&|sample| sample.daemon_cpu_after));
            peak = format!("{:.0} MiB", median(&|sample| sample.peak_rss as f64) / MIB);
        }
        let ratio = results.speed(place, (phase, Contender::Glancefs), (phase, contender));
        let ratio = ratio.filter(|_| contender != Contender::Glancefs).map(times).unwrap_or_default();
        let _ = writeln!(
            text,
            "| {case} | {contender} | {} | {ratio} | {} | {:.0} | {daemon} | {} | {peak} |",
            speed(phase, &sample),
            fetched(median(&|sample| sample.traffic.bytes as f64), &sample),
            median(&|sample| sample.traffic.requests as f64),
            cost(&|sample| sample.server_cpu),
        );
    }
}

/// `1.23 × (1.10 to 1.31)`.
fn times(spread: Spread) -> String {
    format!("{:.2} × ({:.2} to {:.2})", spread.median, spread.least, spread.most)
}

fn speed(phase: Phase, sample: &Sample) -> String {
    let seconds = sample.time.as_secs_f64();
    match phase.unit() {
        Unit::Bytes => format!("{:.0} MiB/s", sample.read as f64 / MIB / seconds),
        Unit::Reads => format!("{:.0} reads/s", sample.reads as f64 / seconds),
        Unit::Latency => format!("{:.2} ms", seconds / sample.reads as f64 * 1e3),
    }
}

/// Bytes fetched for each byte read; nothing where no data are read.
fn fetched(bytes: f64, sample: &Sample) -> String {
    if sample.read == 0 { String::new() } else { format!("{:.2}", bytes / sample.read as f64) }
}
