//! Whole uploads to a real Glance, where `GLANCEFS_TEST_ENDPOINT` names one without authentication:
//!
//! ```sh
//! scripts/devcloud up --auth none --port 21200 --set DEFAULT.image_size_cap=67108864
//! GLANCEFS_TEST_ENDPOINT=http://127.0.0.1:21200 cargo test --lib write::real_tests -- --ignored
//! ```

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::fake::{FakeGlance, files, intent};
use super::*;
use crate::auth::{Auth, parse_endpoint};
use crate::config::{AuthConfig, AuthMethod, HttpConfig};
use crate::error::Kind;
use crate::glance::{Glance, Status};

struct Rig {
    glance: Glance,
    keeper: FakeGlance,
    uploads: Uploads,
    spool: tempfile::TempDir,
}

async fn rig() -> Rig {
    let endpoint = std::env::var("GLANCEFS_TEST_ENDPOINT").expect("the address of a Glance");
    let auth = AuthConfig {
        method: AuthMethod::None,
        endpoints: vec![parse_endpoint(&endpoint).unwrap()],
        auth_type: None,
        region: None,
        interface: None,
    };
    let http =
        HttpConfig { timeout: Duration::from_secs(30), ca_cert: None, insecure: false, max_connections: 8 };
    let glance = Glance::new(Auth::connect(&auth, &http).await.unwrap(), &http).unwrap();
    let spool = tempfile::tempdir().unwrap();
    let config = SpoolConfig { dir: spool.path().into(), size: None };
    let keeper = FakeGlance::default();
    let uploads =
        Uploads::with(&config, Arc::new(glance.clone()), Arc::new(keeper.clone()), Pace::default()).unwrap();
    Rig { glance, keeper, uploads, spool }
}

impl Rig {
    fn draft(&self, intent: Intent, bytes: &[u8]) -> Arc<Draft> {
        let draft = self.uploads.draft(intent).unwrap();
        draft.write(0, bytes).unwrap();
        draft
    }
}

fn qemu_img(dir: &Path, format: &str, options: &str) -> Vec<u8> {
    let arguments = ["create", "-q", "-f", format, "-o", options, "x", "8M"];
    assert!(Command::new("qemu-img").current_dir(dir).args(arguments).status().unwrap().success());
    std::fs::read(dir.join("x")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Glance at GLANCEFS_TEST_ENDPOINT"]
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
        assert_eq!((image.status, image.size), (Status::Active, Some(bytes.len() as u64)));
        assert!(image.hash.is_some());
        assert_eq!(rig.keeper.state().adopted.pop().unwrap().1, bytes);
        rig.glance.delete(&image.id).await.unwrap();
    }
    assert!(files(rig.spool.path()).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Glance at GLANCEFS_TEST_ENDPOINT"]
async fn a_reservation_is_made_and_filled() {
    let rig = rig().await;
    let reserved = rig.uploads.draft(intent("later")).unwrap().reserve().await.unwrap();
    assert_eq!((&reserved.status, reserved.size), (&Status::Queued, None));
    let fill = Intent { id: reserved.id.clone(), name: "later".into(), reserved: true, replaces: None };
    let image = rig.draft(fill, b"data").commit().await.unwrap();
    assert_eq!((&image.id, image.status), (&reserved.id, Status::Active));
    rig.glance.delete(&image.id).await.unwrap();
}

/// A boot sector whose partition table makes no sense: Glance refuses it as anything.
fn refused() -> Vec<u8> {
    let mut bytes = vec![0xab; 1 << 20];
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    bytes
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Glance at GLANCEFS_TEST_ENDPOINT"]
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
    rig.glance.delete(&reserved.id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Glance at GLANCEFS_TEST_ENDPOINT with image_size_cap=67108864"]
async fn an_image_above_the_cap_leaves_no_record() {
    let rig = rig().await;
    let draft = rig.uploads.draft(intent("large")).unwrap();
    draft.truncate(65 << 20).unwrap();
    let id = draft.image_id();
    let error = draft.commit().await.unwrap_err();
    assert_eq!(error.kind(), Kind::TooLarge, "{error}");
    assert_eq!(rig.glance.show(&id).await.unwrap_err().kind(), Kind::NotFound);
    drop(draft);
    assert!(rig.uploads.leftovers()[0].contains("\"large\""));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Glance at GLANCEFS_TEST_ENDPOINT"]
async fn an_abandoned_upload_leaves_no_record() {
    let rig = rig().await;
    let draft = rig.uploads.draft(intent("killed")).unwrap();
    draft.truncate(60 << 20).unwrap();
    let id = draft.image_id();
    let committing = tokio::spawn({
        let draft = draft.clone();
        async move { draft.commit().await }
    });
    while draft.upload_progress() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    draft.abandon("killed by signal 9");
    assert_eq!(committing.await.unwrap().unwrap_err().kind(), Kind::Interrupted);
    assert_eq!(rig.glance.show(&id).await.unwrap_err().kind(), Kind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Glance at GLANCEFS_TEST_ENDPOINT"]
async fn a_replacement_carries_attributes_over() {
    let rig = rig().await;
    let old = rig.draft(intent("web"), b"old").commit().await.unwrap();
    let set = |key: &str, value: serde_json::Value| crate::glance::Change::Set { key: key.into(), value };
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
    let record: serde_json::Value = serde_json::from_str(&image.record).unwrap();
    assert_eq!(record["tags"].as_array().unwrap().len(), 2);
    assert_eq!((&record["min_disk"], &record["os_distro"]), (&3.into(), &"debian".into()));
    assert_eq!(image.visibility.as_ref(), "community");
    assert_eq!(rig.glance.show(&old.id).await.unwrap_err().kind(), Kind::NotFound);
    rig.glance.delete(&image.id).await.unwrap();
}
