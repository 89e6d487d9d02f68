//! How the list is fetched again: what was changed since last time by one request, all of it by a walk.
//!
//! Glance tells what was changed since a time, and nothing tells what was deleted, or shared with us:
//! no record changes then, or it is not listed any more. So most refreshes ask for changes only, and
//! every tenth walks the whole list.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tracing::{debug, warn};

use super::Snapshot;
use super::records::Writer;
use super::snapshot::{Edit, Listed};
use crate::allocator;
use crate::blocking::blocking;
use crate::error::{Error, Kind, Result};
use crate::glance::{Image, ImageService, NextPage, Schema, Status};
use crate::units::ImageId;

/// Images in a page of a walk: measured on 10,000 images, 500 takes 4.5 s in all, 100 and 1000 take
/// 6.1 s and Glance's default of 25 takes 15-34 s.
const PAGE: u32 = 500;

/// Images in a page of changes. Most have none but the last one changed, which always comes again; and
/// where a thousand were made within one second, as few of them as may be shall come each time.
const CHANGES_PAGE: u32 = 50;

/// Pages of one walk before the server is taken to go in circles: 2 million images.
const MOST_PAGES: usize = 4000;

/// Images of one walk before the server is taken to invent them: they are 2 GB in memory.
const MOST_IMAGES: usize = 2_000_000;

/// How often a walk begins again because its marker was deleted meanwhile; then it fails.
const MOST_RESTARTS: usize = 5;

/// A list of so many is walked each time: that is one request, too, and shows deletions at once.
const FEW: usize = 100;

/// Every so many refreshes, or after so many times the TTL, the whole list is walked.
const WHOLE_EACH: u32 = 10;

/// How far back changes are asked for, before the latest that is known: API servers stamp records by
/// their own clocks, some time before others can see them.
const MARGIN: Duration = Duration::from_secs(10);

/// What is to be done to the list, and whether anybody will see a difference.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) edits: Vec<Edit>,
    pub(super) news: usize,
}

/// What one refresh leaves to the next.
#[derive(Debug)]
pub(super) struct Refresher {
    /// [`MOST_IMAGES`]; less in tests.
    most: usize,
    /// Where records are put; none before the first walk, and when the disk does not take them.
    writer: Option<Writer>,
    /// Where the file of records shall be.
    path: Option<PathBuf>,
    /// The file has records of a walk that failed: a later list may lack what they show.
    spoilt: bool,
    /// The disk did not take records: said once in the log.
    failing: bool,
    /// Refreshes since the last walk, and when that ended: one that takes longer than its turn must not
    /// be followed by the next at once.
    since_whole: u32,
    whole_at: Option<Instant>,
    /// The latest change that was seen.
    latest: Option<SystemTime>,
}

impl Refresher {
    pub(super) fn new(path: Option<PathBuf>) -> Self {
        Self {
            most: MOST_IMAGES,
            writer: None,
            path,
            spoilt: false,
            failing: false,
            since_whole: 0,
            whole_at: None,
            latest: None,
        }
    }

    /// Changes are not enough this time: the list is small, or the last walk was long ago.
    pub(super) fn wants_whole(&self, list: &Snapshot, ttl: Duration) -> bool {
        let recent = self.whole_at.is_some_and(|at| at.elapsed() < ttl * WHOLE_EACH);
        list.len() <= FEW || self.since_whole + 1 >= WHOLE_EACH || !recent
    }

    /// Changes can be asked for, and would cost less than the whole.
    pub(super) fn can_ask_for_changes(&self, list: &Snapshot) -> bool {
        list.len() > FEW && self.latest.is_some()
    }

    /// What was changed or made since the last refresh: one request when that is nothing.
    pub(super) async fn changes(&mut self, service: &dyn ImageService, list: &Snapshot) -> Result<Found> {
        let end = self.end();
        let found = self.ask_for_changes(service, list).await;
        match &found {
            Ok(_) => self.since_whole += 1,
            Err(_) => self.spoilt |= self.end() != end,
        }
        found
    }

