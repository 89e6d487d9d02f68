//! What can go wrong with one exchange between a client and a server.

use std::time::Duration;

/// A fault. Those up to `Status` happen before the server has seen the request; after the others it has carried it out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It is accepted, and nothing is ever answered.
    BlackHole,
    /// The connection is reset.
    Reset,
    /// This status comes instead of an answer, with `Retry-After` in seconds.
    Status(u16, Option<u64>),
    /// It is passed on after this time.
    Delay(Duration),
    /// The data come, or go, at so many bytes a second.
    Slow(u64),
    /// The connection ends after so many bytes of the data: those of an upload on their way to the server, else those of the answer.
    Cut(u64),
    /// So many bytes of the data come, or go, and nothing more ever does.
    Stall(u64),
    /// The connection is reset instead of an answer.
    LostAnswer,
    /// `Content-Range` tells of bytes one further on.
    WrongRange,
    /// A 206 for the range that was asked for brings the whole.
    WholeAs206,
    /// A 200 brings half of the whole, and says that this is all.
    Short200,
    /// More comes than there is, without a length before it.
    Long,
    /// A 204 comes: there are no data. The server has not seen the request.
    Empty204,
    /// The answer was made at this time, says its head.
    Date(String),
    /// The answer is no JSON.
    Garbage,
    /// Each page of a list has a next one; those after the first have no image.
    EndlessPages,
    /// The next page of a list is said to be at this URL.
    NextElsewhere(String),
}
