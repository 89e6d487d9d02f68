//! The two files of one cached image: blocks read through their CRC, written data first.
//!
//! Everything here may wait for the disk, unless it says otherwise.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use rustix::fs::{FallocateFlags, FlockOperation, OFlags};
use rustix::io::ReadWriteFlags;

use crate::cache::identity::{ContentIdentity, Key, Verified};
use crate::error::{Error, Result};
use crate::units::{BLOCK_SIZE, BlockIndex, BlockRange};

use super::bits::Bits;
use super::buffers::Buffers;
use super::folder::{Folder, Part, try_lock};
use super::index::{ENTRY_LEN, Entry, FileState, HEADER_LEN, Header, Proof, Stamp, entry_offset};
use super::presence::Presence;

/// Blocks of one extent: the grain of last-use stamps and of eviction, 1 MiB.
pub(crate) const EXTENT_BLOCKS: u64 = 16;
/// Blocks read or written in one system call: well below the 1024 buffers that the kernel takes.
pub(crate) const BATCH_BLOCKS: u64 = 128;
/// Bytes of an index read at once while it is scanned: 512 MiB of image per system call.
const SCAN_BYTES: usize = 64 * 1024;

/// How long a read may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// As long as the disk needs.
    ForDisk,
    /// Not at all: what is not in the page cache counts as absent.
    Never,
}

/// What went wrong while blocks were read.
#[derive(Debug, Default)]
pub(crate) struct Trouble {
    /// Blocks whose CRC did not match.
    pub(crate) damaged: u64,
    /// The disk could not read, for the first time.
    pub(crate) error: Option<io::Error>,
}

impl Trouble {
    /// Whether all was read.
    fn note(&mut self, read: io::Result<bool>) -> Option<()> {
        match read {
            Ok(all) => all.then_some(()),
            Err(error) => {
                self.error.get_or_insert(error);
                None
            }
        }
    }
}

/// What a second look at a block found.
enum Look {
    Intact(Bytes),
    /// Evicted since the first look.
    Gone,
    Damaged,
}

/// The index and data file of one image, held open under a shared lock.
///
/// `present` is what the index said last; other processes change the index, so it is a hint. What
/// decides is the entry on disk, read together with the block, and its CRC.
#[derive(Debug)]
pub(crate) struct Files {
    index: File,
    data: File,
    header: Header,
    present: Presence,
    /// Extents used since their stamps were last written.
    touched: Bits,
    writable: bool,
    /// What this process saw, before it is durable. A leaf lock.
    matched: Mutex<Option<Proof>>,
}

impl Files {
    /// The files of this identity; `None`: there are none, or another process is in the way of repairing them.
    pub(crate) fn open(folder: &Folder, identity: &ContentIdentity, create: bool) -> Result<Option<Self>> {
        let key = identity.key();
        let header = Header {
            key,
            content: identity.content_key(),
            size: identity.size,
            proof: None,
            label: identity.label(),
        };
        let failed = |error| Error::io("opening the cache files of an image", error);
        let access = if create { OFlags::RDWR | OFlags::CREATE } else { OFlags::RDWR };
        let Some(index) = open_locked(folder, key, access).map_err(failed)? else { return Ok(None) };
        let found = read_header(&index).map_err(failed)?;
        let found = found.filter(|found| {
            found.key == key && found.size == identity.size && found.content == header.content
        });
        let begins_anew = found.is_none();
        let proof = match found {
            Some(found) => found.proof,
            // Empty, damaged or foreign: begin anew, alone. A fresh file may be begun by two at once,
            // since both write the same.
            None => {
                let fresh = index.metadata().map_err(failed)?.len() == 0;
                if !fresh {
                    if !try_lock(&index, FlockOperation::NonBlockingLockExclusive).map_err(failed)? {
                        return Ok(None);
                    }
                    tracing::warn!(%key, "an index in the cache is damaged: its blocks will be fetched again");
                    index.set_len(0).map_err(failed)?;
                }
                index.write_all_at(&header.encode(), 0).map_err(failed)?;
                if !fresh && !try_lock(&index, FlockOperation::NonBlockingLockShared).map_err(failed)? {
                    return Ok(None);
                }
                None
            }
        };
        // A length that is not right cannot lie: entries that are missing say "absent".
        if index.metadata().map_err(failed)?.len() != index_len(identity.size) {
            index.set_len(index_len(identity.size)).map_err(failed)?;
        }
        let access = OFlags::RDWR | OFlags::CREATE;
        let Some(mut data) = folder.open_image(key, Part::Data, access).map_err(failed)? else {
            return Ok(None);
        };
        let has_data = data.metadata().map_err(failed)?.blocks() > 0;
        if begins_anew && has_data && is_pinned(&data).map_err(failed)? {
            // Programs read it past us, and it is to be filled again: they keep it, we take another.
            folder.remove_image(key, Part::Data).map_err(failed)?;
            let Some(other) = folder.open_image(key, Part::Data, access).map_err(failed)? else {
                return Ok(None);
            };
            data = other;
        }
        // A data file that someone cut or lengthened gets its length back; CRCs judge what is in it.
        if data.metadata().map_err(failed)?.len() != identity.size {
            data.set_len(identity.size).map_err(failed)?;
        }
        let files = Self::with(index, data, Header { proof, ..header }, true);
        files.refresh(BlockRange::of_image(identity.size)).map_err(failed)?;
        Ok(Some(files))
    }

