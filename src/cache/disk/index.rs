//! The index file of a cached image: a header, then one entry per block.
//!
//! ```text
//! offset  bytes  header (4096 bytes, little endian)
//!      0      8  magic "glancefs"
//!      8      4  version: 1
//!     12      4  block size: 65536
//!     16      8  image size in bytes
//!     24     32  key: SHA-256 of the identity; the file's own name
//!     56     32  content key: SHA-256 of cloud, project, size and hash; zeros: no hash is known
//!     88      4  proof: 0 none, 1 MD5, 2 SHA-512, 3 another multihash
//!     92      4  zeros
//!     96      8  proof: size of the data file when it was proven
//!    104      8  proof: its mtime, seconds
//!    112      8  proof: its ctime, seconds
//!    120      4  proof: its mtime, nanoseconds
//!    124      4  proof: its ctime, nanoseconds
//!    128   3964  a line for people, UTF-8, padded with zeros
//!   4092      4  CRC32C of the 4092 bytes before
//!
//!           8    entry of block n, at 4096 + 8n
//!             4  CRC32C of the block
//!             4  when it was last used: minutes since 2020-01-01 UTC, plus 1; 0: the block is absent
//! ```
//!
//! An entry is one aligned 8-byte write, made after the block's data were written. So several processes
//! fill one file without a lock: equal identities have equal bytes, and an entry that got lost costs a
//! fetch. A crash may leave an entry without its data: the CRC says so, and nothing needs fsync.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::cache::identity::{Key, Verified};
use crate::error::{Error, Kind, Result};
use crate::units::{BLOCK_SIZE, BlockIndex};

/// Bytes of the header.
pub(crate) const HEADER_LEN: u64 = 4096;
/// Bytes of an entry.
pub(crate) const ENTRY_LEN: u64 = 8;

const MAGIC: &[u8; 8] = b"glancefs";
const VERSION: u32 = 1;
const LABEL_AT: usize = 128;
const CRC_AT: usize = 4092;
/// 2020-01-01T00:00:00Z in seconds since the epoch: 32 bits of minutes from there last 8000 years.
const STAMP_EPOCH: u64 = 1_577_836_800;

/// A data file as `stat` shows it: it is unchanged as long as these are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileState {
    pub size: u64,
    /// Seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Seconds and nanoseconds.
    pub ctime: (i64, u32),
}

/// The whole image was hashed and matched, when its data file was in this state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Proof {
    pub kind: Verified,
    pub state: FileState,
}

/// The header of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub key: Key,
    pub content: Option<Key>,
    pub size: u64,
    pub proof: Option<Proof>,
    pub label: String,
}

impl Header {
    /// The header as it is on disk.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_LEN as usize);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&(BLOCK_SIZE as u32).to_le_bytes());
        out.extend_from_slice(&self.size.to_le_bytes());
        out.extend_from_slice(&self.key.0);
        out.extend_from_slice(&self.content.map_or([0; 32], |key| key.0));
        let state = self.proof.map(|proof| proof.state);
        let state = state.unwrap_or(FileState { size: 0, mtime: (0, 0), ctime: (0, 0) });
        out.extend_from_slice(&proof_code(self.proof.map(|proof| proof.kind)).to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&state.size.to_le_bytes());
        out.extend_from_slice(&state.mtime.0.to_le_bytes());
        out.extend_from_slice(&state.ctime.0.to_le_bytes());
        out.extend_from_slice(&state.mtime.1.to_le_bytes());
        out.extend_from_slice(&state.ctime.1.to_le_bytes());
        let mut label = self.label.as_str();
        while label.len() > CRC_AT - LABEL_AT {
            let mut shorter = label.chars();
            shorter.next_back();
            label = shorter.as_str();
        }
        out.extend_from_slice(label.as_bytes());
        out.resize(HEADER_LEN as usize, 0);
        seal(&mut out);
        out
    }

    /// Reads a header back.
    ///
    /// # Errors
    /// `Integrity`: it is damaged, or not ours, or of another version.
    pub(crate) fn decode(raw: &[u8]) -> Result<Self> {
        let wrong = |what: &'static str| Error::new(Kind::Integrity, what);
        let mut fields = Fields(raw);
        if raw.len() as u64 != HEADER_LEN || fields.take::<8>()? != *MAGIC {
            return Err(wrong("this is no index of glancefs"));
        }
        if u32::from_le_bytes(Fields(&raw[CRC_AT..]).take()?) != crc32c::crc32c(&raw[..CRC_AT]) {
            return Err(wrong("the header of an index is damaged"));
        }
        let version = u32::from_le_bytes(fields.take()?);
        let block = u32::from_le_bytes(fields.take()?);
        if version != VERSION || u64::from(block) != BLOCK_SIZE {
            return Err(wrong("an index has another version or block size"));
        }
        let size = u64::from_le_bytes(fields.take()?);
        let key = Key(fields.take()?);
        let content = Some(Key(fields.take()?)).filter(|key| key.0 != [0; 32]);
        let kind = proof_kind(u32::from_le_bytes(fields.take()?));
        fields.take::<4>()?;
        let proven_size = u64::from_le_bytes(fields.take()?);
        let mtime = i64::from_le_bytes(fields.take()?);
        let ctime = i64::from_le_bytes(fields.take()?);
        let state = FileState {
            size: proven_size,
            mtime: (mtime, u32::from_le_bytes(fields.take()?)),
            ctime: (ctime, u32::from_le_bytes(fields.take()?)),
        };
        let label = String::from_utf8_lossy(&raw[LABEL_AT..CRC_AT]);
        let label = label.trim_end_matches('\0').to_owned();
        Ok(Self { key, content, size, proof: kind.map(|kind| Proof { kind, state }), label })
    }
}

