//! The images as last listed: TTL, paging, the last good list, and what changed.
