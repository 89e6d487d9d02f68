//! Many readers: of one cold image, and of four.

use std::time::Instant;

use super::{Case, Phase, Samples};
use crate::Result;
use crate::contender::{Contender, download};
use crate::reader::{in_parallel, sequential};
use crate::server::Image;
use crate::site::{ImageKind, Place, Site};

/// 16 readers of one image, each with a descriptor of its own, that start together: a host on which many guests begin to
/// boot from one image.
pub struct Readers;

/// Four images, each read by one reader.
pub struct Images;

const READERS: usize = 16;

impl Case for Readers {
    fn name(&self) -> &'static str {
        "readers"
    }

    fn images(&self, _: Place) -> Vec<ImageKind> {
        vec![ImageKind::Part(1)]
    }

    fn contenders(&self) -> &'static [Contender] {
        use Contender::*;
        &[Glancefs, Other, Curl, Rclone, Nbdkit]
    }

    fn run(&self, site: &Site, place: Place, contender: Contender) -> Result<Samples> {
        // curl's figure is one download: what the readers could share.
        let readers = if contender == Contender::Curl { 1 } else { READERS };
        let image = site.image(ImageKind::Part(1))?;
        read_all(site, place, contender, &vec![image; readers], Phase::Readers)
    }
}

impl Case for Images {
    fn name(&self) -> &'static str {
        "images"
    }

    fn images(&self, _: Place) -> Vec<ImageKind> {
        ImageKind::PARTS.to_vec()
    }

    fn contenders(&self) -> &'static [Contender] {
        use Contender::*;
        &[Glancefs, Other, Curl, Rclone, Nbdkit]
    }

    fn run(&self, site: &Site, place: Place, contender: Contender) -> Result<Samples> {
        let images = ImageKind::PARTS.iter().map(|kind| site.image(*kind)).collect::<Result<Vec<_>>>()?;
        read_all(site, place, contender, &images, Phase::Images)
    }
}

/// Reads all of each at the same time.
fn read_all(
    site: &Site,
    place: Place,
    contender: Contender,
    images: &[&Image],
    phase: Phase,
) -> Result<Samples> {
    let folder = site.folder()?;
    let bytes = images.iter().map(|image| image.content.size).sum();
    site.cool()?;
    if contender == Contender::Curl {
        let port = site.port(place)?;
        let meter = site.meter(place, Default::default())?;
        let transfers = images.iter().map(|image| move || download(port, image)).collect();
        let whole = in_parallel(transfers)?.into_iter().max();
        return Ok(vec![(phase, meter.end(whole.unwrap_or_default(), bytes, 0)?)]);
    }
    let mut different = images.to_vec();
    different.dedup_by(|one, other| one.id == other.id);
    let files = site.mount(place, contender, folder.path(), &different)?;
    let paths = images.iter().map(|image| files.path(image)).collect::<Result<Vec<_>>>()?;
    let meter = site.meter(place, files.processes())?;
    let began = Instant::now();
    let readers =
        images.iter().zip(paths).map(|(image, path)| move || sequential(path, image.content)).collect();
    let reads = in_parallel(readers)?.iter().map(|reading| reading.reads).sum();
    let sample = meter.end(began.elapsed(), bytes, reads)?;
    files.unmount()?;
    Ok(vec![(phase, sample)])
}
