//! How long the first read of an image takes that nobody has read before.

use std::time::Duration;

use super::{Case, Phase, Samples, bare};
use crate::Result;
use crate::contender::Contender;
use crate::content::PAGE;
use crate::reader::{Access, Mode, scattered};
use crate::site::{ImageKind, Place, Site};

/// Opens four images one after another and reads the first 4 KiB of each; the mount is ready by then.
pub struct FirstByte;

impl Case for FirstByte {
    fn name(&self) -> &'static str {
        "first-byte"
    }

    fn images(&self, _: Place) -> Vec<ImageKind> {
        ImageKind::PARTS.to_vec()
    }

    fn contenders(&self) -> &'static [Contender] {
        use Contender::*;
        &[Glancefs, Other, Bare, Rclone, Nbdkit]
    }

    fn run(&self, site: &Site, place: Place, contender: Contender) -> Result<Samples> {
        let images = ImageKind::PARTS.iter().map(|kind| site.image(*kind)).collect::<Result<Vec<_>>>()?;
        let folder = site.folder()?;
        site.cool()?;
        let files = match contender {
            Contender::Bare => None,
            _ => Some(site.mount(place, contender, folder.path(), &images)?),
        };
        let processes = files.as_ref().map(|files| files.processes()).unwrap_or_default();
        let meter = site.meter(place, processes)?;
        let first = [Access { offset: 0, length: PAGE }];
        let mut time = Duration::ZERO;
        for image in &images {
            time += match &files {
                None => bare(site.port(place)?, image, &first)?,
                Some(files) => scattered(files.path(image)?, image.content, Mode::Buffered, &first, 1)?,
            }
            .wall;
        }
        let reads = images.len() as u64;
        let sample = meter.end(time, reads * PAGE as u64, reads)?;
        if let Some(files) = files {
            files.unmount()?;
        }
        Ok(vec![(Phase::FirstByte, sample)])
    }
}
