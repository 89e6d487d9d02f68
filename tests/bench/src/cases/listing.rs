//! A catalogue of many images: how long until `ls -l` has shown it, from the start of the mount on.

use std::collections::HashSet;
use std::process::Command;
use std::time::Instant;

use super::{Case, Phase, Samples};
use crate::Result;
use crate::contender::Contender;
use crate::http::Connection;
use crate::meter::Meter;
use crate::process::run;
use crate::server::Catalogue;
use crate::site::{ImageKind, Place, Site};

/// Compared with the API's own paging, page after page on one connection, in its largest pages.
pub struct Listing;

impl Case for Listing {
    fn name(&self) -> &'static str {
        "listing"
    }

    fn images(&self, _: Place) -> Vec<ImageKind> {
        Vec::new()
    }

    fn contenders(&self) -> &'static [Contender] {
        use Contender::*;
        &[Glancefs, Other, Bare]
    }

    fn run(&self, site: &Site, place: Place, contender: Contender) -> Result<Samples> {
        let (catalogue, port) = site.catalogue(place)?;
        let began = Instant::now();
        if contender == Contender::Bare {
            let meter = Meter::start(&catalogue.server, Default::default())?;
            page_through(port, catalogue)?;
            return Ok(vec![(Phase::Listing, meter.end(began.elapsed(), 0, 1)?)]);
        }
        let folder = site.folder()?;
        let began = Instant::now();
        let files = contender.mount(&site.programs, port, folder.path(), &[])?;
        let meter = Meter::start(&catalogue.server, files.processes())?;
        let listed = run(Command::new("ls").arg("-l").arg(files.root()?).env("LC_ALL", "C"))?;
        let took = began.elapsed();
        let complete = |line: &&str| {
            let words: Vec<_> = line.split_whitespace().collect();
            let [_, _, _, _, shown, _, _, _, name] = words[..] else { return false };
            let number = name.strip_prefix("image-").and_then(|number| number.parse::<u64>().ok());
            number.is_some_and(|number| shown.parse() == Ok(catalogue.size.unwrap_or(number)))
        };
        let names: HashSet<&str> =
            listed.lines().filter(complete).filter_map(|line| line.split_whitespace().next_back()).collect();
        if names.len() != catalogue.records {
            return Err(format!("ls shows {} of {} images", names.len(), catalogue.records).into());
        }
        let sample = meter.end(took, 0, 1)?;
        files.unmount()?;
        Ok(vec![(Phase::Listing, sample)])
    }
}

fn page_through(port: u16, catalogue: &Catalogue) -> Result<()> {
    let mut connection = Connection::open(port)?;
    let mut records = 0;
    let mut next = Some("/v2/images?limit=1000".to_owned());
    while let Some(path) = next {
        let body = connection.get(&path)?;
        let page: serde_json::Value = serde_json::from_slice(&body)?;
        records += page["images"].as_array().map_or(0, Vec::len);
        next = page["next"].as_str().map(str::to_owned);
    }
    if records == catalogue.records { Ok(()) } else { Err(format!("{records} records were paged").into()) }
}
