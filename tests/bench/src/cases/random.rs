//! Reads of 4 KiB at random places, one or many at a time, as databases in guests make them.

use super::{Case, Phase, Samples};
use crate::Result;
use crate::contender::Contender;
use crate::content::{Numbers, PAGE};
use crate::http::Connection;
use crate::link::LinkKind;
use crate::reader::{Access, Mode, Reading, scattered, sequential};
use crate::site::{ImageKind, Place, Site};

/// So many reads under way at a time.
pub struct Random {
    /// 1 or more.
    pub depth: usize,
}

impl Random {
    fn image(place: Place) -> ImageKind {
        if place.link == LinkKind::Direct { ImageKind::Big } else { ImageKind::Part(1) }
    }

    /// A number and not a time: all contenders make the same reads. On a far link as many as end within some seconds.
    fn cold_reads(&self, site: &Site, place: Place) -> usize {
        let reads = match (place.link, self.depth) {
            (LinkKind::Far, 1) => 512,
            _ => 4096,
        };
        if site.quick { reads / 4 } else { reads }
    }
}

impl Case for Random {
    fn name(&self) -> &'static str {
        if self.depth == 1 { "random" } else { "random-deep" }
    }

    fn images(&self, place: Place) -> Vec<ImageKind> {
        vec![Self::image(place)]
    }

    fn contenders(&self) -> &'static [Contender] {
        use Contender::*;
        &[Glancefs, Other, Ranges, Plain, Rclone, Nbdkit]
    }

    fn run(&self, site: &Site, place: Place, contender: Contender) -> Result<Samples> {
        let image = site.image(Self::image(place))?;
        let pages = image.content.size / PAGE as u64;
        let accesses = |seed, count| -> Vec<Access> {
            let places = Numbers::new(seed).distinct(count, pages);
            places.into_iter().map(|page| Access { offset: page * PAGE as u64, length: PAGE }).collect()
        };
        let cold = accesses(1, self.cold_reads(site, place));
        // Enough to last for 0.1 s at a microsecond each.
        let hot = accesses(2, 100_000);
        site.cool()?;
        if contender == Contender::Ranges {
            if self.depth > 1 {
                return Ok(Vec::new());
            }
            let meter = site.meter(place, Default::default())?;
            let read =
                ranges(site.port(place)?, &format!("/v2/images/{}/file", image.id), image.content, &cold)?;
            return Ok(vec![(Phase::RandomCold(1), meter.end(read.wall, read.bytes, read.reads)?)]);
        }

        let folder = site.folder()?;
        let files = site.mount(place, contender, folder.path(), &[image])?;
        let path = files.path(image)?;
        let mut samples = Vec::new();
        if contender != Contender::Plain {
            let meter = site.meter(place, files.processes())?;
            let read = scattered(path, image.content, Mode::Buffered, &cold, self.depth)?;
            samples.push((Phase::RandomCold(self.depth), meter.end(read.wall, read.bytes, read.reads)?));
        }
        sequential(path, image.content)?;
        site.meter(place, files.processes())?.end(Default::default(), 0, 0)?;
        let meter = site.meter(place, files.processes())?;
        let read = scattered(path, image.content, Mode::Buffered, &hot, self.depth)?;
        // With several readers their comparing cannot be told from their waiting for a processor.
        let time = if self.depth == 1 { read.in_calls } else { read.wall };
        samples.push((Phase::RandomHot(self.depth), meter.end(time, read.bytes, read.reads)?));
        files.unmount()?;
        Ok(samples)
    }
}

/// Makes the accesses as exact ranges, one after another on one connection.
pub fn ranges(
    port: u16,
    path: &str,
    content: crate::content::Content,
    accesses: &[Access],
) -> Result<Reading> {
    let began = std::time::Instant::now();
    let mut connection = Connection::open(port)?;
    let mut buffer = vec![0; accesses.iter().map(|access| access.length).max().unwrap_or_default()];
    let mut reading = Reading::default();
    for access in accesses {
        let bytes = &mut buffer[..access.length];
        connection.read_range(path, access.offset, bytes)?;
        content.check(access.offset, bytes)?;
        reading.bytes += access.length as u64;
        reading.reads += 1;
    }
    reading.wall = began.elapsed();
    Ok(reading)
}
