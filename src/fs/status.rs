//! How the mount is: one structure, shown as a text for people and as JSON for programs.
//!
//! `.glancefs/status` and `.glancefs/status.json` are it, made anew at each open.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::Serialize;

use super::handle::Handle;
use super::{ImageFs, lock};
use crate::blocking::blocking;
use crate::cache::{ContentIdentity, Holding, Usage};
use crate::catalog::Snapshot;
use crate::error::{Error, Kind, Result};
use crate::glance::Image;
use crate::metrics::PROCESS;
use crate::units::{ImageId, human_bytes};
use crate::write::Uploading;

/// How the mount is.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    version: &'static str,
    cloud: String,
    project: Option<String>,
    /// When the mount began, as RFC 3339.
    started: String,
    /// When its token ends, likewise; `null` where nobody tells that.
    token_ends: Option<String>,
    /// Images listed.
    images: usize,
    list: &'static str,
    /// `null` for one that was saved, or is known to be old.
    list_age_seconds: Option<u64>,
    open_files: usize,
    /// How the kernel reads complete images.
    complete_images: String,
    being_written: usize,
    /// Those in the spool.
    uploads: Uploading,
    access: &'static str,
    delete: &'static str,
    overwrite: &'static str,
    cache: CacheStatus,
    reads: Reads,
    transfers: Transfers,
    stores: Vec<Store>,
    /// Those with bytes in the cache.
    cached_images: Vec<Cached>,
}

#[derive(Debug, Serialize)]
struct CacheStatus {
    folder: String,
    /// It is not being left alone after a failure.
    usable: bool,
    /// On disk, of all mounts that share the folder.
    bytes: u64,
    limit: u64,
    memory_bytes: u64,
    memory_limit: u64,
}

