//! A whole image front to back: cold, again, and from the disk cache after a remount.

use super::{Case, Phase, Samples};
use crate::Result;
use crate::contender::{Contender, download};
use crate::reader::sequential;
use crate::site::{ImageKind, Place, Site};

/// Cold counts the whole run of the reader; hot counts its system calls only, since at the speed of memory the comparing
/// of bytes would make all contenders look alike.
pub struct Sequential;

impl Sequential {
    fn image(place: Place) -> ImageKind {
        // 1 GiB would take 9 s at 1 Gb/s and tell nothing more.
        if place.is_direct() { ImageKind::Big } else { ImageKind::Part(1) }
    }
}

impl Case for Sequential {
    fn name(&self) -> &'static str {
        "sequential"
    }

    fn images(&self, place: Place) -> Vec<ImageKind> {
        vec![Self::image(place)]
    }

    fn contenders(&self) -> &'static [Contender] {
        use Contender::*;
        &[Glancefs, Other, Curl, Plain, Rclone, Nbdkit]
    }

    fn run(&self, site: &Site, place: Place, contender: Contender) -> Result<Samples> {
        let image = site.image(Self::image(place))?;
        let folder = site.folder()?;
        let mut samples = Vec::new();
        let cooled = site.cool()?;
        if contender == Contender::Curl {
            let meter = site.meter(place, Default::default())?;
            let time = download(site.port(place)?, image)?;
            samples.push((Phase::SequentialCold, meter.end(time, image.content.size, 0)?));
            return Ok(samples);
        }

        let mut files = site.mount(place, contender, folder.path(), &[image])?;
        let meter = site.meter(place, files.processes())?;
        let read = sequential(files.path(image)?, image.content)?;
        let first = meter.end(read.wall, read.bytes, read.reads)?;
        match contender {
            Contender::Plain if cooled => samples.push((Phase::SequentialFromDisk, first)),
            Contender::Plain => {}
            _ => samples.push((Phase::SequentialCold, first)),
        }

        let meter = site.meter(place, files.processes())?;
        let read = sequential(files.path(image)?, image.content)?;
        samples.push((Phase::SequentialHot, meter.end(read.in_calls, read.bytes, read.reads)?));

        if contender.has_disk_cache() {
            files.unmount()?;
            if site.cool()? {
                files = site.mount(place, contender, folder.path(), &[image])?;
                let meter = site.meter(place, files.processes())?;
                let read = sequential(files.path(image)?, image.content)?;
                let sample = meter.end(read.wall, read.bytes, read.reads)?;
                samples.push((Phase::SequentialFromDisk, sample));
                files.unmount()?;
            }
        } else {
            files.unmount()?;
        }
        Ok(samples)
    }
}
