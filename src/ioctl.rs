//! The ioctls of files on a mount: how `glancefs prefetch` and `glancefs evict` talk to the daemon.
//!
//! They go through the mount itself, so there is no socket to find, to guard or to clean up: who may open
//! a file may ask, and what was asked of an open file ends when the last descriptor of it is closed,
//! whatever became of the program. Each answers at once; the kernel lets nobody go who waits for an ioctl.
//!
//! ```text
//! PREFETCH  _IO  (0xE7, 1)       on an image: bring all of it, until this open file is closed
//! PROGRESS  _IOR (0xE7, 2, 512)  on an image: how far that is
//! EVICT     _IOWR(0xE7, 3, 24)   on a directory: drop what is cached of the image with an inode number
//!
//! offset  bytes  PROGRESS (little endian)      offset  bytes  EVICT (little endian)
//!      0      4  magic "gfs1"                       0      8  in: the inode number
//!      4      1  stage, see `Stage`                 8      8  out: bytes that were freed
//!      5      1  zero                              16      8  out: bytes that can still be read
//!      6      2  bytes of the text                               without the server
//!      8      8  size of the image
//!     16      8  bytes of it in the cache
//!     24    488  text, UTF-8, then zeros
//! ```
//!
//! 0xE7 is nobody's in the kernel's `ioctl-number.rst`. The numbers have the size of the structure in them
//! (`_IOC_SIZE`): FUSE copies that many bytes and no more.

use rustix::ioctl::opcode;

use crate::error::{Error, Kind, Result};

pub use rustix::ioctl::Opcode;

const TYPE: u8 = 0xE7;

/// Begins to bring all of an open image into the cache.
pub const PREFETCH: Opcode = opcode::none(TYPE, 1);
/// How far that is: a [`Progress`].
pub const PROGRESS: Opcode = opcode::read::<[u8; Progress::LEN]>(TYPE, 2);
/// Drops an image from the cache: an [`Eviction`].
pub const EVICT: Opcode = opcode::read_write::<[u8; Eviction::LEN]>(TYPE, 3);

/// `FS_IOC_GETFLAGS` and `FS_IOC_SETFLAGS` of `linux/fs.h`, as `lsattr` and `chattr` ask. Their numbers say `long`;
/// what is copied is an `int`, and since Linux 5.13 the kernel itself asks and sends 4 bytes.
pub const GETFLAGS: Opcode = opcode::read::<std::ffi::c_long>(b'f', 1);
/// See [`GETFLAGS`].
pub const SETFLAGS: Opcode = opcode::write::<std::ffi::c_long>(b'f', 2);
/// `FS_IOC_FSGETXATTR`: how the kernel looks at the flags before it sets them. The answer is a `struct fsxattr`.
pub const FSGETXATTR: Opcode = opcode::read::<[u8; FSXATTR_LEN]>(b'X', 31);
/// Bytes of a `struct fsxattr`, whose first four are the flags.
pub const FSXATTR_LEN: usize = 28;
/// [`IMMUTABLE`] as a `struct fsxattr` has it.
pub const XFLAG_IMMUTABLE: u32 = 0x8;
/// `FS_IMMUTABLE_FL`: the file cannot be removed.
pub const IMMUTABLE: u32 = 0x10;

const MAGIC: &[u8; 4] = b"gfs1";
const TEXT_AT: usize = 24;

/// How far the filling of an image is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// Nobody asked for it.
    Idle = 0,
    /// Bytes are coming.
    Filling = 1,
    /// All are here, and are being compared with the hash of the image.
    Verifying = 2,
    /// All are here. The text is the hash that they match, empty when the image has none.
    Done = 3,
    /// It ended. The text says why.
    Failed = 4,
}

/// The answer to [`PROGRESS`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Where it is.
    pub stage: Stage,
    /// Bytes of the image.
    pub size: u64,
    /// Bytes of it in the cache.
    pub cached: u64,
    /// See [`Stage`]; cut to what fits.
    pub text: String,
}

impl Progress {
    /// Bytes of the structure.
    pub const LEN: usize = 512;

