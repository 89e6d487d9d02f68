//! What is kept stays, whoever makes room, and no more is kept than fits.

use super::*;

fn small(dir: &Path) -> Cache {
    Cache::open(&CacheConfig { size: 8 * MIB, ..config(dir) }, Handle::current()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_image_loses_nothing_to_this_process_or_another() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (small(dir.path()), small(dir.path()));
    let id = unhashed(1, 5 * MIB);
    let image = ours.image(&id, FakeSource::new(1, 5 * MIB));
    // Half of it came before, the rest after.
    read(&image, ByteRange::new(0, 2 * MIB)).await;
    let kept = image.keep().await.unwrap();
    image.complete(4).await.unwrap();
    for (cache, seed) in [(&ours, 2), (&theirs, 3)] {
        let other = cache.image(&unhashed(seed, 7 * MIB), FakeSource::new(seed, 7 * MIB));
        read(&other, ByteRange::new(0, 7 * MIB)).await;
        cache.shut_down().await;
        assert_eq!(theirs.evict(&id).await.unwrap_err().kind(), Kind::Busy);
    }
    assert_eq!(image.cached_bytes(), 5 * MIB);
    drop(kept);
    theirs.evict(&id).await.unwrap();
    eventually("it is gone", || ours.cached_bytes(&id) < 5 * MIB || theirs.cached_bytes(&id) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_is_kept_than_fits() {
    let dir = tempfile::tempdir().unwrap();
    let cache = small(dir.path());
    let [one, two, large] = [(1, 5 * MIB), (2, 4 * MIB), (3, 9 * MIB)]
        .map(|(seed, size)| cache.image(&unhashed(seed, size), FakeSource::new(seed, size)));
    let told = |kept: Result<Kept>| kept.err().map(|error| (error.kind(), error.to_string()));
    let (kind, why) = told(large.keep().await).unwrap();
    assert!(kind == Kind::NoSpace && why.contains("--cache-size"), "{why}");
    let kept = (one.keep().await.unwrap(), one.keep().await.unwrap());
    let (kind, why) = told(two.keep().await).unwrap();
    assert!(kind == Kind::NoSpace && why.contains("beside 5.0 MiB that are held"), "{why}");
    drop(kept.0);
    assert!(two.keep().await.is_err(), "it is kept once still");
    drop(kept.1);
    two.keep().await.unwrap();
}
