//! Holding back the block that completes a copy, until the whole of it was compared with its hash.
//!
//! Whoever reads an image whole needs the block that comes last, so a tampered image cannot be read whole
//! with success when that one block waits for the verdict. No other block waits, nor does the transfer
//! that brings it: what is held is the reply to the reads that want it. A copy that was proven once is
//! never held again, since a block that was evicted and fetched anew must not stop a guest's disk.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::units::{BlockIndex, BlockRange};

use super::disk::DiskImage;

/// The part of the time that fetching took by which a reader may wait longer: what comes at 2 Gb/s or less
/// is hashed as fast as it comes, so that there is nothing left to wait for; on a faster network a whole read
/// is not slowed down by more than this.
const SHARE: u32 = 20;

/// What one image holds back. Its lock is a leaf.
pub(super) struct Hold {
    /// The longest that a read waits; `None`: a share of the time since the first block came.
    limit: Option<Duration>,
    state: Mutex<State>,
    /// Something is held: spares the readers of all other blocks the lock.
    active: AtomicBool,
    /// Told at each change of what is held.
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// Nothing will be held any more: the image has no hash, or its copy was proven.
    waived: bool,
    /// When the first block came.
    since: Option<Instant>,
    /// Blocks on their way to the disk, as many as the writer's queue takes and transfers run.
    arriving: HashSet<BlockIndex>,
    held: Option<Held>,
    /// How often a block came or something was held.
    events: u64,
}

#[derive(Clone, Copy)]
struct Held {
    blocks: BlockRange,
    until: Instant,
}

/// A moment when no block was on its way to the disk. What is found out after it says nothing of blocks that came
/// meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Quiet {
    events: u64,
}

impl State {
    fn quiet(&self) -> Option<Quiet> {
        self.arriving.is_empty().then_some(Quiet { events: self.events })
    }
}

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waited {
    /// The blocks are not held, or no longer.
    Free,
    /// The time was up before the verdict; nobody waits for it any more.
    Lapsed,
}

