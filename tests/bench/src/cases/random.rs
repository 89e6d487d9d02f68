//! Reads of 4 KiB at random places, one or many at a time, as databases in guests make them.

use super::{Case, Phase, Samples, bare};
use crate::Result;
use crate::contender::Contender;
use crate::content::{Content, Numbers, PAGE};
use crate::link::LinkKind;
use crate::reader::{Access, Mode, scattered, sequential};
use crate::site::{ImageKind, Place, Site};

/// So many reads under way at a time.
pub struct Random {
    /// 1 or more.
    pub depth: usize,
}

impl Random {
    fn image(place: Place) -> ImageKind {
        if place.is_direct() { ImageKind::Big } else { ImageKind::Part(1) }
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
        if self.depth > 1 {
            return &[Glancefs, Other, Plain, Rclone, Nbdkit];
        }
        &[Glancefs, Other, Bare, Plain, Rclone, Nbdkit]
    }

    fn run(&self, site: &Site, place: Place, contender: Contender) -> Result<Samples> {
        let image = site.image(Self::image(place))?;
        let cold = accesses(1, self.cold_reads(site, place), image.content);
        // Enough to last for 0.1 s at a microsecond each.
        let hot = accesses(2, 100_000, image.content);
        site.cool()?;
        if contender == Contender::Bare {
            let meter = site.meter(place, Default::default())?;
            let read = bare(site.port(place)?, image, &cold)?;
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
        if contender == Contender::Nbdkit {
            // It keeps nothing: cold is all that it knows, and many such reads would take minutes behind a slow link.
            files.unmount()?;
            return Ok(samples);
        }
        sequential(path, image.content)?;
        site.meter(place, files.processes())?.end(Default::default(), 0, 0)?;
        let meter = site.meter(place, files.processes())?;
        let read = scattered(path, image.content, Mode::Buffered, &hot, self.depth)?;
        // With several readers their comparing cannot be told from their waiting for a processor.
        let time = if self.depth == 1 { read.in_calls } else { read.wall };
        samples.push((Phase::RandomHot(self.depth), meter.end(time, read.bytes, read.reads)?));

        let direct = &hot[..hot.len().min(10_000)];
        let meter = site.meter(place, files.processes())?;
        let read = scattered(path, image.content, Mode::Direct, direct, self.depth)?;
        samples.push((Phase::RandomDirect(self.depth), meter.end(read.wall, read.bytes, read.reads)?));
        files.unmount()?;
        Ok(samples)
    }
}

/// So many different pages of an image, in an order that depends on `seed` only.
pub fn accesses(seed: u64, count: usize, content: Content) -> Vec<Access> {
    let pages = Numbers::new(seed).distinct(count, content.size / PAGE as u64);
    pages.into_iter().map(|page| Access { offset: page * PAGE as u64, length: PAGE }).collect()
}
