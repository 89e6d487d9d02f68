//! The journal of a draft: what it is, how far its upload came, and why it stopped.
//!
//! A small JSON object in `<draft id>.json`, replaced as a whole (written beside, then renamed), so
//! that it is always one complete state. Version 1:
//!
//! ```json
//! {
//!   "version": 1,
//!   "name": "debian-12.qcow2",
//!   "image": "1f3c9a2b-0000-4000-8000-000000000001",
//!   "record": "created",
//!   "replaces": null,
//!   "cloud": "https://glance.example.org",
//!   "project": "5d1f",
//!   "started": 1760000000,
//!   "size": 475004928,
//!   "step": "uploading",
//!   "failure": null,
//!   "strays": []
//! }
//! ```
//!
//! and `"metadata"` where some was asked for, `"streamed"` (`size`, `md5`, `sha512`) once a stream was closed, and
//! `"unsynced"`, a boot of the machine, as long as a power cut may take bytes of the data file.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::Metadata;
use super::body::Digests;
use super::folder::{DraftId, Folder, JOURNAL_TMP};
use super::spool::Spool;
use crate::error::{Error, Kind, Result};
use crate::units::ImageId;

/// The version this code writes, and the only one it reads.
const VERSION: u32 = 1;

/// A journal is a name, a reason, some ids and up to 256 KiB of metadata, six times that where JSON escapes
/// each byte: a bound for what is read from a folder that others could have damaged.
const MAX_BYTES: u64 = 2 << 20;

/// A failure's text is cut to this many characters.
const MAX_FAILURE: usize = 2000;

/// What is said of bytes that a power cut may have taken.
pub(super) const DAMAGED: &str =
    "the machine went down before its bytes were on the disk: they may be damaged";

/// How far an upload came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Step {
    /// Being written locally; Glance was not asked for anything.
    Spooling,
    /// A record without data is being created.
    Reserving,
    /// The record is being created, or the reserved one prepared.
    Creating,
    /// The data are being sent.
    Uploading,
    /// Glance took the data; its hashes are being compared with ours.
    Verifying,
    /// The image is active and proven; only cleaning up is left.
    Done,
}

impl Step {
    /// The step as a person reads it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Step::Spooling => "spooling",
            Step::Reserving => "reserving",
            Step::Creating => "creating",
            Step::Uploading => "uploading",
            Step::Verifying => "verifying",
            Step::Done => "done",
        }
    }
}

/// What there is in Glance under the image's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Record {
    /// Nothing of ours.
    None,
    /// A record that this upload created, or was about to create.
    Created,
    /// A record that was there before.
    Reserved,
}

/// The state of one draft, as kept on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Journal {
    version: u32,
    /// The image's name.
    pub(super) name: String,
    /// The image's id.
    #[serde(with = "id_text")]
    pub(super) image: ImageId,
    pub(super) record: Record,
    /// The image that is removed once this one is active.
    #[serde(with = "optional_id_text")]
    pub(super) replaces: Option<ImageId>,
    /// Which cloud it is for, as `Glance::cloud_key` names it: several mounts share the folder.
    pub(super) cloud: String,
    /// Which project it is for.
    pub(super) project: Option<String>,
    /// When the draft was made, in seconds since the epoch.
    pub(super) started: i64,
    /// Bytes, when this was written; while spooling the data file knows better.
    pub(super) size: u64,
    pub(super) step: Step,
    /// Why it stopped at `step`; `null` while it goes on, and after a crash.
    pub(super) failure: Option<String>,
    /// Records of earlier tries that could not be deleted.
    #[serde(with = "id_list_text")]
    pub(super) strays: Vec<ImageId>,
    /// What the image shall have besides.
    #[serde(default, skip_serializing_if = "Metadata::is_empty")]
    pub(super) metadata: Metadata,
    /// The boot of the machine in which bytes were written that may not be on the disk yet; `None`: they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) unsynced: Option<String>,
    /// What was streamed, noted before the body ends: without it no server can have all of it. The bytes are nowhere here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) streamed: Option<Streamed>,
}

/// Names this boot of the machine: what one process wrote in it another can read, on the disk or not.
pub(super) fn this_boot() -> &'static str {
    static BOOT: LazyLock<String> = LazyLock::new(|| {
        let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        id.trim().to_owned()
    });
    &BOOT
}

/// All that the writer of a stream gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Streamed {
    /// Bytes.
    pub(super) size: u64,
    #[serde(flatten)]
    pub(super) digests: Digests,
}

/// Whether a journal has to be on disk before what follows it happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Durability {
    /// It is: fsync of the file and of the folder.
    Durable,
    /// A power cut may take it back to the state before.
    Relaxed,
}