    /// Another image's complete copy, verified to have this content; only ever read.
    pub(crate) fn open_shared(folder: &Folder, identity: &ContentIdentity) -> Option<Self> {
        let content = identity.content_key()?;
        let key = folder.alias(content).filter(|key| *key != identity.key())?;
        let index = open_locked(folder, key, OFlags::RDONLY).ok()??;
        let header = read_header(&index).ok()??;
        if header.key != key || header.content != Some(content) || header.size != identity.size {
            return None;
        }
        let data = folder.open_image(key, Part::Data, OFlags::RDONLY).ok()??;
        let files = Self::with(index, data, header, false);
        files.refresh(BlockRange::of_image(identity.size)).ok()?;
        (files.proven() != Verified::None).then_some(files)
    }

    fn with(index: File, data: File, header: Header, writable: bool) -> Self {
        let blocks = BlockRange::of_image(header.size).len();
        let extents = blocks.div_ceil(EXTENT_BLOCKS);
        let (present, touched) = (Presence::new(blocks), Bits::new(extents));
        Self { index, data, header, present, touched, writable, matched: Mutex::default() }
    }

    /// Names the files.
    pub(crate) fn key(&self) -> Key {
        self.header.key
    }

    /// The block was on disk when we last looked. Never waits.
    pub(crate) fn has(&self, block: BlockIndex) -> bool {
        self.present.has(block)
    }

    /// Bytes on disk as we know it. Never waits.
    pub(crate) fn present_bytes(&self) -> u64 {
        (self.present.count() * BLOCK_SIZE).min(self.header.size)
    }

    /// Every block is on disk as we know it. Never waits.
    pub(crate) fn is_complete(&self) -> bool {
        self.present_blocks() == BlockRange::of_image(self.header.size).len()
    }

    /// Blocks on disk as we know it. Never waits.
    pub(crate) fn present_blocks(&self) -> u64 {
        self.present.count()
    }

    /// The index names a proof, be it of a state that has passed: the whole matched its hash once.
    pub(crate) fn was_proven(&self) -> bool {
        self.header.proof.is_some()
    }

    /// The CRC32C over the CRCs of these blocks (each little endian), by the index; `None` when one is not here.
    pub(crate) fn crc_of_entries(&self, blocks: BlockRange) -> io::Result<Option<u32>> {
        let mut raw = vec![0; SCAN_BYTES.min((blocks.len() * ENTRY_LEN) as usize)];
        let (mut at, mut crc) = (blocks.start, 0);
        while at < blocks.end {
            let count = (blocks.end.0 - at.0).min(raw.len() as u64 / ENTRY_LEN);
            let piece = &mut raw[..(count * ENTRY_LEN) as usize];
            read_or_zeros(&self.index, piece, entry_offset(at))?;
            for entry in Entry::decode_all(piece) {
                let Some(entry) = entry else { return Ok(None) };
                crc = crc32c::crc32c_append(crc, &entry.crc.to_le_bytes());
            }
            at = BlockIndex(at.0 + count);
        }
        Ok(Some(crc))
    }

