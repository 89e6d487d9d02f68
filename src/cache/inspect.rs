//! A look into a cache folder from outside, which changes nothing: for `glancefs doctor`.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::disk::index::{HEADER_LEN, Header};
use super::identity::Key;
use crate::error::{Error, Result};

/// Indexes looked at: each is a file that is opened.
const LOOKED_AT: usize = 20_000;

/// What is in a cache folder.
#[derive(Debug, Default)]
pub struct Inspection {
    /// Images with an index that can be used.
    pub images: usize,
    /// Indexes that cannot, and why.
    pub damaged: Vec<(PathBuf, String)>,
}

/// Looks at the index of each image in the cache folder `dir`; one that does not exist has none.
///
/// # Errors
/// `Io` when the folder cannot be read.
pub fn inspect(dir: &Path) -> Result<Inspection> {
    let folder = dir.join("v1/images");
    let failed = |error| Error::io(format!("reading {}", folder.display()), error);
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Inspection::default()),
        Err(error) => return Err(failed(error)),
    };
    let mut inspection = Inspection::default();
    for entry in entries.take(2 * LOOKED_AT) {
        let path = entry.map_err(failed)?.path();
        let Some(key) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".index")?.parse().ok())
        else {
            continue;
        };
        match check(&path, key) {
            Ok(()) => inspection.images += 1,
            // Evicted meanwhile.
            Err(Trouble::Gone) => {}
            Err(Trouble::Damaged(why)) => inspection.damaged.push((path, why)),
        }
    }
    Ok(inspection)
}

enum Trouble {
    Gone,
    Damaged(String),
}

fn check(path: &Path, key: Key) -> std::result::Result<(), Trouble> {
    let mut raw = vec![0; HEADER_LEN as usize];
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let opened: io::Result<File> = OpenOptions::new().read(true).custom_flags(flags).open(path);
    match opened.and_then(|mut file| file.read_exact(&mut raw)) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Trouble::Gone),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(Trouble::Damaged("it is too short".into()));
        }
        Err(error) => return Err(Trouble::Damaged(error.to_string())),
    }
    match Header::decode(&raw) {
        Ok(header) if header.key == key => Ok(()),
        Ok(_) => Err(Trouble::Damaged("it is that of another image".into())),
        Err(error) => Err(Trouble::Damaged(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_index_counts_and_others_are_named_with_the_reason() {
        let temp = tempfile::tempdir().unwrap();
        assert_eq!(inspect(temp.path()).unwrap().images, 0);
        let images = temp.path().join("v1/images");
        std::fs::create_dir_all(&images).unwrap();
        let header = |key| Header { key, content: None, size: 7, proof: None, label: "x".into() }.encode();
        let (one, two, three, four) = (Key([1; 32]), Key([2; 32]), Key([3; 32]), Key([4; 32]));
        let put = |key: Key, raw: &[u8]| std::fs::write(images.join(format!("{key}.index")), raw).unwrap();
        put(one, &header(one));
        put(two, &header(one));
        put(three, b"short");
        put(four, &[7; 5000]);
        std::fs::write(images.join("notes.index"), "somebody's").unwrap();
        let found = inspect(temp.path()).unwrap();
        assert_eq!((found.images, found.damaged.len()), (1, 3), "{found:?}");
        for (key, word) in [(two, "another image"), (three, "too short"), (four, "no index of glancefs")] {
            let path = images.join(format!("{key}.index"));
            assert!(found.damaged.iter().any(|(at, why)| *at == path && why.contains(word)), "{found:?}");
        }
    }
}
