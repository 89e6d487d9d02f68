//! The ways to start from an image that are compared.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::arguments::Arguments;
use super::guest::Guest;
use super::samples::Sample;
use super::scene::{Scene, cool, warm};
use crate::contender::Files;
use crate::process::{Processes, run};
use crate::{Result, within};

/// From what a guest starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Way {
    /// The mount, nothing of the image cached.
    Cold,
    /// The same, but the mount was given the boot profile.
    Profiled,
    /// The mount, on which a guest has started before.
    Warm,
    /// A local copy that is not in the page cache.
    LocalCold,
    /// A local copy that a guest has started from before.
    LocalWarm,
    /// A local copy that is downloaded first.
    Downloaded,
}

impl Way {
    /// All, in the order of tables.
    pub const ALL: [Self; 6] =
        [Self::Cold, Self::Profiled, Self::Warm, Self::LocalCold, Self::LocalWarm, Self::Downloaded];
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Cold => "mount, cold",
            Self::Profiled => "mount, cold, profile known",
            Self::Warm => "mount, warm",
            Self::LocalCold => "local file, cold",
            Self::LocalWarm => "local file, warm",
            Self::Downloaded => "download, then start",
        })
    }
}

/// Goes the wanted ways once. Every other round they come in reverse, as far as one does not need what another leaves.
pub fn go(
    scene: &Scene<'_>,
    arguments: &Arguments,
    round: usize,
    mut add: impl FnMut(Sample) -> Result<()>,
) -> Result<()> {
    let one = Round { scene, arguments };
    let mut groups = [Group::Mount, Group::Local, Group::Download];
    if round % 2 == 1 {
        groups.reverse();
    }
    for group in groups {
        match group {
            Group::Mount => one.mount(&mut add)?,
            Group::Local => one.local(&mut add)?,
            Group::Download if arguments.wants(Way::Downloaded) => add(one.downloaded()?)?,
            Group::Download => {}
        }
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Group {
    Mount,
    Local,
    Download,
}

struct Round<'a> {
    scene: &'a Scene<'a>,
    arguments: &'a Arguments,
}

impl Round<'_> {
    fn mount(&self, add: &mut impl FnMut(Sample) -> Result<()>) -> Result<()> {
        let wanted = |way| self.arguments.wants(way);
        if ![Way::Cold, Way::Warm, Way::Profiled].into_iter().any(wanted) {
            return Ok(());
        }
        let folder = self.scene.folder()?;
        let files = self.scene.mount(folder.path())?;
        add(self.start_on(Way::Cold, &files, folder.path())?)?;
        if wanted(Way::Warm) {
            add(self.start_on(Way::Warm, &files, folder.path())?)?;
        }
        if !wanted(Way::Profiled) {
            return files.unmount();
        }
        let profile = folder.path().join("profile");
        self.export(&files, &profile)?;
        files.unmount()?;
        let elsewhere = self.scene.folder()?;
        let files = self.scene.mount(elsewhere.path())?;
        let mut import = Command::new(&self.arguments.glancefs);
        run(import.args(["profile", "import"]).args([self.scene.path(&files)?, &profile]))?;
        add(self.start_on(Way::Profiled, &files, elsewhere.path())?)?;
        files.unmount()
    }

    /// Writes the boot profile to a file. It is kept soon after the image was closed.
    fn export(&self, files: &Files, to: &Path) -> Result<()> {
        let path = self.scene.path(files)?;
        let exported = || {
            let mut export = Command::new(&self.arguments.glancefs);
            run(export.args(["profile", "export"]).arg(path).arg("-o").arg(to)).is_ok()
        };
        match within(Duration::from_secs(10), exported) {
            true => Ok(()),
            false => Err("the start left no profile".into()),
        }
    }

    fn local(&self, add: &mut impl FnMut(Sample) -> Result<()>) -> Result<()> {
        let folder = self.scene.folder()?;
        let start = |way| self.start(way, &self.scene.local, folder.path(), Processes::default());
        if self.arguments.wants(Way::LocalCold) {
            cool(&self.scene.local)?;
            add(start(Way::LocalCold)?)?;
        } else if self.arguments.wants(Way::LocalWarm) {
            warm(&self.scene.local)?;
        }
        if self.arguments.wants(Way::LocalWarm) {
            add(start(Way::LocalWarm)?)?;
        }
        Ok(())
    }

    fn downloaded(&self) -> Result<Sample> {
        let folder = self.scene.folder()?;
        let copy = folder.path().join("image.qcow2");
        let began = Instant::now();
        self.scene.download(&copy)?;
        let download = began.elapsed();
        let sample = self.start(Way::Downloaded, &copy, folder.path(), Processes::default())?;
        Ok(Sample { download, fetched: self.scene.size, requests: 1, ..sample })
    }

    fn start_on(&self, way: Way, files: &Files, folder: &Path) -> Result<Sample> {
        let before = read_seconds(files)?;
        let sample = self.start(way, self.scene.path(files)?, folder, files.processes())?;
        Ok(Sample { served: Some(read_seconds(files)? - before), ..sample })
    }

    fn start(&self, way: Way, image: &Path, folder: &Path, daemon: Processes) -> Result<Sample> {
        let traffic = self.scene.traffic()?;
        let mut guest = Guest::start(self.arguments, image, folder)?;
        let started = guest.started()?;
        // So that what was on its way is counted, and what the check reads is not.
        self.scene.settle(daemon);
        let traffic = traffic.traffic()?;
        guest.check()?;
        Ok(Sample {
            kind: self.scene.kind,
            way,
            round: 0,
            size: self.scene.size,
            download: Duration::ZERO,
            start: started.after,
            read: started.read,
            waited: started.waited,
            worked: started.worked,
            served: None,
            fetched: traffic.bytes,
            requests: traffic.requests,
        })
    }
}

/// How long the mount has taken for all reads of the kernel together.
fn read_seconds(files: &Files) -> Result<Duration> {
    let metrics = fs::read_to_string(files.root()?.join(".glancefs/metrics"))?;
    let sum = metrics.lines().find_map(|line| line.strip_prefix("glancefs_read_duration_seconds_sum "));
    Ok(Duration::from_secs_f64(sum.ok_or("a metric is missing")?.parse()?))
}
