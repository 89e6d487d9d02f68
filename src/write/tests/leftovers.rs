//! What failed and killed uploads leave in the spool and in Glance, and who is told.

use super::rig;
use crate::error::Kind;
use crate::units::ByteRange;
use crate::write::fake::{FakeGlance, Fault, files, intent};

#[tokio::test]
async fn a_record_that_cannot_be_deleted_is_named_and_deleted_later() {
    let rig = rig();
    rig.glance.will(&[Fault::BreakBody(0, Kind::QuotaExceeded), Fault::KeepRecord]);
    let draft = rig.draft(b"data");
    let stray = draft.image_id();
    assert_eq!(draft.commit().await.unwrap_err().kind(), Kind::QuotaExceeded);
    assert!(rig.glance.state().images.contains_key(&stray));
    let journal = std::fs::read_to_string(
        files(rig.dir.path()).into_iter().find(|path| path.extension().unwrap() == "json").unwrap(),
    );
    assert!(journal.unwrap().contains(stray.as_str()));
    draft.commit().await.unwrap();
    assert!(!rig.glance.state().images.contains_key(&stray));
}

#[test]
fn living_drafts_are_no_leftovers_and_dead_ones_are() {
    let dir = tempfile::tempdir().unwrap();
    let glance = FakeGlance::default();
    let (first, second) = (glance.uploads(dir.path()), glance.uploads(dir.path()));
    let draft = first.draft(intent("a\nb")).unwrap();
    draft.write(0, b"data").unwrap();
    let empty = first.draft(intent("empty")).unwrap();
    assert!(second.leftovers().is_empty());
    drop(glance.uploads(dir.path()));
    draft.sync().unwrap();
    assert_eq!(draft.read(ByteRange::new(0, 9)).unwrap(), b"data"[..]);
    drop(draft);
    drop(empty);
    let leftovers = second.leftovers();
    assert_eq!(leftovers.len(), 1, "{leftovers:?}");
    assert!(leftovers[0].contains("\"a\\nb\""), "{leftovers:?}");
    assert!(leftovers[0].contains("stopped at spooling"), "{leftovers:?}");
    assert_eq!(leftovers[0].lines().count(), 1);
    assert_eq!(files(dir.path()).len(), 2, "the empty draft left no file");
}

#[test]
fn what_a_crash_left_is_told_and_rests_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let name = |last: &str| dir.path().join(format!("1f3c9a2b-0000-4000-8000-00000000000{last}"));
    let journal = |step: &str, record: &str| {
        format!(
            r#"{{"version": 1, "name": "x", "image": "an-id", "record": "{record}", "replaces": null,
            "cloud": "c", "project": null, "started": 5, "size": 4, "step": "{step}", "failure": null, "strays": []}}"#
        )
    };
    for (file, content) in [
        ("1.data", "data".to_owned()),
        ("1.json", journal("uploading", "created")),
        ("2.data", "data".to_owned()), // Finished, not cleaned up.
        ("2.json", journal("done", "created")),
        ("3.data", String::new()), // Never had a byte.
        ("3.json", journal("spooling", "none")),
        ("4.json", journal("done", "created")), // Its data went to the cache.
        ("5.data", "data".to_owned()),          // No journal was written.
        ("6.data", "data".to_owned()),
        ("6.json", "{".to_owned()),
        ("7.json.tmp", String::new()),
    ] {
        std::fs::write(name(file), content).unwrap();
    }
    std::fs::write(dir.path().join("foreign.json"), "{}").unwrap();
    let lines = FakeGlance::default().uploads(dir.path()).leftovers();
    assert_eq!(lines.len(), 3, "{lines:?}");
    let about = |text: &str| lines.iter().find(|line| line.contains(text)).unwrap();
    assert!(about("1.data").contains("the record an-id may still be in Glance"));
    assert!(about("1.data").contains("stopped at uploading (the process ended)"));
    assert!(about("5.data").contains("unknown name"));
    assert!(about("6.data").contains("cannot be read"));
    let mut left: Vec<String> =
        files(dir.path()).iter().map(|path| path.file_name().unwrap().to_string_lossy().into()).collect();
    left.sort();
    let ours: Vec<String> = ["1.data", "1.json", "5.data", "6.data", "6.json"]
        .iter()
        .map(|last| name(last).file_name().unwrap().to_string_lossy().into())
        .chain(["foreign.json".to_owned()])
        .collect();
    assert_eq!(left, ours);
}

