//! The ioctls of files on a mount: how `glancefs prefetch`, `evict` and the commands that change images talk to the
//! daemon.
//!
//! They go through the mount itself, so there is no socket to find, to guard or to clean up: who may open
//! a file may ask, and what was asked of an open file ends when the last descriptor of it is closed,
//! whatever became of the program. Each answers at once; the kernel lets nobody go who waits for an ioctl.
//!
//! ```text
//! PREFETCH  _IO  (0xE7, 1)       on an image: bring all of it, until this open file is closed
//! PROGRESS  _IOR (0xE7, 2, 512)  on an image: how far that is
//! EVICT     _IOWR(0xE7, 3, 24)   on a directory: drop what is cached of the image with an inode number
//! LOOK      _IOW (0xE7, 6, 64)   on a directory: ask the server about the image of this id now (text, then zeros)
//! RETRY     _IOW (0xE7, 32, 1024)  on .glancefs/uploads.json: upload one again, until this open file is closed
//! DISCARD   _IOW (0xE7, 33, 1024)  on .glancefs/uploads.json: throw one away
//! PROGRESS on .glancefs/uploads.json tells how far either is.
//!
//! offset  bytes  PROGRESS (little endian)      offset  bytes  EVICT (little endian)
//!      0      4  magic "gfs1"                       0      8  in: the inode number
//!      4      1  stage, see `Stage`                 8      8  out: bytes that were freed
//!      5      1  zero                              16      8  out: bytes that can still be read
//!      6      2  bytes of the text                               without the server
//!      8      8  size of the image
//!     16      8  bytes of it in the cache
//!     24    488  text, UTF-8, then zeros
//!
//! offset  bytes  RETRY, DISCARD (little endian)
//!      0      4  magic "gfu1"
//!      4      2  bytes of the new name, 0 for the one that it has
//!      6      2  zero
//!      8     36  the upload, as .glancefs/uploads.json names it
//!     44    980  the new name, as a file name, UTF-8, then zeros
//! ```
//!
//! 0xE7 is nobody's in the kernel's `ioctl-number.rst`. The numbers have the size of the structure in them
//! (`_IOC_SIZE`): FUSE copies that many bytes and no more.

use rustix::ioctl::opcode;

use crate::error::{Error, Kind, Result};
use crate::units::ImageId;

pub use rustix::ioctl::Opcode;

const TYPE: u8 = 0xE7;

/// Begins to bring all of an open image into the cache.
pub const PREFETCH: Opcode = opcode::none(TYPE, 1);
/// How far that is: a [`Progress`].
pub const PROGRESS: Opcode = opcode::read::<[u8; Progress::LEN]>(TYPE, 2);
/// Drops an image from the cache: an [`Eviction`].
pub const EVICT: Opcode = opcode::read_write::<[u8; Eviction::LEN]>(TYPE, 3);
/// Asks the server about an image, which somebody changed: its id as [`look`] writes it.
pub const LOOK: Opcode = opcode::write::<[u8; LOOK_LEN]>(TYPE, 6);

/// Bytes of the question of [`LOOK`]: ids have up to 64.
pub const LOOK_LEN: usize = 64;

/// Uploads again what is in the spool: a [`Choice`].
pub const RETRY: Opcode = opcode::write::<[u8; Choice::LEN]>(TYPE, 32);
/// Throws away what is in the spool: a [`Choice`].
pub const DISCARD: Opcode = opcode::write::<[u8; Choice::LEN]>(TYPE, 33);

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

/// Which upload [`RETRY`] and [`DISCARD`] mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// As `.glancefs/uploads.json` names it: a UUID.
    pub id: String,
    /// The name of the file that it shall become; `None`: the one that it has.
    pub name: Option<String>,
}

impl Choice {
    /// Bytes of the structure.
    pub const LEN: usize = 1024;
    const MAGIC: &[u8; 4] = b"gfu1";
    const ID: std::ops::Range<usize> = 8..44;

