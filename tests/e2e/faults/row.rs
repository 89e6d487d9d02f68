//! The faults of the matrix: a row each, and what it is for the request of an operation.

use std::time::Duration;

use super::operation::{Operation, Request};
use crate::harness::Fault;

/// A row of the matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Row {
    Delay,
    Slow,
    Cut,
    Stall,
    BlackHole,
    Reset,
    LostAnswer,
    /// With `Retry-After: 1`, or without.
    Status(u16, bool),
    WrongRange,
    WholeAs206,
    Short200,
    Long,
    Empty204,
    Garbage,
    EndlessPages,
    NextElsewhere,
}

impl Row {
    /// In the order of the table.
    pub const ALL: [Self; 24] = [
        Self::Delay,
        Self::Slow,
        Self::Cut,
        Self::Stall,
        Self::BlackHole,
        Self::Reset,
        Self::LostAnswer,
        Self::Status(429, false),
        Self::Status(429, true),
        Self::Status(502, false),
        Self::Status(502, true),
        Self::Status(503, false),
        Self::Status(503, true),
        Self::Status(504, false),
        Self::Status(504, true),
        Self::Status(401, false),
        Self::WrongRange,
        Self::WholeAs206,
        Self::Short200,
        Self::Long,
        Self::Empty204,
        Self::Garbage,
        Self::EndlessPages,
        Self::NextElsewhere,
    ];

    /// As the table has it.
    pub fn words(self) -> String {
        match self {
            Self::Delay => "delay of 0.3 s".into(),
            Self::Slow => "bandwidth cap".into(),
            Self::Cut => "cut in the body".into(),
            Self::Stall => "stall in the body".into(),
            Self::BlackHole => "black hole".into(),
            Self::Reset => "reset".into(),
            Self::LostAnswer => "reset instead of the answer".into(),
            Self::Status(status, false) => status.to_string(),
            Self::Status(status, true) => format!("{status}, Retry-After"),
            Self::WrongRange => "wrong Content-Range".into(),
            Self::WholeAs206 => "206 with the whole".into(),
            Self::Short200 => "200 with a short body".into(),
            Self::Long => "over-long body".into(),
            Self::Empty204 => "204".into(),
            Self::Garbage => "garbage for JSON".into(),
            Self::EndlessPages => "endless pages".into(),
            Self::NextElsewhere => "`next` at another host".into(),
        }
    }

    /// What the proxy does to the requests of `operation`; `elsewhere` is another host.
    pub fn fault(self, operation: Operation, elsewhere: &str) -> Fault {
        let request = operation.request();
        match self {
            Self::Delay => Fault::Delay(Duration::from_millis(300)),
            // About a second for what the operation asks for: a record has 700 bytes, a list of the tests 50 KB.
            Self::Slow => Fault::Slow(match request {
                Request::List => 100_000,
                Request::Record | Request::Deletion | Request::None => 2_000,
                Request::Download | Request::Upload => 2_000_000,
            }),
            Self::Cut => Fault::Cut(if small(request) { 100 } else { 100_000 }),
            Self::Stall => Fault::Stall(match request {
                _ if small(request) => 100,
                // Less than what a random read asks for at once.
                _ if operation == Operation::ReadRandom => 100_000,
                Request::Upload => 100_000,
                _ => 500_000,
            }),
            Self::BlackHole => Fault::BlackHole,
            Self::Reset => Fault::Reset,
            Self::LostAnswer => Fault::LostAnswer,
            Self::Status(status, later) => Fault::Status(status, later.then_some(1)),
            Self::WrongRange => Fault::WrongRange,
            Self::WholeAs206 => Fault::WholeAs206,
            Self::Short200 => Fault::Short200,
            Self::Long => Fault::Long,
            Self::Empty204 => Fault::Empty204,
            Self::Garbage => Fault::Garbage,
            Self::EndlessPages => Fault::EndlessPages,
            Self::NextElsewhere => Fault::NextElsewhere(elsewhere.to_owned()),
        }
    }

    /// Why it cannot happen to such a request.
    pub fn does_not_concern(self, request: Request) -> Option<&'static str> {
        let bodiless = matches!(request, Request::Upload | Request::Deletion);
        match (self, request) {
            (_, Request::None) => None,
            (Self::WrongRange | Self::WholeAs206, Request::Download) => None,
            (Self::WrongRange | Self::WholeAs206, _) => Some("only data are asked for by range"),
            (Self::EndlessPages | Self::NextElsewhere, Request::List) => None,
            (Self::EndlessPages | Self::NextElsewhere, _) => Some("only lists have pages"),
            (Self::Garbage, Request::Download) => Some("data are no JSON"),
            (Self::Short200 | Self::Long | Self::Garbage, _) if bodiless => Some("the answer has no body"),
            (Self::Cut | Self::Stall | Self::Slow, Request::Deletion) => Some("the answer has no body"),
            (Self::Empty204, Request::Deletion) => Some("a 204 is what a deletion is answered with"),
            _ => None,
        }
    }
}

/// Requests and answers of a few hundred bytes.
fn small(request: Request) -> bool {
    !matches!(request, Request::Download | Request::Upload)
}
