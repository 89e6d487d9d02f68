//! One upload: create the record, send the data, prove them; and take back what failed.
//!
//! ```text
//!             journal            request             on failure
//! reserving,
//! creating    durable, before    POST (or PATCH)     our record is deleted
//! uploading   relaxed            PUT                 our record is deleted; did it arrive after all?
//! verifying   durable, after     GET until active    our record is deleted
//! ```
//! A record that was reserved before is never deleted. A broken transfer is tried again from the
//! start, on a fresh id when the record was ours: Glance never takes a deleted image's id again.
//! How long all of it may take is said in `allowance.rs`.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::allowance::Allowance;
use super::body::{Body, Digests, digests_of, multihash_of};
use super::carry::{Formats, attributes_of, formats};
use super::journal::{Durability, Journal, JournalFile, Record, Step};
use super::spool::Spool;
use super::state::stopped;
use crate::blocking::blocking;
use crate::config::HttpConfig;
use crate::error::{Error, Kind, Result};
use crate::format::{Content, sniff};
use crate::glance::{Change, Image, NewImage, Status};
use crate::units::ImageId;

/// The pauses between tries grow up to that before this one: five seconds, as the client's below.
const LAST_OF_GROWING_PAUSES: u32 = 5;

/// Records that could not be deleted are remembered up to this number, to be deleted later.
const MAX_STRAYS: usize = 16;

/// How long to wait for what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Before the second try; twice that before the third, and so on.
    pub(super) retry: Duration,
    /// How often data may be sent after the first time (`--retries`). The client below sends them again where the
    /// record still takes them, which counts; the tries here are for a record that a failed transfer made useless.
    pub(super) retries: u32,
    /// Between looks at an image that is not active yet.
    pub(super) poll: Duration,
    /// T of the rule in `allowance.rs`.
    pub(super) timeout: Duration,
    /// The same for requests about the record: longer with `--hard`.
    pub(super) patience: Duration,
}

impl Pace {
    /// The usual one.
    pub(super) fn of(http: &HttpConfig) -> Self {
        let HttpConfig { timeout, retries, .. } = *http;
        let (retry, poll) = (Duration::from_secs(1), Duration::from_millis(500));
        Self { retry, retries, poll, timeout, patience: http.patience() }
    }
}

/// A draft on its way to Glance; nobody writes to it meanwhile.
pub(super) struct Upload {
    pub(super) shared: Arc<Shared>,
    pub(super) spool: Arc<Spool>,
    /// Bytes to upload.
    pub(super) size: u64,
    pub(super) replaces: Option<Image>,
    /// Bytes of the present try that were sent.
    pub(super) sent: Arc<AtomicU64>,
    /// Ends the upload while its data are being sent, or before.
    pub(super) cancel: CancellationToken,
    /// What the upload knows of itself; the draft takes it back afterwards.
    pub(super) journal: Journal,
    pub(super) journal_file: Arc<JournalFile>,
    pub(super) allowance: Allowance,
    /// The bytes were not in the spool, and are nowhere any more.
    pub(super) streamed: bool,
    /// How often the data were begun to be sent.
    pub(super) sends: u32,
}

impl Upload {
    /// Makes the draft an active, proven image. On failure nothing of ours stays in Glance, or the
    /// journal names it.
    pub(super) async fn publish(&mut self) -> Result<Image> {
        let syncing = self.sync_beside();
        let published = self.publish_what_is_written().await;
        if published.is_err() {
            // Before anybody can write again: what is durable then is not what he wrote.
            let _ = syncing.await;
        }
        published
    }

    async fn publish_what_is_written(&mut self) -> Result<Image> {
        let spool = self.spool.clone();
        let content = blocking(move || sniff(|range| spool.read(range))).await?;
        self.sweep().await;
        let mut tries = 0;
        loop {
            tries += 1;
            let error = match self.attempt(&content, tries > 1).await {
                Ok(image) => return Ok(image),
                Err(error) => error,
            };
            let broken = matches!(self.journal.step, Step::Uploading | Step::Verifying)
                && matches!(error.kind(), Kind::Unreachable | Kind::ServerError);
            self.withdraw().await;
            if !broken || self.sends.max(tries) > self.shared.pace.retries {
                return Err(error);
            }
            tracing::warn!(name = ?self.journal.name, %error, tries, "an upload failed and is tried again");
            match self
                .unless_cancelled(self.pause(self.shared.pace.retry * tries.min(LAST_OF_GROWING_PAUSES)))
                .await
            {
                Ok(()) => {}
                // No time is left for another try: what ended this one is the reason.
                Err(late) if late.kind() == Kind::TimedOut => return Err(error),
                Err(given_up) => return Err(given_up),
            }
        }
    }

