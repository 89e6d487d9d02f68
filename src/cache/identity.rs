//! What names the content of an image, and the keys that files in the cache folder get from it.

use std::fmt;
use std::str::FromStr;
use std::time::UNIX_EPOCH;

use aws_lc_rs::digest;

use crate::error::{Error, Kind, Result};
use crate::glance::Image;
use crate::units::ImageId;

/// What names the content of an image: equal identities have equal bytes.
///
/// A renamed image keeps it, and an id that was deleted and used again gets another
/// (`created_at`, size and hash differ).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ContentIdentity {
    /// The cloud (see `Glance::cloud_key`).
    pub cloud: Box<str>,
    /// The project of our token.
    pub project: Box<str>,
    /// The image.
    pub image: ImageId,
    /// Seconds since the epoch.
    pub created_at: i64,
    /// Bytes.
    pub size: u64,
    /// How the whole of it can be verified, best first: the multihash, else MD5, else nothing.
    pub digest: Digest,
}

/// The hash that proves an image.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Digest {
    /// `os_hash_algo` and `os_hash_value`: sha512, sha384 or sha256.
    Multi {
        /// As Glance names it.
        algorithm: Box<str>,
        /// Lower-case hexadecimal.
        value: Box<str>,
    },
    /// `checksum`: MD5, lower-case hexadecimal.
    Md5(Box<str>),
    /// Glance has none.
    None,
}

impl Digest {
    /// It as the result of `algorithm`, if it is one; of a proven image, that of its bytes.
    pub fn as_computed(&self, name: &str, algorithm: &'static digest::Algorithm) -> Option<digest::Digest> {
        let Self::Multi { algorithm: found, value } = self else { return None };
        let hex = |at: usize| u8::from_str_radix(value.get(at..at + 2)?, 16).ok();
        let bytes: Option<Vec<u8>> = (0..value.len()).step_by(2).map(hex).collect();
        let digest = digest::Digest::import_less_safe(&bytes?, algorithm).ok();
        digest.filter(|_| &**found == name)
    }

    /// The best hash that Glance shows of an image.
    fn of(image: &Image) -> Self {
        let hexadecimal = |text: &str, bits: usize| {
            let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            text.len() == bits / 4 && text.bytes().all(digit)
        };
        let bits = |algorithm: &str| match algorithm {
            "sha512" => Some(512),
            "sha384" => Some(384),
            "sha256" => Some(256),
            _ => None,
        };
        let multi = image.hash.as_ref();
        let multi =
            multi.filter(|hash| bits(&hash.algorithm).is_some_and(|bits| hexadecimal(&hash.value, bits)));
        let md5 = image.checksum.as_ref().filter(|value| hexadecimal(value, 128));
        match (multi, md5) {
            (Some(hash), _) => {
                Self::Multi { algorithm: (&*hash.algorithm).into(), value: hash.value.clone() }
            }
            (None, Some(value)) => Self::Md5(value.clone()),
            (None, None) => Self::None,
        }
    }
}

/// Names the list of images that a project of a cloud sees.
pub(crate) fn list_key(cloud: &str, project: Option<&str>) -> Key {
    let mut hash = Canonical::new("glancefs list 1");
    hash.text(cloud).text(project.unwrap_or_default());
    hash.finish()
}

/// How far the whole image is proven, as `user.glancefs.verified` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verified {
    /// Not complete here, or no hash exists.
    None,
    /// Complete; the hash is being computed.
    Pending,
    /// The whole matched its MD5 (`checksum`).
    Md5,
    /// The whole matched its SHA-512.
    Sha512,
    /// The whole matched another multihash (sha256, sha384).
    Multihash,
    /// The bytes did not match: the copy was dropped.
    Failed,
}

impl Verified {
    /// As `user.glancefs.verified` and the status write it.
    pub fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Pending => "pending",
            Self::Md5 => "md5",
            Self::Sha512 => "sha512",
            Self::Multihash => "multihash",
            Self::Failed => "failed",
        }
    }
}

