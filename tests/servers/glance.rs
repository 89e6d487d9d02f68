//! The client against a real Glance: what it stores, answers and refuses.

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use glancefs::error::{Kind, Result};
use glancefs::glance::{Change, Glance, Image, NewImage, Status};
use glancefs::units::{ByteRange, ImageId};

use crate::given::{MIB, content, kind, named, opener};
use crate::{client, cloud, start};

async fn active(glance: &Glance, name: &str, data: &Bytes) -> Image {
    let image = glance.create(&named(name)).await.unwrap();
    glance.upload(&image.id, data.len() as u64, &opener(data.clone())).await.unwrap();
    glance.show(&image.id).await.unwrap()
}

async fn read(glance: &Glance, image: &Image, range: Option<ByteRange>) -> Result<Vec<u8>> {
    let download = glance.download(&image.id, image.size.unwrap_or(1), range).await?;
    let chunks: Vec<Bytes> = download.chunks.try_collect().await?;
    Ok(chunks.concat())
}

#[tokio::test]
async fn an_image_comes_back_as_it_was_uploaded() {
    let alice = client(cloud(), Some("alice")).await;
    let data = content(3 * MIB + 17);
    let image = active(&alice, "round trip", &data).await;
    assert_eq!(image.status, Status::Active);
    assert_eq!(image.size, Some(data.len() as u64));
    let hash = image.hash.clone().unwrap();
    let ours = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA512, &data);
    let hex: String = ours.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!((&*hash.algorithm, &*hash.value), ("sha512", hex.as_str()));
    assert_eq!(read(&alice, &image, None).await.unwrap(), data);
    let size = data.len() as u64;
    for range in [(0, 1), (0, size), (1, 65536), (size - 1, size), (MIB as u64 - 3, MIB as u64 + 3)] {
        let range = ByteRange::new(range.0, range.1);
        let expected = &data[range.start as usize..range.end as usize];
        assert_eq!(read(&alice, &image, Some(range)).await.unwrap(), expected, "{range}");
    }
    alice.delete(&image.id).await.unwrap();
    assert_eq!(kind(alice.show(&image.id).await), Kind::NotFound);
    assert_eq!(kind(alice.delete(&image.id).await), Kind::NotFound);
    assert_eq!(kind(read(&alice, &image, None).await), Kind::NotFound);
}

#[tokio::test]
async fn an_empty_image_is_possible() {
    let alice = client(cloud(), Some("alice")).await;
    let image = active(&alice, "empty", &Bytes::new()).await;
    assert_eq!((image.status.clone(), image.size), (Status::Active, Some(0)));
    assert_eq!(read(&alice, &image, None).await.unwrap(), b"");
}

#[tokio::test]
async fn every_name_is_found_by_exactly_that_name() {
    let alice = client(cloud(), Some("alice")).await;
    let names = [
        "plain",
        "",
        " spaces ",
        "a:b",
        "eq:a",
        "in:a,b",
        "a,b",
        "\"quoted\"",
        "\"",
        "\\",
        "50%",
        "%41",
        "a+b&c=d#e?f",
        "a/b",
        "..",
        "new\nline",
        "\u{6c49}\u{5b57}",
        "2026-11-20T10:00:00Z",
        "O'Brien; DROP TABLE images",
        "%",
        "_",
    ];
    let mut ids = Vec::new();
    for name in names {
        ids.push(alice.create(&named(name)).await.unwrap().id);
    }
    for (name, id) in names.iter().zip(&ids) {
        let found = alice.find_by_name(name).await.unwrap_or_else(|error| panic!("{name:?}: {error}"));
        let found: Vec<_> = found.iter().map(|image| (&image.id, image.name.as_deref())).collect();
        assert_eq!(found, [(id, Some(*name))], "{name:?}");
    }
    let long = "\u{6c49}".repeat(255);
    let image = alice.create(&named(&long)).await.unwrap();
    assert_eq!(alice.find_by_name(&long).await.unwrap()[0].id, image.id);
    assert_eq!(kind(alice.create(&named(&"x".repeat(256))).await), Kind::NameTooLong);
    assert_eq!(kind(alice.create(&named("\u{1f600}")).await), Kind::IllegalName);
    assert!(alice.find_by_name("nothing has this name").await.unwrap().is_empty());
}

