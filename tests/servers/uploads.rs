//! Whole uploads, from a spool to an image that the cache has already.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use glancefs::cache::{Cache, ContentIdentity};
use glancefs::error::Kind;
use glancefs::glance::{Change, Glance, Image, Status};
use glancefs::source::Sources;
use glancefs::units::ByteRange;
use glancefs::write::{Draft, Intent, Uploads};

use crate::given::{cache_in, content, intent, uploads_in};
use crate::{IMAGE_SIZE_CAP, client, client_of, cloud, http};

struct Rig {
    glance: Arc<Glance>,
    cache: Cache,
    uploads: Uploads,
    dir: tempfile::TempDir,
}

async fn rig() -> Rig {
    let glance = Arc::new(client(cloud(), Some("alice")).await);
    let dir = tempfile::tempdir().unwrap();
    let cache = cache_in(dir.path());
    let uploads = uploads_in(dir.path(), glance.clone(), cache.clone());
    Rig { glance, cache, uploads, dir }
}

impl Rig {
    fn draft(&self, intent: Intent, bytes: &[u8]) -> Arc<Draft> {
        let draft = self.uploads.draft(intent).unwrap();
        draft.write(0, bytes).unwrap();
        draft
    }

    /// Reads an image as an open file does.
    async fn read(&self, image: &Image) -> Vec<u8> {
        let identity = ContentIdentity::of(image, self.glance.cloud_key(), self.glance.project_id());
        let source = Sources::new(self.glance.clone(), &http()).of(image);
        let cached = self.cache.image(&identity, source);
        let all = ByteRange::new(0, image.size.unwrap());
        let bytes = cached.read(all, all).await.unwrap();
        bytes.into()
    }

