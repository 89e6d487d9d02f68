//! The records of the listed images, in a file: memory holds where each is, and `--allow-stale` mounts
//! with the file when no server answers. A header line, then a JSON record a line.
//!
//! ```text
//! glancefs-catalog 2 ["checksum","id",…]
//! {"id":"…","name":"…",…}
//! -1f3c9a2b-0000-4000-8000-000000000002
//! ```
//! The header holds the format's version and the schema's attributes. A later record of an id replaces
//! the earlier, and `-` with an id takes it away. So a change is appended, and nothing that is there
//! ever moves. Several mounts of one cloud share the
//! path and never a file: each writes its own, puts it in the place of what is there, and goes on
//! reading and appending to its own.
//!
//! The file is as trustworthy as a listing. A record is checked as one from the server is when the
//! list is loaded, and against its digest when it is read for itself.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::warn;

use super::snapshot::{Edit, Listed};
use crate::error::{Error, Kind, Result};
use crate::glance::{Image, Schema};
use crate::units::ImageId;

const MAGIC: &str = "glancefs-catalog 2 ";

/// A file larger than this is not one of ours: two million records of 2 KiB, half of them replaced.
const MOST_BYTES: u64 = 8 << 30;

/// A longer line is no record: Glance takes 128 properties of 64 KiB.
const MOST_LINE: u64 = 32 << 20;

/// Replaced records, in bytes, for which no file is written anew.
const FEW_BYTES: u64 = 1 << 20;

/// Where the record of an image is.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    file: Arc<File>,
    offset: u64,
}

impl Kept {
    /// The record, `len` bytes of it; blocks. The caller checks that it is what he looks for.
    pub(super) fn read(&self, len: u32) -> Result<Box<str>> {
        let mut text = vec![0; len as usize];
        self.file
            .read_exact_at(&mut text, self.offset)
            .map_err(|error| Error::io("reading a record", error))?;
        let text = String::from_utf8(text);
        let damaged = |error| Error::new(Kind::Integrity, "a record is damaged on disk").with_source(error);
        text.map(String::into_boxed_str).map_err(damaged)
    }
}

/// The file that this mount writes records into; all of it blocks.
#[derive(Debug)]
pub(super) struct Writer {
    file: Arc<File>,
    path: PathBuf,
    /// Its name until it is whole.
    part: Option<PathBuf>,
    end: u64,
    /// Bytes of records that were replaced.
    replaced: u64,
}

impl Writer {
    /// Begins a file that will take the place of `path`.
    pub(super) fn begin(path: PathBuf, schema: &Schema) -> Result<Self> {
        // Two mounts may write at once: each has its own, the rename decides.
        let part = path.with_extension(format!("{}.part", std::process::id()));
        let mut options = File::options();
        let options = options.read(true).write(true).create(true).truncate(true).mode(0o600);
        let file = Arc::new(options.open(&part).map_err(failed)?);
        let mut writer = Self { file, path, part: Some(part), end: 0, replaced: 0 };
        let mut attributes: Vec<_> = schema.attributes.iter().collect();
        attributes.sort();
        let attributes = serde_json::to_string(&attributes)
            .map_err(|error| Error::new(Kind::Invalid, "writing the schema").with_source(error))?;
        writer.write(format!("{MAGIC}{attributes}\n").as_bytes())?;
        Ok(writer)
    }

    /// Puts the records of these images away; when that fails, the entries have none.
    pub(super) fn append(&mut self, images: Vec<Image>) -> (Vec<Listed>, Result<()>) {
        let mut lines = Vec::new();
        let mut listed = Vec::with_capacity(images.len());
        for mut image in images {
            let offset = self.end + lines.len() as u64;
            let kept = image.record.put_away().map(|text| {
                lines.extend_from_slice(text.as_bytes());
                lines.push(b'\n');
                Kept { file: Arc::clone(&self.file), offset }
            });
            listed.push(Listed { image: Arc::new(image), kept });
        }
        let written = self.write(&lines);
        if written.is_err() {
            listed.iter_mut().for_each(|listed| listed.kept = None);
        }
        (listed, written)
    }

    /// Takes images away.
    pub(super) fn remove(&mut self, ids: &[ImageId]) -> Result<()> {
        let lines: String = ids.iter().map(|id| format!("-{id}\n")).collect();
        self.write(lines.as_bytes())
    }

    /// Counts a record that is not needed any more.
    pub(super) fn count_replaced(&mut self, old: &Listed) {
        if self.has(old) {
            self.replaced += u64::from(old.image.record.len());
        }
    }

    /// The record of this image is in this file.
    pub(super) fn has(&self, listed: &Listed) -> bool {
        listed.kept.as_ref().is_some_and(|kept| Arc::ptr_eq(&kept.file, &self.file))
    }

    /// Bytes of the file.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// More of the file is useless than is needed.
    pub(super) fn is_worn(&self) -> bool {
        self.replaced > FEW_BYTES && self.replaced > self.end / 2
    }

