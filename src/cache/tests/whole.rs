//! Whole images: what is brought completely, what does not fit, and what is dropped.

use rustix::fs::FlockOperation;

use super::*;

const AT_ONCE: usize = 4;

fn fetched(source: &FakeSource) -> u64 {
    source.asked().iter().map(|range| range.len()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_complete_image_is_on_disk_and_each_byte_came_once() {
    let dir = tempfile::tempdir().unwrap();
    // A queue of 16 blocks before the disk.
    let config = CacheConfig { memory_limit: 4 * MIB, ..config(dir.path()) };
    let cache = Cache::open(&config, Handle::current()).unwrap();
    let id = identity(1, 40 * MIB + 5);
    let source = FakeSource::new(1, id.size);
    let image = cache.image(&id, source.clone());
    image.complete(AT_ONCE).await.unwrap();
    assert_eq!(image.proof().await.unwrap(), Verified::Sha512);
    assert_eq!((fetched(&source), image.cached_bytes()), (id.size, id.size));
    assert_eq!(cache.memory().0, 0, "memory is for what is read");
    image.complete(AT_ONCE).await.unwrap();
    assert_eq!(fetched(&source), id.size);
    let held = cache.holdings([("it", id.clone()), ("another", identity(2, MIB))]).unwrap();
    assert_eq!(held, [("it", Holding { bytes: id.size, verified: Verified::Sha512 })]);
    assert!(cache.usage().unwrap().bytes >= id.size);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_without_ranges_comes_as_one_stream() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let source = FakeSource::new(1, 8 * MIB);
    source.set(|behaviour| behaviour.ranges = false);
    cache.image(&unhashed(1, 8 * MIB), source.clone()).complete(AT_ONCE).await.unwrap();
    let streams = source.asked().iter().filter(|range| range.len() == 8 * MIB).count();
    assert_eq!(streams, 1, "{:?}", source.asked());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_without_bytes_or_without_a_hash_is_complete_without_a_proof() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    for id in [identity(1, 0), unhashed(2, MIB)] {
        let image = cache.image(&id, FakeSource::new(2, id.size));
        image.complete(AT_ONCE).await.unwrap();
        assert_eq!(image.proof().await.unwrap(), Verified::None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_not_even_begun() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(&CacheConfig { size: 2 * MIB, ..config(dir.path()) }, Handle::current()).unwrap();
    let source = FakeSource::new(1, 3 * MIB);
    let error = cache.image(&identity(1, 3 * MIB), source.clone()).complete(AT_ONCE).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NoSpace);
    assert!(error.to_string().contains("--cache-size"), "{error}");
    let full = CacheConfig { free_floor_percent: 99, ..config(dir.path()) };
    let cache = Cache::open(&full, Handle::current()).unwrap();
    let error = cache.image(&identity(1, 3 * MIB), source.clone()).complete(AT_ONCE).await.unwrap_err();
    assert!(error.to_string().contains("the disk of the cache has room for"), "{error}");
    assert_eq!(source.asked(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_disk_does_not_keep_is_told_and_not_fetched_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let source = FakeSource::new(1, 8 * MIB);
    let image = cache.image(&identity(1, 8 * MIB), source.clone());
    cache.core.health.failed("writing", &"the test says so");
    let error = image.complete(AT_ONCE).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NoSpace);
    assert!(error.to_string().contains("keeps only 0 B of 8.0 MiB"), "{error}");
    assert!(fetched(&source) <= 3 * 8 * MIB);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hash_that_does_not_match_ends_it() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let image = cache.image(&identity(1, 2 * MIB), FakeSource::new(2, 2 * MIB));
    let outcome = async {
        image.complete(AT_ONCE).await?;
        image.proof().await
    };
    assert_eq!(outcome.await.unwrap_err().kind(), Kind::Integrity);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_evicted_is_gone_from_disk_and_memory_and_read_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (open(dir.path()), open(dir.path()));
    let (id, other) = (identity(1, 3 * MIB), identity(2, MIB));
    let whole = ByteRange::new(0, id.size);
    let (first, second) = (FakeSource::new(1, id.size), FakeSource::new(1, id.size));
    let (left, right) = (one.image(&id, first.clone()), two.image(&id, second.clone()));
    let beside = one.image(&other, FakeSource::new(2, MIB));
    left.complete(AT_ONCE).await.unwrap();
    beside.complete(AT_ONCE).await.unwrap();
    assert_eq!(left.proof().await.unwrap(), Verified::Sha512);
    assert_eq!(read(&right, ByteRange::new(0, MIB)).await, pattern(1, ByteRange::new(0, MIB)));
    assert_eq!(fetched(&second), 0);

    assert_eq!(one.evict(&id).await.unwrap(), Evicted { freed: id.size, left: 0 });
    assert_eq!((left.cached_bytes(), left.verified()), (0, Verified::None));
    assert_eq!(one.evict(&id).await.unwrap(), Evicted { freed: 0, left: 0 });
    // Another mount still has its hints and a part in its memory.
    assert_eq!(read(&right, whole).await, pattern(1, whole));
    assert_eq!(read(&left, whole).await, pattern(1, whole));
    assert_eq!(beside.cached_bytes(), MIB, "no other image is touched");
    assert!(fetched(&first) + fetched(&second) >= 2 * id.size - MIB);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_past_us_is_not_evicted() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let id = identity(1, MIB);
    let image = cache.image(&id, FakeSource::new(1, id.size));
    image.complete(AT_ONCE).await.unwrap();
    let data = dir.path().join(format!("cache/v1/images/{}.data", id.key()));
    let pin = std::fs::File::open(&data).unwrap();
    rustix::fs::flock(&pin, FlockOperation::LockShared).unwrap();
    assert_eq!(cache.evict(&id).await.unwrap_err().kind(), Kind::Busy);
    assert_eq!(image.cached_bytes(), id.size);
    drop(pin);
    assert_eq!(cache.evict(&id).await.unwrap().freed, id.size);
    drop(image);
    // A task may still be letting go of it.
    for _ in 0..200 {
        cache.evict(&id).await.unwrap();
        if !data.exists() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("nobody has it open, and it is empty, but it is still there");
}

#[tokio::test(flavor = "multi_thread")]
async fn images_that_are_gone_leave_memory_unless_they_are_open() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let ids = [1, 2, 3].map(|seed| unhashed(seed, MIB));
    let whole = ByteRange::new(0, MIB);
    let [still_open, closed, listed] =
        [0, 1, 2].map(|at| cache.image(&ids[at], FakeSource::new(at as u64 + 1, MIB)));
    for image in [&still_open, &closed, &listed] {
        read(image, whole).await;
    }
    assert_eq!(cache.memory().0, 3 * MIB);
    drop((closed, listed));
    let gone = [ids[0].key(), ids[1].key()].into();
    // What works behind a reader has the image open, too.
    eventually("what is closed and gone is forgotten", || {
        cache.forget_gone(&gone);
        cache.memory().0 < 3 * MIB
    })
    .await;
    assert_eq!(cache.memory().0, 2 * MIB);
    assert_eq!(still_open.try_read(whole).unwrap(), pattern(1, whole));
}
