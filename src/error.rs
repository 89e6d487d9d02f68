//! The one error type of glancefs: what went wrong (a [`Kind`]), in words, and what caused it.
//!
//! Kinds, not messages, decide behaviour: `fuse::errno` maps each kind to an errno in one exhaustive
//! table, and callers ask through predicates. The names follow the exceptions of the image services
//! that glancefs stands in for:
//!
//! | exception of Nova, Cinder or Glance's client | kind | errno (`fuse::errno`) |
//! | --- | --- | --- |
//! | `NotFound`, `ImageNotFound`, `HTTPNotFound` | `NotFound`; `Stale` on an open file | ENOENT; ESTALE |
//! | `NotAuthorized`, `HTTPUnauthorized` | `NotAuthenticated` | EACCES |
//! | `Forbidden`, `ImageNotAuthorized`, `HTTPForbidden` | `Forbidden`; `NotPermitted` for what is protected or immutable | EACCES; EPERM |
//! | `ImageNotActive` | `Busy` while data are on their way; `NoData` when queued; `Forbidden` when deactivated; `Io` when killed | EBUSY; ENODATA; EACCES; EIO |
//! | `ImageUnacceptable` (without data; format against content) | `NoData`; `WrongFormat` | ENODATA; EMEDIUMTYPE |
//! | `ImageBadRequest`, `Invalid`, `InvalidImageRef`, `ValueError`, `ImageImportImpossible` (400) | `Invalid` | EINVAL |
//! | `ImageDeleteConflict`, `ImageImportImpossible` (409) | `Busy` | EBUSY |
//! | `ImageQuotaExceeded` | `QuotaExceeded` | EDQUOT |
//! | `ImageLimitExceeded` (properties, tags, members), `StorageFull` | `NoSpace` | ENOSPC |
//! | `ImageTooBig`, `ImageSizeLimitExceeded` | `TooLarge` | EFBIG |
//! | `AlreadyExists`, `Duplicate` | `Exists` | EEXIST |
//! | `GlanceConnectionFailed`, `CommunicationError`, `InvalidEndpoint`, `HTTPServiceUnavailable` | `Unreachable`, `TimedOut`; `ServerError` for 5xx answers | ETIMEDOUT; EIO; read(2): EIO |
//! | `ImagePaginationFailed` | `ServerError`; the last good list stays | EIO |
//! | `ImageDownloadFailed`, `IOError(EPIPE)`, `SignatureVerificationError` | `Integrity` | EIO |
//! | `CertificateValidationFailed` of a server | `Untrusted` | EIO |
//! | `MetadataDefinition…`, v1 without a feature, 405, 501 | `NotSupported` | EOPNOTSUPP |

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;

/// The result of everything in glancefs that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, as far as behaviour depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// No such image, or no such name.
    NotFound,
    /// The image was deleted while a handle was open, and these bytes are not cached.
    Stale,
    /// The credentials are missing, wrong or expired (HTTP 401 after one renewal).
    NotAuthenticated,
    /// Policy, visibility or deactivation forbids it (HTTP 403).
    Forbidden,
    /// What a filesystem may not do here: image data are immutable, a record is protected,
    /// or an option such as `--allow-delete` is missing.
    NotPermitted,
    /// The mount, the token, the store or a local disk is read-only.
    ReadOnly,
    /// The image is in a status that excludes this now (saving, importing, in use).
    Busy,
    /// The id or the name is taken.
    Exists,
    /// There are no data (queued image) or no such attribute.
    NoData,
    /// The request makes no sense to glancefs or to the server (HTTP 400).
    Invalid,
    /// The name is longer than Glance or the kernel takes.
    NameTooLong,
    /// The name holds characters that Glance does not store (4-byte UTF-8), or is not UTF-8.
    IllegalName,
    /// The project's quota is used up (HTTP 413 "quota").
    QuotaExceeded,
    /// The store, or the local spool, is full.
    NoSpace,
    /// The image is larger than the cloud allows (HTTP 413 "too large").
    TooLarge,
    /// The content does not match its `disk_format` (HTTP 415).
    WrongFormat,
    /// Bytes differ from their hash, a length from its promise, or a file of ours is damaged.
    Integrity,
    /// The store cannot serve ranges (HTTP 400 "Getting images randomly"): switch the source.
    RangeUnsupported,
    /// No server answered: refused, reset, DNS, broken TLS.
    Unreachable,
    /// The certificate that the server shows is not to be trusted, or it does not trust ours: only a person can change that.
    Untrusted,
    /// The deadline passed.
    TimedOut,
    /// The server failed (HTTP 5xx) or answered what its API does not allow.
    ServerError,
    /// A local file operation failed.
    Io,
    /// An image that has to be signed is not.
    KeyMissing,
    /// The signature of an image is wrong, or none of ours can vouch for it.
    KeyRejected,
    /// A value is larger than the kernel can carry (an xattr over 64 KiB).
    ValueTooLarge,
    /// The caller's buffer is too small for the value (xattrs).
    BufferTooSmall,
    /// Only the next byte can be written (`--upload stream`).
    NotSequential,
    /// It is a directory.
    IsDirectory,
    /// It is not a directory.
    NotDirectory,
    /// The handle is unknown or was opened in another mode.
    BadHandle,
    /// This server or this file does not have the feature.
    NotSupported,
    /// The asking process was killed, or glancefs is shutting down.
    Interrupted,
    /// The configuration or the command line is wrong.
    Config,
}

