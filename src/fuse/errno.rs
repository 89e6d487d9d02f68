//! The errno table: what each kind of failure is to a program.

use fuser::Errno;

use crate::error::{Error, Kind};

/// The errno of a failure.
pub(super) fn errno(error: &Error) -> Errno {
    match error.kind() {
        Kind::NotFound => Errno::ENOENT,
        Kind::Stale => Errno::ESTALE,
        Kind::NotAuthenticated | Kind::Forbidden => Errno::EACCES,
        Kind::NotPermitted => Errno::EPERM,
        Kind::ReadOnly => Errno::EROFS,
        Kind::Busy => Errno::EBUSY,
        Kind::Exists => Errno::EEXIST,
        Kind::NoData => Errno::ENODATA,
        Kind::Invalid | Kind::Config => Errno::EINVAL,
        Kind::NameTooLong => Errno::ENAMETOOLONG,
        Kind::IllegalName => Errno::EILSEQ,
        Kind::QuotaExceeded => Errno::EDQUOT,
        Kind::NoSpace => Errno::ENOSPC,
        Kind::TooLarge => Errno::EFBIG,
        Kind::WrongFormat => Errno::from_i32(libc::EMEDIUMTYPE),
        Kind::Unreachable | Kind::TimedOut => Errno::ETIMEDOUT,
        Kind::Integrity | Kind::RangeUnsupported | Kind::Untrusted | Kind::ServerError | Kind::Io => {
            Errno::EIO
        }
        // As fs-verity and the kernel's own signature checks have it.
        Kind::KeyMissing => Errno::from_i32(libc::ENOKEY),
        Kind::KeyRejected => Errno::from_i32(libc::EKEYREJECTED),
        Kind::ValueTooLarge => Errno::E2BIG,
        Kind::BufferTooSmall => Errno::ERANGE,
        Kind::NotSequential => Errno::ESPIPE,
        Kind::IsDirectory => Errno::EISDIR,
        Kind::NotDirectory => Errno::ENOTDIR,
        Kind::BadHandle => Errno::EBADF,
        Kind::NotSupported => Errno::EOPNOTSUPP,
        Kind::Interrupted => Errno::EINTR,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at what should not be")]

    #[test]
    fn each_errno_of_the_table_is_explained() {
        let document = include_str!("../../docs/troubleshooting.md");
        let table = include_str!("errno.rs").split("#[cfg(test)]").next().unwrap();
        let names = table.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| {
            word.len() > 2 && word.starts_with('E') && word.chars().all(|c| !c.is_ascii_lowercase())
        });
        let missing: Vec<_> = names.filter(|name| !document.contains(&format!("| {name} |"))).collect();
        assert!(missing.is_empty(), "docs/troubleshooting.md does not explain {missing:?}");
    }
}
