//! What is expected of each cell of the matrix: every rule of the design that a fault tests, in one table.

use super::operation::{Operation, Request};
use super::row::Row;

/// How often a request meets the fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// The first, and no other.
    Once,
    /// Each, until the operation has ended.
    ForGood,
}

/// What a program is to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// It succeeds, with the right bytes.
    Succeeds,
    /// It succeeds, showing the last good list.
    LastGood,
    /// This errno.
    Fails(i32),
    /// Either: how the bytes are cut on their way decides it.
    MayFail(i32),
    /// The fault cannot happen to it.
    NotConcerned(&'static str),
}

impl Expected {
    /// For the table.
    pub fn word(self) -> String {
        match self {
            Self::Succeeds => "ok".into(),
            Self::LastGood => "last".into(),
            Self::Fails(errno) => name(errno).into(),
            Self::MayFail(errno) => format!("ok or {}", name(errno)),
            Self::NotConcerned(_) => "–".into(),
        }
    }
}

/// The name of an errno that a cell can have.
pub fn name(errno: i32) -> &'static str {
    match errno {
        libc::EIO => "EIO",
        libc::EACCES => "EACCES",
        libc::ETIMEDOUT => "ETIMEDOUT",
        libc::ENOENT => "ENOENT",
        libc::EBUSY => "EBUSY",
        _ => "another errno",
    }
}

/// What is expected of one cell.
pub fn expected(operation: Operation, row: Row, span: Span) -> Expected {
    use Expected::{Fails, LastGood, MayFail, NotConcerned, Succeeds};
    let request = operation.request();
    if let Some(why) = row.does_not_concern(request) {
        return NotConcerned(why);
    }
    // Nothing is asked of the cloud.
    if operation == Operation::Fsync {
        return Succeeds;
    }
    let usual = match (row, span) {
        (Row::Delay | Row::Slow | Row::NextElsewhere, _) => Succeeds,
        // Each try brings something, and the next goes on where it ended.
        (Row::Cut | Row::Stall, _) if request == Request::Download => Succeeds,
        // One try, and no spool to read the data again from.
        (Row::LostAnswer, _) if operation == Operation::Write => Succeeds,
        // There is a new token, so nobody is refused: what was written has to be written again.
        (Row::Status(401, _), _) if operation == Operation::Write => Fails(libc::EIO),
        (Row::Status(..) | Row::Empty204, Span::Once) if operation == Operation::Write => Fails(libc::EIO),
        (_, Span::Once) if operation == Operation::Write => Fails(libc::ETIMEDOUT),
        // No byte moves for the deadline: the end of an upload, without another try.
        (Row::Stall | Row::BlackHole, _) if request == Request::Upload => Fails(libc::ETIMEDOUT),
        // The record tells that the data have arrived.
        (Row::LostAnswer, _) if request == Request::Upload => Succeeds,
        // The image of this id is there when it is asked for again, which its status tells without a body.
        (Row::Cut, _) if operation == Operation::Create => Succeeds,
        // Not worth another try: the server answers, and makes no sense.
        (Row::Garbage | Row::Empty204 | Row::Short200 | Row::Long, _)
            if matches!(request, Request::List | Request::Record) =>
        {
            Fails(libc::EIO)
        }
        // The range is the whole.
        (Row::WholeAs206, _) if operation == Operation::Prefetch => Succeeds,
        // A look-up by name reads the first page only.
        (Row::EndlessPages, _) if operation == Operation::Lookup => Succeeds,
        (Row::EndlessPages, Span::ForGood) => Fails(libc::EIO),
        (_, Span::Once) => Succeeds,
        (Row::Status(401, _), Span::ForGood) => Fails(libc::EACCES),
        (Row::Status(..), Span::ForGood) => Fails(libc::EIO),
        (Row::Long, Span::ForGood) => MayFail(libc::EIO),
        (Row::WrongRange | Row::WholeAs206 | Row::Short200 | Row::Empty204 | Row::Garbage, Span::ForGood) => {
            Fails(libc::EIO)
        }
        (Row::Cut | Row::Stall | Row::BlackHole | Row::Reset | Row::LostAnswer, Span::ForGood) => {
            Fails(libc::ETIMEDOUT)
        }
    };
    match (operation, usual) {
        // Half of the deadline is waited for a list, and for one silent server.
        (Operation::List, Succeeds) if matches!(row, Row::Stall | Row::BlackHole) => LastGood,
        // The list that is there serves.
        (Operation::List, Fails(_)) => LastGood,
        // What read(2) gives when the bytes cannot be had, whatever the reason.
        (Operation::ReadSequential | Operation::ReadRandom, Fails(libc::ETIMEDOUT)) => Fails(libc::EIO),
        // A command has no errno: it ends with code 1 and says why.
        (Operation::Prefetch, Fails(_)) => Fails(libc::EIO),
        _ => usual,
    }
}
