//! Readers over a real cache: right bytes in any order, few requests in sequence.

use std::path::Path;
use std::time::Duration;

use tokio::runtime::Handle;

use crate::cache::tests::fake::FakeSource;
use crate::cache::{Cache, ContentIdentity, Digest, DiskWatch};
use crate::config::CacheConfig;
use crate::source::Pace;
use crate::source::fake::pattern;

use super::*;

const MIB: u64 = 1 << 20;

fn config(dir: &Path) -> CacheConfig {
    let dir = dir.join("cache");
    let verify_wait = Some(Duration::from_secs(20));
    CacheConfig {
        dir,
        size: 4 << 30,
        free_floor_percent: 0,
        memory_limit: 256 * MIB,
        verify_wait,
        verify: true,
    }
}

/// The disk of a cache in `dir`.
pub(super) fn disk_watch(dir: &Path) -> DiskWatch {
    Cache::open(&config(dir), Handle::current()).unwrap().disk_watch()
}

fn unhashed(seed: u64, size: u64) -> ContentIdentity {
    let image = format!("image-{seed}").parse().unwrap();
    ContentIdentity {
        cloud: "c".into(),
        project: "p".into(),
        image,
        created_at: 1,
        size,
        digest: Digest::None,
    }
}

async fn read(reader: &Reader, range: ByteRange) -> Bytes {
    match reader.try_read(range) {
        Some(bytes) => bytes,
        None => reader.read(range).await.unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sequential_reader_gets_the_image_in_few_requests() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(&config(dir.path()), Handle::current()).unwrap();
    let size = 100 * MIB + 5;
    let source = FakeSource::new(1, size);
    // Slower than its reader, as a network is.
    source.set(|behaviour| (behaviour.delay, behaviour.chunk) = (Duration::from_millis(2), 256 * 1024));
    let reader = Reader::new(cache.image(&unhashed(1, size), source.clone()), size, None);
    let mut at = 0;
    loop {
        let bytes = read(&reader, ByteRange::at(at, 128 * 1024)).await;
        if bytes.is_empty() {
            break;
        }
        let range = ByteRange::at(at, bytes.len() as u64);
        assert_eq!(bytes, pattern(1, range), "{range}");
        at = range.end;
    }
    assert_eq!(at, size);
    let asked = source.asked();
    let lens: Vec<u64> = asked.iter().map(|range| range.len() / 1024).collect();
    // 25 of 4 MiB would do; the window has to grow first, and how fast depends on who is faster.
    assert!(lens.len() <= 60, "{lens:?} KiB");
    assert_eq!(asked.iter().map(|range| range.len()).sum::<u64>(), size, "every byte once");
}

#[tokio::test(flavor = "multi_thread")]
async fn parallel_reads_of_one_handle_out_of_order_are_right() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(&config(dir.path()), Handle::current()).unwrap();
    let size = 40 * MIB;
    let source = FakeSource::new(1, size);
    let reader = Arc::new(Reader::new(cache.image(&unhashed(1, size), source.clone()), size, None));
    for group in 0..40 {
        let tasks: Vec<_> = [3u64, 1, 7, 0, 5, 2, 6, 4]
            .map(|part| {
                let reader = Arc::clone(&reader);
                let range = ByteRange::at(group * MIB + part * 128 * 1024, 128 * 1024);
                tokio::spawn(async move { assert_eq!(read(&reader, range).await, pattern(1, range)) })
            })
            .into();
        for task in tasks {
            task.await.unwrap();
        }
    }
    assert_eq!(source.asked().iter().map(|range| range.len()).sum::<u64>(), size, "every byte once");
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_again_what_is_cached_fetches_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(&config(dir.path()), Handle::current()).unwrap();
    let size = 64 * MIB;
    let source = FakeSource::new(1, size);
    let image = cache.image(&unhashed(1, size), source.clone());
    let cached = ByteRange::new(8 * MIB, 9 * MIB);
    image.read(cached, cached).await.unwrap();
    for _ in 0..3 {
        let reader = Reader::new(Arc::clone(&image), size, None);
        assert_eq!(read(&reader, cached).await, pattern(1, cached));
    }
    assert_eq!(source.asked(), [cached]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_whose_profile_is_known_fetches_that_and_nothing_around_it() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(&config(dir.path()), Handle::current()).unwrap();
    let size = 64 * MIB;
    let source = FakeSource::new(1, size);
    // A server at some distance, for which a single read takes its neighbourhood along.
    source.set(|behaviour| {
        behaviour.delay = Duration::from_millis(20);
        behaviour.pace = Pace { first_byte: Duration::from_millis(20), bandwidth: 125_000_000 };
    });
    let digest = Digest::Multi { algorithm: "sha512".into(), value: "ab".into() };
    let identity = ContentIdentity { digest: digest.clone(), ..unhashed(1, size) };
    let readers = Readers::new(dir.path().join("profiles"), cache.disk_watch(), Handle::current());
    let runs: Vec<String> = (0..40u64).map(|at| format!("[{},1]", at * 37 % 64 * 16)).collect();
    let text = format!(
        "{{\"glancefs_profile\":1,\"digest\":\"sha512:ab\",\"size\":{size},\"block_size\":65536,\"runs\":[{}]}}",
        runs.join(",")
    );
    readers.keep_profile(&digest, size, text.into_bytes()).await.unwrap();
    let reader =
        readers.open(cache.image(&identity, source.clone()), size, Box::pin(std::future::ready(None)));
    // The profile has been found once its first block is asked for.
    while source.asked().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for at in (0..40u64).rev() {
        let range = ByteRange::at(at * 37 % 64 * MIB, 4096);
        assert_eq!(read(&reader, range).await, pattern(1, range));
    }
    let longest = source.asked().iter().map(|range| range.len()).max();
    assert_eq!(longest, Some(65536), "{:?}", source.asked());
}