impl ContentIdentity {
    /// Names the content of an image as `project` of `cloud` sees it.
    ///
    /// A hash is believed only as far as its form goes: a value that is no lower-case hexadecimal of
    /// the right length counts as none.
    pub fn of(image: &Image, cloud: &str, project: Option<&str>) -> Self {
        // A clock before 1970 has no images; it only must not be confused with a time after it.
        let since = image.created_at.duration_since(UNIX_EPOCH);
        Self {
            cloud: cloud.into(),
            project: project.unwrap_or_default().into(),
            image: image.id.clone(),
            created_at: since.map_or(-1, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX)),
            size: image.size.unwrap_or(0),
            digest: Digest::of(image),
        }
    }

    /// Names the files of this image in the cache.
    pub fn key(&self) -> Key {
        let mut hash = Canonical::new("glancefs image 1");
        hash.text(&self.cloud).text(&self.project).text(self.image.as_str());
        hash.bytes(&self.created_at.to_le_bytes()).bytes(&self.size.to_le_bytes());
        hash.digest(&self.digest).finish()
    }

    /// Names the content whatever image it belongs to, within one cloud and project only: a hash is a
    /// claim, and a claim must not open another project's bytes. `None`: there is no hash to share by.
    pub(crate) fn content_key(&self) -> Option<Key> {
        if self.digest == Digest::None {
            return None;
        }
        let mut hash = Canonical::new("glancefs content 1");
        hash.text(&self.cloud).text(&self.project).bytes(&self.size.to_le_bytes());
        Some(hash.digest(&self.digest).finish())
    }

    /// One line about it for people who look into the cache folder.
    pub(crate) fn label(&self) -> String {
        let Self { cloud, project, image, size, .. } = self;
        format!("image {image} of project {project} at {cloud}, {size} bytes")
    }
}

/// A SHA-256 that names something in the cache folder; 64 hexadecimal digits as a file name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(pub(crate) [u8; 32]);

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Key {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || Error::new(Kind::Invalid, "a cache key is 64 lower-case hexadecimal digits");
        let lower = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() != 64 || !text.bytes().all(lower) {
            return Err(wrong());
        }
        let mut key = [0; 32];
        for (at, byte) in key.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).map_err(|_| wrong())?;
        }
        Ok(Self(key))
    }
}

/// SHA-256 over fields that each carry their length: no two lists of fields have the same encoding.
struct Canonical(digest::Context);

impl Canonical {
    fn new(domain: &str) -> Self {
        let mut hash = Self(digest::Context::new(&digest::SHA256));
        hash.text(domain);
        hash
    }

    fn bytes(&mut self, field: &[u8]) -> &mut Self {
        self.0.update(&(field.len() as u64).to_le_bytes());
        self.0.update(field);
        self
    }

    fn text(&mut self, field: &str) -> &mut Self {
        self.bytes(field.as_bytes())
    }

    fn digest(&mut self, digest: &Digest) -> &mut Self {
        match digest {
            Digest::Multi { algorithm, value } => self.text("multihash").text(algorithm).text(value),
            Digest::Md5(value) => self.text("md5").text(value),
            Digest::None => self.text("none"),
        }
    }