impl Journal {
    /// The journal of a new draft.
    pub(super) fn new(name: &str, image: &ImageId, record: Record, started: i64) -> Self {
        Self {
            version: VERSION,
            name: name.to_owned(),
            image: image.clone(),
            record,
            replaces: None,
            cloud: String::new(),
            project: None,
            started,
            size: 0,
            step: Step::Spooling,
            failure: None,
            strays: Vec::new(),
            metadata: Metadata::default(),
            unsynced: None,
            streamed: None,
        }
    }

    /// Notes why it stopped, or (`None`) that it goes on.
    pub(super) fn set_failure(&mut self, reason: Option<&str>) {
        self.failure = reason.map(|reason| reason.chars().take(MAX_FAILURE).collect());
    }

    /// The machine went down before all bytes were on the disk: what is in the data file may be anything.
    pub(super) fn may_be_damaged(&self) -> bool {
        self.unsynced.as_deref().is_some_and(|boot| boot != this_boot())
    }

    /// That of the same records without bytes of theirs here, because of `why`.
    pub(super) fn of_records_only(&self, why: &str) -> Self {
        let metadata = Metadata::default();
        let mut journal = Self { size: 0, replaces: None, unsynced: None, metadata, ..self.clone() };
        journal.set_failure(Some(why));
        journal
    }

    /// Why it stopped, and what else a person should know of its bytes.
    pub(super) fn reason(&self) -> Option<String> {
        let damaged = self.may_be_damaged().then(|| DAMAGED.to_owned());
        match (self.failure.clone(), damaged) {
            (Some(failure), Some(damaged)) => Some(format!("{failure}; {damaged}")),
            (failure, damaged) => failure.or(damaged),
        }
    }

    /// Something that it names may be in Glance, and only this journal knows.
    pub(super) fn names_records(&self) -> bool {
        let filled = self.record == Record::Reserved && self.streamed.is_some() && self.failure.is_none();
        self.record == Record::Created || filled || !self.strays.is_empty()
    }

    /// What of an upload on which nobody works may be in Glance without data that are proven, for people.
    pub(super) fn remains(&self) -> Vec<String> {
        let Self { image, record, strays, .. } = self;
        let made = (*record == Record::Created)
            .then(|| format!("the record {image} may still be in Glance, without data that are proven"));
        let strays =
            strays.iter().map(|stray| format!("the record {stray} of a failed try is still in Glance"));
        made.into_iter().chain(strays).collect()
    }

    /// Both are of one name in one project of one cloud.
    pub(super) fn is_about(&self, other: &Self) -> bool {
        (&self.name, &self.cloud, &self.project) == (&other.name, &other.cloud, &other.project)
    }

    /// Reads a draft's journal; `None` when it has none.
    ///
    /// # Errors
    /// `Integrity` when it is damaged or of another version, `Io`.
    pub(super) fn load(folder: &Folder, id: DraftId) -> Result<Option<Self>> {
        let path = folder.journal_path(id);
        let reading = |error| Error::io(format!("reading {}", path.display()), error);
        let file = match OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(reading(error)),
        };
        let mut bytes = Vec::new();
        file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(reading)?;
        Self::decode(&bytes).map(Some).map_err(|error| error.context(path.display()))
    }

    pub(super) fn encode(&self) -> Result<Vec<u8>> {
        let failed = |error| Error::new(Kind::Io, "writing a journal").with_source(error);
        let mut bytes = serde_json::to_vec_pretty(self).map_err(failed)?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        let damaged = |why: &str| Error::new(Kind::Integrity, format!("the journal {why}"));
        if bytes.len() as u64 > MAX_BYTES {
            return Err(damaged("is too long"));
        }
        // The version alone first: a later version may have changed everything else.
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let unreadable = |error| damaged("is damaged").with_source(error);
        let Versioned { version } = serde_json::from_slice(bytes).map_err(unreadable)?;
        if version != VERSION {
            return Err(damaged(&format!("has version {version}, this glancefs knows version {VERSION}")));
        }
        let journal: Self = serde_json::from_slice(bytes).map_err(unreadable)?;
        if i64::try_from(journal.size).is_err() {
            return Err(damaged("has an impossible size"));
        }
        Ok(journal)
    }
}

/// Where one draft's journal is written; one writer at a time, so that states follow one another.
#[derive(Debug)]
pub(super) struct JournalFile {
    folder: Arc<Folder>,
    id: DraftId,
    /// Whether data and journal were removed; held by who writes.
    removed: Mutex<bool>,
    /// All bytes of the data file are on the disk: whatever journal is stored says so.
    is_synced: AtomicBool,
    /// The journal that is there is on the disk: only one that is, too, may take its place.
    is_durable: AtomicBool,
}