/// The journal of the only draft.
fn journal(dir: &std::path::Path) -> String {
    let json = files(dir).into_iter().find(|path| path.extension().is_some_and(|found| found == "json"));
    std::fs::read_to_string(json.unwrap()).unwrap()
}

#[tokio::test]
async fn a_record_is_in_the_journal_before_it_is_asked_for() {
    for (reserves, step) in [(true, "reserving"), (false, "creating")] {
        let rig = rig();
        let draft = if reserves { rig.uploads.draft(intent("new")).unwrap() } else { rig.draft(b"data") };
        // The request is on its way for ever: a crash now cannot know what became of it.
        rig.glance.state().silent = true;
        let _asking = tokio::spawn({
            let draft = std::sync::Arc::clone(&draft);
            async move { if reserves { draft.reserve().await } else { draft.commit().await } }
        });
        let noted = async {
            while !journal(rig.dir.path()).contains(&format!("\"step\": \"{step}\"")) {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(60), noted).await.unwrap();
        let journal = journal(rig.dir.path());
        assert!(journal.contains(r#""record": "created""#), "{journal}");
    }
}

/// A spool as it is left when its process dies now.
fn copied(spool: &std::path::Path) -> tempfile::TempDir {
    let left = tempfile::tempdir().unwrap();
    for file in files(spool) {
        std::fs::copy(&file, left.path().join(file.file_name().unwrap())).unwrap();
    }
    left
}

#[tokio::test]
async fn bytes_that_a_power_cut_may_have_damaged_are_told_and_not_sent_unasked() {
    let dir = tempfile::tempdir().unwrap();
    let glance = FakeGlance::default();
    let draft = glance.uploads(dir.path()).draft(intent("cut")).unwrap();
    draft.write(0, b"data").unwrap();
    let as_written = journal(dir.path());
    assert!(as_written.contains(r#""unsynced": ""#), "nothing was made durable yet: {as_written}");
    // As the next boot finds it.
    let left = copied(dir.path());
    let kept =
        files(left.path()).into_iter().find(|file| file.extension().is_some_and(|found| found == "json"));
    let boot = crate::write::journal::this_boot();
    std::fs::write(kept.unwrap(), as_written.replace(boot, "an-earlier-one")).unwrap();
    let uploads = glance.uploads(left.path());
    let line = &uploads.leftovers()[0];
    assert!(line.contains("may be damaged"), "{line}");
    let report = uploads.reports().unwrap().uploads.remove(0);
    assert!(report.reason.unwrap().contains("may be damaged"));
    let refused = uploads.take_up(&report.id, None).await.unwrap_err();
    assert!(refused.kind() == Kind::Invalid && refused.to_string().contains("--as NAME"), "{refused}");
    // Whoever has looked at them says so.
    assert!(uploads.take_up(&report.id, Some("cut".into())).await.is_ok());
}

#[tokio::test]
async fn what_is_kept_of_a_failed_upload_outlives_a_power_cut() {
    let rig = rig();
    rig.glance.will(&[Fault::Refuse(Kind::QuotaExceeded)]);
    let draft = rig.draft(b"data");
    draft.commit().await.unwrap_err();
    let journal = journal(rig.dir.path());
    assert!(journal.contains("as told") && !journal.contains("unsynced"), "{journal}");
}

#[tokio::test]
async fn what_a_dead_process_left_is_made_durable_by_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let glance = FakeGlance::default();
    let draft = glance.uploads(dir.path()).draft(intent("left")).unwrap();
    draft.write(0, b"data").unwrap();
    let left = copied(dir.path());
    assert!(journal(left.path()).contains("unsynced"));
    let uploads = glance.uploads(left.path());
    crate::write::aftermath::settle_all(&uploads.shared, &|_| {}).await;
    assert!(!journal(left.path()).contains("unsynced"));
    assert!(uploads.take_up(&uploads.reports().unwrap().uploads[0].id, None).await.is_ok());
}

#[test]
fn many_leftovers_are_bounded_lines() {
    let dir = tempfile::tempdir().unwrap();
    let glance = FakeGlance::default();
    let uploads = glance.uploads(dir.path());
    for n in 0..105 {
        uploads.draft(intent(&n.to_string())).unwrap().write(0, b"x").unwrap();
    }
    let lines = uploads.leftovers();
    assert_eq!(lines.len(), 101);
    assert!(lines[100].starts_with("5 more"), "{}", lines[100]);
}
