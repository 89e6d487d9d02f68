//! What the cases work on: images on both servers, links to them, and a disk.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::Result;
use crate::contender::{Contender, Files, Programs};
use crate::content::Content;
use crate::link::{self, LinkKind};
use crate::meter::Meter;
use crate::process::Processes;
use crate::server::{Catalogue, Glance, GlanceCatalogue, Image, Nginx, Server, ServerKind};

/// The images that cases ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ImageKind {
    /// 1 GiB.
    Big,
    /// As large as the image whose boot was recorded.
    Boot,
    /// One of four of 256 MiB.
    Part(u64),
}

impl ImageKind {
    /// The four parts.
    pub const PARTS: [Self; 4] = [Self::Part(1), Self::Part(2), Self::Part(3), Self::Part(4)];

    fn content(self, quick: bool) -> Content {
        match self {
            Self::Big => Content { seed: 10, size: if quick { 256 << 20 } else { 1 << 30 } },
            // See boot-trace.csv.
            Self::Boot => Content { seed: 20, size: 497_942_528 },
            Self::Part(number) => {
                Content { seed: 30 + number, size: if quick { 64 << 20 } else { 256 << 20 } }
            }
        }
    }

    fn name(self) -> String {
        match self {
            Self::Big => "big".to_owned(),
            Self::Boot => "boot".to_owned(),
            Self::Part(number) => format!("part-{number}"),
        }
    }
}

/// A server behind a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Which server.
    pub server: ServerKind,
    /// How far away.
    pub link: LinkKind,
}

impl Place {
    /// Whether nothing slows the way.
    pub fn is_direct(self) -> bool {
        self.link == LinkKind::Direct
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.link {
            LinkKind::Direct => write!(f, "{}", self.server),
            link => write!(f, "{}, {link} away", self.server),
        }
    }
}

/// Everything that is set up once.
pub struct Site {
    /// Smaller images and fewer reads.
    pub quick: bool,
    /// The builds of glancefs.
    pub programs: Programs,
    /// The real one.
    pub glance: Glance,
    disk: PathBuf,
    images: BTreeMap<ImageKind, Image>,
    nginx: Nginx,
    ports: BTreeMap<Place, u16>,
    glance_catalogue: GlanceCatalogue,
    catalogue_ports: BTreeMap<Place, u16>,
}

/// Records of a catalogue.
const RECORDS: usize = 10_000;

impl Site {
    /// Starts both servers with these images. `disk` is where caches and plain files are, `memory` where servers keep theirs.
    pub fn set_up(
        disk: &Path,
        memory: &Path,
        programs: Programs,
        quick: bool,
        kinds: &BTreeSet<ImageKind>,
        places: &[Place],
    ) -> Result<Self> {
        let glance = Glance::start(memory)?;
        let mut images = BTreeMap::new();
        fs::create_dir_all(disk.join("plain"))?;
        // There is one in any case: records of the catalogue are modelled on it.
        for kind in kinds.iter().copied().chain([ImageKind::Part(1)]).collect::<BTreeSet<_>>() {
            let name = kind.name();
            let plain = disk.join("plain").join(&name);
            images.insert(kind, glance.make(&name, kind.content(quick), plain)?);
        }
        let all: Vec<Image> = images.values().cloned().collect();
        let nginx = Nginx::start(memory, &glance, &all, RECORDS)?;
        let glance_catalogue = GlanceCatalogue::start(memory, RECORDS)?;
        let mut ports = BTreeMap::new();
        let mut catalogue_ports = BTreeMap::new();
        for place in places {
            let (server, catalogue) = match place.server {
                ServerKind::Nginx => (&nginx.server, nginx.catalogue()),
                ServerKind::Glance => (&glance.server, &glance_catalogue.catalogue),
            };
            ports.insert(*place, link::open(place.link, server.port)?);
            catalogue_ports.insert(*place, link::open(place.link, catalogue.server.port)?);
        }
        let disk = disk.to_owned();
        Ok(Self { quick, programs, glance, disk, images, nginx, ports, glance_catalogue, catalogue_ports })
    }

    /// One of the images that were asked for.
    pub fn image(&self, kind: ImageKind) -> Result<&Image> {
        Ok(self.images.get(&kind).ok_or("an image that no case has asked for")?)
    }

    /// The server of a place.
    pub fn server(&self, place: Place) -> &Server {
        match place.server {
            ServerKind::Nginx => &self.nginx.server,
            ServerKind::Glance => &self.glance.server,
        }
    }

    /// The port by which clients reach the server of a place.
    pub fn port(&self, place: Place) -> Result<u16> {
        Ok(*self.ports.get(&place).ok_or("a place that was not set up")?)
    }

    /// The catalogue of many records at a place, and its port there.
    pub fn catalogue(&self, place: Place) -> Result<(&Catalogue, u16)> {
        let port = *self.catalogue_ports.get(&place).ok_or("a place that was not set up")?;
        let catalogue = match place.server {
            ServerKind::Nginx => self.nginx.catalogue(),
            ServerKind::Glance => &self.glance_catalogue.catalogue,
        };
        Ok((catalogue, port))
    }

    /// A new folder on the disk of the caches, removed when dropped.
    pub fn folder(&self) -> Result<TempDir> {
        Ok(tempfile::Builder::new().prefix("run-").tempdir_in(&self.disk)?)
    }

    /// Mounts a contender with what `folder` has from an earlier mount.
    pub fn mount(
        &self,
        place: Place,
        contender: Contender,
        folder: &Path,
        images: &[&Image],
    ) -> Result<Files> {
        contender.mount(&self.programs, self.port(place)?, folder, images)
    }

    /// A meter for what `daemon` does with the server of a place.
    pub fn meter(&self, place: Place, daemon: Processes) -> Result<Meter<'_>> {
        Meter::start(self.server(place), daemon)
    }

    /// Empties the page cache, where we may; then has the servers' files in it again: the server is not to be cold.
    ///
    /// Returns whether it was emptied.
    pub fn cool(&self) -> Result<bool> {
        rustix::fs::sync();
        // 3: pages, and with them directory entries and inodes.
        let emptied = fs::write("/proc/sys/vm/drop_caches", "3").is_ok();
        let mut buffer = vec![0; 1 << 20];
        for image in self.images.values() {
            let mut file = fs::File::open(&image.served)?;
            while file.read(&mut buffer)? > 0 {}
        }
        Ok(emptied)
    }
}
