//! What `fuzz/` gives hostile bytes to in this layer; not part of the API.

use super::journal::Journal;

/// The journal of a draft, from a folder that others could have damaged.
pub fn journal(bytes: &[u8]) {
    let Ok(journal) = Journal::decode(bytes) else { return };
    let back = journal.encode().and_then(|bytes| Journal::decode(&bytes));
    // Metadata may have grown beyond the limit by their escapes; all else comes back as it was.
    assert!(back.is_err() || back.is_ok_and(|back| back == journal));
}