#[tokio::test]
async fn the_list_is_walked_page_by_page() {
    let bob = client(cloud(), Some("bob")).await;
    let mut made = Vec::new();
    for n in 0..5 {
        made.push(bob.create(&named(&format!("page-{n}"))).await.unwrap().id);
    }
    let (mut seen, mut next) = (Vec::new(), None);
    loop {
        let page = bob.list(2, next.as_ref()).await.unwrap();
        assert!(page.images.len() <= 2);
        seen.extend(page.images.into_iter().map(|image| image.id));
        next = page.next;
        if next.is_none() {
            break;
        }
    }
    made.reverse();
    let position = |id: &ImageId| seen.iter().position(|other| other == id).unwrap();
    assert!(made.iter().map(position).is_sorted(), "newest first, each once");

    // What was changed last comes first, from the very second on, and the next page is asked in the same way.
    bob.update(&made[2], &[Change::Set { key: "os_distro".into(), value: "debian".into() }]).await.unwrap();
    let changed = bob.show(&made[2]).await.unwrap();
    let latest = bob.changed_since(changed.updated_at, 1).await.unwrap();
    assert_eq!(latest.images[0].id, changed.id);
    let since = bob.show(&made[4]).await.unwrap().created_at;
    let (mut seen, mut page) = (Vec::new(), bob.changed_since(since, 2).await.unwrap());
    loop {
        seen.extend(page.images.into_iter().map(|image| image.updated_at));
        let Some(next) = page.next else { break };
        page = bob.list(2, Some(&next)).await.unwrap();
    }
    assert!(
        seen.len() >= 5 && seen.is_sorted_by(|one, other| one >= other) && seen.iter().all(|at| *at >= since)
    );
    let never = std::time::SystemTime::now() + std::time::Duration::from_secs(3600);
    assert!(bob.changed_since(never, 2).await.unwrap().images.is_empty());

    let first = bob.list(2, None).await.unwrap();
    bob.delete(&first.images[1].id).await.unwrap();
    let after = bob.list(2, first.next.as_ref()).await;
    assert!(after.is_ok() || kind(after) == Kind::NotFound, "a vanished marker says so or does not matter");
}

#[tokio::test]
async fn projects_do_not_see_each_other() {
    let user = |name| client(cloud(), Some(name));
    let (alice, bob, rita) = (user("alice").await, user("bob").await, user("rita").await);
    let image = active(&alice, "private", &content(100)).await;
    assert_eq!(kind(bob.show(&image.id).await), Kind::NotFound);
    assert_eq!(kind(read(&bob, &image, None).await), Kind::NotFound);
    assert!(bob.find_by_name("private").await.unwrap().is_empty());
    assert!(rita.show(&image.id).await.is_ok());
    assert_eq!(kind(read(&rita, &image, None).await), Kind::Forbidden, "a reader may not download");
    assert_eq!(kind(rita.create(&named("x")).await), Kind::Forbidden);
    assert_eq!(kind(rita.delete(&image.id).await), Kind::Forbidden);
}

#[tokio::test]
async fn changes_are_set_whether_there_was_a_value_or_not() {
    let alice = client(cloud(), Some("alice")).await;
    let image = alice.create(&named("before")).await.unwrap();
    let set = |key: &str, value: &str| Change::Set { key: key.into(), value: value.into() };
    let changes =
        [set("name", "after"), set("a/b~c", "1"), set("visibility", "private"), set("os_distro", "x")];
    let changed = alice.update(&image.id, &changes).await.unwrap();
    assert_eq!((changed.name.as_deref(), &*changed.visibility), (Some("after"), "private"));
    assert!(changed.record.text().unwrap().contains(r#""a/b~c""#), "{:?}", changed.record);
    let removed = alice.update(&image.id, &[Change::Remove { key: "a/b~c".into() }]).await.unwrap();
    assert!(!removed.record.text().unwrap().contains("a/b~c"));
    let again = [set("name", "never"), Change::Remove { key: "a/b~c".into() }];
    assert_eq!(kind(alice.update(&image.id, &again).await), Kind::NoData);
    assert_eq!(alice.show(&image.id).await.unwrap().name.as_deref(), Some("after"), "all or nothing");
    assert_eq!(kind(alice.update(&image.id, &[set("status", "active")]).await), Kind::NotPermitted);
    assert_eq!(kind(alice.update(&image.id, &[set("os_glance_x", "1")]).await), Kind::NotPermitted);
    let attributes = alice.schema().await.unwrap().attributes;
    assert!(attributes.contains("os_hash_value") && attributes.contains("tags"));
    assert!(!attributes.contains("os_distro") && !attributes.contains("kernel_id"), "{attributes:?}");

    alice.update(&image.id, &[Change::Set { key: "protected".into(), value: true.into() }]).await.unwrap();
    assert_eq!(kind(alice.delete(&image.id).await), Kind::NotPermitted);
}

#[tokio::test]
async fn a_second_upload_is_refused_however_much_is_still_to_be_sent() {
    let alice = client(cloud(), Some("alice")).await;
    let image = active(&alice, "taken", &content(100)).await;
    let block = content(MIB);
    let open = move || stream::repeat(block.clone()).map(Ok).take(256).boxed();
    // 40 times: the refusal races with the broken connection.
    for round in 0..40 {
        let error = alice.upload(&image.id, 256 << 20, &open).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Busy, "round {round}: {error}");
    }
}

#[tokio::test]
async fn content_of_another_format_is_refused() {
    let alice = client(cloud(), Some("alice")).await;
    let image =
        alice.create(&NewImage { disk_format: Some("qcow2".into()), ..named("no qcow2") }).await.unwrap();
    let error = alice.upload(&image.id, MIB as u64, &opener(content(MIB))).await.unwrap_err();
    assert_eq!(error.kind(), Kind::WrongFormat, "{error}");
    assert!(error.to_string().contains("qcow2"), "{error}");
    let queued = alice.show(&image.id).await.unwrap();
    assert_eq!((queued.status, queued.hash), (Status::Queued, None));
    let without = NewImage { disk_format: None, container_format: None, ..named("no format") };
    let image = alice.create(&without).await.unwrap();
    assert_eq!(kind(alice.upload(&image.id, 10, &opener(content(10))).await), Kind::Invalid);
}

#[tokio::test]
async fn an_image_without_data_gives_none() {
    let alice = client(cloud(), Some("alice")).await;
    let queued = alice.create(&named("queued")).await.unwrap();
    assert_eq!(kind(read(&alice, &queued, None).await), Kind::Integrity);
    let image = active(&alice, "short", &content(1000)).await;
    let wrong = Image { size: Some(2000), ..image };
    assert_eq!(kind(read(&alice, &wrong, None).await), Kind::Integrity);
    assert_eq!(kind(read(&alice, &wrong, Some(ByteRange::new(0, 10))).await), Kind::Integrity);
    assert_eq!(kind(read(&alice, &wrong, Some(ByteRange::new(1500, 1510))).await), Kind::Integrity);
}

#[tokio::test]
async fn a_store_without_ranges_says_so_and_gives_the_whole() {
    let alice = client(cloud(), Some("alice")).await;
    let data = content(MIB + 1);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, &data).unwrap();
    let id = cloud().http_image("alice", "far", file.path()).parse().unwrap();
    let image = alice.show(&id).await.unwrap();
    assert_eq!(kind(read(&alice, &image, Some(ByteRange::new(5, 10))).await), Kind::RangeUnsupported);
    assert_eq!(read(&alice, &image, None).await.unwrap(), data);
}

