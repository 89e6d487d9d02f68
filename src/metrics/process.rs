//! What the layers count while they work, for the whole process: one process serves one mount.

use std::time::Duration;

use super::{Counter, Gauge, Histogram};

/// What is counted in several layers.
pub static PROCESS: Process = Process::new();

/// Words of a fixed table, as label values.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$of:meta])* $variant:ident => $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$of])* $variant,)* }

        impl $name {
            /// All of them, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// As label values and log lines have it.
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }
    };
}

words! {
    /// What is asked of Glance or Keystone.
    Call {
        /// A page of the list of images.
        List => "list",
        /// The images of one name.
        Find => "find",
        /// One record.
        Show => "show",
        /// The schema of images.
        Schema => "schema",
        /// A new record.
        Create => "create",
        /// A change of a record.
        Update => "update",
        /// Deactivating and reactivating.
        Act => "act",
        /// The end of an image.
        Delete => "delete",
        /// Data on their way to the cloud.
        Upload => "upload",
        /// Data on their way here.
        Download => "download",
        /// Data read past Glance, from where they are stored.
        DirectDownload => "direct_download",
        /// Which versions of the API there are.
        Versions => "versions",
        /// Stores and limits.
        Facts => "facts",
        /// With whom an image is shared.
        Members => "members",
        /// The order of an import.
        Import => "import",
        /// What the cloud does in the background.
        Tasks => "tasks",
        /// Where data are stored.
        Locations => "locations",
        /// A new token.
        Login => "login",
    }
}

words! {
    /// What the kernel asks of us.
    KernelCall {
        /// A name in a directory.
        Lookup => "lookup",
        /// Inodes that the kernel lets go of.
        Forget => "forget",
        /// Attributes.
        Getattr => "getattr",
        /// A change of attributes, of the size too.
        Setattr => "setattr",
        /// A new directory, which is refused.
        Mkdir => "mkdir",
        /// A new file without opening it.
        Mknod => "mknod",
        /// A file's end.
        Unlink => "unlink",
        /// A directory's end, which is refused.
        Rmdir => "rmdir",
        /// Another name.
        Rename => "rename",
        /// Opening a file.
        Open => "open",
        /// A new file.
        Create => "create",
        /// Data that are read.
        Read => "read",
        /// Data that are written.
        Write => "write",
        /// A close of a descriptor.
        Flush => "flush",
        /// The last close.
        Release => "release",
        /// Data to be made durable.
        Fsync => "fsync",
        /// Opening a directory.
        Opendir => "opendir",
        /// Names of a directory.
        Readdir => "readdir",
        /// Names with attributes.
        Readdirplus => "readdirplus",
        /// Closing a directory.
        Releasedir => "releasedir",
        /// What `df` shows.
        Statfs => "statfs",
        /// Setting an extended attribute.
        Setxattr => "setxattr",
        /// Reading one.
        Getxattr => "getxattr",
        /// The names of all.
        Listxattr => "listxattr",
        /// Removing one.
        Removexattr => "removexattr",
        /// What the commands of glancefs, `lsattr` and `chattr` ask.
        Ioctl => "ioctl",
        /// All else.
        Other => "other",
    }
}

words! {
    /// How something ended.
    Outcome {
        /// As it should.
        Done => "done",
        /// With an error.
        Failed => "failed",
    }
}

/// HTTP statuses that Glance, Keystone and what stands in front of them give; others count together.
const STATUSES: [(u16, &str); 28] = [
    (200, "200"),
    (201, "201"),
    (202, "202"),
    (204, "204"),
    (206, "206"),
    (300, "300"),
    (301, "301"),
    (302, "302"),
    (307, "307"),
    (400, "400"),
    (401, "401"),
    (403, "403"),
    (404, "404"),
    (405, "405"),
    (408, "408"),
    (409, "409"),
    (410, "410"),
    (413, "413"),
    (415, "415"),
    (416, "416"),
    (429, "429"),
    (431, "431"),
    (500, "500"),
    (501, "501"),
    (502, "502"),
    (503, "503"),
    (504, "504"),
    (507, "507"),
];

/// Behind those in the table: an answer of another status, and none at all.
const OTHER: usize = STATUSES.len();
const NONE: usize = OTHER + 1;

/// Numbers of errors are below this on Linux.
const ERRNOS: usize = 134;

const CALLS: usize = Call::ALL.len();
const KERNEL_CALLS: usize = KernelCall::ALL.len();

/// What one kind of request came to.
#[derive(Debug)]
pub struct Requests {
    statuses: [Counter; NONE + 1],
    /// Until the head of the answer was here; without an answer, until that was known.
    pub duration: Histogram,
    /// Tries after the first.
    pub retries: Counter,
}

/// What is counted in several layers.
#[derive(Debug)]
pub struct Process {
    requests: [Requests; CALLS],
    kernel: [Counter; KERNEL_CALLS],
    errors: [Counter; ERRNOS],
    /// From the kernel's request to our reply.
    pub read_duration: Histogram,
    /// Bytes given to programs that read images.
    pub served_bytes: Counter,
    /// Bytes of uploads given to the network, those of tries that failed included.
    pub sent_bytes: Counter,
    uploads: [Counter; Outcome::ALL.len()],
    /// When the token ends, in seconds since 1970; 0 when it has no known end.
    pub token_end: Gauge,
    /// Log lines left out because the same had just been written.
    pub lines_left_out: Counter,
}