/// Blocks that were read through us since the mount began, by where they were found. What the kernel has in its
/// page cache or reads past us is not among them.
#[derive(Debug, Serialize)]
struct Reads {
    memory_hits: u64,
    disk_hits: u64,
    misses: u64,
    /// `null` before the first read.
    hit_ratio: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Transfers {
    open: usize,
    limit: usize,
    fetched_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Store {
    name: String,
    source: &'static str,
}

/// An image with bytes in the cache.
#[derive(Debug, Serialize)]
struct Cached {
    id: String,
    /// Its file name; `null` when it is not listed.
    name: Option<String>,
    size: u64,
    cached_bytes: u64,
    verified: &'static str,
    source: &'static str,
    open: bool,
    filling: bool,
    /// All of it stays here for as long as it is open (`--hold open`).
    held: bool,
}

impl Status {
    /// For programs.
    pub(super) fn json(&self) -> Result<Bytes> {
        let failed = |error| Error::new(Kind::Io, "writing the status").with_source(error);
        let mut text = serde_json::to_vec_pretty(self).map_err(failed)?;
        text.push(b'\n');
        Ok(text.into())
    }
}

/// For people: a line for each fact, then a table of the cached images.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "version: {}", self.version)?;
        writeln!(f, "cloud: {}", self.cloud)?;
        writeln!(f, "project: {}", self.project.as_deref().unwrap_or("unknown"))?;
        writeln!(f, "mounted: {}", self.started)?;
        if let Some(end) = &self.token_ends {
            writeln!(f, "token: good until {end}, renewed before")?;
        }
        writeln!(f, "images: {}", self.images)?;
        write!(f, "list: {}", self.list)?;
        match self.list_age_seconds {
            Some(age) => writeln!(f, " ({age} s old)")?,
            None => writeln!(f)?,
        }
        writeln!(f, "open files: {}", self.open_files)?;
        writeln!(f, "complete images: {}", self.complete_images)?;
        writeln!(f, "being written: {}", self.being_written)?;
        writeln!(f, "access: {}", self.access)?;
        writeln!(f, "delete: {}", self.delete)?;
        writeln!(f, "overwrite: {}", self.overwrite)?;
        let CacheStatus { folder, usable, bytes, limit, memory_bytes, memory_limit } = &self.cache;
        let [bytes, limit] = [*bytes, *limit].map(human_bytes);
        writeln!(f, "cache: {bytes} of {limit} on disk in {folder}")?;
        if !usable {
            writeln!(f, "cache disk: left alone for a while after a failure, see the log")?;
        }
        let [bytes, limit] = [*memory_bytes, *memory_limit].map(human_bytes);
        writeln!(f, "memory: {bytes} of {limit}")?;
        let Reads { memory_hits, disk_hits, misses, hit_ratio } = &self.reads;
        match hit_ratio {
            Some(ratio) => {
                let (hits, all) = (memory_hits + disk_hits, memory_hits + disk_hits + misses);
                writeln!(f, "hits: {:.1} % ({hits} of {all} blocks)", ratio * 100.0)?;
            }
            None => writeln!(f, "hits: nothing was read through the daemon yet")?,
        }
        let Transfers { open, limit, fetched_bytes } = &self.transfers;
        writeln!(f, "transfers: {open} open of at most {limit}, {} fetched", human_bytes(*fetched_bytes))?;
        for Store { name, source } in &self.stores {
            // The server's word: it shall stay one line.
            writeln!(f, "store {}: {source}", name.escape_debug())?;
        }
        writeln!(f, "uploads: {} in {}", self.uploads.uploads.len(), self.uploads.folder)?;
        writeln!(f, "cached images: {}", self.cached_images.len())?;
        if !self.uploads.uploads.is_empty() {
            write!(f, "\n{}", self.uploads)?;
        }
        if self.cached_images.is_empty() {
            return Ok(());
        }
        writeln!(
            f,
            "\n{:>10}  {:>10}  {:>4}  {:<9}  {:<8}  {:<7}  NAME",
            "CACHED", "SIZE", "%", "VERIFIED", "SOURCE", "IN USE"
        )?;
        for image in &self.cached_images {
            let [cached, size] = [image.cached_bytes, image.size].map(human_bytes);
            // Rounded down: 100 is all of it.
            let percent = u128::from(image.cached_bytes) * 100 / u128::from(image.size.max(1));
            let used = match image {
                Cached { filling: true, .. } => "filling",
                Cached { held: true, .. } => "held",
                Cached { open: true, .. } => "open",
                _ => "",
            };
            let name = image.name.as_deref().unwrap_or(&image.id);
            let (verified, source) = (image.verified, image.source);
            writeln!(
                f,
                "{cached:>10}  {size:>10}  {percent:>4}  {verified:<9}  {source:<8}  {used:<7}  {name}"
            )?;
        }
        Ok(())
    }
}

impl ImageFs {
    /// How the mount is now. Looks at the cache folder.
    ///
    /// # Errors
    /// `Io` of the cache disk.
    pub(super) async fn status(&self) -> Result<Status> {
        let list = self.layers.catalog.snapshot();
        let mut unlisted = self.handles.images();
        unlisted.extend(lock(&self.unlisted).iter().map(|(id, (image, _))| (id.clone(), Arc::clone(image))));
        let (service, cache, listed) =
            (Arc::clone(&self.layers.service), self.layers.cache.clone(), Arc::clone(&list));
        let (usage, held) = blocking(move || {
            let unlisted = unlisted.values().filter(|image| listed.get(&image.id).is_none());
            let images = listed.iter().chain(unlisted).map(|image| {
                let identity = ContentIdentity::of(image, service.cloud_key(), service.project_id());
                (Arc::clone(image), identity)
            });
            Ok((cache.usage()?, cache.holdings(images)?))
        })
        .await?;
        Ok(self.status_with(&list, usage, held, self.uploads().await?))
    }