    fn finish(&mut self) -> Key {
        let mut key = [0; 32];
        key.copy_from_slice(self.0.clone().finish().as_ref());
        Key(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::glance::MultiHash;
    use crate::source::fake::image_of;

    fn identity() -> ContentIdentity {
        ContentIdentity {
            cloud: "http://glance:9292/".into(),
            project: "p1".into(),
            image: "1f3c9a2b-0000-4000-8000-000000000001".parse().unwrap(),
            created_at: 1_700_000_000,
            size: 1 << 20,
            digest: Digest::Md5("00112233445566778899aabbccddeeff".into()),
        }
    }

    fn shown(algorithm: Option<&str>, value: &str, checksum: Option<&str>) -> Digest {
        let hash = algorithm.map(|algorithm| MultiHash { algorithm: algorithm.into(), value: value.into() });
        let image = Image { hash, checksum: checksum.map(Into::into), ..image_of(1, None) };
        ContentIdentity::of(&image, "cloud", None).digest
    }

    #[test]
    fn the_best_hash_that_can_be_checked_counts() {
        let (md5, sha256) = ("0f".repeat(16), "0f".repeat(32));
        let by_md5 = Digest::Md5(md5.as_str().into());
        let multi =
            |algorithm: &str, value: &str| Digest::Multi { algorithm: algorithm.into(), value: value.into() };
        for (algorithm, digits) in [("sha256", 64), ("sha384", 96), ("sha512", 128)] {
            let value = "0f".repeat(digits / 2);
            assert_eq!(shown(Some(algorithm), &value, Some(&md5)), multi(algorithm, &value));
        }
        // A site may choose any hash that Python has: MD5 is still there then.
        for algorithm in ["sha3_512", "blake2b", "sha1", "SHA256", ""] {
            assert_eq!(shown(Some(algorithm), &sha256, Some(&md5)), by_md5, "{algorithm}");
            assert_eq!(shown(Some(algorithm), &sha256, None), Digest::None, "{algorithm}");
        }
        // So it is when the value cannot be one of its algorithm.
        for value in ["", &sha256[2..], &sha256.to_uppercase(), &"zz".repeat(32)] {
            assert_eq!(shown(Some("sha256"), value, Some(&md5)), by_md5, "{value}");
        }
        assert_eq!(shown(None, "", Some(&md5)), by_md5);
        assert_eq!(shown(None, "", Some("0f")), Digest::None);
    }

    #[test]
    fn every_field_of_an_identity_is_in_its_key() {
        let base = identity();
        let others = [
            ContentIdentity { cloud: "x".into(), ..base.clone() },
            ContentIdentity { project: "p2".into(), ..base.clone() },
            ContentIdentity { image: "other".parse().unwrap(), ..base.clone() },
            ContentIdentity { created_at: 1, ..base.clone() },
            ContentIdentity { size: 2, ..base.clone() },
            ContentIdentity { digest: Digest::None, ..base.clone() },
            ContentIdentity {
                digest: Digest::Multi { algorithm: "md5".into(), value: "00".into() },
                ..base.clone()
            },
        ];
        for other in &others {
            assert_ne!(other.key(), base.key(), "{other:?}");
        }
        assert_eq!(base.clone().key(), base.key());
    }

    #[test]
    fn fields_cannot_flow_into_each_other() {
        let one = ContentIdentity { cloud: "ab".into(), project: "c".into(), ..identity() };
        let two = ContentIdentity { cloud: "a".into(), project: "bc".into(), ..identity() };
        assert_ne!(one.key(), two.key());
    }

    #[test]
    fn content_is_shared_between_images_but_never_between_projects() {
        let base = identity();
        let twin = ContentIdentity { image: "other".parse().unwrap(), created_at: 5, ..base.clone() };
        assert_eq!(twin.content_key(), base.content_key());
        let foreign = ContentIdentity { project: "p2".into(), ..base.clone() };
        assert_ne!(foreign.content_key(), base.content_key());
        assert_eq!(ContentIdentity { digest: Digest::None, ..base }.content_key(), None);
    }

    /// A change here makes every existing cache useless: raise the format version instead.
    #[test]
    fn the_key_of_an_identity_never_changes() {
        let key = "efda2c76e0dc7bfcd4a87d2516913dd71967e69ccd78b03c5b75cb1ee0767f0b";
        assert_eq!(identity().key().to_string(), key);
    }

    #[test]
    fn keys_read_back_and_nothing_else_does() {
        let key = identity().key();
        assert_eq!(key.to_string().parse::<Key>().unwrap(), key);
        for text in ["", "../..", &"A".repeat(64), &"0".repeat(63), &"g".repeat(64)] {
            assert!(text.parse::<Key>().is_err(), "{text}");
        }
    }
}