impl JournalFile {
    /// That of a new draft, which has none yet.
    pub(super) fn new(folder: Arc<Folder>, id: DraftId) -> Self {
        let (is_synced, is_durable) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { folder, id, removed: Mutex::new(false), is_synced, is_durable }
    }

    /// That of a draft which somebody may rely on.
    pub(super) fn existing(folder: Arc<Folder>, id: DraftId) -> Self {
        Self { is_durable: AtomicBool::new(true), ..Self::new(folder, id) }
    }

    /// The draft it is of.
    pub(super) fn id(&self) -> DraftId {
        self.id
    }

    /// Replaces the journal by what `current` gives once nobody else writes it; `None` leaves it. Once it was removed
    /// there is nothing to store any more: who failed and who gave up the file may come at the same time. After a power cut
    /// there is this one or, unless it is durable, the one before it: file systems may keep the name of a new file
    /// without its bytes, and then nobody would know of a record. Blocks on the disk.
    pub(super) fn store(
        &self,
        durability: Durability,
        current: impl FnOnce() -> Option<Journal>,
    ) -> Result<()> {
        let removed = self.removed.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut journal) = current().filter(|_| !*removed) else { return Ok(()) };
        if self.is_synced.load(Ordering::Relaxed) {
            journal.unsynced = None;
        }
        let path = self.folder.journal_path(self.id);
        let fresh = path.with_extension(JOURNAL_TMP);
        let durable = durability == Durability::Durable;
        write_file(&fresh, &journal.encode()?, durable || self.is_durable.load(Ordering::Relaxed))
            .and_then(|()| fs::rename(&fresh, &path))
            .and_then(|()| if durable { self.folder.sync() } else { Ok(()) })
            .map_err(|error| Error::io(format!("writing {}", path.display()), error))?;
        self.is_durable.fetch_or(durable, Ordering::Relaxed);
        Ok(())
    }

    /// Makes the bytes of `spool`, to which nobody writes any more, durable; what is stored from now on says so.
    /// Blocks on the disk.
    pub(super) fn sync(&self, spool: &Spool) -> Result<()> {
        spool.sync()?;
        self.is_synced.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// The same, and says so in the journal that is there; the names of both are durable, too. Blocks on the disk.
    pub(super) fn sync_and_note(&self, spool: &Spool) -> Result<()> {
        self.sync(spool)?;
        self.store(Durability::Durable, || Journal::load(&self.folder, self.id).ok().flatten())
    }

    /// Bytes may be written again.
    pub(super) fn bytes_may_change(&self) {
        self.is_synced.store(false, Ordering::Relaxed);
    }

    /// Removes the draft's data and journal.
    pub(super) fn remove(&self) {
        let mut removed = self.removed.lock().unwrap_or_else(PoisonError::into_inner);
        self.folder.remove(self.id);
        *removed = true;
    }
}

fn write_file(path: &Path, bytes: &[u8], durable: bool) -> std::io::Result<()> {
    let mut file: File = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    if durable { file.sync_all() } else { Ok(()) }
}