    /// The requests for an image's data, once the log has `least` of them.
    async fn downloads(&self, image: &Image, least: usize) -> usize {
        let begun = Instant::now();
        loop {
            let count = cloud().requests("glance", &format!("GET /v2/images/{}/file", image.id)).len();
            if count >= least {
                return count;
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "only {count} of {least} requests");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn spooled(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("spool")).unwrap().count()
    }
}

fn qemu_img(dir: &Path, format: &str, options: &str) -> Vec<u8> {
    let arguments = ["create", "-q", "-f", format, "-o", options, "x", "8M"];
    assert!(Command::new("qemu-img").current_dir(dir).args(arguments).status().unwrap().success());
    std::fs::read(dir.join("x")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_format_is_taken_and_proven() {
    let rig = rig().await;
    let dir = tempfile::tempdir().unwrap();
    for (format, options, expected) in [
        ("qcow2", "compat=1.1", "qcow2"),
        ("vmdk", "subformat=monolithicSparse", "vmdk"),
        ("vmdk", "subformat=streamOptimized", "vmdk"),
        ("vhdx", "subformat=dynamic", "vhdx"),
        ("vpc", "subformat=dynamic", "vhd"),
        ("vpc", "subformat=fixed", "raw"),
        ("vdi", "static=off", "vdi"),
        ("parallels", "cluster_size=1M", "ploop"),
        ("raw", "preallocation=off", "raw"),
    ] {
        let bytes = qemu_img(dir.path(), format, options);
        let image = rig.draft(intent(format), &bytes).commit().await.unwrap();
        assert_eq!(image.disk_format.as_deref(), Some(expected), "{format} {options}");
        assert_eq!((&image.status, image.size), (&Status::Active, Some(bytes.len() as u64)));
        assert!(image.hash.is_some());
    }
    assert_eq!(rig.spooled(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_uploaded_is_read_without_a_request() {
    let rig = rig().await;
    let bytes = content((5 << 20) + 17);
    let image = rig.draft(intent("kept"), &bytes).commit().await.unwrap();
    assert!(rig.read(&image).await == bytes);
    // One that does cost a request, so that the log has come as far as here.
    let one = Some(ByteRange::new(0, 1));
    let mine = rig.glance.download(&image.id, bytes.len() as u64, one).await.unwrap();
    assert_eq!(mine.chunks.try_collect::<Vec<_>>().await.unwrap().concat(), bytes[..1]);
    assert_eq!(rig.downloads(&image, 1).await, 1);
    // Another host has no copy.
    let other = self::rig().await;
    assert!(other.read(&image).await == bytes);
    assert!(rig.downloads(&image, 2).await >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reservation_is_made_and_filled() {
    let rig = rig().await;
    let reserved = rig.uploads.draft(intent("later")).unwrap().reserve().await.unwrap();
    assert_eq!((&reserved.status, reserved.size), (&Status::Queued, None));
    let fill = Intent { id: reserved.id.clone(), name: "later".into(), reserved: true, replaces: None };
    let image = rig.draft(fill, b"data").commit().await.unwrap();
    assert_eq!((&image.id, &image.status), (&reserved.id, &Status::Active));
    assert_eq!(rig.read(&image).await, b"data");
}

/// A boot sector whose partition table makes no sense: Glance refuses it as anything.
fn refused() -> Vec<u8> {
    let mut bytes = vec![0xab; 1 << 20];
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_content_leaves_no_record_and_spoils_a_reservation() {
    let rig = rig().await;
    let draft = rig.draft(intent("bad"), &refused());
    let id = draft.image_id();
    let error = draft.commit().await.unwrap_err();
    assert_eq!(error.kind(), Kind::WrongFormat, "{error}");
    assert_eq!(rig.glance.show(&id).await.unwrap_err().kind(), Kind::NotFound);

    let reserved = rig.uploads.draft(intent("bad")).unwrap().reserve().await.unwrap();
    let fill = Intent { id: reserved.id.clone(), name: "bad".into(), reserved: true, replaces: None };
    let draft = rig.draft(fill, &refused());
    for _ in 0..2 {
        let error = draft.commit().await.unwrap_err();
        assert_eq!(error.kind(), Kind::WrongFormat, "{error}");
        assert!(error.to_string().contains("delete it"), "{error}");
    }
    assert_eq!(rig.glance.show(&reserved.id).await.unwrap().status, Status::Queued);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_above_the_cap_leaves_no_record() {
    let rig = rig().await;
    let draft = rig.uploads.draft(intent("large")).unwrap();
    draft.truncate(IMAGE_SIZE_CAP + (1 << 20)).unwrap();
    let id = draft.image_id();
    let error = draft.commit().await.unwrap_err();
    assert_eq!(error.kind(), Kind::TooLarge, "{error}");
    assert_eq!(rig.glance.show(&id).await.unwrap_err().kind(), Kind::NotFound);
    drop(draft);
    assert!(rig.uploads.leftovers()[0].contains("\"large\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abandoned_upload_leaves_no_record() {
    let rig = rig().await;
    let draft = rig.uploads.draft(intent("killed")).unwrap();
    draft.truncate(IMAGE_SIZE_CAP - (1 << 20)).unwrap();
    let id = draft.image_id();
    let committing = tokio::spawn({
        let draft = draft.clone();
        async move { draft.commit().await }
    });
    while draft.upload_progress() == 0 {
        assert!(!committing.is_finished());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    draft.abandon("killed by signal 9");
    assert_eq!(committing.await.unwrap().unwrap_err().kind(), Kind::Interrupted);
    assert_eq!(rig.glance.show(&id).await.unwrap_err().kind(), Kind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replacement_carries_attributes_over() {
    let rig = rig().await;
    let old = rig.draft(intent("web"), b"old").commit().await.unwrap();
    let set = |key: &str, value: serde_json::Value| Change::Set { key: key.into(), value };
    let changes = [
        set("tags", serde_json::json!(["a", "b"])),
        set("min_disk", 3.into()),
        set("os_distro", "debian".into()),
        set("visibility", "community".into()),
    ];
    let old = rig.glance.update(&old.id, &changes).await.unwrap();
    let replace = Intent { replaces: Some(old.clone()), ..intent("web") };
    let draft = rig.draft(replace, b"new");
    let image = draft.commit().await.unwrap();
    assert_eq!(draft.warning(), None);
    let record: serde_json::Value = serde_json::from_str(image.record.text().unwrap()).unwrap();
    assert_eq!(record["tags"].as_array().unwrap().len(), 2);
    assert_eq!((&record["min_disk"], &record["os_distro"]), (&3.into(), &"debian".into()));
    assert_eq!(image.visibility.as_ref(), "community");
    assert_eq!(rig.glance.show(&old.id).await.unwrap_err().kind(), Kind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_refuses_connections_ends_an_upload_within_the_timeout() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", gone.local_addr().unwrap());
    drop(gone);
    let mut rig = rig().await;
    let glance = client_of(&endpoint, None).await;
    rig.uploads = uploads_in(rig.dir.path(), Arc::new(glance), rig.cache.clone());
    let begun = Instant::now();
    let error = rig.draft(intent("new"), b"data").commit().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable, "{error}");
    assert!(begun.elapsed() < http().timeout, "{:?}", begun.elapsed());
    assert_eq!(rig.spooled(), 2, "data and journal are kept");
}
