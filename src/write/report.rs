//! What there is in a spool: each upload that runs, failed or was left, as people and programs see it.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::folder::{DraftId, Folder};
use super::journal::{Journal, Step};
use super::spool::Spool;
use super::state::{Inner, Phase};
use crate::error::Result;
use crate::units::human_bytes;

/// Uploads shown at most, the oldest first: a folder could hold any number.
const MAX_SHOWN: usize = 1000;

/// The uploads of a spool folder, and whose they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uploading {
    /// The cloud of the mount that tells this, as journals name it; `None`: no mount was asked.
    pub cloud: Option<String>,
    /// Its project.
    pub project: Option<String>,
    /// The spool folder.
    pub folder: String,
    /// The oldest first.
    pub uploads: Vec<Report>,
}

/// Where an upload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    /// A program writes it.
    Writing,
    /// It is on its way to Glance.
    Uploading,
    /// Its upload failed.
    Failed,
    /// Its writer was killed, or its mount ended, before there was an upload.
    Kept,
    /// A crash ended it, and no mount has looked at it yet.
    Interrupted,
    /// Its journal is lost or damaged.
    Unknown,
}

impl Condition {
    /// For people.
    pub fn word(self) -> &'static str {
        match self {
            Self::Writing => "writing",
            Self::Uploading => "uploading",
            Self::Failed => "failed",
            Self::Kept => "kept",
            Self::Interrupted => "interrupted",
            Self::Unknown => "unknown",
        }
    }

    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Writing, Self::Uploading, Self::Failed, Self::Kept, Self::Interrupted, Self::Unknown];

    /// It lies in the spool, and `glancefs uploads retry` and `discard` take it.
    pub fn is_left(self) -> bool {
        !matches!(self, Self::Writing | Self::Uploading)
    }
}

/// One upload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// What `glancefs uploads retry` and `discard` take: the name of its file without `.data`.
    pub id: String,
    /// The name that the image has or shall have; `null` when its journal is lost.
    pub name: Option<String>,
    /// The id that the image has or shall have.
    pub image: Option<String>,
    /// Where it is.
    pub state: Condition,
    /// Bytes in the spool.
    pub bytes: u64,
    /// Bytes of the present try that were sent; `null` when no upload of this mount runs.
    pub sent: Option<u64>,
    /// When it was begun, in seconds since 1970.
    pub started: Option<i64>,
    /// The cloud it is for, as [`Uploading::cloud`].
    pub cloud: Option<String>,
    /// The project it is for.
    pub project: Option<String>,
    /// Why it ended, and what of it may still be in Glance.
    pub reason: Option<String>,
    /// Where its bytes are.
    pub file: String,
}

impl Report {
    fn of(folder: &Folder, id: DraftId, journal: Option<&Journal>, state: Condition, bytes: u64) -> Self {
        let remains = journal.filter(|_| state.is_left()).map(Journal::remains).unwrap_or_default();
        let reasons: Vec<_> = journal.and_then(Journal::reason).into_iter().chain(remains).collect();
        Self {
            id: id.to_string(),
            name: journal.map(|journal| journal.name.clone()),
            image: journal.map(|journal| journal.image.to_string()),
            state,
            bytes,
            sent: None,
            started: journal.map(|journal| journal.started),
            cloud: journal.map(|journal| journal.cloud.clone()),
            project: journal.and_then(|journal| journal.project.clone()),
            reason: (!reasons.is_empty()).then(|| reasons.join("; ")),
            file: folder.data_path(id).display().to_string(),
        }
    }

    /// Bytes sent of all, where both are known.
    fn share(&self) -> Option<String> {
        let percent = u128::from(self.sent?) * 100 / u128::from(self.bytes.max(1));
        Some(format!("{} %", percent.min(100)))
    }
}

