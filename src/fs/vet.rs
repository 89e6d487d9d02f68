//! What an image has to pass between open(2) and its first byte: is it safe to use, is it proven, is it signed.
//!
//! By default an open waits for nothing: the whole is compared with its hash behind the readers (`cache`), and who
//! reads the header of an unsafe image has it told. With `--inspect deny` an open waits for the header, with `--verify
//! strict` and `signature` for the whole. Such a handle is bound to the file that was proven ([`Backing`]), so that no
//! byte of it comes from anywhere else. A handle that was not vetted is not read.
//!
//! A file of a shared store (`--direct file`) is bound to the handle in the same way. It is compared with the hash of the
//! image where an open waits for that, and not by default: nothing of it is copied, and reading all of it for every
//! image that is opened is what direct reading is to spare.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::SystemTime;

use aws_lc_rs::digest::Digest;
use bytes::Bytes;
use lru::LruCache;
use serde_json::{Map, Value};
use tracing::warn;

use super::attr::readable_size;
use super::handle::Handle;
use super::whole::Wish;
use super::{HandleId, ImageFs, lock};
use crate::blocking::blocking;
use crate::cache::{Backing, FileVersion, Key, Verified};
use crate::config::{Inspect, TrustConfig, Verify};
use crate::error::{Error, Kind, Result};
use crate::format::{Content, FOOTER_BYTES, HEAD_BYTES, footer_objection, has_footer};
use crate::glance::Image;
use crate::read::Reader;
use crate::signature::{Hash, Signature};
use crate::units::ByteRange;

/// Images whose verdict is remembered, and whose hashes. A hypervisor uses a few hundred; who is forgotten is looked at
/// again.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// Times that a proven copy is looked for: others may need its room as soon as it is whole.
const ROUNDS: u32 = 3;

/// What is asked of images, and what was found out. Its locks are leaves.
pub(super) struct Vetting {
    trust: TrustConfig,
    /// By content: why it is unsafe, `None` for one that is not.
    verdicts: Mutex<LruCache<Key, Option<Arc<str>>>>,
    /// Hashes of proven contents that only a signature needs.
    digests: Mutex<LruCache<(Key, Hash), Digest>>,
    /// Files of a shared store that matched the hash of their image.
    proven: Mutex<LruCache<Key, FileVersion>>,
}

impl Vetting {
    pub(super) fn new(trust: TrustConfig) -> Self {
        Self {
            trust,
            verdicts: Mutex::new(LruCache::new(REMEMBERED)),
            digests: Mutex::new(LruCache::new(REMEMBERED)),
            proven: Mutex::new(LruCache::new(REMEMBERED)),
        }
    }

    /// The image of this content is gone.
    pub(super) fn forget(&self, key: Key) {
        lock(&self.verdicts).pop(&key);
        lock(&self.proven).pop(&key);
        for hash in Hash::ALL {
            lock(&self.digests).pop(&(key, hash));
        }
    }

    /// How many contents were judged and not forgotten.
    #[cfg(test)]
    pub(super) fn verdicts(&self) -> usize {
        lock(&self.verdicts).len()
    }

    /// An open waits for what is to be found out.
    fn is_demanding(&self) -> bool {
        self.trust.verify >= Verify::Strict || self.trust.inspect == Inspect::Deny
    }
}

/// What a handle has passed.
#[derive(Default)]
pub(super) struct Vetted {
    passed: OnceLock<Passed>,
    /// It was opened in `.nova-base`.
    is_base: bool,
}

struct Passed {
    /// What all reads come from.
    file: Option<Backing>,
    signed: bool,
    /// The file failed, and what it was spared is read after all.
    given_up: AtomicBool,
}

impl Passed {
    fn new(file: Option<Backing>, signed: bool) -> Self {
        Self { file, signed, given_up: AtomicBool::new(false) }
    }
}

impl Vetted {
    /// Of a file in `.nova-base`. Nova looks into an image when it downloads it, which it does not do here, so what is only told
    /// of elsewhere is refused.
    pub(super) fn of_base() -> Self {
        Self { is_base: true, ..Self::default() }
    }

    /// It was opened in `.nova-base`.
    pub(super) fn is_base(&self) -> bool {
        self.is_base
    }

    /// The file that all reads of the handle come from.
    pub(super) fn file(&self) -> Option<&Backing> {
        let passed = self.passed.get().filter(|passed| !passed.given_up.load(Ordering::Relaxed))?;
        passed.file.as_ref()
    }

    /// It is read from where Glance stores it.
    pub(super) fn is_direct(&self) -> bool {
        self.file().is_some_and(|file| !file.is_cached())
    }

    /// A certificate of ours vouches for the image.
    pub(super) fn is_signed(&self) -> bool {
        self.passed.get().is_some_and(|passed| passed.signed)
    }
}

