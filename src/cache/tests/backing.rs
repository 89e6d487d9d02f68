//! Files that are read past us: which are given out, and that nothing ever changes in one.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;

use super::fake::FakeSource;
use super::*;
use crate::source::Source;

const SIZE: u64 = 8 * MIB;
const WHOLE: ByteRange = ByteRange { start: 0, end: SIZE };

/// The image, complete and verified.
async fn proven(cache: &Cache, id: &ContentIdentity, seed: u64) -> Arc<CachedImage> {
    let image = cache.image(id, FakeSource::new(seed, id.size));
    read(&image, WHOLE).await;
    eventually("verified", || image.verified() == Verified::Sha512).await;
    image
}

/// What a program would read, through a descriptor of the same open file description.
fn content(backing: &Backing) -> Vec<u8> {
    let mut file = File::from(backing.as_fd().try_clone_to_owned().unwrap());
    let mut bytes = Vec::new();
    std::io::Seek::rewind(&mut file).unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_complete_verified_image_has_one() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let image = cache.image(&identity(1, SIZE), FakeSource::new(1, SIZE));
    assert!(image.backing().await.is_none(), "nothing is there");
    read(&image, ByteRange::new(0, SIZE - 1_000_000)).await;
    cache.shut_down().await;
    assert!(image.backing().await.is_none(), "a hole would be read as zeros");
    let image = proven(&cache, &identity(1, SIZE), 1).await;
    assert_eq!(content(&image.backing().await.unwrap()), pattern(1, WHOLE));

    let unhashed = cache.image(&unhashed(2, SIZE), FakeSource::new(2, SIZE));
    read(&unhashed, WHOLE).await;
    eventually("complete", || unhashed.cached_bytes() == SIZE).await;
    cache.shut_down().await;
    assert!(unhashed.backing().await.is_none(), "nothing proves it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_touched_is_verified_again_first() {
    let dir = tempfile::tempdir().unwrap();
    let id = identity(1, SIZE);
    let cache = open(dir.path());
    let image = proven(&cache, &id, 1).await;
    assert!(image.backing().await.is_some());
    let data = data_file(dir.path(), &id, "data");
    File::options().write(true).open(&data).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    assert!(image.backing().await.is_none());
    eventually("verified again", || image.verified() == Verified::Sha512).await;
    assert_eq!(content(&image.backing().await.unwrap()), pattern(1, WHOLE));
    // Wrong bytes are found then, fetched again and only then given out.
    flip(&data, 3 * MIB);
    let cache = open(dir.path());
    let image = cache.image(&id, FakeSource::new(1, SIZE));
    assert!(image.backing().await.is_none());
    eventually("the damaged block is out", || image.cached_bytes() < SIZE).await;
    read(&image, WHOLE).await;
    eventually("whole again", || image.verified() == Verified::Sha512).await;
    assert_eq!(content(&image.backing().await.unwrap()), pattern(1, WHOLE));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_it_is_evicted_while_it_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let config = CacheConfig { size: SIZE + 4 * MIB, ..config(dir.path()) };
    let cache = Cache::open(&config, Handle::current()).unwrap();
    let id = identity(1, SIZE);
    let backing = {
        let image = proven(&cache, &id, 1).await;
        image.backing().await.unwrap()
    };
    // By this mount and by another one.
    let other = Cache::open(&config, Handle::current()).unwrap();
    for (cache, seed) in [(&cache, 2), (&other, 3)] {
        let image = cache.image(&unhashed(seed, SIZE), FakeSource::new(seed, SIZE));
        assert_eq!(read(&image, WHOLE).await, pattern(seed, WHOLE));
        cache.shut_down().await;
    }
    assert_eq!(content(&backing), pattern(1, WHOLE));
    assert_eq!(cache.cached_bytes(&id), SIZE);
    drop(backing);
    // The others went meanwhile, and it is the oldest now.
    let cache = Cache::open(&config, Handle::current()).unwrap();
    read(&cache.image(&unhashed(4, SIZE), FakeSource::new(4, SIZE)), WHOLE).await;
    cache.shut_down().await;
    assert!(cache.cached_bytes(&id) < SIZE || cache.counters().evicted_bytes.get() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pin_goes_with_the_last_duplicate_of_the_descriptor() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let id = identity(1, SIZE);
    let backing = proven(&cache, &id, 1).await.backing().await.unwrap();
    let kernel = backing.as_fd().try_clone_to_owned().unwrap();
    let data = File::open(data_file(dir.path(), &id, "data")).unwrap();
    let is_pinned = || data.try_lock().map(|()| data.unlock().unwrap()).is_err();
    assert!(is_pinned());
    drop(backing);
    assert!(is_pinned());
    drop(kernel);
    assert!(!is_pinned());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_must_go_leaves_its_readers_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let id = identity(1, SIZE);
    let cache = open(dir.path());
    let backing = proven(&cache, &id, 1).await.backing().await.unwrap();
    let index = data_file(dir.path(), &id, "index");
    // A verification that failed; an index that was damaged; one that was removed.
    for harm in 0..3 {
        let cache = open(dir.path());
        match harm {
            0 => cache.core.peek(&id).unwrap().clear().unwrap(),
            1 => std::fs::write(&index, b"something else").unwrap(),
            _ => std::fs::remove_file(&index).unwrap(),
        }
        assert_eq!(content(&backing), pattern(1, WHOLE), "harm {harm}");
        let image = proven(&cache, &id, 1).await;
        assert_eq!(content(&image.backing().await.unwrap()), pattern(1, WHOLE));
        assert_eq!(content(&backing), pattern(1, WHOLE), "harm {harm}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn images_of_equal_content_share_one() {
    let dir = tempfile::tempdir().unwrap();
    let id = identity(1, SIZE);
    let cache = open(dir.path());
    drop(proven(&cache, &id, 1).await);
    let twin = ContentIdentity { image: "twin".parse().unwrap(), created_at: 9, ..id };
    let image = cache.image(&twin, FakeSource::broken() as Arc<dyn Source>);
    assert_eq!(content(&image.backing().await.unwrap()), pattern(1, WHOLE));
}