/// The uploads in `folder`; `live` are those of this process. Blocks on the disk.
///
/// # Errors
/// `Io` when the folder cannot be read.
pub(super) fn reports(folder: &Arc<Folder>, live: &HashMap<DraftId, Arc<Inner>>) -> Result<Vec<Report>> {
    let report = |id: DraftId| match live.get(&id) {
        Some(draft) => alive(folder, id, draft),
        None => at_rest(folder, id),
    };
    let mut found: Vec<Report> = folder.drafts()?.into_iter().filter_map(report).collect();
    found.sort_by(|one, other| (one.started, &one.id).cmp(&(other.started, &other.id)));
    found.truncate(MAX_SHOWN);
    Ok(found)
}

/// One of this process; `None` once it is an image or nothing any more.
fn alive(folder: &Folder, id: DraftId, draft: &Inner) -> Option<Report> {
    let (spool, state, journal) = {
        let state = draft.lock();
        let condition = match &state.phase {
            Phase::Open if state.journal.failure.is_some() => Condition::Failed,
            Phase::Open => Condition::Writing,
            Phase::Committing(_) => Condition::Uploading,
            Phase::Committed(_) | Phase::Closed => return at_rest_if_given_up(folder, id, &state.phase),
        };
        (state.spool.clone()?, condition, state.journal.clone())
    };
    let bytes = match &draft.stream {
        Some(stream) => stream.position(),
        None => spool.size().unwrap_or(0),
    };
    let mut report = Report::of(folder, id, Some(&journal), state, bytes);
    report.sent = (state == Condition::Uploading).then(|| draft.sent());
    Some(report)
}

/// Of one that was given up only the files are left.
fn at_rest_if_given_up(folder: &Folder, id: DraftId, phase: &Phase) -> Option<Report> {
    if !matches!(phase, Phase::Closed) {
        return None;
    }
    let bytes = std::fs::symlink_metadata(folder.data_path(id)).ok()?.len();
    let journal = Journal::load(folder, id).ok().flatten();
    let recorded = journal.as_ref().is_some_and(Journal::names_records);
    (bytes > 0 || recorded)
        .then(|| Report::of(folder, id, journal.as_ref(), told_by(journal.as_ref()), bytes))
}

/// One of another process, or of none; `None` when there is nothing to tell of it.
fn at_rest(folder: &Arc<Folder>, id: DraftId) -> Option<Report> {
    let spool = match Spool::open(Arc::clone(folder), id) {
        Ok(spool) => spool,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(_) => return Some(Report::of(folder, id, None, Condition::Unknown, 0)),
    };
    let journal = Journal::load(folder, id).ok().flatten();
    let bytes = spool.size().unwrap_or(0);
    let state = if spool.try_lock() {
        let finished = journal.as_ref().is_some_and(|journal| journal.step == Step::Done);
        let recorded = journal.as_ref().is_some_and(Journal::names_records);
        if finished || (bytes == 0 && !recorded) {
            // The next mount removes it.
            return None;
        }
        told_by(journal.as_ref())
    } else {
        match journal.as_ref().map(|journal| journal.step) {
            None | Some(Step::Spooling) => Condition::Writing,
            Some(_) => Condition::Uploading,
        }
    };
    Some(Report::of(folder, id, journal.as_ref(), state, bytes))
}

/// What the journal of a draft says that nobody works on.
fn told_by(journal: Option<&Journal>) -> Condition {
    match journal {
        None => Condition::Unknown,
        Some(Journal { failure: None, .. }) => Condition::Interrupted,
        Some(Journal { step: Step::Spooling, .. }) => Condition::Kept,
        Some(_) => Condition::Failed,
    }
}