    /// What puts the file in its place, once it is whole; to be done behind, as it waits for the disk.
    pub(super) fn put_in_place(&mut self) -> impl FnOnce() + Send + 'static {
        let (file, path, part) = (Arc::clone(&self.file), self.path.clone(), self.part.take());
        move || {
            let Some(part) = part else { return };
            if let Err(error) = file.sync_data().and_then(|()| fs::rename(&part, &path)) {
                warn!(%error, path = %path.display(), "cannot save the list of images");
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all_at(bytes, self.end).map_err(failed)?;
        self.end += bytes.len() as u64;
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some(part) = &self.part {
            let _ = fs::remove_file(part);
        }
    }
}

fn failed(error: std::io::Error) -> Error {
    Error::io("writing the saved list", error)
}

/// Reads the list that was saved as `path`; blocks.
pub(super) fn load(path: &Path) -> Result<(Vec<Edit>, Schema)> {
    let fail = |error| Error::io(format!("reading {}", path.display()), error);
    let damaged = || Error::new(Kind::Integrity, format!("{} is not a saved list of images", path.display()));
    let file = Arc::new(File::open(path).map_err(fail)?);
    if file.metadata().map_err(fail)?.len() > MOST_BYTES {
        return Err(damaged());
    }
    let mut lines = BufReader::new(&*file);
    let mut line = Vec::new();
    let mut next = |line: &mut Vec<u8>| {
        line.clear();
        lines.by_ref().take(MOST_LINE).read_until(b'\n', line).map_err(fail)
    };
    let mut offset = next(&mut line)? as u64;
    let header = std::str::from_utf8(&line).ok().and_then(|header| header.strip_prefix(MAGIC));
    let attributes = serde_json::from_str(header.ok_or_else(damaged)?);
    let attributes = attributes.map_err(|error| damaged().with_source(error))?;
    let mut edits = Vec::new();
    loop {
        let len = next(&mut line)? as u64;
        if len == 0 {
            return Ok((edits, Schema { attributes }));
        }
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        let text = String::from_utf8_lossy(text);
        let edit = match text.strip_prefix('-') {
            Some(gone) => gone.parse().map(Edit::Remove),
            None => Image::from_record(&text).map(|mut image| {
                image.record.put_away();
                let kept = Some(Kept { file: Arc::clone(&file), offset });
                Edit::Put(Listed { image: Arc::new(image), kept })
            }),
        };
        match edit {
            Ok(edit) => edits.push(edit),
            Err(error) => warn!(%error, "left out a damaged record of the saved list"),
        }
        offset += len;
    }
}

#[cfg(test)]
mod tests {
    use super::super::Snapshot;
    use super::*;

    const RECORD: &str = concat!(
        r#"{"id":"1f3c9a2b-0000-4000-8000-000000000001","name":"debian","status":"active","#,
        r#""size":3,"created_at":"2026-11-20T10:00:00Z","updated_at":"2026-11-20T10:00:00Z","#,
        r#""visibility":"private","protected":false,"tags":[]}"#
    );
    const DELETED: &str = "-1f3c9a2b-0000-4000-8000-000000000002";

    fn saved() -> String {
        let gone = RECORD.replace("01\"", "02\"");
        format!("glancefs-catalog 2 [\"id\",\"name\"]\n{RECORD}\n{gone}\n{DELETED}\n")
    }

    fn image(record: &str) -> Image {
        Image::from_record(record).unwrap()
    }

    fn loaded(path: &Path) -> Snapshot {
        let mut list = Snapshot::default();
        list.apply(load(path).unwrap().0);
        list
    }

    #[test]
    fn the_file_is_written_as_documented() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("catalog");
        let schema = Schema { attributes: ["name", "id"].map(Box::from).into() };
        let mut writer = Writer::begin(path.clone(), &schema).unwrap();
        let gone = image(&RECORD.replace("01\"", "02\""));
        writer.append(vec![image(RECORD), gone.clone()]).1.unwrap();
        writer.put_in_place()();
        writer.remove(&[gone.id]).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), saved());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no part file stays");
    }

    #[test]
    fn a_saved_list_comes_back_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("catalog");
        fs::write(&path, saved()).unwrap();
        let list = loaded(&path);
        assert_eq!(list, Snapshot::of([image(RECORD)], None));
        assert!(load(&path).unwrap().1.attributes.contains("name"));
        let (_, listed) = list.entries().next().unwrap();
        let text = listed.kept.as_ref().unwrap().read(listed.image.record.len()).unwrap();
        assert_eq!(&*text, RECORD);
    }

    #[test]
    fn records_are_read_from_the_file_they_were_written_to_whatever_has_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("catalog");
        let mut ours = Writer::begin(path.clone(), &Schema::default()).unwrap();
        let listed = ours.append(vec![image(RECORD)]).0.remove(0);
        assert_eq!(listed.image.record.text(), None, "not in memory");
        ours.put_in_place()();
        let mut other = Writer::begin(path, &Schema::default()).unwrap();
        other.put_in_place()();
        let text = listed.kept.as_ref().unwrap().read(listed.image.record.len()).unwrap();
        assert!(listed.image.record.is(&text));
    }

    #[test]
    fn a_file_that_is_mostly_replaced_is_worn() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = Writer::begin(folder.path().join("catalog"), &Schema::default()).unwrap();
        let large = RECORD.replace("[]", &format!("[\"{}\"]", "x".repeat(1 << 19)));
        let all = writer.append(vec![image(&large); 6]).0;
        for listed in &all[..3] {
            writer.count_replaced(listed);
            assert!(!writer.is_worn());
        }
        writer.count_replaced(&all[3]);
        assert!(writer.is_worn());
        drop(writer);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "what was never whole goes");
    }

    #[test]
    fn other_files_are_refused_and_damaged_records_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("catalog");
        for text in ["", "something else\n", "glancefs-catalog 1 []\n", "glancefs-catalog 2 {\n"] {
            fs::write(&path, text).unwrap();
            assert_eq!(load(&path).unwrap_err().kind(), Kind::Integrity, "{text:?}");
        }
        // As a power cut leaves it: blocks that were never written, and an end in mid-record.
        let zeros = "\0".repeat(5000);
        fs::write(&path, format!("{}{zeros}\n{RECORD}\n{{\"id\":", saved())).unwrap();
        assert_eq!(loaded(&path).len(), 1);
        fs::write(&path, [saved().as_bytes(), b"\xff\xfe\n"].concat()).unwrap();
        assert_eq!(loaded(&path).len(), 1);
    }
}
