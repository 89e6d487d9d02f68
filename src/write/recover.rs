//! What earlier runs left in the spool: found, told, and cleaned up where nothing is lost by it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;

use super::folder::{DraftId, Folder};
use super::journal::{Journal, Record, Step};
use super::spool::try_lock;
use crate::error::Result;

/// Leftovers told one by one; above that, only how many more there are.
const MAX_TOLD: usize = 100;

/// A draft whose process is gone, or that was given up, and that has bytes.
#[derive(Debug)]
struct Leftover {
    id: DraftId,
    /// Length of the data file.
    bytes: u64,
    /// What its journal says; `None` when there is none (a crash before it was written).
    journal: Result<Option<Journal>>,
}

/// One line for each leftover, oldest first.
///
/// On the way, drafts that never had a byte and rests of finished uploads are removed.
pub(super) fn leftovers(folder: &Folder) -> Vec<String> {
    let drafts = match folder.drafts() {
        Ok(drafts) => drafts,
        Err(error) => return vec![format!("the uploads left by earlier runs cannot be listed: {error}")],
    };
    let mut found: Vec<Leftover> = drafts.into_iter().filter_map(|id| examine(folder, id)).collect();
    found.sort_by_key(|leftover| match &leftover.journal {
        Ok(Some(journal)) => (journal.started, leftover.id),
        _ => (i64::MIN, leftover.id),
    });
    let untold = found.len().saturating_sub(MAX_TOLD);
    let mut lines: Vec<String> = found.iter().take(MAX_TOLD).map(|leftover| leftover.line(folder)).collect();
    if untold > 0 {
        lines.push(format!("{untold} more uploads were left in {}", folder.path().display()));
    }
    lines
}

/// `None`: a living draft, or nothing worth keeping.
fn examine(folder: &Folder, id: DraftId) -> Option<Leftover> {
    let opened: io::Result<File> =
        OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(folder.data_path(id));
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // The data file is made first and removed first: this is the rest of a clean-up.
            folder.remove(id);
            return None;
        }
        Err(error) => {
            let unknown = Err(crate::error::Error::io("opening it", error));
            return Some(Leftover { id, bytes: 0, journal: unknown });
        }
    };
    // The lock is held until the end of this function, so that no other mount does the same.
    if !try_lock(&file).unwrap_or(false) {
        return None;
    }
    let bytes = file.metadata().map_or(0, |metadata| metadata.len());
    let journal = Journal::load(folder, id);
    let finished = matches!(&journal, Ok(Some(journal)) if journal.step == Step::Done);
    if bytes == 0 || finished {
        folder.remove(id);
        return None;
    }
    Some(Leftover { id, bytes, journal })
}

impl Leftover {
    /// Names come from a file: they are quoted, so that each leftover stays one line.
    fn line(&self, folder: &Folder) -> String {
        let (bytes, path) = (self.bytes, folder.data_path(self.id));
        let kept = format!("its {bytes} bytes are kept in {}", path.display());
        let journal = match &self.journal {
            Ok(Some(journal)) => journal,
            Ok(None) => return format!("an upload of unknown name was left: {kept}"),
            Err(error) => {
                return format!("an upload was left whose journal cannot be read ({error}): {kept}");
            }
        };
        let Journal { name, image, .. } = journal;
        let step = journal.step.as_str();
        let reason = match &journal.failure {
            Some(reason) => reason.escape_debug().to_string(),
            None => "the process ended".to_owned(),
        };
        let mut line =
            format!("the upload of {name:?} as image {image} stopped at {step} ({reason}): {kept}");
        if journal.record == Record::Created {
            line.push_str(&format!(
                "; the record {image} may still be in Glance, without data that are proven"
            ));
        }
        for stray in &journal.strays {
            line.push_str(&format!("; the record {stray} of a failed try is still in Glance"));
        }
        line
    }
}