    /// Looks into the index again: other processes fill and evict as well.
    pub(crate) fn refresh(&self, blocks: BlockRange) -> io::Result<()> {
        let mut raw = vec![0; SCAN_BYTES.min((blocks.len() * ENTRY_LEN) as usize)];
        let mut at = blocks.start;
        while at < blocks.end {
            let count = (blocks.end.0 - at.0).min(raw.len() as u64 / ENTRY_LEN);
            let piece = &mut raw[..(count * ENTRY_LEN) as usize];
            let look = self.present.look();
            read_or_zeros(&self.index, piece, entry_offset(at))?;
            self.present.saw(look, at, Entry::decode_all(piece).map(|entry| entry.is_some()));
            at = BlockIndex(at.0 + count);
        }
        Ok(())
    }

    /// The blocks that are here and intact, in order, `None` for the others. Those whose CRC does not match or
    /// that the disk cannot read are forgotten.
    pub(crate) fn read(&self, blocks: BlockRange, wait: Wait, trouble: &mut Trouble) -> Vec<Option<Bytes>> {
        let mut out = vec![None; blocks.len() as usize];
        let mut at = blocks.start;
        while at < blocks.end {
            let end = BlockIndex(blocks.end.0.min(at.0 + BATCH_BLOCKS));
            let batch = BlockRange { start: at, end };
            let slots = &mut out[(at.0 - blocks.start.0) as usize..];
            if self.read_batch(batch, wait, slots, trouble).is_none() && wait == Wait::Never {
                break;
            }
            at = end;
        }
        out
    }

    /// `None`: the disk could not tell, or not at once.
    fn read_batch(
        &self,
        blocks: BlockRange,
        wait: Wait,
        out: &mut [Option<Bytes>],
        trouble: &mut Trouble,
    ) -> Option<()> {
        let mut raw = vec![0; (blocks.len() * ENTRY_LEN) as usize];
        let look = self.present.look();
        let read =
            read_vectored(&self.index, &mut [IoSliceMut::new(&mut raw)], entry_offset(blocks.start), wait);
        trouble.note(read)?;
        let entries: Vec<Option<Entry>> = Entry::decode_all(&raw).collect();
        self.present.saw(look, blocks.start, entries.iter().map(Option::is_some));
        let mut first = 0;
        for run in entries.chunk_by(|a, b| a.is_some() == b.is_some()) {
            let start = BlockIndex(blocks.start.0 + first as u64);
            if run.first().is_some_and(Option::is_some) {
                self.read_run(start, run, wait, &mut out[first..], trouble)?;
            }
            first += run.len();
        }
        Some(())
    }

    fn read_run(
        &self,
        start: BlockIndex,
        entries: &[Option<Entry>],
        wait: Wait,
        out: &mut [Option<Bytes>],
        trouble: &mut Trouble,
    ) -> Option<()> {
        let indices = (start.0..).map(BlockIndex);
        let mut buffers: Vec<Vec<u8>> = indices
            .clone()
            .zip(entries)
            .map(|(block, _)| vec![0; block.bytes(self.header.size).len() as usize])
            .collect();
        let mut slices: Vec<_> = buffers.iter_mut().map(|buffer| IoSliceMut::new(buffer)).collect();
        let read = read_vectored(&self.data, &mut slices, start.offset(), wait);
        if read.is_err() {
            // Written anew they may find a better place on the disk.
            self.forget(BlockRange { start, end: BlockIndex(start.0 + entries.len() as u64) }).ok();
        }
        trouble.note(read)?;
        for (((buffer, entry), block), slot) in buffers.into_iter().zip(entries).zip(indices).zip(out) {
            let Some(entry) = entry else { continue };
            if crc32c::crc32c(&buffer) == entry.crc {
                self.touch(block);
                *slot = Some(Bytes::from(buffer));
            } else if wait == Wait::ForDisk {
                // Torn by a crash, flipped by the disk, or evicted by another process just now; unless it
                // was written anew between our look at the index and the one at the data.
                match self.second_look(block) {
                    Look::Intact(bytes) => *slot = Some(bytes),
                    Look::Gone => self.mark_absent(block),
                    Look::Damaged => {
                        trouble.damaged += 1;
                        self.forget(BlockRange { start: block, end: block.next() }).ok();
                    }
                }
            }
        }
        Some(())
    }

