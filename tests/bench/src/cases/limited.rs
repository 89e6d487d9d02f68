//! The daemon in a cgroup of 128 MiB, as in a small container: it must go on, and correctly.

use super::{Case, Phase, Samples, boot, random};
use crate::Result;
use crate::cgroup::Cgroup;
use crate::contender::{Contender, Programs};
use crate::reader::{Mode, scattered, sequential};
use crate::site::{ImageKind, Place, Site};

/// 128 MiB.
const LIMIT: u64 = 128 << 20;

/// All of an image cold, random reads, and the boot of another, in one mount. Pages of its cache files count for the
/// daemon's cgroup as well; those of readers count for the readers'.
pub struct Limited;

impl Case for Limited {
    fn name(&self) -> &'static str {
        "limited"
    }

    fn images(&self, _: Place) -> Vec<ImageKind> {
        vec![ImageKind::Big, ImageKind::Boot]
    }

    fn contenders(&self) -> &'static [Contender] {
        &[Contender::Glancefs, Contender::Other]
    }

    fn applies_to(&self, place: Place) -> bool {
        place.is_direct()
    }

    fn unavailable(&self) -> Option<String> {
        Cgroup::new(LIMIT).err().map(|error| error.to_string())
    }

    fn run(&self, site: &Site, place: Place, contender: Contender) -> Result<Samples> {
        let [big, small] = [site.image(ImageKind::Big)?, site.image(ImageKind::Boot)?];
        let folder = site.folder()?;
        // Before the mount: it can be removed only when its process has gone.
        let cgroup = Cgroup::new(LIMIT)?;
        let programs = Programs { wrapper: cgroup.wrapper(), ..site.programs.clone() };
        site.cool()?;
        let files = contender.mount(&programs, site.port(place)?, folder.path(), &[big, small])?;

        let meter = site.meter(place, files.processes())?;
        let read = sequential(files.path(big)?, big.content)?;
        let mut samples = vec![(Phase::LimitedSequential, meter.end(read.wall, read.bytes, read.reads)?)];
        let meter = site.meter(place, files.processes())?;
        let accesses = random::accesses(3, 4096, big.content);
        let read = scattered(files.path(big)?, big.content, Mode::Direct, &accesses, 32)?;
        samples.push((Phase::LimitedRandom, meter.end(read.wall, read.bytes, read.reads)?));
        let meter = site.meter(place, files.processes())?;
        let read = scattered(files.path(small)?, small.content, Mode::Buffered, &boot::trace()?, 1)?;
        samples.push((Phase::LimitedBoot, meter.end(read.wall, read.bytes, read.reads)?));
        files.unmount()?;
        Ok(samples)
    }
}
