//! Single flight: which blocks of an image are on their way, and who waits for which.
//!
//! A *run* is a transfer with the blocks that it has still to bring. A reader that misses a block waits for
//! the run that covers it, or claims a run of its own. Waiters belong to blocks, not to runs: when a
//! run ends, those whose block no other run covers get its error, or are told to look again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::error::{Error, Result};
use crate::units::{BlockIndex, BlockRange};

/// Streams of one image at once. One serves all who are ahead of it; the second is for those who need
/// what it has passed and the cache has lost. Further ones wait until one of them ends.
const STREAMS: usize = 2;

/// What comes for a waiter: the block, or the failure of its transfer. A sender that is dropped says
/// "look again".
pub(super) type Answer = oneshot::Receiver<Result<Bytes>>;

/// The transfers of one image and who waits for them. Its lock is held for table look-ups only; the
/// lock of the memory tier may be taken under it, never the other way round.
#[derive(Default)]
pub(super) struct Flights {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    runs: Vec<Run>,
    waiters: HashMap<BlockIndex, Vec<oneshot::Sender<Result<Bytes>>>>,
    next_id: u64,
}

struct Run {
    id: u64,
    rest: BlockRange,
    stream: bool,
}

/// What a claim gave: answers to wait for, and transfers to start.
pub(super) struct Claim {
    pub answers: Vec<(BlockIndex, Answer)>,
    pub tickets: Vec<Ticket>,
}

impl State {
    fn covers(&self, block: BlockIndex) -> bool {
        self.runs.iter().any(|run| run.rest.contains(block))
    }

    fn run(&mut self, id: u64) -> Option<&mut Run> {
        self.runs.iter_mut().find(|run| run.id == id)
    }

    fn streams(&self) -> usize {
        self.runs.iter().filter(|run| run.stream).count()
    }

    fn begin(&mut self, rest: BlockRange, stream: bool) -> u64 {
        self.next_id += 1;
        self.runs.push(Run { id: self.next_id, rest, stream });
        self.next_id
    }

    fn wait_for(&mut self, block: BlockIndex) -> (BlockIndex, Answer) {
        let (sender, answer) = oneshot::channel();
        self.waiters.entry(block).or_default().push(sender);
        (block, answer)
    }

    /// Somebody waits for a block that no run will bring.
    fn has_orphans(&mut self) -> bool {
        self.waiters.retain(|_, senders| {
            senders.retain(|sender| !sender.is_closed());
            !senders.is_empty()
        });
        self.waiters.keys().any(|block| !self.covers(*block))
    }

    /// Takes out the waiters whose block no run will bring.
    fn orphans(&mut self) -> Vec<oneshot::Sender<Result<Bytes>>> {
        let lost: Vec<_> = self.waiters.keys().copied().filter(|block| !self.covers(*block)).collect();
        lost.iter().filter_map(|block| self.waiters.remove(block)).flatten().collect()
    }
}

impl Flights {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The block is on its way.
    pub(super) fn covers(&self, block: BlockIndex) -> bool {
        self.state().covers(block)
    }

    /// Waits for each block of `wanted`, and claims runs for what of `wanted` and `fetch` is neither on
    /// its way nor in memory nor, where only `fetch` names it, on disk.
    ///
    /// A block of `wanted` that has come into memory by now gets no answer: look again. No run is
    /// longer than `piece` blocks.
    pub(super) fn claim(
        self: &Arc<Self>,
        wanted: &[BlockIndex],
        fetch: BlockRange,
        piece: usize,
        in_memory: impl Fn(BlockIndex) -> bool,
        on_disk: impl Fn(BlockIndex) -> bool,
    ) -> Claim {
        let mut state = self.state();
        let mut needed: Vec<BlockIndex> = Vec::new();
        let mut answers = Vec::new();
        for block in wanted.iter().copied().filter(|block| !in_memory(*block)) {
            if !state.covers(block) {
                needed.push(block);
            }
            answers.push(state.wait_for(block));
        }
        let optional = fetch.iter().filter(|block| {
            !wanted.contains(block) && !state.covers(*block) && !in_memory(*block) && !on_disk(*block)
        });
        let mut missing: Vec<BlockIndex> = needed.iter().copied().chain(optional).collect();
        missing.sort_unstable();
        let mut tickets = Vec::new();
        for run in missing.chunk_by(|a, b| a.next() == *b) {
            for piece in run.chunks(piece.max(1)) {
                let [first, .., last] = piece else {
                    tickets.extend(piece.iter().map(|only| self.ticket(&mut state, *only, *only, &needed)));
                    continue;
                };
                tickets.push(self.ticket(&mut state, *first, *last, &needed));
            }
        }
        Claim { answers, tickets }
    }

    fn ticket(
        self: &Arc<Self>,
        state: &mut State,
        first: BlockIndex,
        last: BlockIndex,
        needed: &[BlockIndex],
    ) -> Ticket {
        let blocks = BlockRange { start: first, end: last.next() };
        let mut inside = needed.iter().copied().filter(|block| blocks.contains(*block));
        let owed = inside.next().map(|start| {
            let end = inside.next_back().unwrap_or(start).next();
            BlockRange { start, end }
        });
        Ticket { flights: Arc::clone(self), id: state.begin(blocks, false), owed }
    }