/// A table for people, one line each, and below each that ended the reason.
impl fmt::Display for Uploading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<36}  {:<11}  {:>10}  {:>5}  {:<20}  NAME",
            "ID", "STATE", "BYTES", "SENT", "STARTED"
        )?;
        for upload in &self.uploads {
            let started = upload.started.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
            let started =
                started.map(|time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()).unwrap_or_default();
            // A name may hold anything: one line each.
            let name = upload.name.as_deref().unwrap_or("(unknown)").escape_debug().to_string();
            let (id, state, bytes) = (&upload.id, upload.state.word(), human_bytes(upload.bytes));
            let sent = upload.share().unwrap_or_default();
            writeln!(f, "{id:<36}  {state:<11}  {bytes:>10}  {sent:>5}  {started:<20}  {name}")?;
            if let Some(reason) = &upload.reason {
                writeln!(f, "    {}", reason.escape_debug())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::{FakeGlance, Fault, intent};
    use super::*;
    use crate::error::Kind;

    #[tokio::test]
    async fn each_upload_is_told_by_where_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let glance = FakeGlance::default();
        let uploads = glance.uploads(dir.path());
        let writing = uploads.draft(intent("writing")).unwrap();
        writing.write(0, b"abc").unwrap();
        let killed = uploads.draft(intent("killed")).unwrap();
        killed.write(0, b"abcd").unwrap();
        killed.abandon("killed by signal 9");
        glance.will(&[Fault::Refuse(Kind::QuotaExceeded), Fault::Hang]);
        let failed = uploads.draft(intent("failed")).unwrap();
        failed.write(0, b"abcde").unwrap();
        failed.commit().await.unwrap_err();
        let running = uploads.draft(intent("running")).unwrap();
        running.write(0, b"abcdef").unwrap();
        let committing = tokio::spawn({
            let running = Arc::clone(&running);
            async move { running.commit().await }
        });
        while running.upload_progress() == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        let empty = uploads.draft(intent("empty")).unwrap();
        let shown = |uploads: &super::super::Uploads| {
            let told = uploads.reports().unwrap();
            let mut told: Vec<_> = told
                .uploads
                .into_iter()
                .map(|upload| (upload.name.unwrap(), upload.state, upload.bytes, upload.sent))
                .collect();
            told.sort_by(|one, other| one.0.cmp(&other.0));
            told
        };
        let [empty_row, failed_row, killed_row, running_row, writing_row] = [
            ("empty", Condition::Writing, 0, None),
            ("failed", Condition::Failed, 5, None),
            ("killed", Condition::Kept, 4, None),
            ("running", Condition::Uploading, 6, Some(6)),
            ("writing", Condition::Writing, 3, None),
        ]
        .map(|(name, state, bytes, sent)| (name.to_owned(), state, bytes, sent));
        let mine = shown(&uploads);
        let expected = [
            empty_row.clone(),
            failed_row.clone(),
            killed_row.clone(),
            running_row.clone(),
            writing_row.clone(),
        ];
        assert_eq!(mine, expected);
        // Another process sees the files and the locks only.
        drop((failed, killed));
        let others = shown(&glance.uploads(dir.path()));
        assert_eq!(
            others,
            [empty_row, failed_row, killed_row, (running_row.0, running_row.1, 6, None), writing_row]
        );
        running.abandon("the end");
        committing.await.unwrap().unwrap_err();
        drop((empty, writing, running));
    }

    #[test]
    fn the_table_is_for_people_and_each_upload_is_a_line() {
        let upload = Report {
            id: "1f3c9a2b-0000-4000-8000-000000000001".into(),
            name: Some("a\nb".into()),
            image: None,
            state: Condition::Uploading,
            bytes: 2048,
            sent: Some(1024),
            started: Some(1_760_000_000),
            cloud: None,
            project: None,
            reason: None,
            file: "/spool/x.data".into(),
        };
        let failed = Report {
            state: Condition::Failed,
            sent: None,
            reason: Some("no\nroom".into()),
            ..upload.clone()
        };
        let told =
            Uploading { cloud: None, project: None, folder: "/spool".into(), uploads: vec![upload, failed] };
        let text = told.to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert!(lines[1].contains("uploading") && lines[1].contains("50 %") && lines[1].ends_with("a\\nb"));
        assert!(lines[1].contains("2025-10-09T08:53:20Z") && lines[3].trim() == "no\\nroom");
        let back: Uploading = serde_json::from_str(&serde_json::to_string(&told).unwrap()).unwrap();
        assert_eq!(back, told);
    }
}
