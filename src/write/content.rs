//! The bytes of a file being written: in its spool, or on their way (`--upload stream`).

use std::path::PathBuf;

use bytes::Bytes;

use super::commit::Goal;
use super::draft::Draft;
use super::journal::Durability;
use super::state::{Phase, closed, uploaded};
use super::stream::Stream;
use crate::error::{Error, Kind, Result};
use crate::format::sniff;
use crate::units::ByteRange;

impl Draft {
    /// The bytes so far; after the commit, those of the image.
    pub fn size(&self) -> u64 {
        let spool = {
            let state = self.inner.lock();
            match (&state.phase, &state.spool) {
                (Phase::Committed(image), _) => return image.size.unwrap_or(0),
                (_, Some(spool)) => spool.clone(),
                (_, None) => return 0,
            }
        };
        if let Some(stream) = &self.inner.stream {
            return stream.position();
        }
        spool.size().unwrap_or_else(|error| {
            tracing::warn!(%error, "the size of a draft is unknown");
            0
        })
    }

    /// Something was written or truncated since the draft was made or last committed. Setting the
    /// length that it has changes nothing.
    pub fn is_dirty(&self) -> bool {
        self.inner.lock().dirty
    }

    /// Its content begins as that of qcow2, vmdk or another format does that `qemu-img` formats
    /// before it fills it.
    ///
    /// # Errors
    /// `Io`.
    pub fn is_container(&self) -> Result<bool> {
        let Some(spool) = self.inner.lock().spool.clone() else { return Ok(false) };
        if self.inner.stream.is_some() {
            // Nobody can fill a container in order after it was formatted.
            return Ok(false);
        }
        Ok(sniff(|range| spool.read(range))?.is_formatted())
    }

    /// Writes all of `data` at `offset`.
    ///
    /// A write that fails damages the draft: it cannot be committed until the same bytes were
    /// written, or all was truncated. Programs that meet a full disk close what they have, and half
    /// a file must not become an image.
    ///
    /// # Errors
    /// `NoSpace` at the spool's limit or on a full disk, `TooLarge`, `Io`; `Busy` during a commit,
    /// `NotPermitted` after it. A stream takes the next byte only (`NotSequential`), waits for the network,
    /// and gives the failure of its upload.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        if let Some(stream) = &self.inner.stream {
            return self.write_to(stream, offset, data);
        }
        let access = self.inner.access(true)?;
        if data.is_empty() {
            return Ok(());
        }
        let range = ByteRange::at(offset, data.len() as u64);
        let written = access.spool.write(offset, data);
        let mut state = self.inner.lock();
        state.dirty = true;
        match &written {
            Ok(()) if state.damage.as_ref().is_some_and(|(damaged, _)| range.contains(*damaged)) => {
                state.damage = None;
            }
            Ok(()) => {}
            Err(error) => state.add_damage(range, error),
        }
        written
    }

    /// Reads back what was written, short at the end; `range` should be no longer than what the
    /// caller can hold in memory.
    ///
    /// # Errors
    /// `Stale` after the commit: read the image instead, the cache has it. `Io`.
    pub fn read(&self, range: ByteRange) -> Result<Bytes> {
        if self.inner.stream.is_some() && !matches!(self.inner.lock().phase, Phase::Committed(_)) {
            let why = "what is uploaded while it is written to cannot be read back before it is an image";
            return Err(Error::new(Kind::NotSequential, why));
        }
        self.inner.access(false)?.spool.read(range)
    }

    /// Sets the length.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn truncate(&self, size: u64) -> Result<()> {
        if let Some(stream) = &self.inner.stream {
            let truncated = stream.truncate(size);
            // A program that did not get its length has failed: its close must say so, and reserve nothing.
            self.inner.lock().dirty |= truncated.is_err();
            return truncated;
        }
        let access = self.inner.access(true)?;
        if access.spool.size()? == size {
            return Ok(());
        }
        let truncated = access.spool.truncate(size);
        let mut state = self.inner.lock();
        state.dirty = true;
        match &truncated {
            Ok(()) if state.damage.as_ref().is_some_and(|(damaged, _)| size <= damaged.start) => {
                state.damage = None;
            }
            Ok(()) => {}
            Err(error) => state.add_damage(ByteRange::new(0, u64::MAX), error),
        }
        truncated
    }

    /// Makes the spool and its journal durable; commits nothing.
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    pub fn sync(&self) -> Result<()> {
        let Some(spool) = self.inner.lock().spool.clone() else { return Ok(()) };
        spool.sync()?;
        let size = spool.size()?;
        self.inner.store_while_open(Durability::Durable, size)
    }

    /// A write failed and was not repeated: some of its bytes are nowhere.
    pub fn is_damaged(&self) -> bool {
        self.inner.lock().damage.is_some()
    }

    /// Where its bytes are kept, once there are some and as long as they are no image.
    pub fn kept_in(&self) -> Option<PathBuf> {
        let spool = self.inner.lock().spool.clone()?;
        let has_bytes = spool.size().is_ok_and(|size| size > 0);
        has_bytes.then(|| self.inner.shared.folder.data_path(spool.id()))
    }

    fn write_to(&self, stream: &Stream, offset: u64, data: &[u8]) -> Result<()> {
        {
            let mut state = self.inner.lock();
            match &state.phase {
                Phase::Open | Phase::Committing(_) => {}
                Phase::Committed(_) => return Err(uploaded()),
                Phase::Closed => return Err(closed()),
            }
            if data.is_empty() {
                return Ok(());
            }
            state.dirty = true;
        }
        stream.write(offset, data, || self.begin(Goal::Publish))
    }
}