    /// The blocks in one piece, read once and checked where they are; `None` when one is not here, or not
    /// intact, or not to be had in the time given. [`Self::read`] finds out which.
    pub(crate) fn read_whole(&self, blocks: BlockRange, wait: Wait, buffers: &Buffers) -> Option<Bytes> {
        let mut raw = vec![0; (blocks.len() * ENTRY_LEN) as usize];
        // What goes wrong is told by [`Self::read`], which comes next.
        let read = |file: &File, bytes: &mut [u8], offset: u64| {
            let read = read_vectored(file, &mut [IoSliceMut::new(bytes)], offset, wait);
            read.is_ok_and(|all| all).then_some(())
        };
        read(&self.index, &mut raw, entry_offset(blocks.start))?;
        let entries: Option<Vec<Entry>> = Entry::decode_all(&raw).collect();
        let entries = entries?;
        let len = blocks.bytes(self.header.size).len() as usize;
        let whole = buffers.filled(len, |bytes| {
            read(&self.data, bytes, blocks.start.offset())?;
            let mut found = entries.iter().zip(bytes.chunks(BLOCK_SIZE as usize));
            found.all(|(entry, bytes)| crc32c::crc32c(bytes) == entry.crc).then_some(())
        })?;
        blocks.iter().for_each(|block| self.touch(block));
        Some(whole)
    }

    /// One block again, entry and data.
    fn second_look(&self, block: BlockIndex) -> Look {
        let mut raw = Entry::ABSENT;
        let mut buffer = vec![0; block.bytes(self.header.size).len() as usize];
        let read = self.index.read_exact_at(&mut raw, entry_offset(block));
        let Ok(()) = read.and_then(|()| self.data.read_exact_at(&mut buffer, block.offset())) else {
            return Look::Damaged;
        };
        match Entry::decode(raw) {
            None => Look::Gone,
            Some(entry) if entry.crc == crc32c::crc32c(&buffer) => Look::Intact(Bytes::from(buffer)),
            Some(_) => Look::Damaged,
        }
    }

    /// Writes consecutive whole blocks: the data, and only then the entries that vouch for them.
    pub(crate) fn write(&self, start: BlockIndex, blocks: &[Bytes]) -> io::Result<()> {
        let used = Stamp::now();
        let mut at = start;
        for batch in blocks.chunks(BATCH_BLOCKS as usize) {
            let mut slices: Vec<_> = batch.iter().map(|block| IoSlice::new(block)).collect();
            write_vectored(&self.data, &mut slices, at.offset())?;
            let entries: Vec<u8> =
                batch.iter().flat_map(|block| Entry { crc: crc32c::crc32c(block), used }.encode()).collect();
            self.index.write_all_at(&entries, entry_offset(at))?;
            let end = BlockIndex(at.0 + batch.len() as u64);
            self.present.wrote(BlockRange { start: at, end });
            at = end;
        }
        Ok(())
    }

    /// Clears the entries of blocks; their data become meaningless.
    pub(crate) fn forget(&self, blocks: BlockRange) -> io::Result<()> {
        blocks.iter().for_each(|block| self.mark_absent(block));
        if self.writable && !blocks.is_empty() {
            let zeros = vec![0; (blocks.len() * ENTRY_LEN) as usize];
            self.index.write_all_at(&zeros, entry_offset(blocks.start))?;
        }
        Ok(())
    }

    /// The entry of a block was cleared by somebody. Never waits.
    pub(crate) fn mark_absent(&self, block: BlockIndex) {
        self.present.forget(block);
    }

    /// The block was used. Never waits.
    pub(crate) fn touch(&self, block: BlockIndex) {
        self.touched.set(block.0 / EXTENT_BLOCKS, true);
    }

    /// Writes the stamps of the extents used since the last call, into one present block of each:
    /// the age of an extent is that of its youngest block.
    pub(crate) fn write_stamps(&self) -> io::Result<()> {
        if !self.writable {
            return Ok(());
        }
        let now = Stamp::now();
        for extent in self.touched.drain() {
            let first = extent * EXTENT_BLOCKS;
            let Some(block) =
                (first..first + EXTENT_BLOCKS).find(|block| self.present.has(BlockIndex(*block)))
            else {
                continue;
            };
            let mut raw = Entry::ABSENT;
            read_or_zeros(&self.index, &mut raw, entry_offset(BlockIndex(block)))?;
            // Only the stamp is written. Were the block evicted in between, its entry would claim CRC 0
            // for a hole, which does not match.
            if Entry::decode(raw).is_some_and(|entry| entry.used < now) {
                self.index.write_all_at(&now.0.to_le_bytes(), entry_offset(BlockIndex(block)) + 4)?;
            }
        }
        Ok(())
    }

