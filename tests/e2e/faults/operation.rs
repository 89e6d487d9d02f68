//! The operations of the matrix, and which requests each of them waits for.

/// An operation that a program asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    List,
    Lookup,
    Open,
    ReadSequential,
    ReadRandom,
    Prefetch,
    Create,
    Write,
    Flush,
    Fsync,
    Rename,
    Unlink,
    Setxattr,
}

/// What kind of request an operation waits for: what can go wrong with it depends on that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// A GET of a list.
    List,
    /// A GET of a record, or a change that is answered with one.
    Record,
    /// A GET of data.
    Download,
    /// A PUT of data.
    Upload,
    /// A DELETE.
    Deletion,
    /// None at all.
    None,
}

impl Operation {
    /// In the order of the table.
    pub const ALL: [Self; 13] = [
        Self::List,
        Self::Lookup,
        Self::Open,
        Self::ReadSequential,
        Self::ReadRandom,
        Self::Prefetch,
        Self::Create,
        Self::Write,
        Self::Flush,
        Self::Fsync,
        Self::Rename,
        Self::Unlink,
        Self::Setxattr,
    ];

    /// As the table has it.
    pub fn word(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Lookup => "lookup",
            Self::Open => "open",
            Self::ReadSequential => "read sequential",
            Self::ReadRandom => "read random",
            Self::Prefetch => "prefetch",
            Self::Create => "create",
            Self::Write => "write",
            Self::Flush => "flush",
            Self::Fsync => "fsync",
            Self::Rename => "rename",
            Self::Unlink => "unlink",
            Self::Setxattr => "setxattr",
        }
    }

    /// What a person does, and which of its requests meet the fault.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::List => "`ls` with a list older than its TTL: the pages of the list",
            Self::Lookup => "`stat` of a name that the list does not have yet: the list of that name",
            Self::Open => "`open(2)` of an image that was queued when it was seen last: its record",
            Self::ReadSequential => "`cat` of 2 MiB: its data",
            Self::ReadRandom => "`pread(2)` with O_DIRECT here and there: the data",
            Self::Prefetch => "`glancefs prefetch`: the data",
            Self::Create => "`touch`: the POST that reserves the image",
            Self::Write => "`write(2)` and `close(2)` with `--upload stream`: the PUT of the data",
            Self::Flush => "`close(2)` of what was written to the spool: the PUT of the data",
            Self::Fsync => "`fsync(2)` of what was written to the spool: any request",
            Self::Rename => "`mv`: the PATCH",
            Self::Unlink => "`rm`: the DELETE",
            Self::Setxattr => "`setfattr`: the PATCH",
        }
    }

    /// What it waits for.
    pub fn request(self) -> Request {
        match self {
            Self::List | Self::Lookup => Request::List,
            Self::ReadSequential | Self::ReadRandom | Self::Prefetch => Request::Download,
            Self::Open | Self::Create | Self::Rename | Self::Setxattr => Request::Record,
            Self::Write | Self::Flush => Request::Upload,
            Self::Unlink => Request::Deletion,
            Self::Fsync => Request::None,
        }
    }

    /// It is one of those that change something.
    pub fn changes(self) -> bool {
        !matches!(
            self,
            Self::List | Self::Lookup | Self::Open | Self::ReadSequential | Self::ReadRandom | Self::Prefetch
        )
    }
}
