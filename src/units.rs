//! The quantities of glancefs as types: image ids, byte ranges, blocks, sizes and durations.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Kind, Result};

/// Bytes in a presence block: what the cache records as present or absent.
///
/// A recorded Debian boot touches 10.7 % of its image at this granularity and 25.7 % at 1 MiB
/// (`docs/design.md`, "Reading"); smaller blocks save little and enlarge the index.
pub const BLOCK_SIZE: u64 = 64 * 1024;

/// The id of an image: text that Glance gave or took, kept exactly as it is.
///
/// Ids are case-sensitive (an upper-case id is another image), so they are never normalised; they
/// are used in URLs and file names, so only letters, digits, `-` and `_` are taken, at most 64.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageId(Arc<str>);

impl ImageId {
    /// A fresh random id (UUID version 4), so that creating an image can be retried safely.
    pub fn generate() -> Self {
        Self(uuid::Uuid::new_v4().to_string().into())
    }

    /// The id as Glance writes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ImageId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if text.is_empty() || text.len() > 64 || !text.bytes().all(allowed) {
            return Err(Error::new(Kind::Invalid, format!("{text:?} is not an image id")));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Bytes `start..end` of an image; never reversed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ByteRange {
    /// The first byte.
    pub start: u64,
    /// The byte after the last.
    pub end: u64,
}

impl ByteRange {
    /// `start..end`; an end before the start gives an empty range at `start`.
    pub fn new(start: u64, end: u64) -> Self {
        Self { start, end: end.max(start) }
    }

    /// `len` bytes from `start`, cut off at the largest offset.
    pub fn at(start: u64, len: u64) -> Self {
        Self { start, end: start.saturating_add(len) }
    }

    /// How many bytes.
    pub fn len(self) -> u64 {
        self.end - self.start
    }

    /// There is no byte in it.
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// The part of it below `size`.
    pub fn clamp_to(self, size: u64) -> Self {
        Self { start: self.start.min(size), end: self.end.min(size) }
    }

    /// The bytes that both have; empty when they do not meet.
    pub fn intersect(self, other: Self) -> Self {
        Self::new(self.start.max(other.start), self.end.min(other.end))
    }

    /// All of `other` lies inside.
    pub fn contains(self, other: Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// The blocks that hold a byte of it.
    pub fn blocks(self) -> BlockRange {
        if self.is_empty() {
            let at = BlockIndex(self.start / BLOCK_SIZE);
            return BlockRange { start: at, end: at };
        }
        BlockRange {
            start: BlockIndex(self.start / BLOCK_SIZE),
            end: BlockIndex((self.end - 1) / BLOCK_SIZE + 1),
        }
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

/// The number of a presence block within its image, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockIndex(pub u64);

impl BlockIndex {
    /// The offset of its first byte.
    pub fn offset(self) -> u64 {
        self.0 * BLOCK_SIZE
    }

    /// Its bytes in an image of `size` bytes: the last block is short.
    pub fn bytes(self, size: u64) -> ByteRange {
        ByteRange::at(self.offset(), BLOCK_SIZE).clamp_to(size)
    }

    /// The block after it.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Blocks `start..end` of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockRange {
    /// The first block.
    pub start: BlockIndex,
    /// The block after the last.
    pub end: BlockIndex,
}

impl BlockRange {
    /// Every block of an image of `size` bytes.
    pub fn of_image(size: u64) -> Self {
        ByteRange::new(0, size).blocks()
    }

    /// How many blocks.
    pub fn len(self) -> u64 {
        self.end.0 - self.start.0
    }

    /// There is no block in it.
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// `index` is one of them.
    pub fn contains(self, index: BlockIndex) -> bool {
        self.start <= index && index < self.end
    }

    /// Each block in order.
    pub fn iter(self) -> impl DoubleEndedIterator<Item = BlockIndex> + Clone {
        (self.start.0..self.end.0).map(BlockIndex)
    }

    /// Its bytes in an image of `size` bytes.
    pub fn bytes(self, size: u64) -> ByteRange {
        ByteRange::new(self.start.offset(), self.end.offset()).clamp_to(size)
    }
}

/// A number of bytes as people write it: plain, or with K, M, G, T or KiB, MiB, GiB, TiB.
///
/// Both spellings mean powers of 1024, as in `dd`, `qemu-img` and mount options.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            let cure = "write bytes, or a number with K, M, G, T, KiB, MiB, GiB or TiB";
            Error::new(Kind::Config, format!("{text:?} is not a size: {cure}"))
        };
        let (number, unit) = number_and_unit(text).ok_or_else(wrong)?;
        let factor = match unit {
            "" | "B" => 1,
            "K" | "k" | "KiB" => 1 << 10,
            "M" | "m" | "MiB" => 1 << 20,
            "G" | "g" | "GiB" => 1 << 30,
            "T" | "t" | "TiB" => 1 << 40,
            _ => return Err(wrong()),
        };
        number.checked_mul(factor).map(ByteSize).ok_or_else(wrong)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, factor) in [("TiB", 1u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
            if self.0 >= factor && self.0.is_multiple_of(factor) {
                return write!(f, "{}{unit}", self.0 / factor);
            }
        }
        write!(f, "{}", self.0)
    }
}

/// A number of bytes for a person: three or four digits and a unit, such as `474.9 MiB`.
pub fn human_bytes(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    // Powers of 1024; below the first, bytes are exact.
    let power = bytes.checked_ilog2().unwrap_or(0) / 10;
    match power.checked_sub(1).and_then(|unit| units.get(unit as usize)) {
        Some(unit) => format!("{:.1} {unit}", bytes as f64 / f64::from(1 << 10).powi(power as i32)),
        None => format!("{bytes} B"),
    }
}

/// Where to listen: `127.0.0.1:9310`, `[::1]:9310`, or a port alone, which is one of 127.0.0.1.
///
/// # Errors
/// `Kind::Config` with the accepted spellings.
pub fn parse_listen_address(text: &str) -> Result<SocketAddr> {
    let port = text.strip_prefix(':').unwrap_or(text).parse::<u16>();
    match (port, text.parse()) {
        (Ok(port), _) => Ok(SocketAddr::from(([127, 0, 0, 1], port))),
        (_, Ok(address)) => Ok(address),
        _ => {
            let message =
                format!("{text:?} is no address to listen at: write 127.0.0.1:9310, [::1]:9310 or 9310");
            Err(Error::new(Kind::Config, message))
        }
    }
}

/// A duration as people write it: seconds, or a number with ms, s, m, h or d.
///
/// # Errors
/// `Kind::Config` with the accepted spellings.
pub fn parse_duration(text: &str) -> Result<Duration> {
    let wrong = || {
        let cure = "write seconds, or a number with ms, s, m, h or d";
        Error::new(Kind::Config, format!("{text:?} is not a duration: {cure}"))
    };
    let (number, unit) = number_and_unit(text).ok_or_else(wrong)?;
    let seconds = match unit {
        "ms" => return Ok(Duration::from_millis(number)),
        "" | "s" => Some(number),
        "m" => number.checked_mul(60),
        "h" => number.checked_mul(3600),
        "d" => number.checked_mul(24 * 3600),
        _ => None,
    };
    seconds.map(Duration::from_secs).ok_or_else(wrong)
}

/// `64 KiB` as 64 and `KiB`; the unit may be missing.
fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let trimmed = text.trim();
    let digits = trimmed.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = trimmed.split_at(digits);
    Some((number.parse().ok()?, unit.trim_start()))
}

