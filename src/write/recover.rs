//! What earlier runs left in the spool: found, told, and cleaned up where nothing is lost by it.

use std::io;
use std::sync::Arc;

use super::folder::{DraftId, Folder};
use super::journal::{DAMAGED, Journal, Step};
use super::spool::Spool;
use crate::error::Result;

/// Leftovers told one by one; above that, only how many more there are.
const MAX_TOLD: usize = 100;

/// A draft whose process is gone, or that was given up, and that has bytes.
#[derive(Debug)]
pub(super) struct Leftover {
    pub(super) id: DraftId,
    /// The data file, locked by us so that no other mount does the same; `None`: it cannot be opened.
    pub(super) spool: Option<Spool>,
    /// Length of the data file.
    pub(super) bytes: u64,
    /// What its journal says; `None` when there is none (a crash before it was written).
    pub(super) journal: Result<Option<Journal>>,
}

/// One line for each leftover, oldest first.
///
/// On the way, drafts that never had a byte and rests of finished uploads are removed.
pub(super) fn leftovers(folder: &Arc<Folder>) -> Vec<String> {
    let drafts = match folder.drafts() {
        Ok(drafts) => drafts,
        Err(error) => return vec![format!("the uploads left by earlier runs cannot be listed: {error}")],
    };
    let line = |id| {
        // Open no longer than this: there may be more of them than files may be open.
        let leftover = examine(folder, id)?;
        let started = leftover.journal.as_ref().ok().and_then(Option::as_ref).map(|journal| journal.started);
        Some((started, id, leftover.line(folder, "are kept in")))
    };
    let mut found: Vec<_> = drafts.into_iter().filter_map(line).collect();
    found.sort_unstable();
    let untold = found.len().saturating_sub(MAX_TOLD);
    let mut lines: Vec<String> = found.into_iter().take(MAX_TOLD).map(|(_, _, line)| line).collect();
    if untold > 0 {
        lines.push(format!("{untold} more uploads were left in {}", folder.path().display()));
    }
    lines
}

/// `None`: a living draft, or nothing worth keeping.
pub(super) fn examine(folder: &Arc<Folder>, id: DraftId) -> Option<Leftover> {
    let spool = match Spool::open(Arc::clone(folder), id) {
        Ok(spool) => spool,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // The data file is made first and removed first: this is the rest of a clean-up.
            folder.remove(id);
            return None;
        }
        Err(error) => {
            let unknown = Err(crate::error::Error::io("opening it", error));
            return Some(Leftover { id, spool: None, bytes: 0, journal: unknown });
        }
    };
    if !spool.try_lock() {
        return None;
    }
    let bytes = spool.size().unwrap_or(0);
    let journal = Journal::load(folder, id);
    let journaled = journal.as_ref().ok().and_then(Option::as_ref);
    let finished = journaled.is_some_and(|journal| journal.step == Step::Done);
    // A reservation or a stream has no bytes here, and yet a crash may have left its record.
    let recorded = journaled.is_some_and(Journal::names_records);
    if finished || (bytes == 0 && !recorded) {
        folder.remove(id);
        return None;
    }
    Some(Leftover { id, spool: Some(spool), bytes, journal })
}

impl Leftover {
    /// What it is, and that its bytes "are kept in" or "were in" its file. Names come from a file: they
    /// are quoted, so that each leftover stays one line.
    pub(super) fn line(&self, folder: &Folder, bytes_are: &str) -> String {
        let (bytes, path) = (self.bytes, folder.data_path(self.id));
        let kept = match bytes {
            0 => "it has no bytes here".to_owned(),
            _ => format!("its {bytes} bytes {bytes_are} {}", path.display()),
        };
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
        if journal.may_be_damaged() {
            line.push_str(&format!("; {DAMAGED}"));
        }
        for remains in journal.remains() {
            line.push_str(&format!("; {remains}"));
        }
        line
    }
}