/// Image ids as text, checked when they are read.
mod id_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::units::ImageId;

    pub(super) fn serialize<S: Serializer>(id: &ImageId, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(id.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<ImageId, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// The same for an id that may be missing.
mod optional_id_text {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    use crate::units::ImageId;

    pub(super) fn serialize<S: Serializer>(id: &Option<ImageId>, to: S) -> Result<S::Ok, S::Error> {
        id.as_ref().map(ImageId::as_str).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<ImageId>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        text.map(|text| text.parse()).transpose().map_err(D::Error::custom)
    }
}

/// The same for a list of ids.
mod id_list_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::units::ImageId;

    pub(super) fn serialize<S: Serializer>(ids: &[ImageId], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(ids.iter().map(ImageId::as_str))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<ImageId>, D::Error> {
        let texts = Vec::<String>::deserialize(from)?;
        texts.into_iter().map(|text| text.parse()).collect::<Result<_, _>>().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SpoolConfig;

    const GOLDEN: &str = r#"{
  "version": 1,
  "name": "a \"b\"\n",
  "image": "1f3c9a2b-0000-4000-8000-000000000001",
  "record": "created",
  "replaces": "1f3c9a2b-0000-4000-8000-000000000002",
  "cloud": "https://glance.example.org",
  "project": "5d1f",
  "started": 1760000000,
  "size": 475004928,
  "step": "verifying",
  "failure": "no answer",
  "strays": [
    "1f3c9a2b-0000-4000-8000-000000000003"
  ]
}
"#;

    fn golden() -> Journal {
        let id = |last: u32| format!("1f3c9a2b-0000-4000-8000-00000000000{last}").parse().unwrap();
        Journal {
            replaces: Some(id(2)),
            cloud: "https://glance.example.org".into(),
            project: Some("5d1f".into()),
            size: 475_004_928,
            step: Step::Verifying,
            failure: Some("no answer".into()),
            strays: vec![id(3)],
            ..Journal::new("a \"b\"\n", &id(1), Record::Created, 1_760_000_000)
        }
    }

    #[test]
    fn the_bytes_of_version_1_stay_as_they_are() {
        assert_eq!(String::from_utf8(golden().encode().unwrap()).unwrap(), GOLDEN);
        assert_eq!(Journal::decode(GOLDEN.as_bytes()).unwrap(), golden());
    }

    #[test]
    fn what_was_streamed_is_kept_as_it_is() {
        let digests = Digests { md5: "d41d8cd9".into(), sha512: "cf83e135".into() };
        let journal = Journal { streamed: Some(Streamed { size: 7, digests }), ..golden() };
        let end = "  \"streamed\": {\n    \"size\": 7,\n    \"md5\": \"d41d8cd9\",\n    \"sha512\": \"cf83e135\"\n  }\n}\n";
        let text = format!("{},\n{end}", GOLDEN.strip_suffix("\n}\n").unwrap());
        assert_eq!(String::from_utf8(journal.encode().unwrap()).unwrap(), text);
        assert_eq!(Journal::decode(text.as_bytes()).unwrap(), journal);
    }

    #[test]
    fn numbers_of_metadata_come_back_as_they_were() {
        let number = format!("475004{}928", "6".repeat(99));
        let end = format!(",\n  \"metadata\": {{\"record\": {{\"n\": {number}}}}}\n}}\n");
        let text = GOLDEN.replace("\n}\n", &end);
        let journal = Journal::decode(text.as_bytes()).unwrap();
        assert_eq!(Journal::decode(&journal.encode().unwrap()).unwrap(), journal);
    }

    #[test]
    fn a_damaged_journal_is_an_error_and_never_believed() {
        for (from, to) in [
            ("\"version\": 1", "\"version\": 2"),
            ("000000000001", "../../etc/x"),
            ("000000000003", "..%2f"),
            ("475004928", "-1"),
            ("475004928", "18446744073709551615"),
            ("\"verifying\"", "\"flying\""),
            ("}\n", ""),
        ] {
            let bytes = GOLDEN.replace(from, to);
            assert_ne!(bytes, GOLDEN);
            assert_eq!(Journal::decode(bytes.as_bytes()).unwrap_err().kind(), Kind::Integrity, "{to}");
        }
        assert!(Journal::decode(&vec![b' '; (2 << 20) + 1]).is_err());
        assert!(Journal::decode(b"").is_err());
    }

    fn journal_file(dir: &Path) -> JournalFile {
        let folder =
            Folder::open(&SpoolConfig { dir: dir.into(), size: None, keep_failed: std::time::Duration::MAX })
                .unwrap();
        JournalFile::new(Arc::new(folder), DraftId::generate())
    }

    #[test]
    fn a_journal_that_was_removed_does_not_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let file = journal_file(dir.path());
        file.store(Durability::Relaxed, || Some(golden())).unwrap();
        file.remove();
        file.store(Durability::Durable, || Some(golden())).unwrap();
        assert_eq!(Journal::load(&file.folder, file.id).unwrap(), None);
    }

    #[test]
    fn a_journal_is_replaced_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let file = journal_file(dir.path());
        assert_eq!(Journal::load(&file.folder, file.id).unwrap(), None);
        let mut journal = golden();
        file.store(Durability::Durable, || Some(journal.clone())).unwrap();
        journal.step = Step::Done;
        journal.set_failure(None);
        file.store(Durability::Relaxed, || Some(journal.clone())).unwrap();
        file.store(Durability::Relaxed, || None).unwrap();
        assert_eq!(Journal::load(&file.folder, file.id).unwrap(), Some(journal));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file stays");
        file.remove();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn writers_of_one_journal_do_not_mix() {
        let dir = tempfile::tempdir().unwrap();
        let file = journal_file(dir.path());
        std::thread::scope(|scope| {
            for n in 1..5 {
                let file = &file;
                scope.spawn(move || {
                    for _ in 0..50 {
                        let journal = Journal { name: "n".repeat(n * 1000), ..golden() };
                        file.store(Durability::Relaxed, || Some(journal)).unwrap();
                        Journal::load(&file.folder, file.id).unwrap();
                    }
                });
            }
        });
    }

    #[test]
    fn a_failures_text_is_bounded() {
        let mut journal = golden();
        journal.set_failure(Some(&"é".repeat(100_000)));
        assert!(Journal::decode(&journal.encode().unwrap()).is_ok());
    }
}
