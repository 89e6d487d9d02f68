//! What failed uploads leave in the spool folder, and when it goes. Nothing goes without a line that says
//! what it was and why.
//!
//! | what | goes |
//! | --- | --- |
//! | an earlier one of the same name, for the same cloud and project, with the same bytes | once a later one failed and is kept, or became an image: nothing is lost by it |
//! | one that was kept for `--keep-failed` | at the start of a mount, and hourly |
//! | the oldest, if it was kept for an hour | when a write finds no room |
//!
//! The time begins when its writer, or after a crash the next mount, was told.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::body::chunks;
use super::folder::{DraftId, Folder};
use super::journal::{Durability, Journal, JournalFile};
use super::recover::{Leftover, examine};
use super::spool::Spool;
use super::strays;
use crate::error::Result;

/// How long nothing gives way to a new write: whoever sees an upload fail has time to save the bytes, and
/// a row of uploads that fail in an outage does not push out its own beginning.
const GRACE: Duration = Duration::from_secs(3600);

/// Removes what was kept for longer than `--keep-failed`. Blocks on the disk.
pub(super) fn age_out(folder: &Arc<Folder>) {
    let keep = folder.keep_failed();
    let drafts = folder.drafts().unwrap_or_default();
    for id in drafts.into_iter().filter(|id| age(folder, *id).is_some_and(|age| age >= keep)) {
        let Some(leftover) = examine(folder, id) else { continue };
        match leftover.journal {
            // A crash, of which nobody was told yet: this mount does.
            Ok(Some(journal)) if journal.failure.is_none() => note_crash(folder, id, journal),
            _ => remove(folder, leftover, &format!("it was kept for {} h", keep.as_secs() / 3600)),
        }
    }
}

fn note_crash(folder: &Arc<Folder>, id: DraftId, mut journal: Journal) {
    journal.set_failure(Some("the process ended"));
    let file = JournalFile::existing(Arc::clone(folder), id);
    if let Err(error) = file.store(Durability::Relaxed, || Some(journal)) {
        tracing::warn!(%error, "the journal of an upload that a crash ended could not be written");
    }
}

/// Removes the oldest one for a write that finds no room; false when none may go. Blocks on the disk.
pub(super) fn give_way(folder: &Arc<Folder>) -> bool {
    let drafts = folder.drafts().unwrap_or_default().into_iter();
    let mut old: Vec<_> = drafts.filter_map(|id| Some((age(folder, id)?, id))).collect();
    // What notes records only takes no room.
    let has_bytes = |id| std::fs::symlink_metadata(folder.data_path(id)).is_ok_and(|found| found.len() > 0);
    old.retain(|(age, id)| *age >= GRACE && has_bytes(*id));
    old.sort_unstable_by_key(|(age, _)| std::cmp::Reverse(*age));
    // Living drafts are among them: those are locked.
    let Some(leftover) = old.into_iter().find_map(|(_, id)| examine(folder, id)) else { return false };
    remove(folder, leftover, "a new upload needs the room");
    true
}

/// Once the draft `later` has failed: removes earlier ones that hold the same bytes. Blocks on the disk.
pub(super) fn keep_newest(folder: &Arc<Folder>, later: DraftId, journal: &Journal, stop: impl Fn() -> bool) {
    let Ok(newest) = Spool::open(Arc::clone(folder), later) else { return };
    let Ok(size) = newest.size() else { return };
    let why = format!("the same bytes are kept in {}", newest.path().display());
    supersede(folder, later, journal, size, &why, |earlier| same_bytes(&newest, earlier, size, &stop));
}