    /// As it goes through the kernel.
    ///
    /// # Errors
    /// `Invalid`: this is no id of an upload. `NameTooLong`.
    pub fn encode(&self) -> Result<[u8; Self::LEN]> {
        let mut raw = [0; Self::LEN];
        raw[..4].copy_from_slice(Self::MAGIC);
        if self.id.len() != Self::ID.len() {
            return Err(Error::new(
                Kind::Invalid,
                "an upload is named by 36 characters: glancefs uploads lists them",
            ));
        }
        raw[Self::ID].copy_from_slice(self.id.as_bytes());
        let name = self.name.as_deref().unwrap_or_default().as_bytes();
        let place = raw.get_mut(Self::ID.end..Self::ID.end + name.len());
        place.ok_or_else(|| Error::new(Kind::NameTooLong, "the name is too long"))?.copy_from_slice(name);
        // At most 980: it fits 16 bits.
        raw[4..6].copy_from_slice(&(name.len() as u16).to_le_bytes());
        Ok(raw)
    }

    /// Reads it back.
    ///
    /// # Errors
    /// `Invalid`: nothing that this version sends.
    pub fn decode(raw: &[u8; Self::LEN]) -> Result<Self> {
        let strange = || Error::new(Kind::Invalid, "this names no upload");
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| strange());
        if raw[..4] != *Self::MAGIC {
            return Err(strange());
        }
        let len = usize::from(u16::from_le_bytes([raw[4], raw[5]]));
        let name = text(raw[Self::ID.end..].get(..len).ok_or_else(strange)?)?;
        Ok(Self { id: text(&raw[Self::ID])?, name: Some(name).filter(|name| !name.is_empty()) })
    }
}

/// The question of [`LOOK`].
pub fn look(id: &ImageId) -> [u8; LOOK_LEN] {
    let mut raw = [0; LOOK_LEN];
    for (to, from) in raw.iter_mut().zip(id.as_str().bytes()) {
        *to = from;
    }
    raw
}

/// Reads it back; `None` for what is no id.
pub fn image_of_look(raw: &[u8]) -> Option<ImageId> {
    let end = raw.iter().position(|byte| *byte == 0).unwrap_or(raw.len());
    std::str::from_utf8(&raw[..end]).ok()?.parse().ok()
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
        assert_eq!(LOOK, 0x4040_E706);
        let id: ImageId = "1f3c".parse().unwrap();
        assert_eq!(look(&id)[..6], *b"1f3c\0\0");
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
    fn a_choice_looks_like_this() {
        assert_eq!((RETRY, DISCARD), (0x4400_E720, 0x4400_E721));
        let id = "1f3c9a2b-0000-4000-8000-000000000001".to_owned();
        let choice = Choice { id: id.clone(), name: Some("\u{e9}".into()) };
        let raw = choice.encode().unwrap();
        let mut golden = [0; 1024];
        golden[..46].copy_from_slice(b"gfu1\x02\0\0\x001f3c9a2b-0000-4000-8000-000000000001\xc3\xa9");
        assert_eq!(raw, golden);
        assert_eq!(Choice::decode(&raw).unwrap(), choice);
        let same = Choice { id: id.clone(), name: None };
        assert_eq!(Choice::decode(&same.encode().unwrap()).unwrap(), same);
        assert!(Choice { id: "1f3c".into(), name: None }.encode().is_err());
        assert!(Choice { id, name: Some("n".repeat(981)) }.encode().is_err());
        golden[4..6].copy_from_slice(&981_u16.to_le_bytes());
        assert!(Choice::decode(&golden).is_err() && Choice::decode(&[0; 1024]).is_err());
    }

    #[test]
    fn what_is_encoded_reads_back() {
        for (stage, text) in [(Stage::Idle, String::new()), (Stage::Done, "\u{e9}".repeat(400))] {
            let sent = Progress { stage, size: u64::MAX, cached: 7, text };
            let back = Progress::decode(&sent.encode()).unwrap();
            assert!(sent.text.starts_with(&back.text) && back.text.len() >= sent.text.len().min(487));
            assert_eq!(Progress { text: sent.text.clone(), ..back }, sent);
        }
        for id in [ImageId::generate(), "x".repeat(64).parse().unwrap()] {
            assert_eq!(image_of_look(&look(&id)), Some(id));
        }
        let eviction = Eviction { ino: 1, freed: 2, left: 3 };
        assert_eq!(Eviction::decode(&eviction.encode()), eviction);
    }

    #[test]
    fn the_answer_of_another_file_system_is_not_believed() {
        assert_eq!((image_of_look(&[0; 64]), image_of_look(b"../x")), (None, None));
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