impl Kind {
    /// Another try, perhaps at another server, may succeed.
    pub fn is_transient(self) -> bool {
        matches!(self, Kind::Unreachable | Kind::TimedOut | Kind::ServerError)
    }
}

/// A failure: its kind, a sentence for a person, and the failure below it.
pub struct Error {
    kind: Kind,
    message: Cow<'static, str>,
    source: Option<Box<dyn StdError + Send + Sync>>,
    unasked: bool,
}

impl Error {
    /// A failure of `kind`, told as `message` (lower case, no full stop, never a secret).
    pub fn new(kind: Kind, message: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, message: message.into(), source: None, unasked: false }
    }

    /// The same, with the failure that caused it.
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The same, of a request that no server can have seen: no connection came about.
    pub fn unasked(mut self) -> Self {
        self.unasked = true;
        self
    }

    /// No server can have seen the request, so it had no effect.
    pub fn is_unasked(&self) -> bool {
        self.unasked
    }

    /// A local file operation that failed while doing `what`; full and read-only disks keep their own kinds.
    pub fn io(what: impl Into<Cow<'static, str>>, error: std::io::Error) -> Self {
        let kind = match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Kind::NoSpace,
            std::io::ErrorKind::ReadOnlyFilesystem => Kind::ReadOnly,
            _ => Kind::Io,
        };
        Self::new(kind, what).with_source(error)
    }

    /// What behaviour depends on.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The same failure under another kind (an `ENOENT` on an open handle is stale).
    pub fn with_kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// Puts `what` in front of the message: "while …: message".
    pub fn context(mut self, what: impl fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message).into();
        self
    }

    /// A copy for a second waiter of the same failure: kind and full text, without the chain.
    pub fn duplicate(&self) -> Self {
        Self { unasked: self.unasked, ..Self::new(self.kind, self.to_string()) }
    }
}

/// The message and every cause below it, joined by colons: one line for a log.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        let mut source = self.source();
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({self})", self.kind)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|cause| cause as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_joins_the_chain_on_one_line() {
        let cause = std::io::Error::other("disk on fire");
        let error = Error::io("writing the index", cause).context("image x");
        assert_eq!(error.to_string(), "image x: writing the index: disk on fire");
        assert_eq!(error.kind(), Kind::Io);
    }

    #[test]
    fn full_and_read_only_disks_keep_their_own_kinds() {
        for (errno, kind) in [
            (libc::ENOSPC, Kind::NoSpace),
            (libc::EDQUOT, Kind::NoSpace),
            (libc::EROFS, Kind::ReadOnly),
            (libc::EIO, Kind::Io),
        ] {
            assert_eq!(Error::io("spooling", std::io::Error::from_raw_os_error(errno)).kind(), kind);
        }
    }
}
