//! The proof of a complete image: all of it through its hash, once, behind the readers.
//!
//! The read that wants the block which came last waits for the outcome (`hold`); what was hashed while the
//! blocks came (`follow`) is not hashed again.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use md5::Digest as _;

use crate::error::{Error, Result};
use crate::units::{BlockIndex, BlockRange, ImageId, hexadecimal};

use super::disk::DiskImage;
use super::disk::files::{BATCH_BLOCKS, Trouble, Wait};
use super::disk::index::Proof;
use super::identity::{Digest, Key, Verified};
use super::image::{CachedImage, Check};

/// Tries while another mount writes the same file at the same time, and the pause between them.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(2);

/// A whole image that did not match its hash; its copy is gone from the cache.
#[derive(Debug, Clone)]
pub struct Mismatch {
    /// The image.
    pub image: ImageId,
    /// For a person.
    pub what: Arc<str>,
}

/// What hashing the whole gave.
enum Outcome {
    Proven,
    /// A block went missing meanwhile: when it is back, there will be another verification.
    Incomplete,
    /// The file was written to meanwhile, by another mount.
    Disturbed,
    /// The hash found, and the one it should have been.
    Mismatch {
        found: String,
        wanted: String,
    },
}

/// The digest is one that we can compute.
pub(super) fn is_possible(wanted: &Digest) -> bool {
    Hasher::of(wanted).is_some()
}

/// Verifies the image, and drops its copy if it is wrong. Few images at a time: each costs a core.
pub(super) async fn run(image: Arc<CachedImage>, disk: Arc<DiskImage>) {
    let Ok(_turn) = image.core().verify_turn.acquire().await else { return };
    for _ in 0..TRIES {
        let (at_work, file) = (Arc::clone(&image), Arc::clone(&disk));
        let outcome = image.core().runtime.spawn_blocking(move || check(&at_work, &file)).await;
        match outcome {
            Ok(Ok(Outcome::Proven)) => {
                tracing::debug!(image = %image.identity().image, "verified");
                return image.set_check(Check::Idle, None);
            }
            Ok(Ok(Outcome::Disturbed)) => tokio::time::sleep(PAUSE).await,
            Ok(Ok(Outcome::Mismatch { found, wanted })) => {
                let id = &image.identity().image;
                let what = format!(
                    "image {id} does not match its hash: {found} instead of {wanted}; the cached copy was dropped"
                );
                tracing::error!(image = %id, "{what}");
                let told = Mismatch { image: id.clone(), what: what.as_str().into() };
                image.set_check(Check::Failed, Some(what));
                image.core().forget_image(&image);
                let drop_copy = move || disk.clear();
                image.core().runtime.spawn_blocking(drop_copy).await.ok();
                // Blocks read before the verdict may have been put back meanwhile.
                image.core().memory.purge(image.key());
                // Nobody listening is fine.
                let _ = image.core().mismatches.send(told);
                return;
            }
            Ok(Ok(Outcome::Incomplete)) => {
                let quiet = image.hold.quiet();
                // It is back already, and those who wait go on waiting.
                if disk.is_complete() {
                    continue;
                }
                image.suspend_check(quiet);
                // Or just now, when its writer found us at work.
                if !disk.is_complete() || !image.begin_check() {
                    return;
                }
            }
            Ok(Err(error)) => {
                tracing::warn!(image = %image.identity().image, %error, "verification failed for a reason of this host");
                return image.set_check(Check::Idle, None);
            }
            Err(_) => return image.set_check(Check::Idle, None),
        }
    }
    image.set_check(Check::Idle, None);
}

