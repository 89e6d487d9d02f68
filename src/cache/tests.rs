//! The cache as its users see it, over sources that fail, refuse and lie, on real folders.

mod backing;
pub(crate) mod fake;
mod keep;
mod model;
mod verdict;
mod whole;

use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::CacheConfig;
use crate::error::Kind;
use crate::source::fake::{FakeDownloads, Fault, pattern};
use crate::source::{Pace, SourceKind};
use crate::units::{BLOCK_SIZE, ByteRange};

use super::*;
use fake::FakeSource;

const MIB: u64 = 1 << 20;

fn config(dir: &Path) -> CacheConfig {
    let dir = dir.join("cache");
    // No test waits so long unless a verdict is missing.
    let verify_wait = Some(Duration::from_secs(600));
    CacheConfig {
        dir,
        size: 1 << 30,
        free_floor_percent: 0,
        memory_limit: 64 * MIB,
        verify_wait,
        verify: true,
    }
}

fn open(dir: &Path) -> Cache {
    Cache::open(&config(dir), Handle::current()).unwrap()
}

fn sha512(bytes: &[u8]) -> Box<str> {
    let mut hasher =
        verify::Hasher::of(&Digest::Multi { algorithm: "sha512".into(), value: "".into() }).unwrap();
    hasher.update(bytes);
    hasher.finish().into()
}

fn identity(seed: u64, size: u64) -> ContentIdentity {
    let value = sha512(&pattern(seed, ByteRange::new(0, size)));
    ContentIdentity {
        cloud: "http://glance/".into(),
        project: "p".into(),
        image: format!("image-{seed}").parse().unwrap(),
        created_at: 1,
        size,
        digest: Digest::Multi { algorithm: "sha512".into(), value },
    }
}

fn unhashed(seed: u64, size: u64) -> ContentIdentity {
    let image = format!("image-{seed}").parse().unwrap();
    let (cloud, project) = ("http://glance/".into(), "p".into());
    ContentIdentity { cloud, project, image, created_at: 1, size, digest: Digest::None }
}