    /// Makes the bytes durable while they are sent, which costs the upload nothing: the cache wants it anyway, of
    /// what succeeds, and what fails is kept.
    fn sync_beside(&self) -> tokio::task::JoinHandle<()> {
        let (folder, file) = (self.shared.folder.clone(), self.journal_file.clone());
        tokio::task::spawn_blocking(move || {
            // A descriptor of its own: the lock goes with the upload.
            let synced = match Spool::open(folder, file.id()) {
                Ok(spool) => file.sync_and_note(&spool),
                // It is an image already.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
                Err(error) => Err(Error::io("opening a spool file", error)),
            };
            if let Err(error) = synced {
                tracing::warn!(%error, "the bytes of an upload could not be made durable");
            }
        })
    }

    /// Creates a record without data; one that exists already is only shown.
    pub(super) async fn reserve(&mut self) -> Result<Image> {
        if self.journal.record == Record::Reserved {
            return self.show().await;
        }
        self.note_creation(Step::Reserving).await?;
        let asked = &self.journal.metadata;
        let asked_for = |key: &str| asked.record.contains_key(key);
        let formats = (asked_for("disk_format") && asked_for("container_format"))
            .then(|| asked.decide(Formats { disk: String::new(), container: String::new() }));
        let attributes = asked.attributes(Vec::new());
        let created = self.create(formats, attributes).await;
        if created.is_err() {
            self.withdraw().await;
        }
        created
    }

    async fn attempt(&mut self, content: &Content, again: bool) -> Result<Image> {
        self.note_creation(Step::Creating).await?;
        if self.journal.record == Record::Reserved {
            let image = self.show().await?;
            if again && image.status == Status::Active {
                // The try before arrived after all, later than we waited for it.
                return self.confirm(None, self.shared.pace.timeout).await;
            }
            self.prepare_reserved(content, &image).await?;
        } else {
            self.create_for(content).await?;
        }
        self.note(Step::Uploading, Durability::Relaxed).await?;
        let body = Body::new(self.spool.clone(), self.size, self.sent.clone());
        let open = || body.open();
        let placement = self.journal.metadata.placement();
        let sending = self.shared.records.upload_to(&self.journal.image, self.size, &placement, &open);
        let outcome = self.unless_cancelled(sending).await;
        self.sends += body.begun();
        let digests = body.finish(self.shared.pace.timeout).await;
        match outcome {
            Ok(()) => {
                if let Err(error) = self.note(Step::Verifying, Durability::Durable).await {
                    // The data are there: a failing disk of ours is no reason to take them back.
                    tracing::warn!(%error, "the journal of an upload could not be written");
                }
                self.confirm(digests, self.shared.pace.timeout).await
            }
            Err(error) if may_have_happened(error.kind()) => {
                // The answer may be all that was lost: then the image is there, whole. A server that said something is
                // done with it, and the client has waited for a record that stays under way.
                let said = error.kind() == Kind::ServerError;
                let patience = if said { Duration::ZERO } else { self.shared.pace.timeout };
                self.confirm(digests, patience).await.map_err(|_| error)
            }
            Err(error) => Err(self.explained(error)),
        }
    }

    /// Creates the record for data of this content.
    pub(super) async fn create_for(&mut self, content: &Content) -> Result<()> {
        let formats = formats(content, self.replaces.as_ref(), &self.journal.metadata);
        object(content, &formats)?;
        let project = self.shared.records.project_id();
        let carried = self.replaces.as_ref().map(|old| attributes_of(old, project)).transpose()?;
        let attributes = self.journal.metadata.attributes(carried.unwrap_or_default());
        self.create(Some(formats), attributes).await.map(|_| ())
    }

    async fn create(
        &mut self,
        formats: Option<Formats>,
        properties: Vec<(String, serde_json::Value)>,
    ) -> Result<Image> {
        self.journal.record = Record::Created;
        let (disk_format, container_format) = formats.map(|f| (f.disk, f.container)).unzip();
        let image = NewImage {
            id: self.journal.image.clone(),
            name: self.journal.name.clone(),
            disk_format,
            container_format,
            properties,
        };
        let created = self.allowance.wait_for(self.shared.records.create(&image)).await;
        if let Err(error) = &created
            && (error.is_unasked() || !may_have_happened(error.kind()))
        {
            // Refused, or never sent: no record came to be, and one of that id would not be ours.
            self.journal.record = Record::None;
        }
        created.map_err(|error| error.context("creating the image"))
    }