impl Hold {
    /// Holds reads no longer than `limit`, or than is fair where that is `None`, and none where `possible` is false: there is no hash.
    pub(super) fn new(limit: Option<Duration>, possible: bool) -> Self {
        let never = limit.is_some_and(|limit| limit.is_zero());
        let state = State { waived: !possible || never, ..State::default() };
        Self { limit, state: Mutex::new(state), active: AtomicBool::new(false), changed: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something may be held: the verdict matters to a reader.
    pub(super) fn is_possible(&self) -> bool {
        !self.state().waived
    }

    /// `block` has come and goes to `disk`; if it is the last one missing there, it is held. To be called
    /// before anybody can see the block.
    pub(super) fn arrives(&self, block: BlockIndex, disk: &DiskImage) {
        let mut state = self.state();
        if state.waived {
            return;
        }
        state.since.get_or_insert_with(Instant::now);
        state.events += 1;
        state.arriving.insert(block);
        // What is held already was new when all the rest was here; a block that comes now came before (two
        // streams bring the same), and who read it then must not have the other one as well.
        if state.held.is_none() && disk.is_completed_by(&state.arriving) && !disk.was_proven() {
            self.set(&mut state, Some(BlockRange { start: block, end: block.next() }));
        }
    }

    /// `blocks` were written, or given up. `Some` when none is on its way to the disk any more.
    pub(super) fn arrived(&self, blocks: BlockRange) -> Option<Quiet> {
        let mut state = self.state();
        for block in blocks.iter() {
            state.arriving.remove(&block);
        }
        state.quiet()
    }

    /// `Some` when no block is on its way to the disk.
    pub(super) fn quiet(&self) -> Option<Quiet> {
        self.state().quiet()
    }

    /// `blocks` are held: the copy was found complete.
    pub(super) fn hold(&self, blocks: BlockRange) {
        let mut state = self.state();
        if !state.waived {
            state.events += 1;
            self.set(&mut state, Some(blocks));
        }
    }

    /// Nothing is held any more: there is a verdict, or there will be none.
    pub(super) fn release(&self) {
        self.set(&mut self.state(), None);
    }

    /// Nothing is held any more: after `quiet` it was found that there will be no verdict. If a block came
    /// since then that completes the copy after all, it stays held: who writes it sees to its release.
    pub(super) fn release_since(&self, quiet: Quiet) {
        let mut state = self.state();
        if state.quiet() == Some(quiet) {
            self.set(&mut state, None);
        }
    }

    /// Nothing is held from now on: the whole matched its hash.
    pub(super) fn waive(&self) {
        let mut state = self.state();
        *state = State { waived: true, ..State::default() };
        self.set(&mut state, None);
    }

    fn set(&self, state: &mut State, blocks: Option<BlockRange>) {
        let fair = || state.since.map_or(Duration::ZERO, |since| since.elapsed() / SHARE);
        let limit = self.limit.unwrap_or_else(fair);
        state.held =
            blocks.filter(|_| !limit.is_zero()).map(|blocks| Held { blocks, until: Instant::now() + limit });
        self.active.store(state.held.is_some(), Ordering::Release);
        self.changed.notify_waiters();
    }

    /// One of `blocks` is held. To be asked after the blocks were found, since they may come in between.
    pub(super) fn holds(&self, blocks: BlockRange) -> bool {
        self.held(blocks).is_some()
    }

    fn held(&self, blocks: BlockRange) -> Option<Held> {
        if !self.active.load(Ordering::Acquire) {
            return None;
        }
        let overlaps = |held: &Held| held.blocks.start < blocks.end && blocks.start < held.blocks.end;
        self.state().held.filter(overlaps)
    }

    /// Returns when none of `blocks` is held, at the latest when the time is up.
    pub(super) async fn wait(&self, blocks: BlockRange) -> Waited {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let Some(held) = self.held(blocks) else { return Waited::Free };
            if timeout_at(held.until, changed).await.is_ok() {
                continue;
            }
            let mut state = self.state();
            // The first of those who wait lets all of them go.
            if state.held.is_some_and(|now| now.until == held.until) {
                self.set(&mut state, None);
                return Waited::Lapsed;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(start: u64, end: u64) -> BlockRange {
        BlockRange { start: BlockIndex(start), end: BlockIndex(end) }
    }

    #[tokio::test(start_paused = true)]
    async fn only_readers_of_what_is_held_wait_and_only_until_the_time_is_up() {
        let hold = Hold::new(Some(Duration::from_secs(20)), true);
        hold.hold(blocks(7, 8));
        assert_eq!(hold.wait(blocks(0, 7)).await, Waited::Free);
        assert_eq!(hold.wait(blocks(8, 9)).await, Waited::Free);
        let begin = Instant::now();
        let (one, two) = tokio::join!(hold.wait(blocks(5, 8)), hold.wait(blocks(7, 9)));
        assert_eq!(begin.elapsed().as_secs(), 20);
        let mut both = [one, two];
        both.sort_by_key(|waited| *waited == Waited::Lapsed);
        assert_eq!(both, [Waited::Free, Waited::Lapsed], "it is told once");
        assert!(!hold.holds(blocks(7, 8)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_verdict_lets_them_go_at_once() {
        let hold = Hold::new(Some(Duration::from_secs(20)), true);
        hold.hold(blocks(7, 8));
        let begin = Instant::now();
        let (waited, ()) = tokio::join!(hold.wait(blocks(0, 9)), async { hold.release() });
        assert_eq!((waited, begin.elapsed()), (Waited::Free, Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn by_default_a_reader_waits_for_a_twentieth_of_the_time_so_far() {
        let hold = Hold::new(None, true);
        hold.state().since = Some(Instant::now());
        tokio::time::advance(Duration::from_secs(100)).await;
        hold.hold(blocks(7, 8));
        let begin = Instant::now();
        assert_eq!(hold.wait(blocks(7, 8)).await, Waited::Lapsed);
        assert_eq!(begin.elapsed().as_secs(), 5);
    }

    #[tokio::test]
    async fn without_a_hash_or_time_or_after_a_proof_nothing_is_held() {
        let proven = Hold::new(Some(Duration::from_secs(20)), true);
        proven.hold(blocks(0, 1));
        proven.waive();
        for hold in
            [proven, Hold::new(Some(Duration::ZERO), true), Hold::new(None, false), Hold::new(None, true)]
        {
            hold.hold(blocks(0, 1));
            assert!(!hold.holds(blocks(0, 1)));
        }
    }
}