/// Writes the checksum of a header to its end.
pub(crate) fn seal(header: &mut [u8]) {
    if let Some((fields, checksum)) = header.split_at_mut_checked(CRC_AT) {
        checksum.copy_from_slice(&crc32c::crc32c(fields).to_le_bytes());
    }
}

fn proof_code(kind: Option<Verified>) -> u32 {
    match kind {
        Some(Verified::Md5) => 1,
        Some(Verified::Sha512) => 2,
        Some(Verified::Multihash) => 3,
        None | Some(Verified::None | Verified::Pending | Verified::Failed) => 0,
    }
}

fn proof_kind(code: u32) -> Option<Verified> {
    match code {
        1 => Some(Verified::Md5),
        2 => Some(Verified::Sha512),
        3 => Some(Verified::Multihash),
        _ => None,
    }
}

/// Takes fields of fixed length off the front.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (field, rest) =
            self.0.split_first_chunk().ok_or_else(|| Error::new(Kind::Integrity, "an index is too short"))?;
        self.0 = rest;
        Ok(*field)
    }
}

/// A time in minutes, as entries hold it; never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Stamp(pub u32);

impl Stamp {
    /// The present minute.
    pub(crate) fn now() -> Self {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let minutes = seconds.saturating_sub(STAMP_EPOCH) / 60;
        Self(u32::try_from(minutes).unwrap_or(u32::MAX - 1) + 1)
    }
}

/// What the index says of a block that is present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub crc: u32,
    pub used: Stamp,
}

impl Entry {
    /// The entry of an absent block.
    pub(crate) const ABSENT: [u8; 8] = [0; 8];

    pub(crate) fn encode(self) -> [u8; 8] {
        let mut out = Self::ABSENT;
        out[..4].copy_from_slice(&self.crc.to_le_bytes());
        out[4..].copy_from_slice(&self.used.0.to_le_bytes());
        out
    }

    /// `None`: the block is absent.
    pub(crate) fn decode(raw: [u8; 8]) -> Option<Self> {
        let [a, b, c, d, e, f, g, h] = raw;
        let used = u32::from_le_bytes([e, f, g, h]);
        (used != 0).then_some(Self { crc: u32::from_le_bytes([a, b, c, d]), used: Stamp(used) })
    }

    /// The entries in a piece of an index.
    pub(crate) fn decode_all(raw: &[u8]) -> impl Iterator<Item = Option<Self>> {
        let (entries, _) = raw.as_chunks::<8>();
        entries.iter().map(|entry| Self::decode(*entry))
    }
}

/// Where the entry of `block` is.
pub(crate) fn entry_offset(block: BlockIndex) -> u64 {
    HEADER_LEN + block.0 * ENTRY_LEN
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            key: Key([0x11; 32]),
            content: Some(Key([0x22; 32])),
            size: 0x0102_0304_0506_0708,
            proof: Some(Proof {
                kind: Verified::Sha512,
                state: FileState { size: 0x0102_0304_0506_0708, mtime: (5, 6), ctime: (7, 8) },
            }),
            label: "image x of project p at http://glance:9292/, 1 bytes".to_owned(),
        }
    }

    /// What version 1 is. When this has to change, the version and the folder `v1` change with it.
    #[test]
    fn version_1_looks_like_this() {
        let raw = header().encode();
        assert_eq!(raw.len(), 4096);
        let mut golden = Vec::new();
        golden.extend_from_slice(b"glancefs\x01\0\0\0\0\0\x01\0\x08\x07\x06\x05\x04\x03\x02\x01");
        golden.extend_from_slice(&[0x11; 32]);
        golden.extend_from_slice(&[0x22; 32]);
        golden.extend_from_slice(b"\x02\0\0\0\0\0\0\0\x08\x07\x06\x05\x04\x03\x02\x01");
        golden.extend_from_slice(b"\x05\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0\x06\0\0\0\x08\0\0\0");
        golden.extend_from_slice(b"image x of project p at http://glance:9292/, 1 bytes\0");
        assert_eq!(&raw[..golden.len()], &golden[..]);
        assert!(raw[golden.len()..CRC_AT].iter().all(|byte| *byte == 0));
        assert_eq!(raw[CRC_AT..], [182, 87, 147, 54]);
        assert_eq!(Entry { crc: 0x0403_0201, used: Stamp(0x0807_0605) }.encode(), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(entry_offset(BlockIndex(3)), 4096 + 24);
    }

    #[test]
    fn a_header_reads_back() {
        for header in [
            header(),
            Header { content: None, proof: None, label: String::new(), ..header() },
            Header { label: "\u{e9}".repeat(5000), ..header() },
        ] {
            let back = Header::decode(&header.encode()).unwrap();
            assert!(header.label.starts_with(&back.label));
            assert_eq!(Header { label: header.label.clone(), ..back }, header);
        }
    }

    #[test]
    fn any_flipped_bit_of_a_header_is_noticed() {
        let raw = header().encode();
        for at in 0..raw.len() {
            let mut bad = raw.clone();
            bad[at] ^= 1 << (at % 8);
            assert!(Header::decode(&bad).is_err(), "byte {at}");
        }
        assert!(Header::decode(&raw[..4095]).is_err());
        assert!(Header::decode(&[]).is_err());
    }

    #[test]
    fn a_present_entry_is_never_all_zeros() {
        assert_eq!(Entry::decode(Entry::ABSENT), None);
        let entry = Entry { crc: 0, used: Stamp::now() };
        assert_eq!(Entry::decode(entry.encode()), Some(entry));
        assert!(Stamp::now() > Stamp(1));
    }
}
