//! The samples as text: what must hold, then a table for each image, in Markdown.

use std::fmt::Write;

use super::arguments::{Arguments, ImageKind};
use super::samples::{Sample, Samples};
use super::ways::Way;
use crate::report::{circumstances, verdict};
use crate::results::Spread;

const MIB: f64 = 1048576.0;

/// Starts of one kind differ by some tenths of a second in what they wait for, so no wait is told to be shorter, in seconds.
const RESOLUTION: f64 = 0.1;

/// One line for the progress of a run.
pub fn brief(sample: &Sample) -> String {
    let served =
        sample.served.map_or(String::new(), |served| format!(", the mount {:.1} s", served.as_secs_f64()));
    format!(
        "{:26} {:6.1} s + {:5.1} s download, fetched {:.1} MiB in {} requests; the guest read {:.1} MiB, its reads took {:.1} s{served}",
        sample.way.to_string(),
        sample.start.as_secs_f64(),
        sample.download.as_secs_f64(),
        sample.fetched as f64 / MIB,
        sample.requests,
        sample.read as f64 / MIB,
        sample.waited.as_secs_f64(),
    )
}

/// All that was measured.
pub fn text(samples: &Samples, arguments: &Arguments) -> String {
    let mut text = format!(
        "{}; link: {}; QEMU: `-accel {}`, `cache={}`.\n",
        circumstances(),
        arguments.link(),
        arguments.accel,
        arguments.drive_cache
    );
    text.push_str(&requirements(samples));
    for kind in [ImageKind::Plain, ImageKind::Padded] {
        table(&mut text, samples, kind);
    }
    text
}

/// The rows of what must hold that were measured.
fn requirements(samples: &Samples) -> String {
    use ImageKind::{Padded, Plain};
    use Way::{Cold, Downloaded, LocalCold, LocalWarm, Profiled, Warm};

    let fetched = samples.figure(Plain, Cold, |sample| sample.fetched as f64 / sample.size as f64);
    let time = |ways| samples.compare(Plain, ways, |one, other| one.seconds() / other.seconds());
    let less_waiting = Spread::of(
        (samples.of(Padded, Cold))
            .filter_map(|cold| {
                let in_round = |way| samples.of(Padded, way).find(|other| other.round == cold.round);
                let (download, local) = (in_round(Downloaded)?, in_round(LocalWarm)?);
                Some(waiting(download, local) / waiting(cold, local))
            })
            .collect(),
    );
    let less_served = samples.compare(Padded, (Downloaded, Cold), |download, cold| {
        download.download.as_secs_f64() / cold.served.unwrap_or_default().as_secs_f64()
    });
    let rows = [
        ("plain: mount, cold: fetched ÷ image", Bound::AtMost(0.15), fetched),
        ("plain: mount, cold: time ÷ local file, cold", Bound::AtMost(1.3), time((Cold, LocalCold))),
        (
            "plain: mount, cold, profile known: time ÷ local file, cold",
            Bound::AtMost(1.1),
            time((Profiled, LocalCold)),
        ),
        ("plain: mount, warm: time ÷ local file, warm", Bound::AtMost(1.1), time((Warm, LocalWarm))),
        ("padded: waiting of download, then start ÷ that of mount, cold", Bound::AtLeast(5.0), less_waiting),
        ("padded: download ÷ reads of mount, cold, added up", Bound::AtLeast(5.0), less_served),
    ];
    let mut text = "\n| requirement | bound | measured | |\n| --- | --- | --- | --- |\n".to_owned();
    for (what, bound, measured) in rows {
        if let Some(measured) = measured {
            let (bound, holds) = match bound {
                Bound::AtLeast(bound) => (format!("at least {bound}"), measured.median >= bound),
                Bound::AtMost(bound) => (format!("at most {bound}"), measured.median <= bound),
            };
            let _ = writeln!(text, "| {what} | {bound} | {} | {} |", spread(measured), verdict(holds));
        }
    }
    text
}

enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// How long a start waited for data of its image, in seconds: how much longer it did not compute than one that found everything
/// in memory. What the machine was slower at computing is not in it.
fn waiting(sample: &Sample, local: &Sample) -> f64 {
    (sample.idle() - local.idle()).max(RESOLUTION)
}

fn table(text: &mut String, samples: &Samples, kind: ImageKind) {
    let Some(size) = samples.figure(kind, Way::Cold, |sample| sample.size as f64) else { return };
    let _ = write!(
        text,
        "\n### {} ({:.0} MiB)\n\n\
         | start from | seconds | ÷ local file, cold | QEMU's CPU | waiting | the mount's reads | the guest's reads | guest read | fetched | of the image | requests |\n\
         | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
        match kind {
            ImageKind::Plain => "A Debian 12 server",
            ImageKind::Padded => "The same with 4 GiB of other files",
        },
        size.median / MIB,
    );
    for way in Way::ALL {
        let Some(seconds) = samples.figure(kind, way, Sample::seconds) else { continue };
        let median = |figure: &dyn Fn(&Sample) -> f64| {
            samples.figure(kind, way, figure).map_or(f64::NAN, |spread| spread.median)
        };
        let ratio =
            samples.compare(kind, (way, Way::LocalCold), |one, other| one.seconds() / other.seconds());
        let wait = samples.compare(kind, (way, Way::LocalWarm), waiting);
        let served = samples.of(kind, way).all(|sample| sample.served.is_some());
        let served = served.then(|| median(&|sample| sample.served.unwrap_or_default().as_secs_f64()));
        let _ = writeln!(
            text,
            "| {way} | {} | {} | {:.1} s | {} | {} | {:.1} s | {:.0} MiB | {:.1} MiB | {:.1} % | {:.0} |",
            spread(seconds),
            ratio.filter(|_| way != Way::LocalCold).map(spread).unwrap_or_default(),
            median(&|sample| sample.worked.as_secs_f64()),
            wait.filter(|_| way != Way::LocalWarm)
                .map(|wait| format!("{:.1} s", wait.median))
                .unwrap_or_default(),
            served.map(|served| format!("{served:.1} s")).unwrap_or_default(),
            median(&|sample| sample.waited.as_secs_f64()),
            median(&|sample| sample.read as f64) / MIB,
            median(&|sample| sample.fetched as f64) / MIB,
            100.0 * median(&|sample| sample.fetched as f64 / sample.size as f64),
            median(&|sample| sample.requests as f64),
        );
    }
}

/// `1.23 (1.10 to 1.31)`.
fn spread(spread: Spread) -> String {
    format!("{:.2} ({:.2} to {:.2})", spread.median, spread.least, spread.most)
}
