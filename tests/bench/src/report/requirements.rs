//! What must hold, and whether it does.

use std::fmt::Write;

use crate::cases::Phase;
use crate::contender::Contender;
use crate::link::LinkKind;
use crate::meter::Sample;
use crate::results::Results;
use crate::server::ServerKind;
use crate::site::Place;

/// What is looked at.
enum Figure {
    /// The speed of glancefs over that of another.
    SpeedOver(Contender),
    /// The time of glancefs over that of another.
    TimeOver(Contender),
    /// The time of glancefs over its time in another phase.
    TimeOverPhase(Phase),
    /// Bytes fetched for each read.
    FetchedPerRead,
    /// Bytes fetched over the size of the image.
    FetchedOfImage(u64),
    /// That it was done at all, correctly.
    Done,
    /// Bytes fetched over the size of the image that several read, each all of it.
    SentOfImage(u64),
}

enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

struct Requirement {
    place: Place,
    phase: Phase,
    figure: Figure,
    bound: Bound,
}

/// The table of issue "Reading at the speed of the machine and the network".
fn requirements() -> Vec<Requirement> {
    use Bound::{AtLeast, AtMost};
    use Contender::{Bare, Curl, Nbdkit, Plain, Rclone};
    use Figure::{Done, FetchedOfImage, FetchedPerRead, SentOfImage, SpeedOver, TimeOver, TimeOverPhase};
    use Phase::*;
    use ServerKind::{Glance, Nginx};

    let at = |server, link, phase, figure, bound| {
        let place = Place { server, link };
        Requirement { place, phase, figure, bound }
    };
    let new = |server, phase, figure, bound| at(server, LinkKind::Direct, phase, figure, bound);
    let mut all = vec![
        new(Nginx, SequentialCold, SpeedOver(Curl), AtLeast(0.70)),
        new(Nginx, SequentialCold, SpeedOver(Rclone), AtLeast(2.5)),
        new(Nginx, SequentialCold, SpeedOver(Nbdkit), AtLeast(2.5)),
        new(Glance, SequentialCold, SpeedOver(Curl), AtLeast(0.60)),
        new(Nginx, RandomCold(1), SpeedOver(Nbdkit), AtLeast(1.0)),
        new(Nginx, RandomCold(1), FetchedPerRead, AtMost(65536.0)),
        new(Nginx, BootCold, TimeOver(Nbdkit), AtMost(1.0)),
        new(Nginx, BootCold, FetchedOfImage(497_942_528), AtMost(0.15)),
        // Of the time that the API takes: static files are no measure of that.
        new(Glance, Listing, TimeOver(Bare), AtMost(1.5)),
        new(Glance, BootCold, TimeOver(Bare), AtMost(0.4)),
        at(Nginx, LinkKind::Far, BootProfiled, TimeOverPhase(BootCold), AtMost(0.25)),
    ];
    for server in [Nginx, Glance] {
        all.push(new(server, SequentialFromDisk, SpeedOver(Plain), AtLeast(0.80)));
        all.push(new(server, SequentialHot, SpeedOver(Plain), AtLeast(0.90)));
        all.push(new(server, RandomHot(1), SpeedOver(Plain), AtLeast(0.85)));
        all.push(new(server, Readers, SentOfImage(16), AtMost(1.02)));
        for phase in [LimitedSequential, LimitedRandom, LimitedBoot] {
            all.push(new(server, phase, Done, AtLeast(1.0)));
        }
    }
    all
}

/// The memory that glancefs may have had in all of it: its default limit of 256 MiB, and 64 MiB for the rest of it.
const PEAK_RSS: u64 = 320 << 20;

/// One row for each requirement that was measured.
pub fn table(results: &Results) -> String {
    let mut text = "| requirement | bound | measured | |\n| --- | --- | --- | --- |\n".to_owned();
    for requirement in requirements() {
        if let Some(measured) = requirement.measure(results) {
            let (bound, holds) = match requirement.bound {
                Bound::AtLeast(bound) => (format!("at least {bound}"), measured >= bound),
                Bound::AtMost(bound) => (format!("at most {bound}"), measured <= bound),
            };
            let what = requirement.what();
            let _ = writeln!(text, "| {what} | {bound} | {measured:.2} | {} |", verdict(holds));
        }
    }
    if let Some(peak) = results.largest(Contender::Glancefs, |sample| sample.peak_rss) {
        let holds = verdict(peak <= PEAK_RSS);
        let _ = writeln!(text, "| peak RSS in all of it | at most 320 MiB | {} MiB | {holds} |", peak >> 20);
    }
    text
}

/// The last column of a table of requirements.
pub fn verdict(holds: bool) -> &'static str {
    if holds { "pass" } else { "**miss**" }
}

impl Requirement {
    fn what(&self) -> String {
        let what = match self.figure {
            Figure::SpeedOver(other) => format!("speed ÷ {other}"),
            Figure::TimeOver(other) => format!("time ÷ {other}"),
            Figure::TimeOverPhase(other) => format!("time ÷ {other}"),
            Figure::FetchedPerRead => "bytes fetched per read".to_owned(),
            Figure::FetchedOfImage(_) => "fetched ÷ image".to_owned(),
            Figure::SentOfImage(_) => "sent ÷ image".to_owned(),
            Figure::Done => "completes, correct".to_owned(),
        };
        format!("{}: {}: {what}", self.place, self.phase)
    }

    fn measure(&self, results: &Results) -> Option<f64> {
        let place = self.place;
        let figure = |figure: &dyn Fn(&Sample) -> f64| {
            Some(results.figure(place, self.phase, Contender::Glancefs, figure)?.median)
        };
        let speed = |other| {
            Some(results.speed(place, (self.phase, Contender::Glancefs), (self.phase, other))?.median)
        };
        match self.figure {
            Figure::SpeedOver(other) => speed(other),
            Figure::TimeOver(other) => Some(1.0 / speed(other)?),
            Figure::TimeOverPhase(other) => {
                let (ours, then) = ((self.phase, Contender::Glancefs), (other, Contender::Glancefs));
                Some(1.0 / results.speed(place, ours, then)?.median)
            }
            Figure::FetchedPerRead => figure(&|sample| sample.traffic.bytes as f64 / sample.reads as f64),
            Figure::FetchedOfImage(size) => figure(&|sample| sample.traffic.bytes as f64 / size as f64),
            Figure::Done => figure(&|_| 1.0),
            Figure::SentOfImage(readers) => {
                figure(&|sample| sample.traffic.bytes as f64 / (sample.read / readers) as f64)
            }
        }
    }
}
