//! The disk tier of one image: its own files, and perhaps a verified copy of the same content beside.
//!
//! `folder` is the directory, `index` the format, `files` one pair of files, `evict` and `space` keep the
//! whole within its limits, `health` says whether the disk is worth trying.

pub(super) mod bits;
pub(super) mod buffers;
pub(super) mod evict;
pub(super) mod files;
pub(super) mod folder;
pub(super) mod health;
pub(super) mod index;
mod presence;
pub(super) mod space;

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;

use crate::error::{Error, Kind, Result};
use crate::units::{BLOCK_SIZE, BlockIndex, BlockRange};

use self::buffers::Buffers;
use self::files::{Files, Trouble, Wait};
use self::folder::Folder;
use super::identity::{ContentIdentity, Verified};

/// Bytes of the largest image that is kept on disk: ext4 has no larger files, and one bit for each block of it is in
/// memory, which is 32 MiB. A record with a size beyond that is a slip or malice, and no reason to leave the disk alone.
const LARGEST: u64 = (16 << 40) - BLOCK_SIZE;

/// How often blocks are counted while others write some: a batch takes longer than a count.
const COUNTS: u32 = 8;

/// One image on disk. Its own files appear with the first block that is written.
pub(super) struct DiskImage {
    folder: Arc<Folder>,
    identity: ContentIdentity,
    own: OnceLock<Files>,
    /// Another image's verified copy; never written.
    shared: Option<Files>,
    /// Held while `own` is being opened.
    opening: Mutex<()>,
    was_pinned: AtomicBool,
}

impl DiskImage {
    /// Looks what is there. Waits for the disk.
    ///
    /// # Errors
    /// `TooLarge`: such an image is not kept on disk; `Io`.
    pub(super) fn open(folder: Arc<Folder>, identity: ContentIdentity) -> Result<Self> {
        if identity.size > LARGEST {
            return Err(Error::new(Kind::TooLarge, "no image of this size is kept on disk"));
        }
        let own = Files::open(&folder, &identity, false)?;
        let shared = match own {
            None => Files::open_shared(&folder, &identity),
            Some(_) => None,
        };
        let own = own.map_or_else(OnceLock::new, OnceLock::from);
        Ok(Self {
            folder,
            identity,
            own,
            shared,
            opening: Mutex::new(()),
            was_pinned: AtomicBool::new(false),
        })
    }

    fn tiers(&self) -> impl Iterator<Item = &Files> {
        self.own.get().into_iter().chain(&self.shared)
    }

    /// The image's own files, made if they do not exist and `create` says so.
    fn open_own(&self, create: bool) -> Result<Option<&Files>> {
        if self.own.get().is_none() {
            let _turn = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
            if self.own.get().is_none()
                && let Some(files) = Files::open(&self.folder, &self.identity, create)?
            {
                // The lock is held: nobody else has set it.
                self.own.set(files).ok();
            }
        }
        Ok(self.own.get())
    }

    /// The image's own files, if they are open.
    pub(super) fn own(&self) -> Option<&Files> {
        self.own.get()
    }

    /// The block was on disk when we last looked. Never waits.
    pub(super) fn has(&self, block: BlockIndex) -> bool {
        self.tiers().any(|files| files.has(block))
    }

    /// All of the blocks were in one copy when we last looked. Never waits.
    pub(super) fn has_all(&self, blocks: BlockRange) -> bool {
        self.tiers().any(|files| blocks.iter().all(|block| files.has(block)))
    }

    /// The blocks in one piece, if all are here and intact. With [`Wait::Never`] only from the page cache.
    pub(super) fn read_whole(&self, blocks: BlockRange, wait: Wait, buffers: &Buffers) -> Option<Bytes> {
        self.tiers().find_map(|files| files.read_whole(blocks, wait, buffers))
    }

    /// Every block is in the image's own files, as we know them. Never waits.
    pub(super) fn is_complete(&self) -> bool {
        self.own().is_some_and(Files::is_complete)
    }

    /// Every block will be in the image's own files once those that are `arriving` are. Never waits.
    pub(super) fn is_completed_by(&self, arriving: &HashSet<BlockIndex>) -> bool {
        let all = BlockRange::of_image(self.identity.size).len();
        let present = || self.own().map_or(0, Files::present_blocks);
        let is_new = |block: &&BlockIndex| !self.own().is_some_and(|files| files.has(**block));
        // Blocks that are written meanwhile change sides: only a count between two equal ones is exact.
        for _ in 0..COUNTS {
            let before = present();
            if before.saturating_add(arriving.len() as u64) < all {
                return false;
            }
            let new = arriving.iter().filter(is_new).count() as u64;
            if present() == before {
                return before.saturating_add(new) >= all;
            }
        }
        true
    }

