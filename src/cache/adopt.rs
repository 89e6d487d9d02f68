//! Taking over a file that was just uploaded: it becomes the complete, verified copy in the cache.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::OFlags;

use crate::error::{Error, Kind, Result};
use crate::units::{BLOCK_SIZE, BlockRange};

use super::disk::files::file_state;
use super::disk::folder::{Folder, Part};
use super::disk::index::{Entry, Header, Proof, Stamp};
use super::identity::ContentIdentity;
use super::verify::Hasher;

/// Moves `path` in as the copy of `identity`; `false`: it stays where it is, which is no error.
pub(super) fn adopt(folder: &Folder, identity: &ContentIdentity, path: &Path) -> Result<bool> {
    let failed = |error| Error::io("taking an uploaded file over into the cache", error);
    let key = identity.key();
    if folder.open_image(key, Part::Index, OFlags::RDONLY).map_err(failed)?.is_some() {
        // Somebody has begun to read it already: two files of one image would disagree about nothing
        // but which is which.
        return Ok(false);
    }
    let file = File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    if size != identity.size {
        let message = format!("the uploaded file has {size} bytes, the image {}", identity.size);
        return Err(Error::new(Kind::Integrity, message));
    }
    let header = Header { key, content: identity.content_key(), size, proof: None, label: identity.label() };
    let entries = entries(&file, size).map_err(failed)?;
    file.sync_data().map_err(failed)?;
    file.set_permissions(std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    if !folder.take_in(path, key).map_err(failed)? {
        return Ok(false);
    }
    // The move changed the ctime: only now is the state what it will stay.
    let state = file_state(&file).map_err(failed)?;
    let proof = Hasher::of(&identity.digest).map(|hasher| Proof { kind: hasher.kind(), state });
    let mut raw = Header { proof, ..header }.encode();
    raw.extend_from_slice(&entries);
    folder.publish_index(key, &raw).map_err(failed)?;
    if let (Some(_), Some(content)) = (proof, identity.content_key()) {
        folder.set_alias(content, key).map_err(failed)?;
    }
    Ok(true)
}

/// The entries of every block, from the bytes in the file.
fn entries(mut file: &File, size: u64) -> io::Result<Vec<u8>> {
    let used = Stamp::now();
    let mut out = Vec::new();
    let mut buffer = vec![0; BLOCK_SIZE as usize];
    for block in BlockRange::of_image(size).iter() {
        let bytes = &mut buffer[..block.bytes(size).len() as usize];
        file.read_exact(bytes)?;
        out.extend_from_slice(&Entry { crc: crc32c::crc32c(bytes), used }.encode());
    }
    Ok(out)
}