    /// The data file as it is now.
    pub(crate) fn state(&self) -> io::Result<FileState> {
        file_state(&self.data)
    }

    /// Makes the data file durable, so that a proof recorded after it survives a power cut.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.data.sync_data()
    }

    /// The whole was hashed and matched while the data file was in `proof.state`. This process may rely on it
    /// at once; [`Self::record`] tells later ones.
    pub(crate) fn matched(&self, proof: Proof) {
        *self.matched.lock().unwrap_or_else(PoisonError::into_inner) = Some(proof);
    }

    /// Records that the whole was hashed and matched while the data file was in `proof.state`. Only what is
    /// durable ([`Self::sync`]) may be recorded: a proof must not outlive the bytes it vouches for in a power cut.
    pub(crate) fn record(&self, proof: Proof) -> io::Result<()> {
        let header = Header { proof: Some(proof), ..self.header.clone() };
        self.index.write_all_at(&header.encode(), 0)
    }

    /// How the whole is proven, by what this process saw or the header on disk says, and the data file as it is
    /// now. Two short system calls.
    pub(crate) fn proven(&self) -> Verified {
        let Ok(state) = self.state() else { return Verified::None };
        let seen = *self.matched.lock().unwrap_or_else(PoisonError::into_inner);
        let recorded = || read_header(&self.index).ok().flatten().and_then(|header| header.proof);
        let holds = |proof: &Proof| proof.state == state && self.is_complete();
        let proof = seen.filter(holds).or_else(|| recorded().filter(holds));
        proof.map_or(Verified::None, |proof| proof.kind)
    }

    /// The data file, opened anew, if it is complete, verified and as it was then; nobody frees any of it
    /// until the last duplicate of that descriptor is closed. Two short system calls when nothing is proven.
    ///
    /// The lock belongs to the open file description, not to this process: a kernel that has registered it
    /// for FUSE passthrough holds it on, also after we were killed.
    pub(crate) fn pin(&self, folder: &Folder) -> io::Result<Option<File>> {
        if self.proven() == Verified::None {
            return Ok(None);
        }
        let Some(data) = folder.open_image(self.key(), Part::Data, OFlags::RDONLY)? else { return Ok(None) };
        // Held by somebody else for as long as it makes room.
        if !try_lock(&data, FlockOperation::NonBlockingLockShared)? {
            return Ok(None);
        }
        // Only now does it stay as it is. Entries are cleared before blocks are freed, so both are looked
        // at: the clock of a file may be too coarse to tell two changes apart.
        self.refresh(BlockRange::of_image(self.header.size))?;
        Ok((self.is_data(&data)? && self.proven() != Verified::None).then_some(data))
    }

    /// The data file, opened anew; nobody frees any of it until the last duplicate of that descriptor is closed. `None`:
    /// somebody makes room just now, or the file has been replaced.
    pub(crate) fn lock_extents(&self, folder: &Folder) -> io::Result<Option<File>> {
        let Some(data) = folder.open_image(self.key(), Part::Data, OFlags::RDONLY)? else { return Ok(None) };
        if !try_lock(&data, FlockOperation::NonBlockingLockShared)? {
            return Ok(None);
        }
        self.refresh(BlockRange::of_image(self.header.size))?;
        Ok(self.is_data(&data)?.then_some(data))
    }

    /// `data` is the data file of these, and no other that took its name.
    fn is_data(&self, data: &File) -> io::Result<bool> {
        let (ours, named) = (self.data.metadata()?, data.metadata()?);
        Ok((ours.dev(), ours.ino()) == (named.dev(), named.ino()) && named.len() == self.header.size)
    }

    /// All of it was used, past us. Never waits.
    pub(crate) fn touch_all(&self) {
        for extent in 0..BlockRange::of_image(self.header.size).len().div_ceil(EXTENT_BLOCKS) {
            self.touched.set(extent, true);
        }
    }

    /// Drops everything: the bytes are not what they should be.
    pub(crate) fn clear(&self, folder: &Folder) -> io::Result<()> {
        *self.matched.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.index.write_all_at(&Header { proof: None, ..self.header.clone() }.encode(), 0)?;
        self.index.set_len(HEADER_LEN)?;
        self.index.set_len(index_len(self.header.size))?;
        self.present.clear();
        if is_pinned(&self.data)? {
            // Whoever reads it past us would get zeros: they keep the file, and it goes when they end.
            return folder.remove_image(self.key(), Part::Data);
        }
        self.data.set_len(0)?;
        self.data.set_len(self.header.size)
    }
}