    /// The whole matched its hash once, when we looked first. Never waits.
    pub(super) fn was_proven(&self) -> bool {
        self.own().is_some_and(Files::was_proven)
    }

    /// Every block is in one copy, the image's own or one of the same content, as we know it. Never waits.
    pub(super) fn is_all_here(&self) -> bool {
        self.tiers().any(Files::is_complete)
    }

    /// Bytes on disk, as we know it. Never waits.
    pub(super) fn present_bytes(&self) -> u64 {
        self.tiers().map(Files::present_bytes).max().unwrap_or(0)
    }

    /// The block was used, wherever it came from. Never waits.
    pub(super) fn touch(&self, block: BlockIndex) {
        self.tiers().for_each(|files| files.touch(block));
    }

    /// The blocks that are here and intact, in order. With [`Wait::Never`] only what the page cache has.
    pub(super) fn read(&self, blocks: BlockRange, wait: Wait, trouble: &mut Trouble) -> Vec<Option<Bytes>> {
        if wait == Wait::ForDisk {
            // Another mount may have made the files since; a failure shows when we write.
            self.open_own(false).ok();
        }
        let mut out = vec![None; blocks.len() as usize];
        for files in self.tiers() {
            if out.iter().all(Option::is_some) {
                break;
            }
            for (slot, found) in out.iter_mut().zip(files.read(blocks, wait, trouble)) {
                if slot.is_none() {
                    *slot = found;
                }
            }
        }
        out
    }

    /// Looks into the index again, for what other mounts did.
    pub(super) fn refresh(&self, blocks: BlockRange) {
        self.tiers().for_each(|files| {
            files.refresh(blocks).ok();
        });
    }

    /// Writes consecutive whole blocks.
    pub(super) fn write(&self, start: BlockIndex, blocks: &[Bytes]) -> Result<()> {
        let Some(files) = self.open_own(true)? else {
            return Err(Error::new(Kind::Busy, "another process is making the cache files of this image"));
        };
        files.write(start, blocks).map_err(|error| Error::io("writing to the cache", error))
    }

    /// The blocks were evicted from the image's own files.
    pub(super) fn mark_absent(&self, blocks: BlockRange) {
        if let Some(files) = self.own() {
            blocks.iter().for_each(|block| files.mark_absent(block));
        }
    }

    /// How the whole is proven. Short system calls only.
    pub(super) fn proven(&self) -> Verified {
        let proofs = self.tiers().map(Files::proven);
        proofs.into_iter().find(|proof| *proof != Verified::None).unwrap_or(Verified::None)
    }

    /// A file with all of the image, verified, in which nobody frees anything while it is open. With it
    /// all of the image counts as used, now and at each [`Self::touch_pinned`].
    pub(super) fn pin(&self) -> io::Result<Option<File>> {
        for files in self.tiers() {
            if let Some(file) = files.pin(&self.folder)? {
                self.was_pinned.store(true, Ordering::Relaxed);
                files.touch_all();
                return Ok(Some(file));
            }
        }
        Ok(None)
    }

    /// Keeps every block where it is until the files are closed, also those that come; `None`: somebody makes room just now.
    pub(super) fn lock_extents(&self) -> io::Result<Option<Vec<File>>> {
        let mut locked = Vec::new();
        if let Some(shared) = &self.shared {
            let Some(file) = shared.lock_extents(&self.folder)? else { return Ok(None) };
            locked.push(file);
            if shared.is_complete() {
                return Ok(Some(locked));
            }
        }
        let own = self.open_own(true).map_err(io::Error::other)?;
        let Some(own) = own else { return Ok(None) };
        let Some(file) = own.lock_extents(&self.folder)? else { return Ok(None) };
        locked.push(file);
        Ok(Some(locked))
    }

    /// The image may have been read past us until now. Never waits.
    pub(super) fn touch_pinned(&self) {
        if self.was_pinned.load(Ordering::Relaxed) {
            self.tiers().for_each(Files::touch_all);
        }
    }

    /// Drops the image's own copy.
    pub(super) fn clear(&self) -> io::Result<()> {
        self.own().map_or(Ok(()), |files| files.clear(&self.folder))
    }

    /// Writes when blocks were last used.
    pub(super) fn write_stamps(&self) -> io::Result<()> {
        self.own().map_or(Ok(()), Files::write_stamps)
    }
}