/// Bytes in lower-case hexadecimal, as Glance writes hashes.
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_one_of_this_host() {
        for (text, address) in [
            ("9310", "127.0.0.1:9310"),
            (":9310", "127.0.0.1:9310"),
            ("0.0.0.0:1", "0.0.0.0:1"),
            ("[::1]:9310", "[::1]:9310"),
        ] {
            assert_eq!(parse_listen_address(text).unwrap().to_string(), address);
        }
        for wrong in ["", "localhost:9310", "65536", "127.0.0.1", "::1"] {
            assert!(
                parse_listen_address(wrong).unwrap_err().to_string().contains("127.0.0.1:9310"),
                "{wrong}"
            );
        }
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("10G", 10 << 30),
            ("10GiB", 10 << 30),
            ("64 K", 64 << 10),
            ("3M", 3 << 20),
        ] {
            assert_eq!(text.parse::<ByteSize>().unwrap(), ByteSize(bytes), "{text}");
        }
        for text in ["", "G", "-1", "1.5G", "10GB", "99999999999999999999", "17179869184G"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_print_as_they_are_read() {
        for text in ["0", "4097", "64KiB", "10GiB"] {
            assert_eq!(text.parse::<ByteSize>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn sizes_for_people_have_few_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (497_942_528, "474.9 MiB"),
            (10 << 30, "10.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(human_bytes(bytes), text);
        }
    }

    #[test]
    fn durations_are_read_as_people_write_them() {
        assert_eq!(parse_duration("90").unwrap(), Duration::from_secs(90));
        assert_eq!(parse_duration("2m").unwrap(), Duration::from_secs(120));
        assert_eq!(parse_duration("1h").unwrap(), Duration::from_secs(3600));
        assert_eq!(parse_duration("7d").unwrap(), Duration::from_secs(604_800));
        assert_eq!(parse_duration("250ms").unwrap(), Duration::from_millis(250));
        for text in ["", "s", "1w", "-1s", "1.5s"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn blocks_cover_exactly_the_bytes() {
        assert_eq!(ByteRange::new(0, 0).blocks().len(), 0);
        assert_eq!(ByteRange::new(0, 1).blocks().len(), 1);
        assert_eq!(ByteRange::new(BLOCK_SIZE - 1, BLOCK_SIZE + 1).blocks().len(), 2);
        let size = BLOCK_SIZE + 10;
        assert_eq!(BlockRange::of_image(size).len(), 2);
        assert_eq!(BlockIndex(1).bytes(size).len(), 10);
        assert_eq!(BlockRange::of_image(size).bytes(size), ByteRange::new(0, size));
    }

    #[test]
    fn ids_that_could_leave_a_folder_are_refused() {
        for text in ["", "..", "a/b", "a b", "\u{e9}"] {
            assert!(text.parse::<ImageId>().is_err(), "{text:?}");
        }
        assert!("1f3c9a2b-0000-4000-8000-000000000001".parse::<ImageId>().is_ok());
    }
}