/// Removes what is left of other drafts than `later`, of the name, cloud and project in its `journal` and of
/// its `size`, for which `is_same` holds.
pub(super) fn supersede(
    folder: &Arc<Folder>,
    later: DraftId,
    journal: &Journal,
    size: u64,
    why: &str,
    is_same: impl Fn(&Spool) -> Result<bool>,
) {
    let of_same_size = |id: &DraftId| {
        let metadata = std::fs::symlink_metadata(folder.data_path(*id));
        *id != later && metadata.is_ok_and(|metadata| metadata.len() == size)
    };
    for id in folder.drafts().unwrap_or_default().into_iter().filter(of_same_size) {
        let Some(leftover) = examine(folder, id) else { continue };
        let of_same_image = matches!(&leftover.journal, Ok(Some(found)) if found.is_about(journal));
        let Some(spool) = leftover.spool.as_ref().filter(|_| of_same_image) else { continue };
        match is_same(spool) {
            Ok(true) => remove(folder, leftover, why),
            Ok(false) => {}
            Err(error) => tracing::debug!(%error, "a kept upload could not be compared"),
        }
    }
}

fn same_bytes(one: &Spool, other: &Spool, size: u64, stop: impl Fn() -> bool) -> Result<bool> {
    for (left, right) in chunks(one, size).zip(chunks(other, size)) {
        if stop() || left? != right? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Its lock is held until it is gone, so that no other mount does the same. Records that it names stay noted, except
/// by what was kept for them alone.
fn remove(folder: &Arc<Folder>, leftover: Leftover, why: &str) {
    if let Ok(Some(journal)) = &leftover.journal
        && leftover.bytes > 0
        && let Err(error) = strays::note(folder, journal, why)
    {
        tracing::warn!(%error, name = ?journal.name, "what a removed upload left in Glance could not be noted");
    }
    folder.tell(format!("removed, because {why}: {}", leftover.line(folder, "were in")));
    folder.remove(leftover.id);
}

/// Since the draft's files were last changed; `None`: they are gone. A time to come counts as now.
fn age(folder: &Folder, id: DraftId) -> Option<Duration> {
    let files = [folder.data_path(id), folder.journal_path(id)];
    let changed = |path| std::fs::symlink_metadata(path).ok()?.modified().ok();
    let last = files.into_iter().filter_map(changed).max()?;
    Some(SystemTime::now().duration_since(last).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::fs::{File, FileTimes};
    use std::path::Path;

    use super::super::fake::{FakeGlance, Fault, files, intent};
    use super::super::{Draft, Uploads};
    use super::*;
    use crate::error::Kind;

    /// An upload of `bytes` that fails, and the path of what is kept of it.
    async fn fail(glance: &FakeGlance, uploads: &Uploads, name: &str, bytes: &[u8]) -> std::path::PathBuf {
        glance.will(&[Fault::Refuse(Kind::QuotaExceeded)]);
        let draft: Arc<Draft> = uploads.draft(intent(name)).unwrap();
        draft.write(0, bytes).unwrap();
        draft.commit().await.unwrap_err();
        draft.kept_in().unwrap()
    }

    /// As if nobody had touched it for so long.
    fn age_by(path: &Path, hours: u64) {
        let then = SystemTime::now() - Duration::from_secs(hours * 3600);
        for path in [path.to_owned(), path.with_extension("json")] {
            let file = File::options().append(true).open(path).unwrap();
            file.set_times(FileTimes::new().set_modified(then)).unwrap();
        }
    }

    async fn gone(path: &Path) {
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        while path.exists() {
            assert!(std::time::Instant::now() < deadline, "{} is still there", path.display());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn told(uploads: &Uploads) -> Arc<std::sync::Mutex<Vec<String>>> {
        let lines = Arc::new(std::sync::Mutex::new(Vec::new()));
        let to = Arc::clone(&lines);
        uploads.listen(move |line| to.lock().unwrap().push(line));
        lines
    }

    #[tokio::test]
    async fn of_tries_that_failed_with_the_same_bytes_the_last_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let glance = FakeGlance::default();
        let uploads = glance.uploads(dir.path());
        let lines = told(&uploads);
        let bytes = vec![7; 3 << 20];
        let mut other = bytes.clone();
        other[2 << 20] = 8;
        let different = fail(&glance, &uploads, "new", &other).await;
        let renamed = fail(&glance, &uploads, "another", &bytes).await;
        let first = fail(&glance, &uploads, "new", &bytes).await;
        let second = fail(&glance, &uploads, "new", &bytes).await;
        gone(&first).await;
        let third = fail(&glance, &uploads, "new", &bytes).await;
        gone(&second).await;
        for path in [&different, &renamed, &third] {
            assert!(path.exists());
        }
        let lines = lines.lock().unwrap();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(
            lines[1].contains("the same bytes are kept in") && lines[1].contains(third.to_str().unwrap())
        );
        assert!(lines[1].contains("\"new\"") && lines[1].contains(second.to_str().unwrap()), "{lines:?}");
    }

    #[tokio::test]
    async fn a_try_that_works_removes_what_failed_before_with_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let glance = FakeGlance::default();
        let uploads = glance.uploads(dir.path());
        let lines = told(&uploads);
        let same = fail(&glance, &uploads, "new", b"data").await;
        let different = fail(&glance, &uploads, "new", b"Data").await;
        let draft = uploads.draft(intent("new")).unwrap();
        draft.write(0, b"data").unwrap();
        let image = draft.commit().await.unwrap();
        gone(&same).await;
        assert!(different.exists());
        let lines = lines.lock().unwrap();
        assert!(lines[0].contains(&format!("image {} has the same bytes", image.id)), "{lines:?}");
    }

    #[tokio::test]
    async fn what_is_old_goes_and_what_is_alive_stays() {
        let dir = tempfile::tempdir().unwrap();
        let glance = FakeGlance::default();
        let uploads = glance.uploads(dir.path());
        let old = fail(&glance, &uploads, "old", b"old").await;
        let young = fail(&glance, &uploads, "young", b"young").await;
        let alive = uploads.draft(intent("alive")).unwrap();
        alive.write(0, b"alive").unwrap();
        let crashed = fail(&glance, &uploads, "crashed", b"crashed").await;
        let journal = std::fs::read_to_string(crashed.with_extension("json")).unwrap();
        let (before, _) = journal.split_once("\"failure\": ").unwrap();
        std::fs::write(
            crashed.with_extension("json"),
            format!("{before}\"failure\": null, \"strays\": []}}"),
        )
        .unwrap();
        age_by(&old, 169);
        age_by(&young, 167);
        age_by(&crashed, 1000);
        age_by(&alive.kept_in().unwrap(), 1000);
        // The next mount.
        let next = glance.uploads(dir.path());
        let lines = told(&next);
        assert!(!old.exists() && young.exists() && alive.kept_in().unwrap().exists());
        let lines = lines.lock().unwrap();
        assert!(lines[0].contains("it was kept for 168 h") && lines[0].contains("\"old\""), "{lines:?}");
        assert!(crashed.exists(), "its time begins when it is told");
        age_by(&crashed, 1000);
        drop(glance.uploads(dir.path()));
        assert!(!crashed.exists());
    }

    #[tokio::test]
    async fn for_want_of_room_the_oldest_goes_but_none_that_failed_just_now() {
        let dir = tempfile::tempdir().unwrap();
        let glance = FakeGlance::default();
        let uploads = glance.uploads_with(dir.path(), Some(3 << 20));
        let lines = told(&uploads);
        let [oldest, old, young] = [("a", 9), ("b", 2), ("c", 0)].map(|(name, hours)| (name, hours));
        let mut paths = Vec::new();
        for (name, hours) in [oldest, old, young] {
            let path = fail(&glance, &uploads, name, name.repeat(900 << 10).as_bytes()).await;
            age_by(&path, hours);
            paths.push(path);
        }
        let draft = uploads.draft(intent("new")).unwrap();
        draft.write(0, &vec![1; 800 << 10]).unwrap();
        assert_eq!(paths.iter().map(|path| path.exists()).collect::<Vec<_>>(), [false, true, true]);
        draft.write(800 << 10, &vec![1; 800 << 10]).unwrap();
        assert_eq!(paths.iter().map(|path| path.exists()).collect::<Vec<_>>(), [false, false, true]);
        assert_eq!(draft.write(1600 << 10, &vec![1; 800 << 10]).unwrap_err().kind(), Kind::NoSpace);
        assert!(paths[2].exists() && files(dir.path()).len() == 4);
        let lines = lines.lock().unwrap();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].contains("needs the room") && lines[0].contains(paths[0].to_str().unwrap()));
    }
}