#[tokio::test]
async fn parallel_ranges_are_the_right_ones() {
    let alice = client(cloud(), Some("alice")).await;
    let data = content(4 * MIB);
    let image = active(&alice, "parallel", &data).await;
    let reads = (0..200u64).map(|n| {
        let (alice, image, data) = (&alice, &image, &data);
        async move {
            let range = ByteRange::at(n.wrapping_mul(7919 * 4099) % (4 * MIB as u64 - 9000), 1 + n * 41);
            let expected = &data[range.start as usize..range.end as usize];
            assert_eq!(read(alice, image, Some(range)).await.unwrap(), expected, "{range}");
        }
    });
    stream::iter(reads).buffer_unordered(16).collect::<Vec<_>>().await;
}

#[tokio::test]
async fn a_refused_token_is_an_error() {
    let nobody = client(cloud(), None).await;
    assert_eq!(kind(nobody.list(10, None).await), Kind::NotAuthenticated);
}

#[tokio::test]
async fn each_limit_of_the_cloud_has_its_own_error() {
    let cloud = start("fake", &["--set", "DEFAULT.user_storage_quota=3MB"]);
    let refused = async |mib: usize| {
        let alice = client(&cloud, Some("alice")).await;
        let image = alice.create(&named("large")).await.unwrap();
        let data = content(mib * MIB);
        let error = alice.upload(&image.id, data.len() as u64, &opener(data)).await.unwrap_err();
        assert_eq!(alice.show(&image.id).await.unwrap().status, Status::Queued);
        error.kind()
    };
    for _ in 0..5 {
        assert_eq!(refused(64).await, Kind::QuotaExceeded);
    }
    cloud.restart(&["--set", "DEFAULT.user_storage_quota=", "--set", "DEFAULT.image_size_cap=8388608"]);
    for _ in 0..5 {
        assert_eq!(refused(64).await, Kind::TooLarge);
    }
    let alice = client(&cloud, Some("alice")).await;
    let properties = (0..200).map(|n| (format!("p{n}"), "x".into())).collect();
    assert_eq!(kind(alice.create(&NewImage { properties, ..named("properties") }).await), Kind::NoSpace);
}

#[tokio::test]
async fn a_server_that_comes_back_is_waited_for() {
    let cloud = start("none", &[]);
    let glance = client(&cloud, None).await;
    glance.list(10, None).await.unwrap();
    cloud.stop("glance");
    assert_eq!(kind(glance.list(10, None).await), Kind::Unreachable);
    cloud.up_again();
    // The pooled connection of before is dead; nobody notices.
    glance.list(10, None).await.unwrap();
}
