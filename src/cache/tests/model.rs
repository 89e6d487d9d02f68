//! A property: whatever happens to the cache, a read gives the image's bytes or an error of the source.

use proptest::prelude::*;

use super::*;

/// What may happen between two reads.
#[derive(Debug, Clone)]
enum Act {
    /// One of two mounts reads this much of one of three images.
    Read {
        mount: usize,
        image: usize,
        start: u64,
        len: u64,
        ahead: u64,
    },
    TryRead {
        mount: usize,
        image: usize,
        start: u64,
        len: u64,
    },
    Prefetch {
        mount: usize,
        image: usize,
        start: u64,
        len: u64,
    },
    /// One of the mounts ends and begins again.
    Remount {
        mount: usize,
    },
    /// What is queued for the disk is written.
    Settle,
    /// A bit of a file flips.
    Flip {
        image: usize,
        index: bool,
        at: u64,
    },
    /// A file is cut off.
    Cut {
        image: usize,
        index: bool,
        at: u64,
    },
    /// The sources fail from now on after this many bytes, or no longer.
    Fail {
        after: Option<u64>,
    },
}

const SIZES: [u64; 3] = [3 * MIB + 7, 5 * MIB, 70_000];

fn act() -> impl Strategy<Value = Act> {
    let at = (0usize..2, 0usize..3, 0u64..6 * MIB, 0u64..MIB);
    prop_oneof![
        8 => (at.clone(), 0u64..4 * MIB).prop_map(|((mount, image, start, len), ahead)| Act::Read { mount, image, start, len, ahead }),
        3 => at.clone().prop_map(|(mount, image, start, len)| Act::TryRead { mount, image, start, len }),
        1 => at.prop_map(|(mount, image, start, len)| Act::Prefetch { mount, image, start, len }),
        1 => (0usize..2).prop_map(|mount| Act::Remount { mount }),
        2 => Just(Act::Settle),
        2 => (0usize..3, any::<bool>(), 0u64..5 * MIB).prop_map(|(image, index, at)| Act::Flip { image, index, at }),
        1 => (0usize..3, any::<bool>(), 0u64..5 * MIB).prop_map(|(image, index, at)| Act::Cut { image, index, at }),
        1 => prop::option::of(0u64..200_000).prop_map(|after| Act::Fail { after }),
    ]
}

/// A mount: a cache, and its three images.
struct Mount {
    cache: Cache,
    images: Vec<Arc<CachedImage>>,
    sources: Vec<Arc<FakeSource>>,
}

fn mount(dir: &Path, ranges: bool) -> Mount {
    let config = CacheConfig { size: 4 * MIB, memory_limit: 2 * MIB, ..config(dir) };
    let cache = Cache::open(&config, Handle::current()).unwrap();
    let sources: Vec<_> = (0..).zip(SIZES).map(|(seed, size)| FakeSource::new(seed, size)).collect();
    sources.iter().for_each(|source| source.set(|behaviour| behaviour.ranges = ranges));
    let images = (0..)
        .zip(SIZES)
        .map(|(seed, size)| cache.image(&identity(seed, size), sources[seed as usize].clone()))
        .collect();
    Mount { cache, images, sources }
}

fn damage(dir: &Path, image: usize, index: bool, change: impl FnOnce(&Path, u64)) {
    let path = data_file(dir, &identity(image as u64, SIZES[image]), if index { "index" } else { "data" });
    if let Ok(meta) = std::fs::metadata(&path)
        && meta.len() > 0
    {
        change(&path, meta.len());
    }
}

async fn run(acts: Vec<Act>, ranges: bool) -> Result<(), TestCaseError> {
    let dir = tempfile::tempdir().unwrap();
    let mut mounts = [mount(dir.path(), ranges), mount(dir.path(), ranges)];
    for act in acts {
        match act {
            Act::Read { mount, image, start, len, ahead } => {
                let range = ByteRange::at(start, len);
                let fetch = ByteRange::new(range.start, range.end + ahead);
                let wanted = pattern(image as u64, range.clamp_to(SIZES[image]));
                match mounts[mount].images[image].read(range, fetch).await {
                    Ok(bytes) => prop_assert!(bytes == wanted, "wrong bytes of image {image} at {range}"),
                    Err(error) => prop_assert_eq!(error.kind(), Kind::Unreachable, "{}", error),
                }
            }
            Act::TryRead { mount, image, start, len } => {
                let range = ByteRange::at(start, len);
                if let Some(bytes) = mounts[mount].images[image].try_read(range) {
                    let wanted = pattern(image as u64, range.clamp_to(SIZES[image]));
                    prop_assert!(bytes == wanted, "wrong bytes of image {image} at {range}");
                }
            }
            Act::Prefetch { mount, image, start, len } => {
                mounts[mount].images[image].prefetch(ByteRange::at(start, len));
            }
            Act::Remount { mount: which } => {
                mounts[which].cache.shut_down().await;
                mounts[which] = mount(dir.path(), ranges);
            }
            Act::Settle => {
                for mount in &mounts {
                    mount.cache.shut_down().await;
                }
            }
            Act::Flip { image, index, at } => {
                damage(dir.path(), image, index, |path, len| flip(path, at % len))
            }
            Act::Cut { image, index, at } => damage(dir.path(), image, index, |path, len| {
                std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(at % len).unwrap();
            }),
            Act::Fail { after } => {
                for source in mounts.iter().flat_map(|mount| &mount.sources) {
                    source.set(|behaviour| behaviour.fail_after = after);
                }
            }
        }
        for mount in &mounts {
            let (bytes, limit) = mount.cache.memory();
            prop_assert!(bytes <= limit);
            for image in &mount.images {
                prop_assert!(image.verified() != Verified::Failed, "damage on disk is not the image's fault");
            }
        }
    }
    Ok(())
}

fn on_a_runtime(acts: Vec<Act>, ranges: bool) -> Result<(), TestCaseError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime
        .block_on(async { tokio::time::timeout(Duration::from_secs(60), run(acts, ranges)).await.unwrap() })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn ranged_reads_give_the_images_bytes_whatever_happens(acts in prop::collection::vec(act(), 1..60)) {
        on_a_runtime(acts, true)?;
    }

    #[test]
    fn streamed_reads_give_the_images_bytes_whatever_happens(acts in prop::collection::vec(act(), 1..40)) {
        on_a_runtime(acts, false)?;
    }
}