    /// As it goes through the kernel.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut raw = [0; Self::LEN];
        let text = self.text.as_bytes();
        let fits = self.text.floor_char_boundary(Self::LEN - TEXT_AT);
        raw[..4].copy_from_slice(MAGIC);
        raw[4] = self.stage as u8;
        // At most 488: it fits 16 bits.
        raw[6..8].copy_from_slice(&(fits as u16).to_le_bytes());
        raw[8..16].copy_from_slice(&self.size.to_le_bytes());
        raw[16..TEXT_AT].copy_from_slice(&self.cached.to_le_bytes());
        raw[TEXT_AT..TEXT_AT + fits].copy_from_slice(&text[..fits]);
        raw
    }

    /// Reads it back.
    ///
    /// # Errors
    /// `NotSupported`: this is no answer of a glancefs that we understand.
    pub fn decode(raw: &[u8; Self::LEN]) -> Result<Self> {
        let strange = || Error::new(Kind::NotSupported, "the mount is of another version of glancefs");
        let stage = [Stage::Idle, Stage::Filling, Stage::Verifying, Stage::Done, Stage::Failed]
            .into_iter()
            .find(|stage| *stage as u8 == raw[4])
            .filter(|_| raw[..4] == *MAGIC)
            .ok_or_else(strange)?;
        let len = usize::from(u16::from_le_bytes([raw[6], raw[7]]));
        let text = raw[TEXT_AT..].get(..len).ok_or_else(strange)?;
        let text = String::from_utf8_lossy(text).into_owned();
        Ok(Self { stage, size: number(raw, 8), cached: number(raw, 16), text })
    }
}

/// Question and answer of [`EVICT`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Eviction {
    /// The image's inode number, as `stat` shows it.
    pub ino: u64,
    /// Bytes that were freed on disk.
    pub freed: u64,
    /// Bytes that can still be read without the server: another image of the same content has them, or
    /// somebody reads the image at this moment.
    pub left: u64,
}

impl Eviction {
    /// Bytes of the structure.
    pub const LEN: usize = 24;

    /// As it goes through the kernel.
    pub fn encode(self) -> [u8; Self::LEN] {
        let mut raw = [0; Self::LEN];
        raw[..8].copy_from_slice(&self.ino.to_le_bytes());
        raw[8..16].copy_from_slice(&self.freed.to_le_bytes());
        raw[16..].copy_from_slice(&self.left.to_le_bytes());
        raw
    }

    /// Reads it back.
    pub fn decode(raw: &[u8; Self::LEN]) -> Self {
        Self { ino: number(raw, 0), freed: number(raw, 8), left: number(raw, 16) }
    }
}

/// The number at `at`, which lies inside.
fn number(raw: &[u8], at: usize) -> u64 {
    raw[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Command and daemon may be of different builds: a change needs another number or magic.
    #[test]
    fn the_protocol_looks_like_this() {
        assert_eq!((PREFETCH, PROGRESS, EVICT), (0xE701, 0x8200_E702, 0xC018_E703));
        assert_eq!((GETFLAGS, SETFLAGS, FSGETXATTR), (0x8008_6601, 0x4008_6602, 0x801c_581f));
        let progress = Progress { stage: Stage::Failed, size: 0x0102, cached: 0x03, text: "full".into() };
        let raw = progress.encode();
        let mut golden = [0; 512];
        golden[..28].copy_from_slice(b"gfs1\x04\0\x04\0\x02\x01\0\0\0\0\0\0\x03\0\0\0\0\0\0\0full");
        assert_eq!(raw, golden);
        let eviction = Eviction { ino: 0x0102_0304_0506_0708, freed: 9, left: 10 };
        assert_eq!(
            eviction.encode(),
            *b"\x08\x07\x06\x05\x04\x03\x02\x01\x09\0\0\0\0\0\0\0\x0a\0\0\0\0\0\0\0"
        );
    }

    #[test]
    fn what_is_encoded_reads_back() {
        for (stage, text) in [(Stage::Idle, String::new()), (Stage::Done, "\u{e9}".repeat(400))] {
            let sent = Progress { stage, size: u64::MAX, cached: 7, text };
            let back = Progress::decode(&sent.encode()).unwrap();
            assert!(sent.text.starts_with(&back.text) && back.text.len() >= sent.text.len().min(487));
            assert_eq!(Progress { text: sent.text.clone(), ..back }, sent);
        }
        let eviction = Eviction { ino: 1, freed: 2, left: 3 };
        assert_eq!(Eviction::decode(&eviction.encode()), eviction);
    }

    #[test]
    fn the_answer_of_another_file_system_is_not_believed() {
        assert!(Progress::decode(&[0; 512]).is_err());
        assert!(Progress::decode(&[0xff; 512]).is_err());
        let mut raw = Progress { stage: Stage::Idle, size: 0, cached: 0, text: String::new() }.encode();
        raw[4] = 9;
        assert!(Progress::decode(&raw).is_err());
        raw[4] = 0;
        raw[6..8].copy_from_slice(&[0xe9, 1]);
        assert!(Progress::decode(&raw).is_err(), "a text longer than its place");
    }
}
