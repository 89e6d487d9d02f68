//! A boot profile as a property of its image: short, since lists of images carry all properties.
//!
//! ```text
//! 1:<8 hex digits>:<hex digits>
//!   CRC32C of "<digest> <size>": the data it belongs to
//!                  runs: signed distance from the end of the run before (zigzag), blocks - 1; LEB128 each
//! ```
//! A recorded boot of Debian, 300 runs, has 2 KB; the longest that is taken 64 KiB, which is what MySQL has for a
//! property.

use super::{MOST_RUNS, Profile};
use crate::error::{Error, Kind, Result};

/// Bytes that a property can have everywhere.
const MOST_BYTES: usize = 65_535;

impl Profile {
    /// As a property.
    ///
    /// # Errors
    /// `TooLarge`: no property can hold it.
    pub(crate) fn publishable(&self) -> Result<String> {
        let mut bytes = Vec::new();
        let mut end: i64 = 0;
        for run in &self.runs {
            // Blocks of an image of 2^63 bytes have numbers below 2^47.
            let distance = run.start.0 as i64 - end;
            put(&mut bytes, ((distance << 1) ^ (distance >> 63)) as u64);
            put(&mut bytes, run.len().saturating_sub(1));
            end = run.end.0 as i64;
        }
        let text = Self::property_of(&self.digest, self.size, &bytes);
        if text.len() > MOST_BYTES {
            return Err(Error::new(Kind::TooLarge, "this boot profile is longer than a property can be"));
        }
        Ok(text)
    }

    /// The property of this content with these runs, which may be anything.
    pub(in crate::read) fn property_of(digest: &str, size: u64, runs: &[u8]) -> String {
        let mut text = format!("1:{:08x}:", belongs_to(digest, size));
        runs.iter().for_each(|byte| text.push_str(&format!("{byte:02x}")));
        text
    }

    /// The profile of this content in a property that anybody may have written.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    pub(crate) fn from_property(text: &str, digest: &str, size: u64) -> Result<Self> {
        let wrong =
            |what: &str| Error::new(Kind::Invalid, format!("not a boot profile of this image: {what}"));
        let mut parts = text.splitn(3, ':');
        let (Some("1"), Some(owner), Some(runs)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(wrong("it cannot be read"));
        };
        if owner != format!("{:08x}", belongs_to(digest, size)) {
            return Err(wrong("it belongs to other data"));
        }
        let bytes = unhex(runs).ok_or_else(|| wrong("it cannot be read"))?;
        let (mut rest, mut found, mut end) = (bytes.as_slice(), Vec::new(), 0_i64);
        while !rest.is_empty() {
            let (Some(distance), Some(more)) = (take(&mut rest), take(&mut rest)) else {
                return Err(wrong("it is cut"));
            };
            let distance = (distance >> 1) as i64 ^ -((distance & 1) as i64);
            let start = end.checked_add(distance).and_then(|start| u64::try_from(start).ok());
            let blocks = more.checked_add(1);
            let (Some(start), Some(blocks)) = (start, blocks) else {
                return Err(wrong("a run lies outside of the image"));
            };
            found.push((start, blocks));
            if found.len() > MOST_RUNS {
                return Err(wrong("it is too long"));
            }
            end = start.checked_add(blocks).and_then(|end| i64::try_from(end).ok()).unwrap_or(i64::MAX);
        }
        Self::checked(digest.to_owned(), size, found)
    }
}

fn belongs_to(digest: &str, size: u64) -> u32 {
    crc32c::crc32c(format!("{digest} {size}").as_bytes())
}

fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        // The lowest seven bits.
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..63).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|digit| digit.to_digit(16).map(|value| value as u8)).collect();
    let digits = digits.filter(|digits| digits.len().is_multiple_of(2))?;
    Some(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

/// The text of `glancefs profile export` as a property.
///
/// # Errors
/// `Invalid` for what is no profile, `TooLarge`.
pub fn publishable(text: &[u8]) -> Result<String> {
    Profile::of_any(text)?.publishable()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{SIZE, profile};
    use super::*;
    use crate::units::{BlockIndex, BlockRange};

    fn block(at: u64) -> BlockRange {
        BlockRange { start: BlockIndex(at), end: BlockIndex(at + 1) }
    }

    #[test]
    fn its_text_is_stable_and_comes_back() {
        let profile = profile(&[(3, 2), (0, 1), (99, 1)]);
        let text = profile.publishable().unwrap();
        assert_eq!(text, "1:153e0d4f:06010900c40100", "it is in records of images");
        assert_eq!(Profile::from_property(&text, "sha512:ab", SIZE).unwrap(), profile);
        assert_eq!(publishable(&profile.encode()).unwrap(), text);
        assert!(publishable(b"{}").is_err());
    }

    #[test]
    fn the_longest_profile_fits() {
        let mut profile = profile(&[]);
        profile.size = 1 << 50;
        profile.runs = (0..MOST_RUNS as u64).map(|at| block(at % 2 * (1 << 30) + at)).collect();
        let text = profile.publishable().unwrap();
        assert!(text.len() <= MOST_BYTES);
        assert_eq!(Profile::from_property(&text, "sha512:ab", 1 << 50).unwrap(), profile);
    }

    #[test]
    fn a_property_that_lies_is_refused() {
        let good = profile(&[(3, 2)]).publishable().unwrap();
        let refused = |text: &str| Profile::from_property(text, "sha512:ab", SIZE).is_err();
        assert!(!refused(&good));
        let start = &good[..11];
        for runs in ["0", "zz", "06", "80", "ffffffffffffffffffff", "0700", "c80163", "00e4ffffff0f"] {
            assert!(refused(&format!("{start}{runs}")), "{runs}");
        }
        assert!(refused(&format!("{start}{}", "0000".repeat(MOST_RUNS + 1))), "too long");
        for text in
            ["", "1", "1:", "2:00000000:", &good.replacen("1:1", "1:2", 1), "{\"glancefs_profile\":1}"]
        {
            assert!(refused(text), "{text}");
        }
        assert!(Profile::from_property(&good, "sha512:ac", SIZE).is_err());
    }
}