    /// Checks that the reserved record can take data, and sets its formats.
    pub(super) async fn prepare_reserved(&self, content: &Content, image: &Image) -> Result<()> {
        let id = &image.id;
        if image.status != Status::Queued {
            let message = format!("image {id} is {:?}: only a queued image takes data", image.status);
            return Err(Error::new(Kind::Busy, message));
        }
        if image.record.text().is_some_and(has_hash) {
            return Err(Error::new(Kind::WrongFormat, spoilt(id)));
        }
        let formats = formats(content, Some(image), &self.journal.metadata);
        object(content, &formats)?;
        let mut changes = Vec::new();
        for (key, have, want) in [
            ("disk_format", &image.disk_format, formats.disk),
            ("container_format", &image.container_format, formats.container),
        ] {
            if have.as_deref() != Some(want.as_str()) {
                changes.push(Change::Set { key: key.to_owned(), value: want.into() });
            }
        }
        if !changes.is_empty() {
            self.update(id, &changes).await?;
        }
        Ok(())
    }

    /// Waits until the image is active, at most `patience`, then compares what Glance stored with what we have.
    ///
    /// Glance answers a PUT only when the image is active; to wait is for servers behind a proxy, and
    /// for answers that were lost.
    pub(super) async fn confirm(&self, digests: Option<Digests>, patience: Duration) -> Result<Image> {
        let id = &self.journal.image;
        let deadline = Instant::now() + patience;
        let image = loop {
            let waits_for = match self.show().await {
                Ok(image) => match image.status {
                    Status::Active | Status::Deactivated => break image,
                    Status::Saving | Status::Uploading | Status::Importing => {
                        Error::new(Kind::TimedOut, format!("image {id} stays {:?}", image.status))
                    }
                    status => {
                        let message = format!("the data were sent but image {id} is {status:?}");
                        return Err(Error::new(Kind::ServerError, message));
                    }
                },
                Err(error) if error.kind().is_transient() => error,
                Err(error) => return Err(error),
            };
            if Instant::now() >= deadline || self.pause(self.shared.pace.poll).await.is_err() {
                return Err(waits_for);
            }
        };
        match self.difference(&image, digests).await? {
            None => Ok(image),
            Some(difference) => {
                let mut message = format!("Glance stored other bytes than were sent: {difference}");
                if self.journal.record == Record::Reserved {
                    message.push_str(&format!("; image {id} is damaged: delete it and copy again"));
                }
                Err(Error::new(Kind::Integrity, message))
            }
        }
    }

    /// What Glance says of the stored data that is not so of ours; `None` when all of it is.
    async fn difference(&self, image: &Image, digests: Option<Digests>) -> Result<Option<String>> {
        let size = self.size;
        if image.size != Some(size) {
            return Ok(Some(format!("{:?} bytes stored, {size} sent", image.size)));
        }
        let spool = self.spool.clone();
        let ours = match digests {
            Some(digests) => Some(digests),
            None => blocking(move || digests_of(&spool, size)).await?,
        };
        let Some(ours) = ours else { return Err(Error::new(Kind::Interrupted, "hashing was stopped")) };
        let differs =
            |what: &str, theirs: &str, ours: &str| Some(format!("{what} {theirs} stored, {ours} sent"));
        if let Some(theirs) = image.checksum.as_deref()
            && !theirs.eq_ignore_ascii_case(&ours.md5)
        {
            return Ok(differs("MD5", theirs, &ours.md5));
        }
        let Some(theirs) = &image.hash else {
            if image.checksum.is_none() {
                tracing::warn!(image = %image.id, "Glance gives no hash: only the size could be compared");
            }
            return Ok(None);
        };
        let (algorithm, value) = (theirs.algorithm.clone(), &theirs.value);
        let expected = if algorithm.as_ref() == "sha512" {
            Some(ours.sha512)
        } else if self.streamed {
            tracing::warn!(image = %image.id, %algorithm, "only MD5 and size of a streamed image could be compared");
            None
        } else {
            // A site's own choice, known only now: read the spool once more.
            let spool = self.spool.clone();
            blocking(move || multihash_of(&spool, size, &algorithm)).await?
        };
        Ok(expected
            .filter(|ours| !value.eq_ignore_ascii_case(ours))
            .and_then(|ours| differs(&theirs.algorithm, value, &ours)))
    }

    /// Deletes the record of a failed try, if it is ours; the next one gets a fresh id.
    pub(super) async fn withdraw(&mut self) {
        if self.journal.record == Record::Created {
            let id = std::mem::replace(&mut self.journal.image, ImageId::generate());
            self.journal.record = Record::None;
            self.take_back(id).await;
        }
    }

    /// Deletes a record of ours; if that fails it stays noted.
    async fn take_back(&mut self, id: ImageId) {
        match self.delete(&id).await {
            Ok(()) => {}
            Err(error) if error.kind() == Kind::NotFound => {}
            Err(error) => {
                tracing::warn!(image = %id, %error, "the record of a failed upload could not be deleted");
                if self.journal.strays.len() < MAX_STRAYS {
                    self.journal.strays.push(id);
                }
            }
        }
    }