    /// Waits for each block of `wanted` in an image that comes as one stream, and claims a new stream
    /// over `whole` if none will bring them all and there are not enough already.
    pub(super) fn claim_stream(
        self: &Arc<Self>,
        wanted: &[BlockIndex],
        whole: BlockRange,
        in_memory: impl Fn(BlockIndex) -> bool,
    ) -> Claim {
        let mut state = self.state();
        let mut answers = Vec::new();
        let mut lost = false;
        for block in wanted.iter().copied().filter(|block| !in_memory(*block)) {
            lost |= !state.covers(block);
            answers.push(state.wait_for(block));
        }
        let mut tickets = Vec::new();
        if lost && state.streams() < STREAMS {
            let id = state.begin(whole, true);
            tickets.push(Ticket { flights: Arc::clone(self), id, owed: Some(whole) });
        }
        Claim { answers, tickets }
    }
}

/// The duty to bring the blocks of one run. Dropped before it is done, the waiters look again.
pub(super) struct Ticket {
    flights: Arc<Flights>,
    id: u64,
    owed: Option<BlockRange>,
}

impl Ticket {
    /// The blocks still to be brought.
    pub(super) fn rest(&self) -> BlockRange {
        let none = BlockRange { start: BlockIndex(0), end: BlockIndex(0) };
        self.flights.state().run(self.id).map_or(none, |run| run.rest)
    }

    /// The part of them that a reader waited for when the run was claimed; `None`: a pure prefetch.
    pub(super) fn owed(&self) -> Option<BlockRange> {
        self.owed
    }

    /// Gives up what is not owed.
    pub(super) fn trim(&mut self) {
        let Some(owed) = self.owed else { return };
        let mut state = self.flights.state();
        if let Some(run) = state.run(self.id) {
            run.rest = owed;
        }
        state.orphans();
    }

    /// Somebody waits for one of its blocks.
    pub(super) fn has_waiters(&self) -> bool {
        let mut state = self.flights.state();
        let Some(rest) = state.run(self.id).map(|run| run.rest) else { return false };
        let alive = |senders: &Vec<oneshot::Sender<_>>| senders.iter().any(|sender| !sender.is_closed());
        state.waiters.iter().any(|(block, senders)| rest.contains(*block) && alive(senders))
    }

    /// `block` has come and is in memory: those who wait for it get it. Blocks come in order.
    pub(super) fn deliver(&self, block: BlockIndex, bytes: &Bytes) {
        let waiters = {
            let mut state = self.flights.state();
            if let Some(run) = state.run(self.id) {
                run.rest.start = block.next().max(run.rest.start).min(run.rest.end);
            }
            state.waiters.remove(&block)
        };
        for waiter in waiters.into_iter().flatten() {
            waiter.send(Ok(bytes.clone())).ok();
        }
    }

    /// Turns the run into a stream over `whole`, if those who wait need one; `false`: they do not, or
    /// there are enough. For a run that was refused its range, and for a stream that has ended.
    pub(super) fn restart_as_stream(&mut self, whole: BlockRange) -> bool {
        let mut state = self.flights.state();
        let id = self.id;
        state.runs.retain(|run| run.id != id);
        if !state.has_orphans() || state.streams() >= STREAMS {
            return false;
        }
        state.runs.push(Run { id, rest: whole, stream: true });
        self.owed = Some(whole);
        true
    }

