//! Version 1 of the Image API, against a real Glance 15: what it stores, answers, refuses and kills.

use std::process::Command;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::TryStreamExt;
use glancefs::config::ApiVersion;
use glancefs::error::{Kind, Result};
use glancefs::glance::{Change, GlanceV1, Image, Listing, Negotiated, Records, Status};
use glancefs::source::{SourceKind, Sources};
use glancefs::units::{ByteRange, ImageId};
use glancefs::write::Intent;
use serde_json::{Value, json};
use url::Url;

use crate::devcloud::Devcloud;
use crate::given::{cache_in, content, intent, kind, named, opener, uploads_in};
use crate::{client, http, start};

/// No image may be larger.
const CAP: usize = 8 << 20;

fn cloud() -> &'static Devcloud {
    static CLOUD: LazyLock<Devcloud> = LazyLock::new(|| {
        let cap = format!("DEFAULT.image_size_cap={CAP}");
        start("fake", &["--api", "v1", "--stores", "file,http", "--set", &cap])
    });
    &CLOUD
}

async fn user(name: &str) -> GlanceV1 {
    GlanceV1::new(client(cloud(), Some(name)).await)
}

async fn active(glance: &GlanceV1, name: &str, data: &Bytes) -> Image {
    let image = glance.create(&named(name)).await.unwrap();
    glance.upload(&image.id, data.len() as u64, &opener(data.clone())).await.unwrap();
    glance.show(&image.id).await.unwrap()
}

async fn read(glance: &GlanceV1, image: &Image, range: Option<ByteRange>) -> Result<Vec<u8>> {
    let download = glance.download(&image.id, image.size.unwrap_or(1), range).await?;
    let chunks: Vec<Bytes> = download.chunks.try_collect().await?;
    Ok(chunks.concat())
}

fn record(image: &Image) -> Value {
    serde_json::from_str(image.record.text().unwrap()).unwrap()
}

fn set(key: &str, value: impl Into<Value>) -> Change {
    Change::Set { key: key.into(), value: value.into() }
}

fn remove(key: &str) -> Change {
    Change::Remove { key: key.into() }
}

/// One call by curl as alice: the status, and the answer.
fn call(arguments: &[&str], path: &str) -> (String, Value) {
    let token = format!("X-Auth-Token: {}", cloud().token("alice"));
    let url = format!("{}{path}", cloud().endpoint());
    let curl = [
        "-sS",
        "-m",
        "60",
        "--noproxy",
        "*",
        "-w",
        "\n%{http_code}",
        "-H",
        &token,
        "-H",
        "Accept: application/json",
    ];
    let output = Command::new("curl").args(curl).args(arguments).arg(url).output().unwrap().stdout;
    let text = String::from_utf8(output).unwrap();
    let (body, status) = text.rsplit_once('\n').unwrap();
    (status.to_owned(), serde_json::from_str(body).unwrap_or(Value::Null))
}

/// The address of a file of the server behind the http store.
fn served(name: &str, data: &[u8]) -> Url {
    std::fs::write(cloud().dir().join("files/data").join(name), data).unwrap();
    let settings = std::fs::read_to_string(cloud().dir().join("settings")).unwrap();
    let port = settings.lines().find_map(|line| line.strip_prefix("FILES_PORT=")).unwrap();
    format!("http://127.0.0.1:{port}/{name}").parse().unwrap()
}

