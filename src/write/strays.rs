//! Records that may be in Glance when the files of their upload go: noted in files of their own, without bytes, until
//! the housekeeping has deleted them (`aftermath.rs`).

use std::sync::Arc;

use super::folder::Folder;
use super::journal::{Durability, Journal, JournalFile, Record};
use super::spool::Spool;
use crate::error::Result;
use crate::units::ImageId;

/// Notes what `journal` names, whose files are about to go because of `why`; mostly that is nothing. Blocks on the disk.
///
/// # Errors
/// `NoSpace`, `Io`.
pub(super) fn note(folder: &Arc<Folder>, journal: &Journal, why: &str) -> Result<()> {
    if !journal.names_records() {
        return Ok(());
    }
    // Locked until all of it is there.
    let spool = Spool::create(Arc::clone(folder))?;
    let file = JournalFile::new(Arc::clone(folder), spool.id());
    file.store(Durability::Durable, || Some(journal.of_records_only(why))).inspect_err(|_| file.remove())?;
    drop(spool);
    folder.settle_soon();
    Ok(())
}

/// The same of an upload that became `image`: what is left are records of tries before. The image is there, whether this
/// works or not.
pub(super) fn note_tries_before(folder: &Arc<Folder>, journal: &Journal, image: &ImageId) {
    let mut left = journal.clone();
    // Its own record is the image now.
    left.record = Record::None;
    if let Err(error) = note(folder, &left, &format!("a later try made image {image}")) {
        tracing::warn!(%error, %image, "what failed tries left in Glance could not be noted");
    }
}