impl ImageFs {
    /// Looks whether the image that was opened may be read, and begins what the handle wants of it. It may take as long as the whole image, while bytes come;
    /// dropping the future ends that.
    ///
    /// # Errors
    /// `NotPermitted`: it is unsafe to use. `Integrity`: it does not match its hash, or has none. `KeyMissing`,
    /// `KeyRejected`: its signature. `NoSpace`: the cache cannot hold it. Those of the source and the disk.
    pub async fn vet(&self, handle: HandleId) -> Result<()> {
        let handle = self.handles.get(handle)?;
        let Handle::Image { reader, image, wanted, vetted } = &*handle else { return Ok(()) };
        let passed = self.passes(reader, image, vetted.is_base).await.inspect_err(|error| {
            warn!(image = %image.id, %error, "an open was refused");
            // What is unsafe was told when that was found out.
            if error.kind() != Kind::NotPermitted {
                self.note_failure(&image.id, &format!("opening image {}: {error}", image.id));
            }
        })?;
        // Set once: a handle is vetted by the one who opened it.
        let _ = vetted.passed.set(passed);
        if !vetted.is_direct() {
            self.begin_wanted(image, reader, wanted);
        }
        Ok(())
    }

    /// A handle that nobody vetted gives nothing where something is asked of images.
    pub(super) fn check_vetted(&self, vetted: &Vetted) -> Result<()> {
        match vetted.passed.get() {
            None if self.vetting.is_demanding() || vetted.is_base => {
                Err(Error::new(Kind::NotPermitted, "the image has not been looked at"))
            }
            _ => Ok(()),
        }
    }

    /// Reads of the handle go on through us although its file failed; tells whether they may.
    pub(super) fn may_give_up(&self, vetted: &Vetted) -> bool {
        let may = self.vetting.trust.verify < Verify::Strict && vetted.is_direct();
        if may && let Some(passed) = vetted.passed.get() {
            passed.given_up.store(true, Ordering::Relaxed);
        }
        may
    }

    /// The bytes of `range` of an image whose upload this handle saw: asked the same as any other.
    pub(super) async fn read_committed(&self, image: &Image, range: ByteRange) -> Result<Bytes> {
        let reader = self.reader(image);
        let file = match self.vetting.is_demanding() {
            true => self.passes(&reader, image, false).await?.file,
            false => None,
        };
        match file {
            Some(file) => self.read_file(&file, image, range).await,
            None => self.read_image(&reader, image, range).await,
        }
    }

    async fn passes(&self, reader: &Reader, image: &Image, is_base: bool) -> Result<Passed> {
        let TrustConfig { verify, inspect, .. } = &self.vetting.trust;
        let store = match readable_size(image) {
            0 => None,
            _ => self.layers.sources.store_file(image).await.map(Backing::of_store),
        };
        match inspect {
            Inspect::Off => {}
            Inspect::Warn if !is_base => {
                if let Some(file) = &store {
                    self.look_into(file, reader, image).await;
                }
            }
            Inspect::Warn | Inspect::Deny => {
                if let Some(danger) = self.verdict(reader, image, store.as_ref()).await? {
                    let why = format!("image {} is unsafe: {danger}", image.id);
                    return Err(Error::new(Kind::NotPermitted, why));
                }
            }
        }
        if *verify < Verify::Strict {
            return Ok(Passed::new(store, false));
        }
        let signature = match verify {
            Verify::Signature => Some(self.signature(image).await?),
            _ => None,
        };
        let file = match readable_size(image) {
            0 => None,
            _ => match self.only_proven(reader, image, store).await? {
                Some(store) => Some(store),
                None => Some(self.proven(reader, image).await?),
            },
        };
        let signed = signature.is_some();
        if let Some(signature) = signature {
            self.check_signature(signature, reader, image, file.clone()).await?;
        }
        Ok(Passed::new(file, signed))
    }

    /// The file of a shared store, if it matches the hash of the image.
    async fn only_proven(
        &self,
        reader: &Reader,
        image: &Image,
        store: Option<Backing>,
    ) -> Result<Option<Backing>> {
        let Some(store) = store.filter(|_| reader.image().is_verifiable()) else { return Ok(None) };
        let (key, size) = (reader.image().key(), readable_size(image));
        let version = store.version()?;
        if lock(&self.vetting.proven).get(&key) == Some(&version) {
            return Ok(Some(store));
        }
        let (file, digest) = (store.clone(), reader.image().digest().clone());
        let compared =
            blocking(move || Ok(file.is_proven_by(size, &digest)? && file.version()? == version)).await;
        match compared {
            Ok(true) => {
                lock(&self.vetting.proven).put(key, version);
                Ok(Some(store))
            }
            Ok(false) => {
                let text = format!("image {}: the file in its store does not match its hash", image.id);
                warn!(image = %image.id, "{text}");
                self.events.note(text);
                Ok(None)
            }
            Err(error) => {
                warn!(image = %image.id, %error, "the image is read through Glance");
                Ok(None)
            }
        }
    }

    /// The whole image in one file, proven, fetched first if need be.
    async fn proven(&self, reader: &Reader, image: &Image) -> Result<Backing> {
        let cached = reader.image();
        if !cached.is_verifiable() {
            let why = "it has no hash that could be compared, and --verify asks for that";
            return Err(Error::new(Kind::Integrity, why));
        }
        for _ in 0..ROUNDS {
            if let Some(file) = cached.backing().await {
                return Ok(file);
            }
            let fill = self.fills.of(&image.id, cached, Wish::Asked, &self.events);
            if fill.outcome().await? == Verified::None {
                return Err(Error::new(Kind::Integrity, "it could not be compared with its hash"));
            }
        }
        Err(Error::new(Kind::NoSpace, "the cache does not keep the whole image: others need the room"))
    }