    /// The transfer failed: so does every wait that nothing else will end.
    pub(super) fn fail(self, error: &Error) {
        let orphans = {
            let mut state = self.flights.state();
            let id = self.id;
            state.runs.retain(|run| run.id != id);
            state.orphans()
        };
        for waiter in orphans {
            waiter.send(Err(error.duplicate())).ok();
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut state = self.flights.state();
        let id = self.id;
        state.runs.retain(|run| run.id != id);
        // With another stream still running, its end will see to those it does not cover.
        if state.streams() == 0 {
            drop(state.orphans());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    const PIECE: usize = 100;

    fn blocks(start: u64, end: u64) -> BlockRange {
        BlockRange { start: BlockIndex(start), end: BlockIndex(end) }
    }

    fn claim(flights: &Arc<Flights>, wanted: &[u64], fetch: BlockRange) -> Claim {
        let wanted: Vec<_> = wanted.iter().copied().map(BlockIndex).collect();
        flights.claim(&wanted, fetch, PIECE, |_| false, |_| false)
    }

    #[test]
    fn two_readers_of_one_block_share_one_transfer() {
        let flights = Arc::new(Flights::default());
        let mut one = claim(&flights, &[3], blocks(3, 4));
        let mut two = claim(&flights, &[3], blocks(3, 4));
        assert_eq!((one.tickets.len(), two.tickets.len()), (1, 0));
        one.tickets[0].deliver(BlockIndex(3), &Bytes::from_static(b"x"));
        for claim in [&mut one, &mut two] {
            assert_eq!(claim.answers[0].1.try_recv().unwrap().unwrap(), "x");
        }
    }

    #[test]
    fn only_what_is_missing_is_claimed_and_large_runs_are_cut_up() {
        let flights = Arc::new(Flights::default());
        let first = claim(&flights, &[], blocks(10, 12));
        let wanted = [BlockIndex(9), BlockIndex(10)];
        let on_disk = |block: BlockIndex| block.0 == 14;
        let second = flights.claim(&wanted, blocks(9, 17 + PIECE as u64), PIECE, |_| false, on_disk);
        let rests: Vec<_> = second.tickets.iter().map(Ticket::rest).collect();
        let piece = PIECE as u64;
        let end = 17 + piece;
        assert_eq!(rests, [blocks(9, 10), blocks(12, 14), blocks(15, 15 + piece), blocks(15 + piece, end)]);
        let owed: Vec<_> = second.tickets.iter().map(Ticket::owed).collect();
        assert_eq!(owed, [Some(blocks(9, 10)), None, None, None]);
        assert_eq!(second.answers.len(), 2);
        assert_eq!(first.tickets[0].owed(), None);
    }

    #[test]
    fn a_block_that_came_meanwhile_is_looked_up_again() {
        let flights = Arc::new(Flights::default());
        let claim = flights.claim(&[BlockIndex(1)], blocks(1, 2), PIECE, |_| true, |_| false);
        assert!(claim.answers.is_empty() && claim.tickets.is_empty());
    }

    #[test]
    fn a_failure_reaches_every_waiter_of_the_rest_once() {
        let flights = Arc::new(Flights::default());
        let mut one = claim(&flights, &[0, 1], blocks(0, 2));
        let mut two = claim(&flights, &[1, 2], blocks(1, 3));
        let ticket = one.tickets.remove(0);
        ticket.deliver(BlockIndex(0), &Bytes::from_static(b"x"));
        ticket.fail(&Error::new(Kind::Unreachable, "gone"));
        assert!(one.answers[0].1.try_recv().unwrap().is_ok());
        for answer in [&mut one.answers[1].1, &mut two.answers[0].1] {
            assert_eq!(answer.try_recv().unwrap().unwrap_err().kind(), Kind::Unreachable);
        }
        assert!(two.answers[1].1.try_recv().is_err(), "another transfer brings block 2");
        assert!(flights.covers(BlockIndex(2)) && !flights.covers(BlockIndex(1)));
    }

    #[test]
    fn a_dropped_transfer_tells_its_waiters_to_look_again() {
        let flights = Arc::new(Flights::default());
        let mut one = claim(&flights, &[5], blocks(5, 6));
        one.tickets.clear();
        assert!(matches!(one.answers[0].1.try_recv(), Err(oneshot::error::TryRecvError::Closed)));
        assert!(!flights.covers(BlockIndex(5)));
    }

    #[test]
    fn refused_ranges_end_in_one_stream() {
        let flights = Arc::new(Flights::default());
        let whole = blocks(0, 100);
        let mut one = claim(&flights, &[50], blocks(50, 51));
        let mut two = claim(&flights, &[60], blocks(60, 61));
        let mut first = one.tickets.remove(0);
        let mut second = two.tickets.remove(0);
        assert!(first.restart_as_stream(whole));
        assert!(!second.restart_as_stream(whole), "the stream brings block 60 too");
        drop(second);
        first.deliver(BlockIndex(50), &Bytes::new());
        first.deliver(BlockIndex(60), &Bytes::new());
        assert!(one.answers[0].1.try_recv().unwrap().is_ok());
        assert!(two.answers[0].1.try_recv().unwrap().is_ok());
    }

    #[test]
    fn a_reader_behind_the_stream_gets_a_second_and_a_third_waits_for_it() {
        let flights = Arc::new(Flights::default());
        let whole = blocks(0, 100);
        let stream = |wanted: u64| flights.claim_stream(&[BlockIndex(wanted)], whole, |_| false);
        let mut one = stream(10);
        (0..50).for_each(|block| one.tickets[0].deliver(BlockIndex(block), &Bytes::new()));
        assert!(stream(70).tickets.is_empty());
        let two = stream(20);
        assert_eq!(two.tickets.len(), 1);
        (0..50).for_each(|block| two.tickets[0].deliver(BlockIndex(block), &Bytes::new()));
        let three = stream(30);
        assert!(three.tickets.is_empty());
        let mut ticket = one.tickets.remove(0);
        assert!(ticket.restart_as_stream(whole), "block 30 is still wanted");
        drop((three, two));
        assert!(!ticket.restart_as_stream(whole), "nobody waits any more");
    }

    #[test]
    fn a_trimmed_run_keeps_what_is_owed() {
        let flights = Arc::new(Flights::default());
        let mut claim = claim(&flights, &[2], blocks(2, 10));
        claim.tickets[0].trim();
        assert_eq!(claim.tickets[0].rest(), blocks(2, 3));
        assert!(!flights.covers(BlockIndex(3)));
        assert!(claim.tickets[0].has_waiters());
        claim.answers.clear();
        assert!(!claim.tickets[0].has_waiters());
    }
}
