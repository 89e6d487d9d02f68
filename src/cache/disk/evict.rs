//! Making room: the extents unused for longest are punched out of the data files, open ones included.
//!
//! One process does it at a time, for all mounts that share the folder. It works on the files alone, so
//! that images open here, open elsewhere and not open at all are treated alike. An entry is cleared
//! before its block is punched: whoever reads in between gets zeros, whose CRC does not match.
//!
//! Two passes keep the memory small whatever the size of the cache: the first counts bytes per age, which
//! gives the age down to which everything must go; the second evicts.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{FlockOperation, OFlags};

use crate::cache::identity::Key;
use crate::units::{BLOCK_SIZE, BlockIndex, BlockRange};

use super::files::{EXTENT_BLOCKS, punch, read_header, read_or_zeros};
use super::folder::{Folder, Part, try_lock};
use super::index::{ENTRY_LEN, Entry, entry_offset};

/// A data file without an index is the leftover of a crash, unless it is about to get one.
const ORPHAN_SECONDS: i64 = 600;
/// Allocated bytes beyond what the index names before a file is cleaned of them: entries that were lost,
/// or holes that could not be punched.
const LEAK_BYTES: u64 = 4 << 20;
/// Extents whose entries are read at once: 512 MiB of image, 64 KiB of index.
const SCAN_EXTENTS: u64 = 512;

/// The images that are open in this process.
pub(crate) trait Tenants {
    /// Writes down when their blocks were last used.
    fn write_stamps(&self);
    /// These blocks were evicted.
    fn forgotten(&self, key: Key, blocks: BlockRange);
}

/// Frees at least `need` bytes if there are as many, and tells how many were freed; `None`: another
/// process is making room.
pub(crate) fn evict(folder: &Folder, need: u64, tenants: &dyn Tenants) -> io::Result<Option<u64>> {
    let Some(_lock) = folder.lock_eviction()? else { return Ok(None) };
    tenants.write_stamps();
    let mut ages: BTreeMap<u32, u64> = BTreeMap::new();
    let mut keys = Vec::new();
    let mut freed = 0;
    folder.each_image(|key, part| keys.push((key, part)))?;
    for (key, part) in &keys {
        match part {
            Part::Data => freed += remove_orphan(folder, *key)?,
            Part::Index => {
                let Some(victim) = Victim::open(folder, *key)? else { continue };
                victim.each_extent(|extent| {
                    *ages.entry(extent.youngest).or_default() += extent.present * BLOCK_SIZE;
                    Ok(true)
                })?;
            }
        }
    }
    let Some(oldest_kept) = cut(&ages, need.saturating_sub(freed)) else { return Ok(Some(freed)) };
    // What is older than the cut goes everywhere, before anything of the age of the cut itself.
    for at_the_cut in [false, true] {
        for (key, _) in keys.iter().filter(|(_, part)| *part == Part::Index) {
            if freed >= need {
                break;
            }
            let Some(victim) = Victim::open(folder, *key)? else { continue };
            let wanted = |age: u32| if at_the_cut { age == oldest_kept } else { age < oldest_kept };
            freed += victim.evict(wanted, need - freed, tenants)?;
        }
    }
    for (key, _) in keys.iter().filter(|(_, part)| *part == Part::Index) {
        let Some(victim) = Victim::open(folder, *key)? else { continue };
        freed += victim.clean()?;
        victim.remove_if_empty(folder)?;
    }
    folder.drop_dangling_aliases()?;
    Ok(Some(freed))
}

/// Frees every block of one image and tells how many bytes that were; `None`: somebody reads its data file
/// past us, so nothing of it may be freed. Open images lose their blocks as well. The caller has the right
/// to make room.
pub(crate) fn evict_image(folder: &Folder, key: Key, tenants: &dyn Tenants) -> io::Result<Option<u64>> {
    let Some(victim) = Victim::open(folder, key)? else {
        let Some(data) = folder.open_image(key, Part::Data, OFlags::RDWR)? else { return Ok(Some(0)) };
        // Not pinned: then its index is gone or damaged, and nobody believes a block of it.
        return Ok(try_lock(&data, FlockOperation::NonBlockingLockExclusive)?.then_some(0));
    };
    let freed = victim.evict(|_| true, u64::MAX, tenants)?;
    victim.punch(BlockRange::of_image(victim.size))?;
    victim.remove_if_empty(folder)?;
    folder.drop_dangling_aliases()?;
    Ok(Some(freed))
}

/// The age at which the bytes of all extents at least as old reach `need`.
fn cut(ages: &BTreeMap<u32, u64>, need: u64) -> Option<u32> {
    let mut sum = 0;
    for (age, bytes) in ages {
        sum += bytes;
        if sum >= need {
            return Some(*age);
        }
    }
    ages.keys().next_back().copied()
}