impl Requests {
    const fn new() -> Self {
        Self {
            statuses: [const { Counter::new() }; NONE + 1],
            duration: Histogram::new(),
            retries: Counter::new(),
        }
    }

    /// Each status that came, `other` and `none` among them, and how often.
    pub fn by_status(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let words = STATUSES.iter().map(|(_, word)| *word).chain(["other", "none"]);
        words.zip(self.statuses.iter().map(Counter::get)).filter(|(_, count)| *count > 0)
    }
}

impl Process {
    const fn new() -> Self {
        Self {
            requests: [const { Requests::new() }; CALLS],
            kernel: [const { Counter::new() }; KERNEL_CALLS],
            errors: [const { Counter::new() }; ERRNOS],
            read_duration: Histogram::new(),
            served_bytes: Counter::new(),
            sent_bytes: Counter::new(),
            uploads: [const { Counter::new() }; Outcome::ALL.len()],
            token_end: Gauge::new(),
            lines_left_out: Counter::new(),
        }
    }

    /// A request was answered with `status`, or (`None`) not at all, after `time`.
    pub fn request(&self, call: Call, status: Option<u16>, time: Duration) {
        let of = self.requests(call);
        let at = match status {
            Some(status) => STATUSES.iter().position(|(known, _)| *known == status).unwrap_or(OTHER),
            None => NONE,
        };
        of.statuses[at].add(1);
        of.duration.observe(time);
    }

    /// What requests of this kind came to.
    pub fn requests(&self, call: Call) -> &Requests {
        &self.requests[call as usize]
    }

    /// The kernel asked.
    pub fn kernel(&self, call: KernelCall) {
        self.kernel[call as usize].add(1);
    }

    /// How often it did.
    pub fn kernel_calls(&self, call: KernelCall) -> u64 {
        self.kernel[call as usize].get()
    }

    /// A reply was this error.
    pub fn error(&self, errno: i32) {
        let at = usize::try_from(errno).ok().filter(|errno| *errno < ERRNOS).unwrap_or(0);
        self.errors[at].add(1);
    }

    /// Each error that was answered, by its name, and how often.
    pub fn errors(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.errors.iter().enumerate().map(|(errno, counter)| (errno as i32, counter.get()));
        let mut other = 0;
        let mut named = Vec::new();
        for (errno, count) in counts.filter(|(_, count)| *count > 0) {
            match errno_name(errno) {
                Some(name) => named.push((name, count)),
                None => other += count,
            }
        }
        named.into_iter().chain((other > 0).then_some(("other", other)))
    }

    /// An upload ended.
    pub fn upload(&self, outcome: Outcome) {
        self.uploads[outcome as usize].add(1);
    }

    /// How many ended so.
    pub fn uploads(&self, outcome: Outcome) -> u64 {
        self.uploads[outcome as usize].get()
    }
}

/// The names of those errors that glancefs answers.
fn errno_name(errno: i32) -> Option<&'static str> {
    Some(match errno {
        libc::EPERM => "EPERM",
        libc::ENOENT => "ENOENT",
        libc::EINTR => "EINTR",
        libc::EIO => "EIO",
        libc::E2BIG => "E2BIG",
        libc::EBADF => "EBADF",
        libc::EACCES => "EACCES",
        libc::EBUSY => "EBUSY",
        libc::EEXIST => "EEXIST",
        libc::ENOTDIR => "ENOTDIR",
        libc::EISDIR => "EISDIR",
        libc::EINVAL => "EINVAL",
        libc::EFBIG => "EFBIG",
        libc::ENOSPC => "ENOSPC",
        libc::ESPIPE => "ESPIPE",
        libc::EROFS => "EROFS",
        libc::ERANGE => "ERANGE",
        libc::ENAMETOOLONG => "ENAMETOOLONG",
        libc::ENODATA => "ENODATA",
        libc::EILSEQ => "EILSEQ",
        libc::EOPNOTSUPP => "EOPNOTSUPP",
        libc::ETIMEDOUT => "ETIMEDOUT",
        libc::ESTALE => "ESTALE",
        libc::EDQUOT => "EDQUOT",
        libc::EMEDIUMTYPE => "EMEDIUMTYPE",
        libc::ENOKEY => "ENOKEY",
        libc::EKEYREJECTED => "EKEYREJECTED",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_request_counts_by_itself_and_strange_statuses_together() {
        let process = Process::new();
        for status in [Some(200), Some(200), Some(299), Some(418), None] {
            process.request(Call::Show, status, Duration::from_millis(1));
        }
        let shown: Vec<_> = process.requests(Call::Show).by_status().collect();
        assert_eq!(shown, [("200", 2), ("other", 2), ("none", 1)]);
        assert_eq!(process.requests(Call::Show).duration.count(), 5);
        assert_eq!(process.requests(Call::List).by_status().count(), 0);
    }

    #[test]
    fn errors_count_by_name_and_strange_ones_together() {
        let process = Process::new();
        for errno in [libc::EIO, libc::EIO, libc::EDOM, 100_000, -7] {
            process.error(errno);
        }
        assert_eq!(process.errors().collect::<Vec<_>>(), [("EIO", 2), ("other", 3)]);
    }

    #[test]
    fn tables_are_in_the_order_of_their_numbers() {
        assert!(Call::ALL.iter().enumerate().all(|(at, call)| *call as usize == at));
        assert!(KernelCall::ALL.iter().enumerate().all(|(at, call)| *call as usize == at));
    }
}
