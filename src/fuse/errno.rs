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