async fn settled(glance: &GlanceV1, id: &ImageId) -> Image {
    let begun = std::time::Instant::now();
    loop {
        let image = glance.show(id).await.unwrap();
        if !matches!(image.status, Status::Queued | Status::Saving) {
            return image;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{image:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn an_image_comes_back_as_it_was_uploaded() {
    let alice = user("alice").await;
    let data = content((3 << 20) + 17);
    let image = active(&alice, "round trip", &data).await;
    assert_eq!((&image.status, image.size), (&Status::Active, Some(data.len() as u64)));
    assert_eq!((image.owner.as_deref(), &*image.visibility), (Some("alpha"), "private"));
    assert!(image.checksum.is_some() && image.hash.is_none());
    assert!(image.created_at > SystemTime::now() - Duration::from_secs(3600));
    assert_eq!(read(&alice, &image, None).await.unwrap(), data);
    alice.delete(&image.id).await.unwrap();
    assert_eq!(kind(alice.show(&image.id).await), Kind::NotFound);
    assert_eq!(kind(alice.delete(&image.id).await), Kind::NotFound);
    assert_eq!(kind(user("admin").await.show(&image.id).await), Kind::NotFound);
}

#[tokio::test]
async fn an_empty_image_is_possible() {
    let alice = user("alice").await;
    let image = active(&alice, "empty", &Bytes::new()).await;
    assert_eq!((&image.status, image.size), (&Status::Active, Some(0)));
    assert_eq!(read(&alice, &image, None).await.unwrap(), b"");
}

#[tokio::test]
async fn a_part_of_an_image_is_read_by_one_stream() {
    let alice = user("alice").await;
    let data = content(1 << 20);
    let image = active(&alice, "no ranges", &data).await;
    let part = ByteRange::new(10, 20);
    assert_eq!(kind(read(&alice, &image, Some(part)).await), Kind::RangeUnsupported);
    let dir = tempfile::tempdir().unwrap();
    let cache = cache_in(dir.path());
    let source = Sources::new(Arc::new(alice), &http()).of(&image);
    let identity = glancefs::cache::ContentIdentity::of(&image, "cloud", None);
    let cached = cache.image(&identity, source.clone());
    let bytes = cached.read(part, part).await.unwrap();
    assert_eq!(bytes[..], data[10..20]);
    assert_eq!(source.kind(), SourceKind::Streamed);
}

#[tokio::test]
async fn names_that_http_can_carry_are_kept_and_found_and_others_are_refused() {
    let alice = user("alice").await;
    let names = [
        "plain",
        "größer.raw",
        "\u{6c49}\u{5b57}",
        "a:b",
        "50%",
        "%41",
        "a+b&c=d#e?f",
        "\"q\"",
        "a, b",
        "..",
        "a/b",
    ];
    for name in names {
        let id = alice.create(&named(name)).await.unwrap().id;
        assert_eq!(alice.show(&id).await.unwrap().name.as_deref(), Some(name));
        let found = alice.find_by_name(name).await.unwrap();
        let found: Vec<_> = found.iter().map(|image| (&image.id, image.name.as_deref())).collect();
        assert_eq!(found, [(&id, Some(name))], "{name:?}");
    }
    for name in ["", " a", "a\nb", "a\0b"] {
        assert_eq!(kind(alice.create(&named(name)).await), Kind::IllegalName, "{name:?}");
    }
    assert!(alice.create(&named(&"\u{6c49}".repeat(255))).await.is_ok());
    assert_eq!(kind(alice.create(&named(&"n".repeat(256))).await), Kind::NameTooLong);
}

#[tokio::test]
async fn a_list_of_many_pages_is_whole_and_shows_private_images_to_an_administrator() {
    let (bob, admin) = (user("bob").await, user("admin").await);
    let mut made = Vec::new();
    for n in 0..5 {
        made.push(bob.create(&named(&format!("page {n}"))).await.unwrap().id);
    }
    for who in [&bob, &admin] {
        let (mut seen, mut next) = (Vec::new(), None);
        loop {
            let page = who.list(2, next.as_ref()).await.unwrap();
            seen.extend(page.images.into_iter().map(|image| image.id));
            match page.next {
                None => break,
                more => next = more,
            }
        }
        assert!(made.iter().all(|id| seen.iter().filter(|other| *other == id).count() == 1));
    }
    let strangers = user("alice").await.list(500, None).await.unwrap().images;
    assert!(strangers.iter().all(|image| !made.contains(&image.id)));
}

#[tokio::test]
async fn a_marker_that_was_deleted_says_so() {
    let alice = user("alice").await;
    let page = {
        alice.create(&named("older")).await.unwrap();
        alice.create(&named("marker")).await.unwrap();
        alice.list(1, None).await.unwrap()
    };
    // Others make images meanwhile: the marker is whatever came first.
    let marker = page.images[0].id.clone();
    let owner = user("admin").await;
    owner.delete(&marker).await.unwrap();
    assert_eq!(kind(alice.list(1, page.next.as_ref()).await), Kind::NotFound);
}

#[tokio::test]
async fn changes_since_a_time_come_latest_first_and_with_those_that_are_gone() {
    let alice = user("alice").await;
    let kept = alice.create(&named("kept")).await.unwrap();
    let gone = alice.create(&named("gone")).await.unwrap();
    alice.delete(&gone.id).await.unwrap();
    let since = kept.created_at - Duration::from_secs(1);
    let changes = alice.changed_since(since, 500).await.unwrap();
    assert!(changes.images.is_sorted_by(|one, next| one.updated_at >= next.updated_at));
    let status = |id: &ImageId| &changes.images.iter().find(|image| image.id == *id).unwrap().status;
    assert_eq!((status(&kept.id), status(&gone.id)), (&Status::Queued, &Status::Deleted));
    let later = alice.changed_since(SystemTime::now() + Duration::from_secs(100), 500).await.unwrap();
    assert!(later.images.is_empty() && later.next.is_none());
}

#[tokio::test]
async fn a_change_keeps_what_it_does_not_name() {
    let alice = user("alice").await;
    let mut new = named("before");
    new.properties = vec![("os_type".into(), "linux".into()), ("my.key".into(), "größer, 5%".into())];
    let image = alice.create(&new).await.unwrap();
    let changes =
        [set("name", "after"), set("min_disk", 3), set("protected", true), set("os_distro", "debian")];
    let changed = alice.update(&image.id, &changes).await.unwrap();
    assert_eq!(changed, alice.show(&image.id).await.unwrap(), "PUT and HEAD give one record");
    let now = record(&changed);
    assert_eq!(
        (&now["name"], &now["min_disk"], &now["protected"]),
        (&json!("after"), &json!(3), &json!(true))
    );
    assert_eq!(
        (&now["os_type"], &now["my.key"], &now["os_distro"]),
        (&json!("linux"), &json!("größer, 5%"), &json!("debian"))
    );
    assert_eq!(kind(alice.delete(&image.id).await), Kind::NotPermitted);
    alice.update(&image.id, &[set("protected", false)]).await.unwrap();
    assert_eq!(kind(user("bob").await.update(&image.id, &[set("name", "mine")]).await), Kind::NotFound);
    assert_eq!(kind(alice.update(&image.id, &[set("size", 5)]).await), Kind::NotPermitted);
    assert_eq!(kind(alice.update(&ImageId::generate(), &[set("name", "x")]).await), Kind::NotFound);
    let name = "n".repeat(256);
    assert_eq!(kind(alice.update(&image.id, &[set("name", &*name)]).await), Kind::NameTooLong);
}

#[tokio::test]
async fn a_property_is_removed_by_sending_the_others() {
    let alice = user("alice").await;
    let mut new = named("removal");
    new.properties = vec![("a".into(), "1".into()), ("b".into(), "2".into()), ("c".into(), "3".into())];
    let id = alice.create(&new).await.unwrap().id;
    let changed = alice.update(&id, &[remove("b"), set("d", "4")]).await.unwrap();
    let now = record(&changed);
    let text = |key: &str| now.get(key).and_then(Value::as_str);
    assert_eq!([text("a"), text("b"), text("c"), text("d")], [Some("1"), None, Some("3"), Some("4")]);
    assert_eq!(now["disk_format"], "raw");
    assert_eq!(kind(alice.update(&id, &[remove("b")]).await), Kind::NoData);
    assert_eq!(kind(alice.update(&id, &[remove("name")]).await), Kind::NotPermitted);
}

#[tokio::test]
async fn keys_that_v1_would_change_are_refused_and_never_renamed_by_a_removal() {
    let alice = user("alice").await;
    let id = alice.create(&named("keys")).await.unwrap().id;
    for key in ["Upper", "with-dash", "with blank"] {
        assert_eq!(kind(alice.update(&id, &[set(key, "v")]).await), Kind::Invalid, "{key}");
    }
    // v2 of the same server makes such a key.
    let patch = r#"[{"op": "add", "path": "/Mixed-Case", "value": "v"}, {"op": "add", "path": "/plain", "value": "v"}]"#;
    let media = "Content-Type: application/openstack-images-v2.1-json-patch";
    let (status, answer) = call(&["-X", "PATCH", "-H", media, "-d", patch], &format!("/v2/images/{id}"));
    assert_eq!(status, "200", "{answer}");
    assert_eq!(kind(alice.update(&id, &[remove("plain")]).await), Kind::Invalid);
    let changed = alice.update(&id, &[set("name", "renamed")]).await.unwrap();
    assert_eq!(record(&changed)["Mixed-Case"], "v");
}

#[tokio::test]
async fn an_image_with_as_many_properties_as_glance_takes_is_shown() {
    let alice = user("alice").await;
    let mut new = named("many");
    // Below the 100 headers that gunicorn takes in one request.
    new.properties = (0..80).map(|n| (format!("key_{n}"), "v".into())).collect();
    let id = alice.create(&new).await.unwrap().id;
    let more: Vec<_> = (80..128).map(|n| set(&format!("key_{n}"), "v")).collect();
    alice.update(&id, &more).await.unwrap();
    assert_eq!(record(&alice.show(&id).await.unwrap())["key_127"], "v");
    assert_eq!(kind(alice.update(&id, &[set("key_128", "v")]).await), Kind::NoSpace);
}

#[tokio::test]
async fn a_copy_is_made_behind_and_a_location_is_registered_at_once() {
    let alice = user("alice").await;
    let data = content(1 << 20);
    let url = served("copy source", &data);
    let copied = alice.copy_from(&named("copied"), &url).await.unwrap();
    let copied = settled(&alice, &copied.id).await;
    assert_eq!((&copied.status, copied.size), (&Status::Active, Some(data.len() as u64)));
    assert_eq!(read(&alice, &copied, None).await.unwrap(), data);
    let registered = alice.register(&named("registered"), &url).await.unwrap();
    assert_eq!(registered.status, Status::Active);
    assert!(!registered.record.text().unwrap().contains("127.0.0.1"), "a location can hold credentials");
    assert_eq!(read(&alice, &registered, None).await.unwrap(), data);
    let missing = url.join("nothing-here").unwrap();
    let image = named("missing");
    assert_eq!(kind(alice.register(&image, &missing).await), Kind::NotFound);
    let file = Url::parse("file:///etc/passwd").unwrap();
    assert_eq!(kind(alice.register(&named("file"), &file).await), Kind::Invalid);
    assert_eq!(kind(alice.copy_from(&named("file"), &file).await), Kind::Invalid);
}

#[tokio::test]
async fn a_reservation_takes_data_once() {
    let alice = user("alice").await;
    let mut new = named("reserved");
    (new.disk_format, new.container_format) = (None, None);
    new.properties = vec![("os_type".into(), "linux".into())];
    let image = alice.create(&new).await.unwrap();
    assert_eq!((&image.status, image.size), (&Status::Queued, None));
    assert_eq!(kind(alice.create(&new).await), Kind::Exists);
    assert_eq!(kind(read(&alice, &image, None).await), Kind::NoData);
    let data = content(1000);
    assert_eq!(
        kind(alice.upload(&image.id, 1000, &opener(data.clone())).await),
        Kind::Invalid,
        "formats first"
    );
    alice.update(&image.id, &[set("disk_format", "raw"), set("container_format", "bare")]).await.unwrap();
    alice.upload(&image.id, 1000, &opener(data.clone())).await.unwrap();
    let filled = alice.show(&image.id).await.unwrap();
    assert_eq!((&filled.status, &record(&filled)["os_type"]), (&Status::Active, &json!("linux")), "no purge");
    assert_eq!(kind(alice.upload(&image.id, 1000, &opener(data)).await), Kind::Busy);
}

#[tokio::test]
async fn an_upload_that_fails_kills_the_image_and_only_delete_is_left() {
    let alice = user("alice").await;
    let id = alice.create(&named("killed")).await.unwrap().id;
    let path = format!("/v1/images/{id}");
    let wrong = [
        "-X",
        "PUT",
        "-H",
        "Content-Type: application/octet-stream",
        "-H",
        "x-image-meta-checksum: 00",
        "-d",
        "data",
    ];
    let (status, answer) = call(&wrong, &path);
    assert_eq!(status, "400", "{answer}");
    let killed = alice.show(&id).await.unwrap();
    assert_eq!((&killed.status, killed.size), (&Status::Killed, None));
    let listed = alice.list(500, None).await.unwrap().images;
    assert!(listed.iter().all(|image| image.id != id));
    assert_eq!(kind(read(&alice, &killed, None).await), Kind::NoData);
    assert_eq!(kind(alice.upload(&id, 4, &opener(Bytes::from_static(b"data"))).await), Kind::Busy);
    alice.delete(&id).await.unwrap();
    assert_eq!(kind(alice.show(&id).await), Kind::NotFound);
}

#[tokio::test]
async fn members_see_an_image_and_those_who_were_removed_do_not() {
    let (alice, bob) = (user("alice").await, user("bob").await);
    let image = active(&alice, "shared", &content(10)).await;
    assert_eq!(alice.members(&image.id).await.unwrap(), []);
    assert_eq!(kind(bob.show(&image.id).await), Kind::NotFound);
    alice.add_member(&image.id, "beta").await.unwrap();
    alice.add_member(&image.id, "beta").await.unwrap();
    let members = alice.members(&image.id).await.unwrap();
    assert_eq!(
        members.iter().map(|member| (&*member.member_id, member.can_share)).collect::<Vec<_>>(),
        [("beta", false)]
    );
    assert!(bob.list(500, None).await.unwrap().images.iter().any(|listed| listed.id == image.id));
    assert_eq!(kind(bob.add_member(&image.id, "gamma").await), Kind::NotFound);
    alice.remove_member(&image.id, "beta").await.unwrap();
    assert_eq!(kind(bob.show(&image.id).await), Kind::NotFound);
    assert_eq!(kind(alice.remove_member(&image.id, "beta").await), Kind::NotFound);
}

#[tokio::test]
async fn strangers_and_callers_without_a_token_are_refused() {
    let alice = user("alice").await;
    let id = alice.create(&named("ours")).await.unwrap().id;
    assert_eq!(kind(user("bob").await.delete(&id).await), Kind::NotFound);
    let nobody = GlanceV1::new(client(cloud(), None).await);
    assert_eq!(kind(nobody.list(10, None).await), Kind::NotAuthenticated);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_above_the_cap_is_told_and_leaves_no_record() {
    let alice = Arc::new(user("alice").await);
    let dir = tempfile::tempdir().unwrap();
    let uploads = uploads_in(dir.path(), alice.clone(), cache_in(dir.path()));
    let draft = uploads.draft(intent("large")).unwrap();
    draft.truncate(CAP as u64 + 1).unwrap();
    let id = draft.image_id();
    let error = draft.commit().await.unwrap_err();
    assert_eq!(error.kind(), Kind::TooLarge, "{error}");
    assert_eq!(kind(alice.show(&id).await), Kind::NotFound);
    let draft = uploads.draft(intent("fits")).unwrap();
    draft.write(0, b"some data").unwrap();
    let image = draft.commit().await.unwrap();
    assert_eq!((&image.status, image.size), (&Status::Active, Some(9)));
    // The properties of the image that is replaced are carried over.
    let old = alice.update(&image.id, &[set("os_type", "linux"), set("min_ram", 64)]).await.unwrap();
    let draft = uploads.draft(Intent { replaces: Some(old.clone()), ..intent("fits") }).unwrap();
    draft.write(0, b"other data").unwrap();
    let new = draft.commit().await.unwrap();
    let now = record(&alice.show(&new.id).await.unwrap());
    assert_eq!((&now["os_type"], &now["min_ram"]), (&json!("linux"), &json!(64)));
    assert_eq!(kind(alice.show(&old.id).await), Kind::NotFound);
}

#[tokio::test]
async fn auto_takes_v2_where_it_is_and_v1_where_nothing_else_is() {
    let negotiated = Negotiated::new(client(cloud(), Some("alice")).await, ApiVersion::Auto);
    let attributes = negotiated.schema().await.unwrap().attributes;
    assert!(attributes.contains("tags") && attributes.contains("self") && attributes.contains("schema"));
    let before = cloud().requests("glance", "GET / ").len();
    negotiated.list(1, None).await.unwrap();
    assert_eq!(cloud().requests("glance", "GET / ").len(), before, "it is asked once");

    let old = start("fake", &["--api", "v1", "--set", "DEFAULT.enable_v2_api=false"]);
    let negotiated = Negotiated::new(client(&old, Some("alice")).await, ApiVersion::Auto);
    let image = negotiated.create(&named("by v1")).await.unwrap();
    assert_eq!(negotiated.show(&image.id).await.unwrap(), image);
    assert_eq!(old.requests("glance", "POST /v1/images").len(), 1);
    // What was asked for is asked for, whatever there is.
    let v2 = Negotiated::new(client(&old, Some("alice")).await, ApiVersion::V2);
    assert_eq!(kind(v2.list(1, None).await), Kind::NotSupported);
}
