//! Boot profiles: what the first readers of an image touch, remembered so that the next start has it ahead.
//!
//! A guest that starts reads a tenth of its image, here and there, and each read waits for the one
//! before. Those reads are the same at each start. So the first handles of an image that is not complete here are
//! watched for their first minutes ([`recording`]); the next time it is opened, on any mount that has the
//! profile ([`store`]), exactly these blocks are fetched in parallel, in the order in which they will be read.

mod published;
mod recording;
mod store;

use serde::{Deserialize, Serialize};

use crate::cache::Digest;
use crate::error::{Error, Kind, Result};
use crate::source::Pace;
use crate::units::{BLOCK_SIZE, BlockIndex, BlockRange};

pub use published::publishable;
pub(super) use recording::Recording;
pub(super) use store::Store;

/// Runs of one profile. A recorded boot of Debian has 300; with 4096 it still fits an extended attribute.
const MOST_RUNS: usize = 4096;
/// Blocks of one profile: 1 GiB. What reads more is no boot, and would only be downloaded in vain.
const MOST_BLOCKS: u64 = 16_384;
/// Runs that are sorted together before they are fetched.
const BATCH: usize = 64;
const VERSION: u32 = 1;

/// The blocks that the start of one content reads, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Profile {
    digest: String,
    size: u64,
    runs: Vec<BlockRange>,
}

/// What is on disk: one line of JSON, with runs as `[first block, blocks]`.
#[derive(Serialize, Deserialize)]
struct Text {
    glancefs_profile: u32,
    digest: String,
    size: u64,
    block_size: u64,
    runs: Vec<(u64, u64)>,
}

/// The digest of a content as profiles name it; `None`: there is none, so nothing says that two copies are alike.
pub(crate) fn digest_text(digest: &Digest) -> Option<String> {
    match digest {
        Digest::Multi { algorithm, value } => Some(format!("{algorithm}:{value}")),
        Digest::Md5(value) => Some(format!("md5:{value}")),
        Digest::None => None,
    }
}

impl Profile {
    /// The profile of this content in a text from disk or from a person.
    ///
    /// # Errors
    /// `Invalid`, with the reason: it is none, it is of another content, or its runs do not lie in the image.
    pub(crate) fn decode(text: &[u8], digest: &str, size: u64) -> Result<Self> {
        let wrong =
            |what: &str| Error::new(Kind::Invalid, format!("not a boot profile of this image: {what}"));
        let text: Text =
            serde_json::from_slice(text).map_err(|error| wrong("it cannot be read").with_source(error))?;
        if text.glancefs_profile != VERSION || text.block_size != BLOCK_SIZE {
            return Err(wrong("it was written by another version of glancefs"));
        }
        if text.digest != digest || text.size != size {
            return Err(wrong("it belongs to other data"));
        }
        Self::checked(text.digest, size, text.runs)
    }

    /// The profile in a text, of whatever content that says.
    pub(crate) fn of_any(text: &[u8]) -> Result<Self> {
        let wrong = "not a boot profile";
        let found: Text = serde_json::from_slice(text)
            .map_err(|error| Error::new(Kind::Invalid, wrong).with_source(error))?;
        Self::decode(text, &found.digest, found.size)
    }

    /// The profile of runs that anybody may have written, as first block and number.
    fn checked(digest: String, size: u64, found: Vec<(u64, u64)>) -> Result<Self> {
        let wrong =
            |what: &str| Error::new(Kind::Invalid, format!("not a boot profile of this image: {what}"));
        let whole = BlockRange::of_image(size);
        let mut blocks: u64 = 0;
        let mut runs = Vec::with_capacity(found.len().min(MOST_RUNS));
        for (start, count) in found {
            let end = start.checked_add(count).filter(|end| count > 0 && *end <= whole.end.0);
            let Some(end) = end else { return Err(wrong("a run lies outside of the image")) };
            blocks = blocks.saturating_add(count);
            runs.push(BlockRange { start: BlockIndex(start), end: BlockIndex(end) });
        }
        if runs.len() > MOST_RUNS || blocks > MOST_BLOCKS {
            return Err(wrong("it is too long"));
        }
        Ok(Self { digest, size, runs })
    }

    /// Its text.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let text = Text {
            glancefs_profile: VERSION,
            digest: self.digest.clone(),
            size: self.size,
            block_size: BLOCK_SIZE,
            runs: self.runs.iter().map(|run| (run.start.0, run.len())).collect(),
        };
        // Strings and numbers: it cannot fail; an empty text is refused by whoever reads it.
        let mut bytes = serde_json::to_vec(&text).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    /// Bytes of the image.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Each block, in the order of reading.
    pub(super) fn blocks(&self) -> impl Iterator<Item = BlockIndex> {
        self.runs.iter().flat_map(|run| run.iter())
    }

    /// Its runs in parts that are sorted each: near enough to the order of reading, and neighbours in the
    /// image become one request.
    pub(super) fn batches(&self) -> impl Iterator<Item = &[BlockRange]> {
        self.runs.chunks(BATCH)
    }
}