    /// Deletes what could not be deleted when its try failed.
    pub(super) async fn sweep(&mut self) {
        for id in std::mem::take(&mut self.journal.strays) {
            self.take_back(id).await;
        }
    }

    /// What is to do once the image is active: records of failed tries go, and so does the image
    /// that this one replaces. What fails here does not undo the upload; it is told in words.
    pub(super) async fn tidy_up(&mut self, image: &Image) -> Option<String> {
        let mut failures = Vec::new();
        self.sweep().await;
        for stray in &self.journal.strays {
            failures.push(format!("image {stray}, left by a failed try, could not be deleted yet"));
        }
        let was_protected = self.replaces.as_ref().is_some_and(|old| old.protected);
        if self.journal.metadata.protected().unwrap_or(was_protected) {
            // Only now, so that a failed upload could be deleted.
            let protect = [Change::Set { key: "protected".to_owned(), value: true.into() }];
            if let Err(error) = self.update(&image.id, &protect).await {
                failures.push(format!("image {} could not be protected: {error}", image.id));
            }
        }
        if let Some(old) = &self.replaces
            && let Err(error) = self.delete(&old.id).await
            && error.kind() != Kind::NotFound
        {
            let message = format!("image {}, which {} replaces, could not be deleted", old.id, image.id);
            failures.push(format!("{message}: {error}"));
        }
        (!failures.is_empty()).then(|| failures.join("; "))
    }

    pub(super) async fn show(&self) -> Result<Image> {
        self.allowance.wait_for(self.shared.records.show(&self.journal.image)).await
    }

    async fn update(&self, id: &ImageId, changes: &[Change]) -> Result<Image> {
        self.allowance.wait_for(self.shared.records.update(id, changes)).await
    }

    async fn delete(&self, id: &ImageId) -> Result<()> {
        self.allowance.wait_for(self.shared.records.delete(id)).await
    }

    async fn pause(&self, length: Duration) -> Result<()> {
        let sleeping = async {
            sleep(length).await;
            Ok(())
        };
        self.allowance.wait_for(sleeping).await
    }

    /// Writes the journal at a new step.
    pub(super) async fn note(&mut self, step: Step, durability: Durability) -> Result<()> {
        self.journal.step = step;
        self.journal.size = self.size;
        self.journal.set_failure(None);
        let (file, journal) = (self.journal_file.clone(), self.journal.clone());
        blocking(move || file.store(durability, || Some(journal))).await
    }

    /// Writes the journal before the record is asked for: a crash from here on may leave it.
    pub(super) async fn note_creation(&mut self, step: Step) -> Result<()> {
        let before = self.journal.record;
        if before == Record::None {
            self.journal.record = Record::Created;
        }
        let noted = self.note(step, Durability::Durable).await;
        // What fails before the request has nothing to take back.
        self.journal.record = before;
        noted
    }

    pub(super) async fn unless_cancelled<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(match self.shared.stop.is_cancelled() {
                true => stopped(),
                false => Error::new(Kind::Interrupted, "the upload was given up"),
            }),
            outcome = work => outcome,
        }
    }

    /// A refusal of the data, with what to do about it.
    pub(super) fn explained(&self, error: Error) -> Error {
        if error.kind() != Kind::WrongFormat {
            return error;
        }
        let cure = match self.journal.record {
            Record::Reserved => spoilt(&self.journal.image),
            _ => "look at the file with qemu-img info, convert it and copy again".to_owned(),
        };
        error.context(format!("Glance refuses the content ({cure})"))
    }
}

/// Refuses content that no cloud could use, before hours of sending it.
fn object(content: &Content, formats: &Formats) -> Result<()> {
    match content.objection {
        Some(objection) if formats.container == "bare" => Err(Error::new(Kind::WrongFormat, objection)),
        _ => Ok(()),
    }
}

/// A queued record that has a hash is spoilt: Glance 33 keeps the hashes and the place of data that
/// it refused with 415, and answers every further PUT with 500. The record itself is asked, since
/// [`Image`] gives no hash of an image that is not active.
fn has_hash(record: &str) -> bool {
    #[derive(serde::Deserialize)]
    struct Hashes {
        checksum: Option<String>,
        os_hash_value: Option<String>,
    }
    serde_json::from_str(record)
        .is_ok_and(|hashes: Hashes| hashes.checksum.is_some() || hashes.os_hash_value.is_some())
}

fn spoilt(id: &ImageId) -> String {
    format!("image {id} is spoilt by data that were refused and takes no more: delete it and copy again")
}

/// The request may have had its effect although it failed: no answer came, or none that says.
///
/// `Busy` is among them since a repeated PUT meets the image that the first one made active.
pub(super) fn may_have_happened(kind: Kind) -> bool {
    kind.is_transient() || matches!(kind, Kind::Busy | Kind::Integrity | Kind::Io)
}
