//! A new image: `cp` into the mount, beside curl's PUT of the same bytes.

use std::fs;
use std::process::Command;
use std::time::Instant;

use serde_json::Value;

use super::{Case, Phase, Samples};
use crate::Result;
use crate::contender::Contender;
use crate::process::run;
use crate::server::{Image, ServerKind};
use crate::site::{ImageKind, Place, Site};

/// `cp` counts until it has returned, when the image is active. Glance's own hash tells that the bytes have arrived.
pub struct Upload;

const NAME: &str = "uploaded";

impl Case for Upload {
    fn name(&self) -> &'static str {
        "upload"
    }

    fn images(&self, _: Place) -> Vec<ImageKind> {
        vec![ImageKind::Big]
    }

    fn contenders(&self) -> &'static [Contender] {
        use Contender::*;
        &[Glancefs, Other, Curl]
    }

    /// The slow links slow answers only.
    fn applies_to(&self, place: Place) -> bool {
        place.server == ServerKind::Glance && place.is_direct()
    }

    fn run(&self, site: &Site, place: Place, contender: Contender) -> Result<Samples> {
        let image = site.image(ImageKind::Big)?;
        let folder = site.folder()?;
        site.cool()?;
        // The source is in memory for all.
        std::io::copy(&mut fs::File::open(&image.plain)?, &mut std::io::sink())?;
        let sample = if contender == Contender::Curl {
            let meter = site.meter(place, Default::default())?;
            let began = Instant::now();
            let id = site.glance.reserve(NAME)?;
            site.glance.upload(&id, &image.plain)?;
            meter.end(began.elapsed(), image.content.size, 1)?
        } else {
            let files = site.mount(place, contender, folder.path(), &[])?;
            let meter = site.meter(place, files.processes())?;
            let began = Instant::now();
            run(Command::new("cp").arg(&image.plain).arg(files.root()?.join(NAME)))?;
            let sample = meter.end(began.elapsed(), image.content.size, 1)?;
            files.unmount()?;
            sample
        };
        check_and_remove(site, image)?;
        Ok(vec![(Phase::Upload, sample)])
    }
}

fn check_and_remove(site: &Site, source: &Image) -> Result<()> {
    let parsed = |path: &str| -> Result<Value> { Ok(serde_json::from_str(&site.glance.get(path)?)?) };
    let list = parsed(&format!("/v2/images?name={NAME}"))?;
    let uploaded = list["images"].as_array().cloned().unwrap_or_default();
    for image in &uploaded {
        site.glance.delete(image["id"].as_str().unwrap_or_default())?;
    }
    let source = parsed(&format!("/v2/images/{}", source.id))?;
    let same =
        |image: &Value| image["status"] == "active" && image["os_hash_value"] == source["os_hash_value"];
    if uploaded.len() == 1 && same(&uploaded[0]) {
        return Ok(());
    }
    Err(format!("{} images were made, or not with these bytes", uploaded.len()).into())
}
