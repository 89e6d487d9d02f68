//! What `fuzz/` gives hostile bytes to in this layer; not part of the API.

use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, memfd_create};

use super::names::{NAME_MAX, RESERVED, decode, encode, name_for_new, name_to_ask_for};
use super::snapshot::{Edit, Listed};
use super::{Snapshot, records};
use crate::glance::Image;

/// Names of images, a line each: as the server gives them, and as somebody types them.
pub fn names(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    // More lines say nothing new.
    let names: Vec<&str> = text.split('\n').take(8).collect();
    let images = names.iter().enumerate().filter_map(|(number, name)| image(number, name));
    let list = listed(images);
    assert_eq!(list.names().iter().count(), names.len(), "each image has one file name of its own");
    for (file_name, id) in list.names().iter() {
        assert!(!file_name.is_empty() && file_name.len() <= NAME_MAX);
        assert!(!file_name.contains(['/', '\0']) && !file_name.chars().any(|char| char.is_ascii_control()));
        assert!(![".", ".."].contains(&&**file_name) && !RESERVED.contains(&&**file_name));
        assert_eq!(list.names().find(file_name), Some(id));
    }
    for typed in names {
        assert_eq!(decode(&encode(typed)).as_deref(), Some(typed));
        let _ = list.names().find(typed);
        let _ = name_to_ask_for(typed);
        if let Ok(name) = name_for_new(typed.as_ref()) {
            let made = listed(image(0, &name));
            assert!(made.names().find(typed).is_some(), "a new file is found under the name it was given");
        }
    }
}

fn listed(images: impl IntoIterator<Item = Image>) -> Snapshot {
    let mut list = Snapshot::of_project(None);
    let put = |image| Edit::Put(Listed { image: Arc::new(image), kept: None });
    list.apply(images.into_iter().map(put));
    list
}

fn image(number: usize, name: &str) -> Option<Image> {
    let record = serde_json::json!({
        "id": format!("{number:08x}-0000-4000-8000-000000000000"), "name": name, "status": "active",
        "created_at": "2026-11-20T10:00:00Z", "updated_at": "2026-11-20T10:00:00Z",
    });
    Image::from_record(&record.to_string()).ok()
}

/// The list that a mount has saved.
pub fn saved_list(bytes: &[u8]) {
    let Ok(file) = memfd_create("list", MemfdFlags::CLOEXEC) else { return };
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    if std::fs::write(&path, bytes).is_err() {
        return;
    }
    let Ok((edits, _)) = records::load(&path) else { return };
    let mut list = Snapshot::default();
    list.apply(edits);
    for (_, listed) in list.entries() {
        let text = listed.kept.as_ref().map(|kept| kept.read(listed.image.record.len()));
        // One that was put on one line, or that is no UTF-8, differs from its bytes: it is asked of the server.
        assert!(text.is_some());
    }
}
