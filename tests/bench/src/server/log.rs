//! Requests and bytes, counted from a server's access log.
//!
//! Both servers write `[time] METHOD PATH HTTP/1.1 STATUS BYTES DURATION range=...`, when a request has ended.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::Result;

/// What went over the wire.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Requests for data, by any method.
    pub requests: u64,
    /// Bytes of bodies that the server has sent for them.
    pub bytes: u64,
}

/// A position in an access log.
pub struct AccessLog {
    path: PathBuf,
    from: u64,
}

impl AccessLog {
    /// From the present end on.
    pub fn from_now(path: &Path) -> Result<Self> {
        let from = std::fs::metadata(path).map_or(0, |found| found.len());
        Ok(Self { path: path.to_owned(), from })
    }

    /// What was sent since. Requests under way are not in it.
    pub fn traffic(&self) -> Result<Traffic> {
        let mut text = String::new();
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.from))?;
        file.read_to_string(&mut text)?;
        Ok(text.lines().filter_map(data_bytes).fold(Traffic::default(), |sum, bytes| Traffic {
            requests: sum.requests + 1,
            bytes: sum.bytes + bytes,
        }))
    }
}

/// The bytes of a line that is about data.
fn data_bytes(line: &str) -> Option<u64> {
    let (request, rest) = line.split_once(" HTTP/1.")?;
    let path = request.split(' ').next_back()?;
    // `/files/` is nginx's listing for rclone; the listing itself ends with the slash.
    let data = path.ends_with("/file") || (path.contains("/files/") && !path.ends_with('/'));
    data.then(|| rest.split(' ').nth(2)?.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_for_data_count_and_others_do_not() {
        let nginx = "[21/Nov/2026:03:15:47 +0000] GET /v2/images/1f3c/file HTTP/1.1 206 65536 0.012 range=bytes=0-65535";
        assert_eq!(data_bytes(nginx), Some(65536));
        let glance =
            "[21/Nov/2026:03:15:47 +0000] GET /v2/images/1f3c/file HTTP/1.1 200 1073741824 900ms range=-";
        assert_eq!(data_bytes(glance), Some(1 << 30));
        let head = "[21/Nov/2026:03:15:47 +0000] HEAD /files/1f3c HTTP/1.1 200 0 0.000 range=-";
        assert_eq!(data_bytes(head), Some(0));
        for path in ["/v2/images?limit=500", "/v2/images/1f3c", "/files/"] {
            let line = format!("[21/Nov/2026:03:15:47 +0000] GET {path} HTTP/1.1 200 777 0.000 range=-");
            assert_eq!(data_bytes(&line), None, "{path}");
        }
    }
}
