//! The reads of a virtual machine's boot, in their order and without its pauses: cold, again, and on another host that was
//! given the boot profile.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::{Case, Phase, Samples, bare};
use crate::contender::Contender;
use crate::process::run;
use crate::reader::{Access, Mode, scattered};
use crate::site::{ImageKind, Place, Site};
use crate::{Result, within};

/// Every read that a booting Debian 12 (cloud kernel, systemd, ssh; a qcow2 of 497,942,528 bytes) made of its image, as
/// recorded with QEMU 7.2: seconds since the first read, offset, length. 997 reads, 42.0 MiB.
const TRACE: &str = include_str!("../../boot-trace.csv");

/// Replays the trace, one read after another.
pub struct Boot;

impl Case for Boot {
    fn name(&self) -> &'static str {
        "boot"
    }

    fn images(&self, _: Place) -> Vec<ImageKind> {
        vec![ImageKind::Boot]
    }

    fn contenders(&self) -> &'static [Contender] {
        use Contender::*;
        &[Glancefs, Other, Bare, Plain, Rclone, Nbdkit]
    }

    fn run(&self, site: &Site, place: Place, contender: Contender) -> Result<Samples> {
        let image = site.image(ImageKind::Boot)?;
        let trace = trace()?;
        site.cool()?;
        if contender == Contender::Bare {
            let meter = site.meter(place, Default::default())?;
            let read = bare(site.port(place)?, image, &trace)?;
            return Ok(vec![(Phase::BootCold, meter.end(read.wall, read.bytes, read.reads)?)]);
        }
        let folder = site.folder()?;
        let files = site.mount(place, contender, folder.path(), &[image])?;
        let mut samples = Vec::new();
        for phase in [Phase::BootCold, Phase::BootWarm] {
            let meter = site.meter(place, files.processes())?;
            let read = scattered(files.path(image)?, image.content, Mode::Buffered, &trace, 1)?;
            let sample = meter.end(read.wall, read.bytes, read.reads)?;
            if contender != Contender::Plain || phase == Phase::BootWarm {
                samples.push((phase, sample));
            }
        }
        if let Some(program) = site.programs.of(contender) {
            let profile = folder.path().join("profile");
            export(program, files.path(image)?, &profile)?;
            files.unmount()?;
            let elsewhere = site.folder()?;
            site.cool()?;
            let files = site.mount(place, contender, elsewhere.path(), &[image])?;
            let path = files.path(image)?;
            run(Command::new(program).args(["profile", "import"]).args([path, &profile]))?;
            let meter = site.meter(place, files.processes())?;
            let read = scattered(path, image.content, Mode::Buffered, &trace, 1)?;
            samples.push((Phase::BootProfiled, meter.end(read.wall, read.bytes, read.reads)?));
            files.unmount()?;
        } else {
            files.unmount()?;
        }
        Ok(samples)
    }
}

/// Writes the boot profile to a file. It is kept soon after the image was closed.
fn export(program: &Path, image: &Path, to: &Path) -> Result<()> {
    let exported =
        || run(Command::new(program).args(["profile", "export"]).arg(image).arg("-o").arg(to)).is_ok();
    match within(Duration::from_secs(10), exported) {
        true => Ok(()),
        false => Err("the boot left no profile".into()),
    }
}

/// The trace's reads.
pub fn trace() -> Result<Vec<Access>> {
    let lines = TRACE.lines().skip(1);
    let access = |line: &str| -> Result<Access> {
        let mut fields = line.split(',').skip(1);
        let mut field = || fields.next().ok_or("a line of the trace lacks a field");
        Ok(Access { offset: field()?.parse()?, length: field()?.parse()? })
    };
    lines.map(access).collect()
}