fn check(image: &CachedImage, disk: &DiskImage) -> Result<Outcome> {
    let failed = |what: &'static str| move |error| Error::io(what, error);
    let Some(files) = disk.own() else { return Ok(Outcome::Incomplete) };
    let identity = image.identity();
    let before = files.state().map_err(failed("looking at a cached image"))?;
    let all = BlockRange::of_image(identity.size);
    // Looked at after the state was taken: a change before it shows in the CRCs, one after it in the state.
    let hashed = image.prefix().take().filter(|hashed| {
        let blocks = BlockRange { start: all.start, end: hashed.next };
        files.crc_of_entries(blocks).is_ok_and(|crc| crc == Some(hashed.crc))
    });
    let (mut hasher, mut at) = match hashed {
        Some(hashed) => (hashed.hasher, hashed.next),
        None => match Hasher::of(&identity.digest) {
            Some(hasher) => (hasher, all.start),
            None => return Ok(Outcome::Incomplete),
        },
    };
    while at < all.end {
        let end = BlockIndex(all.end.0.min(at.0 + BATCH_BLOCKS));
        let mut trouble = Trouble::default();
        let read = files.read(BlockRange { start: at, end }, Wait::ForDisk, &mut trouble);
        image.note_damage(trouble.damaged);
        for block in read {
            let Some(block) = block else { return Ok(Outcome::Incomplete) };
            hasher.update(&block);
        }
        at = end;
    }
    let (kind, wanted) = (hasher.kind(), wanted(&identity.digest));
    let found = hasher.finish();
    if !found.eq_ignore_ascii_case(wanted) {
        return Ok(Outcome::Mismatch { found, wanted: wanted.to_owned() });
    }
    // What follows is about the next process and may take long; whoever waits for the bytes has them.
    files.matched(Proof { kind, state: before });
    image.waive_hold();
    // Nobody listening is fine.
    let _ = image.core().proofs.send(identity.image.clone());
    files.sync().map_err(failed("making a cached image durable"))?;
    if files.state().map_err(failed("looking at a cached image"))? != before {
        return Ok(Outcome::Disturbed);
    }
    files.record(Proof { kind, state: before }).map_err(failed("recording a proof"))?;
    if let Some(content) = identity.content_key() {
        share(image, content, files.key());
    }
    Ok(Outcome::Proven)
}

/// Lets other images of the same content read this copy. Not being able to costs them a download.
fn share(image: &CachedImage, content: Key, key: Key) {
    if let Err(error) = image.core().folder.set_alias(content, key) {
        tracing::debug!(%error, "the verified copy is not shared");
    }
}

pub(super) fn wanted(digest: &Digest) -> &str {
    match digest {
        Digest::Multi { value, .. } => value,
        Digest::Md5(value) => value,
        Digest::None => "",
    }
}

/// The hash functions that Glance uses.
pub(super) enum Hasher {
    Sha(Verified, digest::Context),
    Md5(md5::Md5),
}

impl Hasher {
    /// The function of this digest; `None`: there is none, or one we do not know.
    pub(super) fn of(wanted: &Digest) -> Option<Self> {
        let sha = |kind, algorithm| Some(Self::Sha(kind, digest::Context::new(algorithm)));
        match wanted {
            Digest::Multi { algorithm, .. } => match &**algorithm {
                "sha512" => sha(Verified::Sha512, &digest::SHA512),
                "sha384" => sha(Verified::Multihash, &digest::SHA384),
                "sha256" => sha(Verified::Multihash, &digest::SHA256),
                "md5" => Some(Self::Md5(md5::Md5::new())),
                _ => None,
            },
            Digest::Md5(_) => Some(Self::Md5(md5::Md5::new())),
            Digest::None => None,
        }
    }

    /// What a match proves.
    pub(super) fn kind(&self) -> Verified {
        match self {
            Self::Sha(kind, _) => *kind,
            Self::Md5(_) => Verified::Md5,
        }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha(_, context) => context.update(bytes),
            Self::Md5(context) => context.update(bytes),
        }
    }

    /// Lower-case hexadecimal.
    pub(super) fn finish(self) -> String {
        match self {
            Self::Sha(_, context) => hexadecimal(context.finish().as_ref()),
            Self::Md5(context) => hexadecimal(&context.finalize()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_that_glance_writes() {
        let multi = |algorithm: &str| Digest::Multi { algorithm: algorithm.into(), value: "".into() };
        let hash = |digest: &Digest| {
            let mut hasher = Hasher::of(digest).unwrap();
            hasher.update(b"ab");
            hasher.update(b"c");
            (hasher.kind(), hasher.finish())
        };
        assert_eq!(
            hash(&Digest::Md5("".into())),
            (Verified::Md5, "900150983cd24fb0d6963f7d28e17f72".to_owned())
        );
        let (kind, sha256) = hash(&multi("sha256"));
        assert_eq!((kind, &sha256[..16]), (Verified::Multihash, "ba7816bf8f01cfea"));
        let (kind, sha512) = hash(&multi("sha512"));
        assert_eq!((kind, &sha512[..16]), (Verified::Sha512, "ddaf35a193617aba"));
        assert!(!is_possible(&multi("blake2b")) && !is_possible(&Digest::None));
    }
}