async fn read(image: &CachedImage, range: ByteRange) -> Vec<u8> {
    image.read(range, range).await.unwrap().to_vec()
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    // Hashing behind the readers has the lowest priority: on a busy machine it takes its time.
    let deadline = Instant::now() + Duration::from_secs(120);
    while !holds() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn data_file(dir: &Path, identity: &ContentIdentity, suffix: &str) -> PathBuf {
    dir.join(format!("cache/v1/images/{}.{suffix}", identity.key()))
}

fn flip(path: &Path, at: u64) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_are_fetched_once_and_exactly() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let (id, source) = (unhashed(1, 10 * MIB + 5), FakeSource::new(1, 10 * MIB + 5));
    let image = cache.image(&id, source.clone());
    let range = ByteRange::new(100_000, 200_001);
    for _ in 0..2 {
        assert_eq!(read(&image, range).await, pattern(1, range));
    }
    assert_eq!(source.asked(), [ByteRange::new(BLOCK_SIZE, 4 * BLOCK_SIZE)]);
    assert_eq!(image.try_read(range).unwrap(), pattern(1, range));
    let tail = ByteRange::new(10 * MIB, 11 * MIB);
    assert_eq!(read(&image, tail).await, pattern(1, ByteRange::new(10 * MIB, 10 * MIB + 5)));
    assert_eq!(image.read(ByteRange::new(20 * MIB, 21 * MIB), ByteRange::new(0, 0)).await.unwrap().len(), 0);
    assert_eq!(image.source_kind(), SourceKind::Ranged);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_identity_is_the_same_object_while_one_is_alive() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let source = FakeSource::new(1, MIB);
    let image = cache.image(&unhashed(1, MIB), source.clone());
    assert!(Arc::ptr_eq(&image, &cache.image(&unhashed(1, MIB), source.clone())));
    assert!(!Arc::ptr_eq(&image, &cache.image(&unhashed(2, MIB), source)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_an_absurd_size_is_read_and_leaves_disk_and_memory_to_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let small = unhashed(1, MIB);
    for size in [1 << 45, i64::MAX as u64] {
        let vast = cache.image(&unhashed(2, size), FakeSource::new(2, size));
        for range in [ByteRange::new(5 * MIB, 5 * MIB + 9), ByteRange::new(size - 9, size)] {
            assert_eq!(read(&vast, range).await, pattern(2, range));
        }
    }
    read(&cache.image(&small, FakeSource::new(1, MIB)), ByteRange::new(0, MIB)).await;
    cache.shut_down().await;
    assert_eq!(open(dir.path()).cached_bytes(&small), MIB);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_on_disk_survives_a_remount() {
    let dir = tempfile::tempdir().unwrap();
    let id = unhashed(1, 4 * MIB);
    let range = ByteRange::new(MIB, 3 * MIB);
    {
        let cache = open(dir.path());
        read(&cache.image(&id, FakeSource::new(1, id.size)), range).await;
        cache.shut_down().await;
    }
    let cache = open(dir.path());
    assert_eq!(cache.cached_bytes(&id), 2 * MIB);
    let source = FakeSource::new(1, id.size);
    let image = cache.image(&id, source.clone());
    assert_eq!(read(&image, range).await, pattern(1, range));
    assert!(source.asked().is_empty());
    assert_eq!(image.cached_bytes(), 2 * MIB);
    let mode = std::fs::metadata(data_file(dir.path(), &id, "data")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_on_disk_are_answered_in_place_from_the_page_cache() {
    let dir = tempfile::tempdir().unwrap();
    let id = unhashed(1, 4 * MIB);
    let range = ByteRange::new(10, 300_000);
    {
        let cache = open(dir.path());
        read(&cache.image(&id, FakeSource::new(1, id.size)), range).await;
        cache.shut_down().await;
    }
    let cache = open(dir.path());
    let image = cache.image(&id, FakeSource::new(1, id.size));
    eventually("the disk tier is open", || image.disk_now().is_some()).await;
    if let Some(bytes) = image.try_read(range) {
        assert_eq!(bytes, pattern(1, range));
    }
    assert!(image.try_read(ByteRange::new(2 * MIB, 2 * MIB + 1)).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_of_the_same_blocks_share_one_fetch() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let source = FakeSource::new(1, 8 * MIB);
    source.set(|fault| fault.delay = Duration::from_millis(50));
    let image = cache.image(&unhashed(1, 8 * MIB), source.clone());
    let range = ByteRange::new(0, MIB);
    let readers: Vec<_> = (0..20)
        .map(|_| {
            let image = Arc::clone(&image);
            tokio::spawn(async move { read(&image, range).await })
        })
        .collect();
    for reader in readers {
        assert_eq!(reader.await.unwrap(), pattern(1, range));
    }
    assert_eq!(source.asked(), [range]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_reaches_all_who_wait_and_a_later_read_tries_again() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let source = FakeSource::new(1, 8 * MIB);
    source.set(|fault| (fault.fail_after, fault.delay) = (Some(100_000), Duration::from_millis(30)));
    let image = cache.image(&unhashed(1, 8 * MIB), source.clone());
    let range = ByteRange::new(0, MIB);
    let (one, two) = tokio::join!(image.read(range, range), image.read(range, range));
    assert_eq!(one.unwrap_err().kind(), Kind::Unreachable);
    assert_eq!(two.unwrap_err().kind(), Kind::Unreachable);
    assert!(image.last_error().unwrap().contains("cut by the test"));
    source.set(|fault| fault.fail_after = None);
    assert_eq!(read(&image, range).await, pattern(1, range));
    assert_eq!(source.asked().last(), Some(&ByteRange::new(BLOCK_SIZE, MIB)), "the first block had come");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_proven_stream_wants_comes_in_the_same_request() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let source = FakeSource::new(1, 64 * MIB);
    let pace = Pace { first_byte: Duration::from_millis(2), bandwidth: 2_000_000_000 };
    source.set(|behaviour| behaviour.pace = pace);
    let image = cache.image(&unhashed(1, 64 * MIB), source.clone());
    let range = ByteRange::new(0, 128 * 1024);
    image.read(range, ByteRange::new(0, 20 * MIB)).await.unwrap();
    let mut asked = source.asked();
    eventually("three pieces", || {
        asked = source.asked();
        asked.len() == 3
    })
    .await;
    asked.sort_by_key(|range| range.start);
    assert_eq!(
        asked,
        [ByteRange::new(0, 8 * MIB), ByteRange::new(8 * MIB, 16 * MIB), ByteRange::new(16 * MIB, 20 * MIB)]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn prefetch_is_dropped_when_memory_is_short_and_demand_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let config = CacheConfig { memory_limit: 4 * MIB, ..config(dir.path()) };
    let cache = Cache::open(&config, Handle::current()).unwrap();
    let source = FakeSource::new(1, 64 * MIB);
    let image = cache.image(&unhashed(1, 64 * MIB), source.clone());
    image.prefetch(ByteRange::new(32 * MIB, 40 * MIB));
    let range = ByteRange::new(0, 128 * 1024);
    assert_eq!(
        image.read(range, ByteRange::new(0, 8 * MIB)).await.unwrap(),
        pattern(1, range),
        "what is owed comes, without the rest"
    );
    assert_eq!(source.asked(), [range]);
    for at in 0..200 {
        let range = ByteRange::at(at * 300_000, 500_000);
        assert_eq!(read(&image, range).await, pattern(1, range));
        assert!(cache.memory().0 <= 4 * MIB);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_without_ranges_is_one_stream_for_all_readers() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let id = identity(1, 20 * MIB);
    let source = FakeSource::new(1, id.size);
    source.set(|fault| fault.ranges = false);
    let image = cache.image(&id, source.clone());
    image.acquire();
    let readers: Vec<_> = [15 * MIB, 3, 7 * MIB, 19 * MIB]
        .map(|start| {
            let image = Arc::clone(&image);
            let range = ByteRange::at(start, 200_000);
            tokio::spawn(async move { assert_eq!(read(&image, range).await, pattern(1, range)) })
        })
        .into();
    for reader in readers {
        reader.await.unwrap();
    }
    eventually("the whole is verified", || image.verified() == Verified::Sha512).await;
    assert_eq!(image.source_kind(), SourceKind::Streamed);
    let whole = ByteRange::new(0, id.size);
    assert_eq!(source.asked().iter().filter(|range| **range == whole).count(), 1);
    assert_eq!(read(&image, whole).await, pattern(1, whole));
    assert_eq!(image.last_error(), None, "a refused range is no failure");
    image.release();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_complete_image_is_verified_once_and_stays_so_after_a_remount() {
    let dir = tempfile::tempdir().unwrap();
    let id = identity(1, 5 * MIB + 77);
    let whole = ByteRange::new(0, id.size);
    {
        let cache = open(dir.path());
        let image = cache.image(&id, FakeSource::new(1, id.size));
        assert_eq!(image.verified(), Verified::None);
        read(&image, whole).await;
        eventually("verified", || image.verified() == Verified::Sha512).await;
        cache.shut_down().await;
    }
    let cache = open(dir.path());
    assert_eq!(cache.verified(&id), Verified::Sha512);
    let image = cache.image(&id, FakeSource::broken());
    assert_eq!(image.verified(), Verified::Sha512);
    assert_eq!(read(&image, whole).await, pattern(1, whole));
    drop((image, cache));

    flip(&data_file(dir.path(), &id, "data"), 70_000);
    let cache = open(dir.path());
    assert_eq!(cache.verified(&id), Verified::None, "the file is not as it was");
    let source = FakeSource::new(1, id.size);
    let image = cache.image(&id, source.clone());
    assert_eq!(read(&image, whole).await, pattern(1, whole));
    assert_eq!(source.asked(), [ByteRange::new(BLOCK_SIZE, 2 * BLOCK_SIZE)], "only the damaged block");
    eventually("verified again", || image.verified() == Verified::Sha512).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_does_not_match_its_hash_is_dropped_and_fetched_again_at_the_next_open() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let id = identity(1, 3 * MIB);
    let whole = ByteRange::new(0, id.size);
    let image = cache.image(&id, FakeSource::new(999, id.size));
    assert_eq!(image.read(whole, whole).await.unwrap_err().kind(), Kind::Integrity);
    assert_eq!(image.verified(), Verified::Failed);
    assert_eq!(image.read(whole, whole).await.unwrap_err().kind(), Kind::Integrity);
    assert!(image.try_read(whole).is_none());
    assert!(image.last_error().unwrap().contains("does not match its hash"));
    eventually("the copy is gone", || cache.cached_bytes(&id) == 0).await;

    let again = cache.image(&id, FakeSource::new(1, id.size));
    assert_eq!(read(&again, whole).await, pattern(1, whole));
    eventually("verified", || again.verified() == Verified::Sha512).await;
    assert_eq!(
        image.read(whole, whole).await.unwrap_err().kind(),
        Kind::Integrity,
        "old handles stay failed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verified_copy_is_shared_within_a_project_and_never_beyond() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let id = identity(1, 3 * MIB);
    let whole = ByteRange::new(0, id.size);
    let twin = ContentIdentity { image: "twin".parse().unwrap(), created_at: 9, ..id.clone() };
    let foreign = ContentIdentity { project: "other".into(), ..id.clone() };
    let image = cache.image(&id, FakeSource::new(1, id.size));
    read(&image, ByteRange::new(0, MIB)).await;
    let early = FakeSource::new(1, id.size);
    read(&cache.image(&twin, early.clone()), ByteRange::new(0, 1)).await;
    assert_eq!(early.asked().len(), 1, "a claimed hash opens nothing before we have verified it");
    eventually("it is on disk", || cache.cached_bytes(&twin) > 0).await;
    cache.shut_down().await;
    std::fs::remove_file(data_file(dir.path(), &twin, "index")).unwrap();
    std::fs::remove_file(data_file(dir.path(), &twin, "data")).unwrap();

    read(&image, whole).await;
    eventually("verified", || image.verified() == Verified::Sha512).await;
    drop((image, cache));
    let cache = open(dir.path());
    let image = cache.image(&twin, FakeSource::broken());
    assert_eq!(read(&image, whole).await, pattern(1, whole));
    assert_eq!((image.verified(), image.cached_bytes()), (Verified::Sha512, id.size));
    assert!(!data_file(dir.path(), &twin, "data").exists(), "nothing is stored twice");

    let stranger = cache.image(&foreign, FakeSource::broken());
    assert!(stranger.read(whole, whole).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_uploaded_file_becomes_the_verified_copy() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let id = identity(1, 2 * MIB + 3);
    let whole = ByteRange::new(0, id.size);
    let spool = dir.path().join("spool");
    std::fs::write(&spool, pattern(1, ByteRange::new(0, id.size - 1))).unwrap();
    assert_eq!(cache.adopt(&id, &spool).unwrap_err().kind(), Kind::Integrity, "one byte short");
    std::fs::write(&spool, pattern(1, whole)).unwrap();
    cache.adopt(&id, &spool).unwrap();
    assert!(!spool.exists());
    assert_eq!((cache.cached_bytes(&id), cache.verified(&id)), (id.size, Verified::Sha512));
    let image = cache.image(&id, FakeSource::broken());
    assert_eq!(read(&image, whole).await, pattern(1, whole));
    assert_eq!(image.verified(), Verified::Sha512);
    std::fs::write(&spool, pattern(1, whole)).unwrap();
    cache.adopt(&id, &spool).unwrap();
    assert!(spool.exists(), "it is there already");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_header_costs_a_fetch_and_a_foreign_one_too() {
    let dir = tempfile::tempdir().unwrap();
    let id = unhashed(1, 2 * MIB);
    let whole = ByteRange::new(0, id.size);
    for damage in 0..3 {
        {
            let cache = open(dir.path());
            read(&cache.image(&id, FakeSource::new(1, id.size)), whole).await;
            cache.shut_down().await;
        }
        let index = data_file(dir.path(), &id, "index");
        match damage {
            0 => flip(&index, 40),
            1 => std::fs::write(&index, b"something else").unwrap(),
            _ => std::fs::File::create(data_file(dir.path(), &id, "data")).unwrap().set_len(77).unwrap(),
        }
        let cache = open(dir.path());
        let image = cache.image(&id, FakeSource::new(1, id.size));
        assert_eq!(read(&image, whole).await, pattern(1, whole), "damage {damage}");
        cache.shut_down().await;
        assert_eq!(cache.cached_bytes(&id), id.size);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_holds_and_the_blocks_unused_for_longest_go() {
    let dir = tempfile::tempdir().unwrap();
    let config = CacheConfig { size: 16 * MIB, memory_limit: 8 * MIB, ..config(dir.path()) };
    let cache = Cache::open(&config, Handle::current()).unwrap();
    let images: Vec<_> =
        (0..4).map(|seed| cache.image(&unhashed(seed, 8 * MIB), FakeSource::new(seed, 8 * MIB))).collect();
    for (seed, image) in (0..).zip(&images) {
        for at in 0..8 {
            let range = ByteRange::at(at * MIB, MIB);
            assert_eq!(read(image, range).await, pattern(seed, range));
            cache.shut_down().await;
            let on_disk: u64 = (0..4).map(|seed| allocated(dir.path(), &unhashed(seed, 8 * MIB))).sum();
            assert!(on_disk <= config.size, "{on_disk} bytes on disk");
        }
    }
    assert!(cache.counters().evicted_bytes.get() >= 16 * MIB);
    let last = cache.cached_bytes(&unhashed(3, 8 * MIB));
    assert!(last >= 6 * MIB, "only {last} of the newest image");
    for (seed, image) in (0..).zip(&images) {
        let whole = ByteRange::new(0, 8 * MIB);
        assert_eq!(read(image, whole).await, pattern(seed, whole));
    }
}

fn allocated(dir: &Path, identity: &ContentIdentity) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(data_file(dir, identity, "data")).map_or(0, |meta| meta.blocks() * 512)
}

#[tokio::test(flavor = "multi_thread")]
async fn below_the_floor_of_free_space_nothing_is_written_and_reads_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let config = CacheConfig { free_floor_percent: 100, ..config(dir.path()) };
    let cache = Cache::open(&config, Handle::current()).unwrap();
    let image = cache.image(&unhashed(1, 4 * MIB), FakeSource::new(1, 4 * MIB));
    let whole = ByteRange::new(0, 4 * MIB);
    assert_eq!(read(&image, whole).await, pattern(1, whole));
    cache.shut_down().await;
    assert_eq!(allocated(dir.path(), &unhashed(1, 4 * MIB)), 0);
    assert_eq!(cache.counters().unwritten.get(), 64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_folder_that_vanishes_does_not_fail_reads() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    std::fs::remove_dir_all(dir.path().join("cache")).unwrap();
    let image = cache.image(&unhashed(1, 4 * MIB), FakeSource::new(1, 4 * MIB));
    for at in 0..4 {
        let range = ByteRange::at(at * MIB, MIB);
        assert_eq!(read(&image, range).await, pattern(1, range));
    }
    cache.shut_down().await;
    assert!(!cache.core.health.is_well());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_mounts_fill_one_file_and_read_what_the_other_fetched() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (open(dir.path()), open(dir.path()));
    let id = unhashed(1, 4 * MIB);
    let (first, second) = (FakeSource::new(1, id.size), FakeSource::new(1, id.size));
    let (left, right) = (one.image(&id, first.clone()), two.image(&id, second.clone()));
    read(&left, ByteRange::new(0, 2 * MIB)).await;
    read(&right, ByteRange::new(2 * MIB, 4 * MIB)).await;
    one.shut_down().await;
    two.shut_down().await;
    let whole = ByteRange::new(0, 4 * MIB);
    assert_eq!(read(&left, whole).await, pattern(1, whole));
    assert_eq!(read(&right, whole).await, pattern(1, whole));
    assert_eq!((first.asked().len(), second.asked().len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_source_that_is_refused_its_first_range_turns_into_a_stream() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let mut glance = FakeDownloads::new([Some(Fault::Cut(3 * MIB, Kind::Unreachable))]);
    (glance.ranges, glance.chunk) = (false, 100_000);
    let (sources, record) = glance.sources_and_image(5 * MIB);
    let id = identity(glance.seed, 5 * MIB);
    let image = cache.image(&id, sources.of(&record));
    let ranges = [4 * MIB, 0, 2 * MIB].map(|start| ByteRange::at(start, 100_000));
    let (a, b, c) = tokio::join!(read(&image, ranges[0]), read(&image, ranges[1]), read(&image, ranges[2]));
    for (range, bytes) in ranges.into_iter().zip([a, b, c]) {
        assert_eq!(bytes, pattern(glance.seed, range));
    }
    eventually("verified", || image.verified() == Verified::Sha512).await;
    let asked = glance.asked.lock().unwrap().clone();
    assert_eq!(asked.iter().filter(|range| range.is_some()).count(), 1, "one refusal is enough: {asked:?}");
    assert_eq!(
        asked.iter().filter(|range| range.is_none()).count(),
        2,
        "a stream and its resumption: {asked:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_nobody_reads_ends_and_one_that_is_open_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let size = 64 * MIB;
    let slow = |seed| {
        let source = FakeSource::new(seed, size);
        source.set(|behaviour| {
            (behaviour.ranges, behaviour.chunk, behaviour.pause) = (false, MIB, Duration::from_millis(200));
        });
        source
    };
    let (kept, left) = (cache.image(&unhashed(1, size), slow(1)), cache.image(&unhashed(2, size), slow(2)));
    kept.acquire();
    let first = ByteRange::new(0, 1);
    tokio::join!(read(&kept, first), read(&left, first));
    // The stream takes 13 s; the one without a handle is given 5 s.
    eventually("the open one is complete", || kept.cached_bytes() == size).await;
    assert!(left.cached_bytes() < size - 16 * MIB, "{} bytes", left.cached_bytes());
    kept.release();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fill_brings_just_what_is_missing_of_its_runs() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let source = FakeSource::new(1, 64 * MIB);
    let image = cache.image(&unhashed(1, 64 * MIB), source.clone());
    let known = ByteRange::at(MIB, BLOCK_SIZE);
    image.read(known, known).await.unwrap();
    let runs = [ByteRange::new(0, 2 * MIB), ByteRange::at(40 * MIB, 3 * BLOCK_SIZE)];
    image.fill(runs.map(ByteRange::blocks).to_vec(), 3).await.unwrap();
    let mut asked = source.asked();
    asked.sort_by_key(|range| range.start);
    let expected = [
        ByteRange::new(0, MIB),
        known,
        ByteRange::new(MIB + BLOCK_SIZE, 2 * MIB),
        ByteRange::at(40 * MIB, 3 * BLOCK_SIZE),
    ];
    assert_eq!(asked, expected);
    assert_eq!(image.look_for(runs[0]), Found::Here);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fill_of_parts_begins_no_stream_of_everything() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let source = FakeSource::new(1, 8 * MIB);
    source.set(|behaviour| behaviour.ranges = false);
    let image = cache.image(&unhashed(1, 8 * MIB), source.clone());
    image.acquire();
    let part = ByteRange::at(MIB, MIB);
    for _ in 0..2 {
        image.fill(vec![part.blocks()], 3).await.unwrap();
    }
    assert_eq!(source.asked(), [part], "once, to learn that there are no ranges");
    assert_eq!(read(&image, part).await, pattern(1, part), "who reads gets his stream");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fill_says_why_it_failed_and_waits_for_room() {
    let dir = tempfile::tempdir().unwrap();
    let config = CacheConfig { memory_limit: 4 * MIB, ..config(dir.path()) };
    let cache = Cache::open(&config, Handle::current()).unwrap();
    let source = FakeSource::new(1, 16 * MIB);
    let image = cache.image(&unhashed(1, 16 * MIB), source.clone());
    let all = vec![BlockRange::of_image(16 * MIB)];
    image.fill(all.clone(), 8).await.unwrap();
    eventually("all of it", || image.cached_bytes() == 16 * MIB).await;
    let broken = cache.image(&unhashed(2, 16 * MIB), FakeSource::broken());
    assert_eq!(broken.fill(all, 8).await.unwrap_err().kind(), Kind::Unreachable);
}