    async fn ask_for_changes(&mut self, service: &dyn ImageService, list: &Snapshot) -> Result<Found> {
        // A time in the future, which a server once had, must not hide what comes until then.
        let latest = self.latest.unwrap_or(SystemTime::UNIX_EPOCH).min(SystemTime::now());
        let since = latest.checked_sub(MARGIN).unwrap_or(SystemTime::UNIX_EPOCH);
        let mut found = Found::default();
        let mut page = service.changed_since(since, CHANGES_PAGE).await?;
        for _ in 0..MOST_PAGES {
            let before = found.edits.len();
            // v1 of the Image API tells of these, too; no list shows them.
            let (gone, images): (Vec<_>, Vec<_>) =
                page.images.into_iter().partition(|image| is_gone(&image.status));
            let gone = gone.iter().inspect(|image| self.latest = self.latest.max(Some(image.updated_at)));
            let gone: Vec<_> = gone.filter_map(|image| list.listed(&image.id)).collect();
            self.take(list, images, &mut found, None).await?;
            self.drop_all(gone, &mut found).await?;
            if found.edits.len() > self.most {
                break;
            }
            // The latest come first: behind a page that refreshes have brought before there is nothing new. What
            // this mount learned by itself is known, too, and says nothing of what others did before it.
            match page.next.filter(|_| found.edits.len() > before).or(page.next_view) {
                None => return Ok(found),
                Some(next) => page = service.list(CHANGES_PAGE, Some(&next)).await?,
            }
        }
        Err(endless())
    }

    /// What a walk over every image finds; begun again when the marker of a page vanished.
    pub(super) async fn whole(
        &mut self,
        service: &dyn ImageService,
        list: &Snapshot,
        schema: &Schema,
    ) -> Result<Found> {
        for _ in 0..=MOST_RESTARTS {
            if self.spoilt || self.writer.as_ref().is_none_or(Writer::is_worn) {
                self.begin_file(schema).await;
            }
            let end = self.end();
            let walked = self.walk_once(service, list).await;
            if let Ok(Some(found)) = walked {
                (self.since_whole, self.whole_at) = (0, Some(Instant::now()));
                return Ok(found);
            }
            self.spoilt |= self.end() != end;
            walked?;
            debug!("the image that marked a page was deleted: listing again");
        }
        Err(Error::new(Kind::ServerError, "the list of images changed faster than it could be read"))
    }

    fn end(&self) -> Option<u64> {
        self.writer.as_ref().map(Writer::end)
    }

    async fn walk_once(&mut self, service: &dyn ImageService, list: &Snapshot) -> Result<Option<Found>> {
        let (mut found, mut seen) = (Found::default(), HashSet::new());
        let mut next: Option<NextPage> = None;
        for _ in 0..MOST_PAGES {
            let page = match service.list(PAGE, next.as_ref()).await {
                Err(error) if error.kind() == Kind::NotFound && next.is_some() => return Ok(None),
                page => page?,
            };
            self.take(list, page.images, &mut found, Some(&mut seen)).await?;
            if seen.len() > self.most {
                break;
            }
            match page.next.or(page.next_view) {
                None => {
                    self.take_away(list, &seen, &mut found).await?;
                    return Ok(Some(found));
                }
                same if same == next => break,
                further => next = further,
            }
        }
        Err(endless())
    }

    /// Notes what is new on a page, and puts the records away.
    async fn take(
        &mut self,
        list: &Snapshot,
        images: Vec<Image>,
        found: &mut Found,
        mut seen: Option<&mut HashSet<ImageId>>,
    ) -> Result<()> {
        let mut taken = Vec::new();
        for image in images {
            self.latest = self.latest.max(Some(image.updated_at));
            let known = list.listed(&image.id);
            if let Some(seen) = seen.as_deref_mut() {
                // The id as the list has it: that of an image which is dropped again would stay in memory.
                seen.insert(known.map_or(&image.id, |(id, _)| id).clone());
            }
            match known {
                Some((_, listed)) if *listed.image == image => {
                    if self.writer.as_ref().is_none_or(|writer| writer.has(listed)) {
                        continue;
                    }
                }
                Some((_, listed)) => {
                    found.news += 1;
                    if let Some(writer) = &mut self.writer {
                        writer.count_replaced(listed);
                    }
                }
                None => found.news += 1,
            }
            taken.push(image);
        }
        let listed = self.put_away(taken).await?;
        found.edits.extend(listed.into_iter().map(Edit::Put));
        Ok(())
    }