    /// What `--inspect warn` does when the header of an image has been read: it looks at what is here, and waits for nothing.
    pub(super) fn look_at_header(&self, reader: &Reader, image: &Image) {
        let key = reader.image().key();
        if self.vetting.trust.inspect != Inspect::Warn || lock(&self.vetting.verdicts).contains(&key) {
            return;
        }
        let Some(head) = reader.image().try_read(head_of(image)) else { return };
        let footer = tail_of(image, &head).and_then(|tail| reader.image().try_read(tail));
        self.conclude(key, image, &head, footer.as_deref());
    }

    /// What `--inspect warn` does before the kernel or we read an image from `file`: nobody would see the header read.
    pub(super) async fn look_into(&self, file: &Backing, reader: &Reader, image: &Image) {
        if self.vetting.trust.inspect == Inspect::Warn
            && let Err(error) = self.verdict(reader, image, Some(file)).await
        {
            tracing::debug!(image = %image.id, %error, "its header cannot be read");
        }
    }

    /// Why the image is unsafe to use, by its header, and by the footer of a VMDK that has one; both are read for that.
    async fn verdict(
        &self,
        reader: &Reader,
        image: &Image,
        store: Option<&Backing>,
    ) -> Result<Option<Arc<str>>> {
        let key = reader.image().key();
        if let Some(known) = lock(&self.vetting.verdicts).get(&key) {
            return Ok(known.clone());
        }
        let read = async |range: ByteRange| match store.cloned() {
            Some(file) => blocking(move || file.read(range)).await,
            None => reader.image().read(range, range).await,
        };
        let head = read(head_of(image)).await?;
        let footer = match tail_of(image, &head) {
            Some(tail) => Some(read(tail).await?),
            None => None,
        };
        Ok(self.conclude(key, image, &head, footer.as_deref()))
    }

    /// Judges an image by its header, remembers it and tells of a danger, once.
    fn conclude(&self, key: Key, image: &Image, head: &[u8], footer: Option<&[u8]>) -> Option<Arc<str>> {
        let footer = footer.and_then(|tail| footer_objection(head, tail)).map(str::to_owned);
        let content = Content::of_head(head);
        let danger =
            content.danger(image.disk_format.as_deref(), image.container_format.as_deref()).or(footer);
        let danger: Option<Arc<str>> = danger.map(Arc::from);
        let known = lock(&self.vetting.verdicts).put(key, danger.clone());
        if let (None, Some(danger)) = (known, &danger) {
            let text = format!("image {} is unsafe: {danger}", image.id);
            warn!(image = %image.id, "{text}");
            match self.vetting.trust.inspect {
                Inspect::Deny => self.note_failure(&image.id, &text),
                _ => self.events.note(text),
            }
        }
        danger
    }

    async fn signature(&self, image: &Image) -> Result<Signature> {
        let record = self.layers.catalog.record(image).await?;
        let record: Map<String, Value> = serde_json::from_str(&record).map_err(|error| {
            Error::new(Kind::ServerError, "reading the image's record").with_source(error)
        })?;
        Signature::of(&record)
    }

    /// Looks whether one of our certificates vouches for the bytes that were proven.
    async fn check_signature(
        &self,
        signature: Signature,
        reader: &Reader,
        image: &Image,
        file: Option<Backing>,
    ) -> Result<()> {
        let cached = reader.image();
        let (key, hash, size) = (cached.key(), signature.hash(), readable_size(image));
        // Of a proven image the hash that Glance keeps is the hash of these bytes.
        let known = cached.digest().as_computed(hash.name(), hash.algorithm());
        let known = known.or_else(|| lock(&self.vetting.digests).get(&(key, hash)).copied());
        let digest = match known {
            Some(digest) => digest,
            None => {
                let digest = blocking(move || Backing::digest(file.as_ref(), size, hash.algorithm())).await?;
                // Two files of one MD5 can be made: each is hashed for itself.
                if matches!(cached.digest(), crate::cache::Digest::Multi { .. }) {
                    lock(&self.vetting.digests).put((key, hash), digest);
                }
                digest
            }
        };
        // Each time: certificates expire, and are withdrawn.
        let folder = self.vetting.trust.trusted_certs.clone();
        blocking(move || signature.check(&digest, &folder, SystemTime::now())).await
    }
}

fn head_of(image: &Image) -> ByteRange {
    ByteRange::new(0, HEAD_BYTES).clamp_to(readable_size(image))
}

/// Where the footer is of an image that begins with `head`.
fn tail_of(image: &Image, head: &Bytes) -> Option<ByteRange> {
    let size = readable_size(image);
    has_footer(head).then(|| ByteRange::new(size.saturating_sub(FOOTER_BYTES), size))
}