fn remove_orphan(folder: &Folder, key: Key) -> io::Result<u64> {
    let Some((bytes, changed)) = folder.allocated(key)? else { return Ok(0) };
    if folder.open_image(key, Part::Index, OFlags::RDONLY)?.is_some() {
        return Ok(0);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    if i64::try_from(now).unwrap_or(i64::MAX).saturating_sub(changed) < ORPHAN_SECONDS {
        return Ok(0);
    }
    folder.remove_image(key, Part::Data)?;
    Ok(bytes)
}

/// The files of an image that may lose blocks.
struct Victim {
    key: Key,
    size: u64,
    index: File,
    data: File,
}

/// One extent that has blocks.
struct Extent {
    blocks: BlockRange,
    /// How many of them are present.
    present: u64,
    /// The stamp of the block used last.
    youngest: u32,
}

impl Victim {
    /// `None`: it is gone, damaged (its next reader repairs it), or pinned by somebody who reads the
    /// data file past us and holds a lock on it.
    fn open(folder: &Folder, key: Key) -> io::Result<Option<Self>> {
        let Some(index) = folder.open_image(key, Part::Index, OFlags::RDWR)? else { return Ok(None) };
        let Some(data) = folder.open_image(key, Part::Data, OFlags::RDWR)? else { return Ok(None) };
        if !try_lock(&data, FlockOperation::NonBlockingLockExclusive)? {
            return Ok(None);
        }
        let header = read_header(&index)?.filter(|header| header.key == key);
        Ok(header.map(|header| Self { key, size: header.size, index, data }))
    }

    fn each_extent(&self, mut visit: impl FnMut(&Extent) -> io::Result<bool>) -> io::Result<()> {
        let all = BlockRange::of_image(self.size);
        let mut at = all.start.0;
        while at < all.end.0 {
            let end = all.end.0.min(at + SCAN_EXTENTS * EXTENT_BLOCKS);
            let mut raw = vec![0; ((end - at) * ENTRY_LEN) as usize];
            read_or_zeros(&self.index, &mut raw, entry_offset(BlockIndex(at)))?;
            for (piece, start) in
                raw.chunks((EXTENT_BLOCKS * ENTRY_LEN) as usize).zip((at..).step_by(EXTENT_BLOCKS as usize))
            {
                let blocks = BlockRange {
                    start: BlockIndex(start),
                    end: BlockIndex((start + EXTENT_BLOCKS).min(all.end.0)),
                };
                let found = || Entry::decode_all(piece).flatten();
                let Some(youngest) = found().map(|entry| entry.used.0).max() else { continue };
                if !visit(&Extent { blocks, present: found().count() as u64, youngest })? {
                    return Ok(());
                }
            }
            at = end;
        }
        Ok(())
    }

    fn evict(&self, wanted: impl Fn(u32) -> bool, need: u64, tenants: &dyn Tenants) -> io::Result<u64> {
        let mut freed = 0;
        self.each_extent(|extent| {
            if wanted(extent.youngest) {
                let zeros = vec![0; (extent.blocks.len() * ENTRY_LEN) as usize];
                self.index.write_all_at(&zeros, entry_offset(extent.blocks.start))?;
                tenants.forgotten(self.key, extent.blocks);
                self.punch(extent.blocks)?;
                freed += extent.present * BLOCK_SIZE;
            }
            Ok(freed < need)
        })?;
        Ok(freed)
    }

    fn punch(&self, blocks: BlockRange) -> io::Result<()> {
        // Whole blocks, also past the end of the image: the file system frees whole pages only.
        punch(&self.data, blocks.start.offset(), blocks.len() * BLOCK_SIZE)
    }

    /// Frees what the data file occupies beyond what the index names.
    fn clean(&self) -> io::Result<u64> {
        let allocated = || io::Result::Ok(self.data.metadata()?.blocks() * 512);
        let mut named = 0;
        self.each_extent(|extent| {
            named += extent.present * BLOCK_SIZE;
            Ok(true)
        })?;
        let before = allocated()?;
        if before < named + LEAK_BYTES {
            return Ok(0);
        }
        let mut next = 0;
        self.each_extent(|extent| {
            if next < extent.blocks.start.0 {
                self.punch(BlockRange { start: BlockIndex(next), end: extent.blocks.start })?;
            }
            next = extent.blocks.end.0;
            Ok(true)
        })?;
        let end = BlockRange::of_image(self.size).end;
        if next < end.0 {
            self.punch(BlockRange { start: BlockIndex(next), end })?;
        }
        Ok(before.saturating_sub(allocated()?))
    }

    /// Removes the files when nothing is in them and nobody has them open.
    fn remove_if_empty(self, folder: &Folder) -> io::Result<()> {
        let mut empty = true;
        self.each_extent(|_| {
            empty = false;
            Ok(false)
        })?;
        if empty && try_lock(&self.index, FlockOperation::NonBlockingLockExclusive)? {
            folder.remove_image(self.key, Part::Data)?;
            folder.remove_image(self.key, Part::Index)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cut_is_the_youngest_age_that_must_go() {
        let ages = BTreeMap::from([(10, 100), (20, 100), (30, 100)]);
        assert_eq!(cut(&ages, 50), Some(10));
        assert_eq!(cut(&ages, 100), Some(10));
        assert_eq!(cut(&ages, 101), Some(20));
        assert_eq!(cut(&ages, 1000), Some(30), "there is no more than everything");
        assert_eq!(cut(&BTreeMap::new(), 1), None);
    }
}
