//! What `fuzz/` gives hostile bytes to in this layer; not part of the API.

use super::disk::index::{Entry, HEADER_LEN, Header, seal};

/// An index as anybody could have left it: the header, then entries.
pub fn index(bytes: &[u8]) {
    let (header, entries) = bytes.split_at(bytes.len().min(HEADER_LEN as usize));
    check(header);
    // No fuzzer finds a checksum: the same header again with the right one.
    let mut sealed = header.to_vec();
    sealed.resize(HEADER_LEN as usize, 0);
    seal(&mut sealed);
    check(&sealed);
    for (entry, raw) in Entry::decode_all(entries).zip(entries.as_chunks::<8>().0) {
        assert_eq!(entry.map_or(Entry::ABSENT, Entry::encode)[4..], raw[4..]);
        assert!(entry.is_none_or(|entry| entry.encode() == *raw));
    }
}

fn check(raw: &[u8]) {
    if let Ok(header) = Header::decode(raw) {
        // The line for people may be no UTF-8, and too long once it is.
        let header = Header { label: String::new(), ..header };
        let back = Header::decode(&header.encode());
        assert_eq!(back.ok(), Some(header));
    }
}
