//! The last list of images on disk, for `--allow-stale`: a header line, then a JSON record a line.
//!
//! ```text
//! glancefs-catalog 1 ["checksum","id",…]
//! {"id":"…","name":"…",…}
//! ```
//! The header holds the format's version and the schema's attributes. Records are Glance's own text,
//! so the file is as trustworthy as a listing: each record is checked as one from the server is.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::warn;

use super::Snapshot;
use crate::error::{Error, Kind, Result};
use crate::glance::{Image, Schema};

const MAGIC: &str = "glancefs-catalog 1 ";

/// A file larger than this is not one of ours: a million records of 1 KiB.
const MOST_BYTES: u64 = 1 << 30;

/// Writes the list beside the cache; a failure is logged and costs nothing but the saved list.
pub(super) async fn save(path: PathBuf, list: Arc<Snapshot>, schema: Schema) {
    let shown = path.display().to_string();
    let written = tokio::task::spawn_blocking(move || write(&path, &list, &schema)).await;
    match written {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(%error, path = shown, "cannot save the list of images"),
        Err(error) => warn!(%error, path = shown, "cannot save the list of images"),
    }
}

/// Reads the list back.
pub(super) async fn load(path: PathBuf) -> Result<(Snapshot, Schema)> {
    tokio::task::spawn_blocking(move || read(&path))
        .await
        .map_err(|error| Error::new(Kind::Io, "reading the saved list").with_source(error))?
}

fn write(path: &Path, list: &Snapshot, schema: &Schema) -> Result<()> {
    let fail = |error| Error::io("writing the saved list", error);
    // Two mounts may save at once: each writes its own file, the rename decides.
    let part = path.with_extension(format!("{}.part", std::process::id()));
    let file =
        File::options().write(true).create(true).truncate(true).mode(0o600).open(&part).map_err(fail)?;
    let mut out = BufWriter::new(file);
    let mut attributes: Vec<_> = schema.attributes.iter().collect();
    attributes.sort();
    let attributes = serde_json::to_string(&attributes)
        .map_err(|error| Error::new(Kind::Invalid, "writing the schema").with_source(error))?;
    writeln!(out, "{MAGIC}{attributes}").map_err(fail)?;
    for image in list.iter() {
        // A record is one line: JSON text from the server may be spread over several.
        let line = image.record.replace(['\n', '\r'], " ");
        writeln!(out, "{line}").map_err(fail)?;
    }
    out.into_inner().map_err(|error| fail(error.into_error()))?.sync_data().map_err(fail)?;
    fs::rename(&part, path).map_err(fail)
}

fn read(path: &Path) -> Result<(Snapshot, Schema)> {
    let fail = |error| Error::io(format!("reading {}", path.display()), error);
    let damaged = || Error::new(Kind::Integrity, format!("{} is not a saved list of images", path.display()));
    let file = File::open(path).map_err(fail)?;
    if file.metadata().map_err(fail)?.len() > MOST_BYTES {
        return Err(damaged());
    }
    let mut lines = BufReader::new(file).lines();
    let header = lines.next().ok_or_else(damaged)?.map_err(fail)?;
    let attributes = header.strip_prefix(MAGIC).ok_or_else(damaged)?;
    let attributes = serde_json::from_str(attributes).map_err(|error| damaged().with_source(error))?;
    let mut images = Vec::new();
    for line in lines {
        match Image::from_record(&line.map_err(fail)?) {
            Ok(image) => images.push(image),
            Err(error) => warn!(%error, "left out a damaged record of the saved list"),
        }
    }
    Ok((Snapshot::new(images), Schema { attributes }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: &str = concat!(
        r#"{"id":"1f3c9a2b-0000-4000-8000-000000000001","name":"debian","status":"active","#,
        r#""size":3,"created_at":"2026-11-20T10:00:00Z","updated_at":"2026-11-20T10:00:00Z","#,
        r#""visibility":"private","protected":false,"tags":[]}"#
    );

    fn saved() -> String {
        format!("glancefs-catalog 1 [\"id\",\"name\"]\n{RECORD}\n")
    }

    #[test]
    fn the_file_is_written_as_documented() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("catalog");
        let list = Snapshot::new([Image::from_record(RECORD).unwrap()]);
        let schema = Schema { attributes: ["name", "id"].map(Box::from).into() };
        write(&path, &list, &schema).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), saved());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no part file stays");
    }

    #[test]
    fn a_saved_list_comes_back_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("catalog");
        fs::write(&path, saved()).unwrap();
        let (list, schema) = read(&path).unwrap();
        assert_eq!(list, Snapshot::new([Image::from_record(RECORD).unwrap()]));
        assert!(schema.attributes.contains("name"));
    }

    #[test]
    fn other_files_are_refused_and_damaged_records_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("catalog");
        for text in ["", "something else\n", "glancefs-catalog 2 []\n", "glancefs-catalog 1 {\n"] {
            fs::write(&path, text).unwrap();
            assert_eq!(read(&path).unwrap_err().kind(), Kind::Integrity, "{text:?}");
        }
        fs::write(&path, format!("{}{{\"id\":\n", saved())).unwrap();
        assert_eq!(read(&path).unwrap().0.len(), 1);
    }
}