/// Which gaps between runs are fetched along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gaps {
    /// Bytes of the largest.
    pub largest: u64,
    /// A request of so many bytes is large enough, and takes none.
    pub enough: u64,
}

impl Gaps {
    /// None.
    pub const NONE: Self = Self { largest: 0, enough: 0 };

    /// Those that cost less than a request of their own, from a server of this `pace`, with `at_once` requests
    /// under way: its time is shared by them, and costs nothing once their bytes fill it.
    pub fn worth_it(pace: Pace, at_once: u64) -> Self {
        let enough = pace.worth() / at_once;
        Self { largest: enough, enough }
    }
}

/// What to fetch for a batch.
pub(super) fn requests(batch: &[BlockRange], gaps: Gaps) -> Vec<BlockRange> {
    let (gap, enough) = (gaps.largest / BLOCK_SIZE, gaps.enough / BLOCK_SIZE);
    let mut batch = batch.to_vec();
    batch.sort_unstable_by_key(|run| run.start);
    let mut requests: Vec<BlockRange> = Vec::new();
    for run in batch {
        match requests.last_mut() {
            Some(last) if run.start.0 <= last.end.0 + if last.len() < enough { gap } else { 0 } => {
                last.end = last.end.max(run.end);
            }
            _ => requests.push(run),
        }
    }
    requests
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) const SIZE: u64 = 100 * BLOCK_SIZE - 5;

    pub(super) fn profile(runs: &[(u64, u64)]) -> Profile {
        let runs =
            runs.iter().map(|run| BlockRange { start: BlockIndex(run.0), end: BlockIndex(run.0 + run.1) });
        Profile { digest: "sha512:ab".into(), size: SIZE, runs: runs.collect() }
    }

    #[test]
    fn its_text_is_stable_and_comes_back() {
        let profile = profile(&[(3, 2), (0, 1), (99, 1)]);
        let text = profile.encode();
        assert_eq!(
            String::from_utf8_lossy(&text),
            "{\"glancefs_profile\":1,\"digest\":\"sha512:ab\",\"size\":6553595,\"block_size\":65536,\
             \"runs\":[[3,2],[0,1],[99,1]]}\n"
        );
        assert_eq!(Profile::decode(&text, "sha512:ab", SIZE).unwrap(), profile);
    }

    #[test]
    fn a_request_that_is_large_enough_takes_no_gap() {
        let runs: Vec<_> = [(0, 1), (2, 4), (7, 9), (9, 10)]
            .map(|(start, end)| BlockRange { start: BlockIndex(start), end: BlockIndex(end) })
            .into();
        let gaps = Gaps { largest: BLOCK_SIZE, enough: 4 * BLOCK_SIZE };
        let asked = requests(&runs, gaps);
        let asked: Vec<_> = asked.iter().map(|run| (run.start.0, run.end.0)).collect();
        assert_eq!(asked, [(0, 4), (7, 10)], "neighbours are one request in any case");
    }

    #[test]
    fn a_text_that_lies_is_refused() {
        let refused =
            |text: &str, digest: &str, size| Profile::decode(text.as_bytes(), digest, size).is_err();
        let text = |runs: &str| {
            format!(
                "{{\"glancefs_profile\":1,\"digest\":\"d\",\"size\":{SIZE},\"block_size\":65536,\"runs\":[{runs}]}}"
            )
        };
        assert!(!refused(&text("[0,100]"), "d", SIZE));
        assert!(refused(&text("[0,101]"), "d", SIZE), "beyond the end");
        assert!(refused(&text("[5,0]"), "d", SIZE), "nothing");
        assert!(refused(&text("[18446744073709551615,2]"), "d", SIZE), "overflow");
        assert!(refused(&text(""), "e", SIZE) && refused(&text(""), "d", SIZE + 1), "another content");
        assert!(refused(&text(&vec!["[0,1]"; MOST_RUNS + 1].join(",")), "d", SIZE));
        assert!(refused("not json", "d", SIZE));
    }

    #[test]
    fn neighbours_become_one_request_and_the_order_stays() {
        let runs: Vec<(u64, u64)> = (0..BATCH as u64).map(|at| (at % 50 * 2, 1)).chain([(1, 1)]).collect();
        let profile = profile(&runs);
        let counts = |largest| {
            let gaps = Gaps { largest, enough: u64::MAX };
            profile.batches().map(|batch| requests(batch, gaps).len()).collect::<Vec<_>>()
        };
        assert_eq!(counts(0), [50, 1], "the last batch stays behind the first");
        assert_eq!(counts(BLOCK_SIZE), [1, 1]);
    }
}
