//! When a close makes a file an image: a pure decision from what is known at the FLUSH.
//!
//! FUSE sends a FLUSH for each close of each copy of a descriptor, and the reply to it is the last
//! chance to tell the program of an error. Not every FLUSH is the end, though:
//!
//! - `cat > f` and `dd of=f` close a copy before they write anything;
//! - children that inherited the descriptor close it when they exit;
//! - a process killed by a signal closes its files as one that is done does;
//! - `qemu-img` creates, closes and opens again. Traces of raw, qcow2, vmdk, vhdx, vdi and vpc
//!   targets agree: `O_RDWR|O_CREAT` without `O_EXCL` or `O_TRUNC` writes nothing but zeros; a second
//!   open writes a raw image whole, or formats a container; a third then fills the container.

use futures_util::future::BoxFuture;

/// A process, named by its thread group, as `/proc` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ThreadGroup(pub u32);

/// Who closes a descriptor, as far as `/proc` tells. Another PID namespace shows nothing; such a
/// process is taken to be the opener, alive, at its last close.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Closer {
    /// Its thread group.
    pub group: Option<ThreadGroup>,
    /// It is being ended by a signal.
    pub killed: bool,
    /// It has further descriptors of the same file.
    pub holds_more: bool,
}

/// The process behind a close, watched while its file is being uploaded.
pub trait Watch: Send + 'static {
    /// Ends when a signal that will end the process waits for it.
    fn killed(&self) -> BoxFuture<'static, ()>;
    /// Ends when the process has ended.
    fn ended(&self) -> BoxFuture<'static, ()>;
}

/// How a writing handle came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Opened by a program that will close it once.
    Only,
    /// `O_RDWR|O_CREAT` without `O_EXCL` or `O_TRUNC`: its process may open the file again.
    Creating,
    /// Opened again by the process of `Creating`.
    Second,
    /// And again.
    Third,
}

/// What is known of a handle at a FLUSH.
#[derive(Debug, Clone, Copy)]
pub(super) struct Handle {
    pub(super) opener: Option<ThreadGroup>,
    pub(super) step: Step,
    /// A byte other than zero was written through it.
    pub(super) wrote_data: bool,
}

/// What is known of the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct File {
    /// Written or truncated, and not yet committed.
    pub(super) dirty: bool,
    /// There is a record for it at the server.
    pub(super) recorded: bool,
    /// Its content begins as that of qcow2, vmdk or another container format does.
    pub(super) container: bool,
}

/// What a FLUSH is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// Not the end, or nothing to do.
    Nothing,
    /// Create the record; data may come later.
    Reserve,
    /// Upload.
    Commit,
    /// The process may go on with the file: commit once it has ended.
    WhenGone,
    /// Keep the spool, publish nothing.
    Abandon,
}

/// Decides what a FLUSH by `closer` is to do.
pub(super) fn on_flush(file: File, handle: Handle, closer: Closer) -> Decision {
    if closer.group != handle.opener {
        return Decision::Nothing;
    }
    if closer.killed {
        return if file.dirty || !file.recorded { Decision::Abandon } else { Decision::Nothing };
    }
    if closer.holds_more {
        return Decision::Nothing;
    }
    let goes_on = match handle.step {
        Step::Only | Step::Third => false,
        Step::Creating => !handle.wrote_data,
        Step::Second => file.container,
    };
    match (goes_on, file.dirty, file.recorded) {
        (true, ..) => Decision::WhenGone,
        (false, true, _) => Decision::Commit,
        // `cat > f` closes a copy before it writes; only `/proc` tells that from `touch`.
        (false, false, false) if closer.group.is_none() => Decision::Nothing,
        (false, false, false) => Decision::Reserve,
        (false, false, true) => Decision::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITTEN: File = File { dirty: true, recorded: false, container: false };
    const EMPTY: File = File { dirty: false, ..WRITTEN };
    const CP: Handle = Handle { opener: Some(ThreadGroup(7)), step: Step::Only, wrote_data: true };
    const DONE: Closer = Closer { group: Some(ThreadGroup(7)), killed: false, holds_more: false };

    #[test]
    fn the_openers_last_close_of_a_written_file_commits() {
        assert_eq!(on_flush(WRITTEN, CP, DONE), Decision::Commit);
        assert_eq!(on_flush(File { recorded: true, ..WRITTEN }, CP, DONE), Decision::Commit);
    }

    #[test]
    fn closing_a_copy_is_not_the_end() {
        assert_eq!(on_flush(EMPTY, CP, Closer { holds_more: true, ..DONE }), Decision::Nothing);
        assert_eq!(on_flush(WRITTEN, CP, Closer { holds_more: true, ..DONE }), Decision::Nothing);
    }

    #[test]
    fn a_childs_close_is_not_the_end() {
        let child = Closer { group: Some(ThreadGroup(8)), ..DONE };
        assert_eq!(on_flush(WRITTEN, CP, child), Decision::Nothing);
        assert_eq!(on_flush(WRITTEN, CP, Closer { killed: true, ..child }), Decision::Nothing);
    }

    #[test]
    fn a_killed_writer_publishes_nothing() {
        let killed = Closer { killed: true, ..DONE };
        assert_eq!(on_flush(WRITTEN, CP, killed), Decision::Abandon);
        assert_eq!(on_flush(WRITTEN, CP, Closer { holds_more: true, ..killed }), Decision::Abandon);
        assert_eq!(on_flush(EMPTY, CP, killed), Decision::Abandon, "nor reserves a name");
        let committed = File { recorded: true, ..EMPTY };
        assert_eq!(on_flush(committed, CP, killed), Decision::Nothing, "what is an image stays one");
    }

    #[test]
    fn a_file_never_written_reserves_its_name() {
        assert_eq!(on_flush(EMPTY, CP, DONE), Decision::Reserve);
        assert_eq!(on_flush(File { recorded: true, ..EMPTY }, CP, DONE), Decision::Nothing);
    }

    #[test]
    fn qemu_img_ends_a_raw_image_with_its_second_close_and_a_container_with_its_third() {
        let step = |step, wrote_data| Handle { step, wrote_data, ..CP };
        let qcow2 = File { container: true, ..WRITTEN };
        assert_eq!(on_flush(WRITTEN, step(Step::Creating, false), DONE), Decision::WhenGone);
        assert_eq!(on_flush(WRITTEN, step(Step::Second, true), DONE), Decision::Commit);
        assert_eq!(on_flush(qcow2, step(Step::Second, true), DONE), Decision::WhenGone);
        assert_eq!(on_flush(qcow2, step(Step::Third, true), DONE), Decision::Commit);
    }

    #[test]
    fn a_program_that_creates_as_qemu_img_does_but_writes_data_is_done_at_its_close() {
        assert_eq!(on_flush(WRITTEN, Handle { step: Step::Creating, ..CP }, DONE), Decision::Commit);
    }

    #[test]
    fn a_process_that_proc_does_not_show_is_taken_to_be_done() {
        let unseen = Handle { opener: None, ..CP };
        assert_eq!(on_flush(WRITTEN, unseen, Closer::default()), Decision::Commit);
        assert_eq!(on_flush(EMPTY, unseen, Closer::default()), Decision::Nothing, "it may go on to write");
    }
}