    /// Notes what the walk did not meet.
    async fn take_away(&mut self, list: &Snapshot, seen: &HashSet<ImageId>, found: &mut Found) -> Result<()> {
        let gone: Vec<_> = list.entries().filter(|(id, _)| !seen.contains(*id)).collect();
        self.drop_all(gone, found).await
    }

    async fn drop_all(&mut self, gone: Vec<(&ImageId, &Listed)>, found: &mut Found) -> Result<()> {
        if gone.is_empty() {
            return Ok(());
        }
        found.news += gone.len();
        let ids: Vec<_> = gone.iter().map(|(id, _)| ImageId::clone(id)).collect();
        found.edits.extend(ids.iter().cloned().map(Edit::Remove));
        for (_, listed) in gone {
            if let Some(writer) = &mut self.writer {
                writer.count_replaced(listed);
            }
        }
        self.write(move |writer| ((), writer.remove(&ids))).await
    }

    /// The entries of these images. Where the disk does not take their records, the server is asked for
    /// one when it is wanted: memory has no room for them.
    async fn put_away(&mut self, mut images: Vec<Image>) -> Result<Vec<Listed>> {
        if images.is_empty() {
            return Ok(Vec::new());
        }
        if self.writer.is_some() {
            return self.write(move |writer| writer.append(images)).await;
        }
        images.iter_mut().for_each(|image| drop(image.record.put_away()));
        Ok(images.into_iter().map(|image| Listed { image: Arc::new(image), kept: None }).collect())
    }

    async fn begin_file(&mut self, schema: &Schema) {
        let Some(path) = self.path.clone() else { return };
        let schema = schema.clone();
        // First, so that a part file which is given up is gone before another is begun.
        (self.writer, self.spoilt) = (None, false);
        match blocking(move || Writer::begin(path, &schema)).await {
            Ok(writer) => (self.writer, self.failing) = (Some(writer), false),
            Err(error) => self.failed(&error),
        }
    }

    /// What is to be done behind once the list of a walk is shown: a file that has just become whole goes
    /// to its place, memory goes back.
    pub(super) fn tidy_up(&mut self) {
        let put_in_place = self.writer.as_mut().map(Writer::put_in_place);
        tokio::task::spawn_blocking(move || {
            put_in_place.into_iter().for_each(|put_in_place| put_in_place());
            // A walk has whole pages of records in memory, on any of our threads, and each of these would keep its
            // megabytes until the next walk: on a list of 10,000 images that is as much as the list itself.
            allocator::give_memory_back();
        });
    }

    /// Writes to the file, if there is one; after a failure there is none.
    async fn write<T: Default + Send + 'static>(
        &mut self,
        write: impl FnOnce(&mut Writer) -> (T, Result<()>) + Send + 'static,
    ) -> Result<T> {
        let Some(mut writer) = self.writer.take() else { return Ok(T::default()) };
        let (writer, (done, written)) = blocking(move || {
            let done = write(&mut writer);
            Ok((writer, done))
        })
        .await?;
        match written {
            Ok(()) => self.writer = Some(writer),
            Err(error) => self.failed(&error),
        }
        Ok(done)
    }

    fn failed(&mut self, error: &Error) {
        if !std::mem::replace(&mut self.failing, true) {
            warn!(%error, "cannot save the list of images: metadata are asked of the server one by one");
        }
    }
}

/// In a status that no list shows.
fn is_gone(status: &Status) -> bool {
    matches!(status, Status::Killed | Status::PendingDelete | Status::Deleted)
}

fn endless() -> Error {
    Error::new(Kind::ServerError, "the server's pages of images do not end")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::glance::fake::FakeService;

    #[tokio::test]
    async fn a_server_that_invents_images_without_end_is_told_from_a_large_cloud() {
        let service = FakeService::default();
        (0..7).for_each(|number| drop(service.add(&number.to_string(), b"")));
        service.state().page = 2;
        let (list, schema) = (Snapshot::default(), Schema::default());
        for (most, served) in [(7, true), (6, false)] {
            let mut refresher = Refresher { most, ..Refresher::new(None) };
            let walk = refresher.whole(&service, &list, &schema).await;
            assert_eq!(walk.is_ok(), served, "{most}");
            refresher.latest = Some(SystemTime::UNIX_EPOCH);
            let changes = refresher.changes(&service, &list).await;
            assert_eq!(changes.is_ok(), served, "{most}");
        }
    }
}
