//! What was measured, and the file that keeps it between runs: a line of CSV for each start.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;

use super::arguments::ImageKind;
use super::ways::Way;
use crate::Result;
use crate::results::Spread;

/// One start of a guest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// From which image.
    pub kind: ImageKind,
    /// From what.
    pub way: Way,
    /// Samples of a round are compared with each other. Given when it is added.
    pub round: usize,
    /// The image's size in bytes.
    pub size: u64,
    /// How long the download took.
    pub download: Duration,
    /// How long the guest took to start.
    pub start: Duration,
    /// What the guest read from its disk once its kernel ran, in bytes.
    pub read: u64,
    /// How long the guest's reads took, added up.
    pub waited: Duration,
    /// Processor time that QEMU used until the guest had started.
    pub worked: Duration,
    /// How long the mount took for the kernel's reads, added up. None where there is no mount.
    pub served: Option<Duration>,
    /// What Glance sent of the image until the guest had started, in bytes.
    pub fetched: u64,
    /// In so many requests.
    pub requests: u64,
}

const HEADER: &str = "image,way,round,size,download,start,read,waited,worked,served,fetched,requests";

impl Sample {
    /// From the beginning until the guest has started, the download included.
    pub fn seconds(&self) -> f64 {
        (self.download + self.start).as_secs_f64()
    }

    /// How long of that QEMU did not compute: the download, waits for data, and what a starting system waits for besides.
    pub fn idle(&self) -> f64 {
        self.seconds() - self.worked.as_secs_f64()
    }

    fn line(&self) -> String {
        let served = self.served.map_or(String::new(), |served| format!("{:.3}", served.as_secs_f64()));
        format!(
            "{},{:?},{},{},{:.3},{:.3},{},{:.3},{:.3},{served},{},{}",
            self.kind,
            self.way,
            self.round,
            self.size,
            self.download.as_secs_f64(),
            self.start.as_secs_f64(),
            self.read,
            self.waited.as_secs_f64(),
            self.worked.as_secs_f64(),
            self.fetched,
            self.requests
        )
    }

    fn parse(line: &str) -> Result<Self> {
        let [kind, way, round, size, download, start, read, waited, worked, served, fetched, requests] =
            line.split(',').collect::<Vec<_>>()[..]
        else {
            return Err(format!("not a sample: {line:?}").into());
        };
        let seconds = |text: &str| -> Result<Duration> { Ok(Duration::try_from_secs_f64(text.parse()?)?) };
        let known = |one: &Way| format!("{one:?}") == way;
        Ok(Self {
            kind: ImageKind::from_str(kind, false)?,
            way: Way::ALL.into_iter().find(known).ok_or_else(|| format!("not a way: {way:?}"))?,
            round: round.parse()?,
            size: size.parse()?,
            download: seconds(download)?,
            start: seconds(start)?,
            read: read.parse()?,
            waited: seconds(waited)?,
            worked: seconds(worked)?,
            served: if served.is_empty() { None } else { Some(seconds(served)?) },
            fetched: fetched.parse()?,
            requests: requests.parse()?,
        })
    }
}

/// All samples of a run, and of those before it that have written to the same file.
#[derive(Default)]
pub struct Samples {
    all: Vec<Sample>,
    file: Option<PathBuf>,
}

impl Samples {
    /// Those in a file, which need not exist; what is added is written to it at once.
    pub fn open(file: &Path) -> Result<Self> {
        let text = if file.exists() { fs::read_to_string(file)? } else { String::new() };
        let all = text.lines().skip(1).map(Sample::parse).collect::<Result<_>>()?;
        Ok(Self { all, file: Some(file.to_owned()) })
    }

    /// Adds one, to the first round that has none of its image and way.
    pub fn add(&mut self, sample: Sample) -> Result<()> {
        let sample = Sample { round: self.of(sample.kind, sample.way).count(), ..sample };
        if let Some(path) = &self.file {
            let mut file = OpenOptions::new().create(true).append(true).open(path)?;
            if file.metadata()?.len() == 0 {
                writeln!(file, "{HEADER}")?;
            }
            writeln!(file, "{}", sample.line())?;
        }
        self.all.push(sample);
        Ok(())
    }

    /// Those of an image and a way.
    pub fn of(&self, kind: ImageKind, way: Way) -> impl Iterator<Item = &Sample> {
        self.all.iter().filter(move |sample| sample.kind == kind && sample.way == way)
    }

    /// A figure over the rounds.
    pub fn figure(&self, kind: ImageKind, way: Way, figure: impl Fn(&Sample) -> f64) -> Option<Spread> {
        Spread::of(self.of(kind, way).map(figure).collect())
    }

    /// A figure that is made of the samples of two ways in the same round.
    pub fn compare(
        &self,
        kind: ImageKind,
        (way, other): (Way, Way),
        figure: impl Fn(&Sample, &Sample) -> f64,
    ) -> Option<Spread> {
        let pair = |sample: &Sample| {
            let other = self.of(kind, other).find(|other| other.round == sample.round)?;
            Some(figure(sample, other))
        };
        Spread::of(self.of(kind, way).filter_map(pair).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: Sample = Sample {
        kind: ImageKind::Plain,
        way: Way::Cold,
        round: 0,
        size: 500_000_000,
        download: Duration::ZERO,
        start: Duration::from_millis(23_456),
        read: 40_000_000,
        waited: Duration::from_millis(1_500),
        worked: Duration::from_millis(20_250),
        served: Some(Duration::from_millis(2_250)),
        fetched: 60_000_000,
        requests: 321,
    };

    #[test]
    fn samples_are_found_again_in_their_file_and_rounds_go_on() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("samples");
        let local = Sample { way: Way::LocalCold, served: None, ..SAMPLE };
        let mut samples = Samples::open(&file).unwrap();
        samples.add(SAMPLE).unwrap();
        samples.add(local).unwrap();
        let mut again = Samples::open(&file).unwrap();
        assert_eq!(again.all, [SAMPLE, local]);
        again.add(local).unwrap();
        assert_eq!(Samples::open(&file).unwrap().all, [SAMPLE, local, Sample { round: 1, ..local }]);
        fs::write(&file, format!("{HEADER}\nplain,Cold,0\n")).unwrap();
        assert!(Samples::open(&file).is_err());
    }

    #[test]
    fn ways_are_compared_within_a_round() {
        let mut samples = Samples::default();
        let seconds = |way, seconds| Sample { way, start: Duration::from_secs(seconds), ..SAMPLE };
        // The machine was slow in the second round; the third has not got as far as the local file.
        for (way, start) in
            [(Way::Cold, 12), (Way::LocalCold, 10), (Way::LocalCold, 30), (Way::Cold, 60), (Way::Cold, 90)]
        {
            samples.add(seconds(way, start)).unwrap();
        }
        let ratio = |one: &Sample, other: &Sample| one.start.as_secs_f64() / other.start.as_secs_f64();
        let ratio = samples.compare(ImageKind::Plain, (Way::Cold, Way::LocalCold), ratio).unwrap();
        assert_eq!((ratio.least, ratio.median, ratio.most), (1.2, 1.6, 2.0));
    }
}