/// Somebody reads the file past us (see [`Files::pin`]) or is making room in it.
fn is_pinned(data: &File) -> io::Result<bool> {
    if !try_lock(data, FlockOperation::NonBlockingLockExclusive)? {
        return Ok(true);
    }
    rustix::fs::flock(data, FlockOperation::Unlock)?;
    Ok(false)
}

/// Gives the disk space of some bytes back; they read as zeros from then on.
pub(crate) fn punch(data: &File, offset: u64, len: u64) -> io::Result<()> {
    Ok(rustix::fs::fallocate(data, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, len)?)
}

/// A file's size and times.
pub(crate) fn file_state(file: &File) -> io::Result<FileState> {
    let meta = file.metadata()?;
    // Nanoseconds are below 10^9.
    let time = |seconds: i64, nanos: i64| (seconds, u32::try_from(nanos).unwrap_or(0));
    Ok(FileState {
        size: meta.len(),
        mtime: time(meta.mtime(), meta.mtime_nsec()),
        ctime: time(meta.ctime(), meta.ctime_nsec()),
    })
}

/// The length of the index of an image of `size` bytes.
pub(crate) fn index_len(size: u64) -> u64 {
    HEADER_LEN + BlockRange::of_image(size).len() * ENTRY_LEN
}

/// Reads the header of an index; `None`: it is damaged or missing.
pub(crate) fn read_header(index: &File) -> io::Result<Option<Header>> {
    if index.metadata()?.len() < HEADER_LEN {
        return Ok(None);
    }
    // Another process may be writing it: a torn header is looked at again.
    for pause in [0, 2, 20] {
        std::thread::sleep(std::time::Duration::from_millis(pause));
        let mut raw = vec![0; HEADER_LEN as usize];
        read_or_zeros(index, &mut raw, 0)?;
        if let Ok(header) = Header::decode(&raw) {
            return Ok(Some(header));
        }
    }
    Ok(None)
}

/// Opens an index and takes the shared lock that keeps its files from being removed.
fn open_locked(folder: &Folder, key: Key, access: OFlags) -> io::Result<Option<File>> {
    // Whoever removes a file holds its exclusive lock; what we locked may be gone from the folder since.
    for _ in 0..8 {
        let Some(index) = folder.open_image(key, Part::Index, access)? else { return Ok(None) };
        if !try_lock(&index, FlockOperation::NonBlockingLockShared)? {
            std::thread::sleep(std::time::Duration::from_millis(5));
            continue;
        }
        if index.metadata()?.nlink() > 0 {
            return Ok(Some(index));
        }
    }
    Ok(None)
}

/// Fills `buffer` from `offset`; what lies beyond the end of the file is zeros.
pub(crate) fn read_or_zeros(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => {
                buffer[done..].fill(0);
                return Ok(());
            }
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Fills every buffer from `offset`; false when not all could be had in the time given, or the file ends.
fn read_vectored(
    file: &File,
    mut buffers: &mut [IoSliceMut<'_>],
    mut offset: u64,
    wait: Wait,
) -> io::Result<bool> {
    let flags = match wait {
        Wait::Never => ReadWriteFlags::NOWAIT,
        Wait::ForDisk => ReadWriteFlags::empty(),
    };
    while !buffers.is_empty() {
        match rustix::io::preadv2(file, buffers, offset, flags) {
            Ok(0) => return Ok(false),
            Ok(count) => {
                offset += count as u64;
                IoSliceMut::advance_slices(&mut buffers, count);
            }
            Err(rustix::io::Errno::INTR) => {}
            // Not now, or not on this file system. A disk that fails is found out by who can wait.
            Err(_) if wait == Wait::Never => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

fn write_vectored(file: &File, mut buffers: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
    while !buffers.is_empty() {
        match rustix::io::pwritev(file, buffers, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                offset += count as u64;
                IoSlice::advance_slices(&mut buffers, count);
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
