//! The benchmark of glancefs: how fast images are read through it, as ratios to what else a user would pick and to the
//! limits of server, network and disk. `scripts/bench` runs it; `docs/benchmarks.md` says what its figures mean.
//! `bootdemo` is a second one, of whole virtual machines that start, with the same servers and links.
//!
//! - `site` sets up two servers, images and links; `contender` mounts; `cases` say who reads what.
//! - Each case runs in rounds, all contenders in each round, and a ratio is made within a round: this way a machine that
//!   becomes slow for a while does so for all of them.
//! - Every byte that is read is compared (`content`); one wrong byte fails the run.

mod arguments;
mod bootdemo;
mod cases;
mod cgroup;
mod contender;
mod content;
#[path = "../../common/devcloud.rs"]
mod devcloud;
mod http;
mod link;
mod meter;
mod process;
mod reader;
mod report;
mod results;
mod server;
mod site;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use arguments::Arguments;
pub use bootdemo::main as bootdemo;
use cases::Case;
use clap::Parser;
use contender::{Contender, Programs};
use results::Results;
use site::{Place, Site};

/// The folder of glancefs.
const PROJECT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// What fails is said to a person and handled nowhere.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// The program `glancefs-bench`.
pub fn bench() -> ExitCode {
    let arguments = Arguments::parse();
    let Some((disk, memory)) = folders() else {
        eprintln!("The benchmark is started by scripts/bench.");
        return ExitCode::SUCCESS;
    };
    match run(&arguments, &disk, &memory) {
        Ok(results) if results.failures().is_empty() => ExitCode::SUCCESS,
        Ok(results) => {
            results.failures().iter().for_each(|failure| eprintln!("FAILED {failure}"));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("bench: error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The folders for caches and for what servers send. The script that starts us makes them and clears up after us, whatever
/// happens to us.
fn folders() -> Option<(PathBuf, PathBuf)> {
    let folder = |name| std::env::var_os(name).map(PathBuf::from);
    Some((folder("GLANCEFS_BENCH_DISK")?, folder("GLANCEFS_BENCH_MEMORY")?))
}

fn run(arguments: &Arguments, disk: &Path, memory: &Path) -> Result<Results> {
    let programs = Programs {
        glancefs: arguments.glancefs.clone(),
        other: arguments.against.clone(),
        wrapper: Vec::new(),
    };
    let places = arguments.places();
    let mut cases = arguments.cases()?;
    let contenders = contenders(arguments);
    let wanted = cases.iter().flat_map(|case| {
        places.iter().filter(|place| case.applies_to(**place)).flat_map(|place| case.images(*place))
    });
    let images = wanted.collect();
    eprintln!("setting up: servers, images");
    let site = Site::set_up(disk, memory, programs, arguments.quick, &images, &places)?;
    let mut results = Results::default();
    let unavailable = |case: &&dyn Case| Some(format!("{}: {}", case.name(), case.unavailable()?));
    cases.iter().filter_map(unavailable).for_each(|what| results.leave_out(what));
    cases.retain(|case| case.unavailable().is_none());
    for place in places {
        for case in cases.iter().filter(|case| case.applies_to(place)) {
            measure(&site, place, *case, &contenders, arguments.rounds(place), &mut results);
        }
    }
    let text = report::text(&results, arguments, &site);
    println!("{text}");
    if arguments.record {
        report::record("scripts/bench", &text)?;
    }
    Ok(results)
}

/// Who can take part; says who cannot.
fn contenders(arguments: &Arguments) -> Vec<Contender> {
    let asked = |contender: &Contender| match contender {
        Contender::Glancefs => true,
        Contender::Other => arguments.against.is_some(),
        other => arguments.with.is_empty() || arguments.with.contains(other),
    };
    let installed = |contender: &Contender| {
        let missing = contender.missing();
        if !missing.is_empty() {
            eprintln!("left out: {contender} (not installed: {})", missing.join(", "));
        }
        missing.is_empty()
    };
    Contender::ALL.into_iter().filter(asked).filter(installed).collect()
}

/// All rounds of a case at a place. Every other round runs in reverse, so that no contender always follows the same one.
fn measure(
    site: &Site,
    place: Place,
    case: &dyn Case,
    contenders: &[Contender],
    rounds: usize,
    results: &mut Results,
) {
    let takes_part = |one: &&Contender| contenders.contains(one) && one.reads_from(place.server);
    let mut order: Vec<Contender> = case.contenders().iter().filter(takes_part).copied().collect();
    for round in 0..rounds {
        for contender in &order {
            let began = Instant::now();
            let outcome = case.run(site, place, *contender);
            let took = began.elapsed().as_secs_f64();
            eprintln!("{place}: {}, round {}: {contender} ({took:.1} s)", case.name(), round + 1);
            match outcome {
                Ok(samples) => samples.into_iter().for_each(|(phase, sample)| {
                    eprintln!("    {}", report::brief(phase, &sample));
                    results.add(place, phase, *contender, round, sample);
                }),
                Err(error) => {
                    eprintln!("    {error}");
                    results.fail(*contender, format!("{place}: {}: {contender}: {error}", case.name()));
                }
            }
        }
        order.reverse();
    }
}

/// Asks again and again whether something has happened; whether it did in time.
fn within(limit: Duration, mut happened: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if happened() {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
