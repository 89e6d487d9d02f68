//! The images of a soak: what each must contain, and which of them are there.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};

use aws_lc_rs::digest::{SHA512, digest};

use crate::harness::{Cloud, Folder, pattern};

const MIB: usize = 1024 * 1024;

/// Bytes that never repeat, of which each image is a piece.
const POOL: usize = 64 * MIB;

/// Images that come and go: when there are more, the oldest is removed.
const MADE: usize = 20;

/// Images that are in use at a time, of all.
const IN_FASHION: usize = 14;

/// One image.
pub struct Image {
    pub id: String,
    /// Held for writing during a rename.
    pub name: RwLock<String>,
    at: usize,
    pub length: usize,
    /// From before it is deleted: reads may fail then.
    going: AtomicBool,
}

impl Image {
    pub fn is_going(&self) -> bool {
        self.going.load(Ordering::SeqCst)
    }
}

/// All of them.
pub struct Store {
    pool: Vec<u8>,
    /// Those that stay for the whole run.
    fixed: Vec<Arc<Image>>,
    made: RwLock<Vec<Arc<Image>>>,
}

impl Store {
    /// Makes those that stay, twelve in the `file` store and two in a store without ranges, and the first of the others.
    pub fn new(cloud: &Cloud, folder: &Folder) -> Self {
        let mut store = Self { pool: pattern(0x50a4, POOL), fixed: Vec::new(), made: RwLock::default() };
        for number in 0..14 {
            let (at, length) = (number * 3 * MIB + 17 * number, (2 + number) * MIB + 4321 * number);
            let name = format!("fixed-{number}.raw");
            let content = &store.pool[at..at + length];
            let id = if number < 12 {
                cloud.image(&name, content)
            } else {
                cloud.http_image(&name, &folder.file(&name, content), &[])
            };
            store.fixed.push(Arc::new(image(id, name, at, length)));
        }
        for number in 0..MADE {
            let (at, content) = store.draft(10_000 + number, number * 200_003);
            let (name, length) = (format!("first-{number}.raw"), content.len());
            store.add(cloud.image(&name, content), name, at, length);
        }
        store
    }

    /// One of those that are in use in this round, for any `choice`.
    pub fn choose(&self, choice: usize, round: usize) -> Arc<Image> {
        let made = self.made.read().unwrap();
        let choice = (choice % IN_FASHION + round * IN_FASHION) % (self.fixed.len() + made.len());
        Arc::clone(self.fixed.get(choice).unwrap_or_else(|| &made[choice - self.fixed.len()]))
    }

    /// A piece of what the image must contain.
    pub fn content(&self, image: &Image, at: usize, length: usize) -> &[u8] {
        &self.pool[image.at + at..][..length]
    }

    /// What a writer shall write: 1 to 5 MiB, from where nobody began yet for any two numbers.
    pub fn draft(&self, number: usize, choice: usize) -> (usize, &[u8]) {
        let (at, length) = (number * 4099 % (POOL - 6 * MIB), MIB + choice % (4 * MIB));
        (at, &self.pool[at..at + length])
    }

    /// Adds an image that was written; what goes for it.
    pub fn add(&self, id: String, name: String, at: usize, length: usize) -> Option<Arc<Image>> {
        let mut made = self.made.write().unwrap();
        made.push(Arc::new(image(id, name, at, length)));
        let gone = (made.len() > MADE).then(|| made.remove(0));
        gone.inspect(|image| image.going.store(true, Ordering::SeqCst))
    }

    /// One that a writer made, if any.
    pub fn choose_made(&self, choice: usize) -> Option<Arc<Image>> {
        let made = self.made.read().unwrap();
        made.get(choice % made.len().max(1)).map(Arc::clone)
    }

    /// The ids of all that are there, in order.
    pub fn ids(&self) -> Vec<String> {
        let made = self.made.read().unwrap();
        let mut ids: Vec<_> = self.fixed.iter().chain(made.iter()).map(|image| image.id.clone()).collect();
        ids.sort_unstable();
        ids
    }
}

fn image(id: String, name: String, at: usize, length: usize) -> Image {
    Image { id, name: RwLock::new(name), at, length, going: AtomicBool::new(false) }
}

/// As Glance writes `os_hash_value`.
pub fn sha512(content: &[u8]) -> String {
    digest(&SHA512, content).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