    fn status_with(
        &self,
        list: &Snapshot,
        usage: Usage,
        held: Vec<(Arc<Image>, Holding)>,
        uploads: Uploading,
    ) -> Status {
        let catalog = &self.layers.catalog;
        let word = |allowed| if allowed { "allowed" } else { "refused" };
        let cache = &self.layers.cache;
        let (memory_bytes, memory_limit) = cache.memory();
        let counters = cache.counters();
        let [memory_hits, disk_hits, misses] =
            [&counters.memory_hits, &counters.disk_hits, &counters.misses].map(|counter| counter.get());
        let all = memory_hits + disk_hits + misses;
        let (open, limit) = self.layers.sources.transfers();
        let stores = self.layers.sources.stores().into_iter();
        Status {
            version: env!("CARGO_PKG_VERSION"),
            cloud: self.layers.service.cloud_key().to_owned(),
            project: self.layers.service.project_id().map(str::to_owned),
            started: rfc3339(self.begun),
            token_ends: Some(PROCESS.token_end.get())
                .filter(|end| *end > 0)
                .map(|end| rfc3339(UNIX_EPOCH + Duration::from_secs(end))),
            images: catalog.snapshot().len(),
            list: match (catalog.is_failing(), catalog.is_stale()) {
                (true, _) => "the last good one: the servers do not answer",
                (false, true) => "older than its TTL",
                (false, false) => "fresh",
            },
            list_age_seconds: catalog.age().map(|age| age.as_secs()),
            open_files: self.handles.len(),
            complete_images: lock(&self.way).clone(),
            being_written: lock(&self.drafts).len(),
            uploads,
            access: if self.access.read_only { "read-only" } else { "read and create" },
            delete: word(self.access.allow_delete),
            overwrite: word(self.access.allow_overwrite),
            cache: CacheStatus {
                folder: usage.folder.display().to_string(),
                usable: cache.disk_watch().is_well(),
                bytes: usage.bytes,
                limit: usage.limit,
                memory_bytes,
                memory_limit,
            },
            reads: Reads {
                memory_hits,
                disk_hits,
                misses,
                hit_ratio: (all > 0).then(|| (all - misses) as f64 / all as f64),
            },
            transfers: Transfers { open, limit, fetched_bytes: counters.fetched_bytes.get() },
            stores: stores.map(|(name, kind)| Store { name: name.into(), source: kind.word() }).collect(),
            cached_images: self.cached_images(list, held),
        }
    }

    /// The cached images, by file name.
    fn cached_images(&self, list: &Snapshot, held: Vec<(Arc<Image>, Holding)>) -> Vec<Cached> {
        let ids: std::collections::HashSet<&ImageId> = held.iter().map(|(image, _)| &image.id).collect();
        let named = list.names().iter().filter(|(_, id)| ids.contains(*id));
        let names: HashMap<&ImageId, &Arc<str>> = named.map(|(name, id)| (id, name)).collect();
        let show = |(image, holding): &(Arc<Image>, Holding)| {
            let open = self.handles.on_image(&image.id);
            let source = match open.as_deref() {
                Some(Handle::Image { reader, .. }) => reader.image().source_kind(),
                _ => self.layers.sources.kind_of(image),
            };
            Cached {
                id: image.id.to_string(),
                name: names.get(&image.id).map(|name| name.to_string()),
                size: image.size.unwrap_or(0),
                cached_bytes: holding.bytes,
                verified: holding.verified.word(),
                source: source.word(),
                open: open.is_some(),
                filling: self.fills.is_running(&image.id),
                held: self.fills.is_held(&image.id),
            }
        };
        let mut shown: Vec<Cached> = held.iter().map(show).collect();
        shown.sort_by(|one, other| (&one.name, &one.id).cmp(&(&other.name, &other.id)));
        shown
    }
}

/// To the second, which is enough for people.
fn rfc3339(time: SystemTime) -> String {
    let known = jiff::Timestamp::try_from(time);
    known.map_or_else(|_| "unknown".to_owned(), |time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}
