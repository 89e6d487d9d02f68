//! Uploads without a spool (`--upload stream`): what a program writes, in order, goes to Glance at once.
//!
//! ```text
//! write(2) ─▶ Stream (position, hashes) ─▶ head, until the format is told
//!                                          then a channel of a few pieces ─▶ Pieces ─▶ chunked PUT
//! close(2) ─▶ End ─▶ the last chunk ─▶ GET until active, compare size and hash
//! ```
//! The body ends in one way only: by [`Piece::End`], which a close sends. Whatever else becomes of the
//! writer, the channel ends without it, the body gives an error and the connection is broken inside of
//! the chunked body. So no server can take half of a file for all of it.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use aws_lc_rs::digest;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use md5::{Digest as _, Md5};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio_util::sync::CancellationToken;

use super::body::Digests;
use super::commit::Commit;
use super::journal::{Durability, Record, Step, Streamed};
use super::upload::{Upload, may_have_happened};
use crate::blocking::blocking;
use crate::error::{Error, Kind, Result};
use crate::format::sniff;
use crate::glance::{BodyStream, Image};
use crate::units::{ByteRange, hexadecimal};

/// What is held back until the format is known: an ISO names itself at 32769.
const HEAD: usize = 64 << 10;

/// Writes that wait for the network. The kernel's are of 1 MiB at most, so a stream holds 3 MiB.
const PIECES_AHEAD: usize = 2;

/// What goes from the writer to the network.
enum Piece {
    Data(Bytes),
    /// The writer has closed the file: this was all.
    End,
}

/// The writer's side.
pub(super) struct Stream {
    /// Bytes written, in order.
    position: AtomicU64,
    /// Held while a write waits for the network: another one has to wait for its turn anyway.
    pen: Mutex<Pen>,
    /// The network's side, until it is begun.
    pieces: Mutex<Option<Pieces>>,
    /// The body ends with an error.
    cut: CancellationToken,
}

struct Pen {
    head: Vec<u8>,
    hashes: Option<(Md5, digest::Context)>,
    total: Arc<OnceLock<(u64, Digests)>>,
    to_network: Option<mpsc::Sender<Piece>>,
    upload: Option<Commit>,
    failure: Option<Error>,
}

impl Pen {
    /// Waits until the network takes `piece`; `None` when the upload has ended before. Its body can be there longer than
    /// the upload: the HTTP client keeps it until a full socket moves again.
    fn give(&self, to_network: &mpsc::Sender<Piece>, piece: Piece) -> Option<()> {
        let piece = match to_network.try_send(piece) {
            Ok(()) => return Some(()),
            Err(TrySendError::Closed(_)) => return None,
            Err(TrySendError::Full(piece)) => piece,
        };
        let upload = self.upload.clone()?;
        tokio::runtime::Handle::current().block_on(async {
            tokio::select! {
                given = to_network.send(piece) => given.ok(),
                _ = upload.wait() => None,
            }
        })
    }
}

/// The network's side.
pub(super) struct Pieces {
    head: Bytes,
    rest: mpsc::Receiver<Piece>,
    cut: CancellationToken,
    /// Known once the writer has closed the file.
    total: Arc<OnceLock<(u64, Digests)>>,
}

fn not_sequential() -> Error {
    let cure = "write it from the first byte to the last (cp --sparse=never), or mount with --upload spool";
    Error::new(
        Kind::NotSequential,
        format!("the mount uploads while it is written to, in order only: {cure}"),
    )
}

impl Stream {
    pub(super) fn new() -> Self {
        let pen = Pen {
            head: Vec::new(),
            hashes: Some((Md5::new(), digest::Context::new(&digest::SHA512))),
            total: Arc::default(),
            to_network: None,
            upload: None,
            failure: None,
        };
        Self {
            position: AtomicU64::new(0),
            pen: Mutex::new(pen),
            pieces: Mutex::default(),
            cut: CancellationToken::new(),
        }
    }

    /// Bytes written so far.
    pub(super) fn position(&self) -> u64 {
        self.position.load(Ordering::Relaxed)
    }

    fn pen(&self) -> MutexGuard<'_, Pen> {
        self.pen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The network's side, once.
    pub(super) fn take_pieces(&self) -> Option<Pieces> {
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Takes `data`, which must be the next. Waits for the network, so it blocks; `begin` starts the upload.
    ///
    /// # Errors
    /// `NotSequential`, which ends the upload; the failure of the upload.
    pub(super) fn write(
        &self,
        offset: u64,
        data: &[u8],
        begin: impl FnOnce() -> Result<Commit>,
    ) -> Result<()> {
        let mut pen = self.pen();
        if let Some(failure) = &pen.failure {
            return Err(failure.duplicate());
        }
        if offset != self.position() || pen.total.get().is_some() {
            return Err(self.fail(&mut pen, not_sequential()));
        }
        if let Some((md5, sha512)) = &mut pen.hashes {
            md5.update(data);
            sha512.update(data);
        }
        self.position.fetch_add(data.len() as u64, Ordering::Relaxed);
        let Some(to_network) = pen.to_network.clone() else {
            pen.head.extend_from_slice(data);
            return if pen.head.len() >= HEAD { self.begin(&mut pen, begin) } else { Ok(()) };
        };
        match pen.give(&to_network, Piece::Data(Bytes::copy_from_slice(data))) {
            Some(()) => Ok(()),
            // The upload has failed, and tells why.
            None => Err(self.fail_as_the_upload(&mut pen)),
        }
    }

    /// Only what is there already can be the length.
    pub(super) fn truncate(&self, size: u64) -> Result<()> {
        if size == self.position() {
            return Ok(());
        }
        Err(self.fail(&mut self.pen(), not_sequential()))
    }

    /// The writer has closed the file: the upload whose outcome is to be waited for. Blocks as
    /// [`write`](Self::write) does.
    ///
    /// # Errors
    /// That of a write that failed before.
    pub(super) fn close(&self, begin: impl FnOnce() -> Result<Commit>) -> Result<Commit> {
        let mut pen = self.pen();
        if let Some(failure) = &pen.failure {
            return Err(failure.duplicate());
        }
        if pen.to_network.is_none() && pen.upload.is_none() {
            self.begin(&mut pen, begin)?;
        }
        if let Some((md5, sha512)) = pen.hashes.take() {
            let sha512 = hexadecimal(sha512.finish().as_ref());
            let digests = Digests { md5: hexadecimal(&md5.finalize()), sha512 };
            // The first value stays.
            let _ = pen.total.set((self.position(), digests));
        }
        if let Some(to_network) = pen.to_network.take() {
            // If nobody takes it, the outcome tells why.
            let _ = pen.give(&to_network, Piece::End);
        }
        pen.upload.clone().ok_or_else(|| Error::new(Kind::BadHandle, "the file was given up"))
    }

    /// Breaks the upload off; nothing can be written any more. Does not wait.
    pub(super) fn cut(&self) {
        self.cut.cancel();
    }

    fn begin(&self, pen: &mut Pen, begin: impl FnOnce() -> Result<Commit>) -> Result<()> {
        let (to_network, rest) = mpsc::channel(PIECES_AHEAD);
        let head = Bytes::from(std::mem::take(&mut pen.head));
        let pieces = Pieces { head, rest, cut: self.cut.clone(), total: Arc::clone(&pen.total) };
        *self.pieces.lock().unwrap_or_else(PoisonError::into_inner) = Some(pieces);
        match begin() {
            Ok(upload) => {
                (pen.to_network, pen.upload) = (Some(to_network), Some(upload));
                Ok(())
            }
            Err(error) => Err(self.fail(pen, error)),
        }
    }

    fn fail(&self, pen: &mut Pen, error: Error) -> Error {
        self.cut();
        pen.to_network = None;
        pen.failure = Some(error.duplicate());
        error
    }

    fn fail_as_the_upload(&self, pen: &mut Pen) -> Error {
        let outcome =
            pen.upload.clone().map(|upload| tokio::runtime::Handle::current().block_on(upload.wait()));
        let error = match outcome {
            Some(Err(error)) => error,
            _ => Error::new(Kind::Io, "the upload ended before the file did"),
        };
        self.fail(pen, error)
    }
}

impl Pieces {
    /// The body. It ends with an error unless the writer has closed the file; then `note` has been told before what
    /// it is that ends.
    fn into_body<N: Future<Output = ()> + Send>(
        self,
        sent: Arc<AtomicU64>,
        note: impl FnOnce(Streamed) -> N + Send + 'static,
    ) -> BodyStream {
        let Self { head, rest, cut, total } = self;
        let first = stream::iter([Ok(head)]);
        let rest = stream::unfold(Some((rest, cut, total, note)), |state| async move {
            let (mut rest, cut, total, note) = state?;
            let piece = tokio::select! {
                biased;
                () = cut.cancelled() => None,
                piece = rest.recv() => piece,
            };
            match piece {
                Some(Piece::Data(bytes)) => Some((Ok(bytes), Some((rest, cut, total, note)))),
                Some(Piece::End) => {
                    if let Some((size, digests)) = total.get().cloned() {
                        note(Streamed { size, digests }).await;
                    }
                    None
                }
                None => Some((Err(io::Error::other("its writer did not close the file")), None)),
            }
        });
        let taken = move |piece: &io::Result<Bytes>| {
            let bytes = piece.as_ref().map_or(0, Bytes::len);
            sent.fetch_add(bytes as u64, Ordering::Relaxed);
        };
        first.chain(rest).inspect(taken).boxed()
    }
}

impl Upload {
    /// Makes what `pieces` give an active, proven image. There is one try: what was sent is nowhere any more.
    pub(super) async fn publish_stream(&mut self, pieces: Pieces) -> Result<Image> {
        self.streamed = true;
        self.sweep().await;
        let published = self.attempt_stream(pieces).await;
        if published.is_err() {
            self.withdraw().await;
        }
        published
    }

    async fn attempt_stream(&mut self, pieces: Pieces) -> Result<Image> {
        let head = pieces.head.clone();
        let content = sniff(|range: ByteRange| {
            let range = range.clamp_to(head.len() as u64);
            // Clamped to a length in memory: it fits.
            Ok(head.slice(range.start as usize..range.end as usize))
        })?;
        self.note_creation(Step::Creating).await?;
        if self.journal.record == Record::Reserved {
            let image = self.show().await?;
            self.prepare_reserved(&content, &image).await?;
        } else {
            self.create_for(&content).await?;
        }
        self.note(Step::Uploading, Durability::Relaxed).await?;
        let total = Arc::clone(&pieces.total);
        let (mut journal, file) = (self.journal.clone(), Arc::clone(&self.journal_file));
        let note = async move |streamed: Streamed| {
            journal.size = streamed.size;
            journal.streamed = Some(streamed);
            let noted = blocking(move || file.store(Durability::Durable, || Some(journal))).await;
            if let Err(error) = noted {
                // A crash from now on leaves an image that nobody proves.
                tracing::warn!(%error, "the journal of an upload could not be written");
            }
        };
        let body = pieces.into_body(Arc::clone(&self.sent), note);
        let placement = self.journal.metadata.placement();
        let sending = self.shared.records.upload_stream(&self.journal.image, &placement, body);
        let outcome = self.unless_cancelled(sending).await;
        let Some((size, digests)) = total.get().cloned() else {
            let early =
                || Error::new(Kind::ServerError, "the server took the data for complete before they were");
            return Err(outcome.err().map_or_else(early, |error| self.explained(error)));
        };
        self.size = size;
        self.journal.streamed = Some(Streamed { size, digests: digests.clone() });
        match outcome {
            Ok(()) => {
                if let Err(error) = self.note(Step::Verifying, Durability::Durable).await {
                    tracing::warn!(%error, "the journal of an upload could not be written");
                }
                self.confirm(Some(digests), self.shared.pace.timeout).await
            }
            // The answer may be all that was lost.
            Err(error) if may_have_happened(error.kind()) => {
                self.confirm(Some(digests), self.shared.pace.timeout).await.map_err(|_| error)
            }
            Err(error) => Err(self.explained(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::fake::{FakeGlance, Fault, files, intent};
    use super::super::{Draft, Intent};
    use super::*;

    struct Rig {
        dir: tempfile::TempDir,
        glance: FakeGlance,
    }

    fn rig() -> Rig {
        Rig { dir: tempfile::tempdir().unwrap(), glance: FakeGlance::default() }
    }

    impl Rig {
        fn draft(&self, intent: Intent) -> Arc<Draft> {
            self.glance.uploads(self.dir.path()).streaming(true).draft(intent).unwrap()
        }

        fn files(&self) -> usize {
            files(self.dir.path()).len()
        }
    }

    /// Writes all of `data` in pieces of this size, as a program does: from a thread that may wait.
    async fn write(draft: &Arc<Draft>, data: &[u8], piece: usize) -> Result<()> {
        let (draft, data) = (Arc::clone(draft), data.to_vec());
        let writing = tokio::task::spawn_blocking(move || {
            for (index, chunk) in data.chunks(piece).enumerate() {
                draft.write((index * piece) as u64, chunk)?;
            }
            Ok(())
        });
        writing.await.unwrap()
    }

    fn bytes(count: u32) -> Vec<u8> {
        (0..count).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_written_in_order_becomes_an_image() {
        for (count, piece) in [(1, 1), (65_536, 65_536), (65_537, 4096), (3 << 20, 1 << 20), (300_001, 100)] {
            let rig = rig();
            let draft = rig.draft(intent("new"));
            let data = bytes(count);
            write(&draft, &data, piece).await.unwrap();
            assert_eq!((draft.size(), draft.is_dirty()), (data.len() as u64, true));
            let image = draft.commit().await.unwrap();
            assert_eq!(image.size, Some(u64::from(count)));
            assert!(rig.glance.only_image().1 == data);
            assert_eq!(draft.commit().await.unwrap().id, image.id, "and again it is that");
            assert_eq!(draft.size(), data.len() as u64);
            drop(draft);
            assert_eq!(rig.files(), 0);
        }
    }

    #[tokio::test]
    async fn a_writer_that_is_faster_than_the_upload_begins_is_not_waited_for() {
        let rig = rig();
        let draft = rig.draft(intent("new"));
        let (writer, data) = (Arc::clone(&draft), bytes(1 << 20));
        let writing = tokio::task::spawn_blocking(move || {
            let mut pieces = data.chunks(100_000).enumerate();
            pieces.try_for_each(|(index, piece)| writer.write(index as u64 * 100_000, piece))
        });
        // The runtime has this thread only: the upload begins when the writer waits for it.
        std::thread::sleep(std::time::Duration::from_millis(300));
        writing.await.unwrap().unwrap();
        draft.commit().await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_format_is_told_by_the_first_bytes() {
        let rig = rig();
        let mut iso = bytes(100_000);
        iso[32_769..32_774].copy_from_slice(b"CD001");
        let draft = rig.draft(intent("iso"));
        write(&draft, &iso, 1000).await.unwrap();
        assert_eq!(draft.commit().await.unwrap().disk_format.as_deref(), Some("iso"));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_store_and_the_base_that_were_asked_for_go_with_the_data() {
        let rig = rig();
        let draft = rig.draft(intent("new"));
        draft
            .change_metadata(|metadata| {
                metadata.store = Some("fast".into());
                metadata.base_image = Some("1f".into());
                Ok(())
            })
            .unwrap();
        write(&draft, &bytes(100_000), 1000).await.unwrap();
        let late = draft.change_metadata(|_| Ok(())).unwrap_err();
        assert_eq!(late.kind(), Kind::Busy, "the data are on their way");
        draft.commit().await.unwrap();
        let placed = rig.glance.state().placed.clone();
        assert_eq!(placed.len(), 1);
        let placed = (placed[0].store.as_deref(), placed[0].base_image.as_deref());
        assert_eq!(placed, (Some("fast"), Some("1f")));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_not_in_order_ends_the_upload() {
        for count in [1000, 200_000] {
            let rig = rig();
            let draft = rig.draft(intent("new"));
            write(&draft, &bytes(count), 1000).await.unwrap();
            let other = Arc::clone(&draft);
            let wrong = tokio::task::spawn_blocking(move || {
                assert_eq!(other.read(ByteRange::new(0, 1)).unwrap_err().kind(), Kind::NotSequential);
                [other.write(0, b"header"), other.write(u64::from(count), b"more"), other.truncate(7)]
            });
            for refused in wrong.await.unwrap() {
                assert_eq!(refused.unwrap_err().kind(), Kind::NotSequential);
            }
            assert_eq!(draft.commit().await.unwrap_err().kind(), Kind::NotSequential);
            drop(draft);
            no_trace(&rig).await;
        }
    }

    /// Nothing is left of it, here or there.
    async fn no_trace(rig: &Rig) {
        let gone = async {
            while !rig.glance.state().images.is_empty() || rig.files() > 0 {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), gone).await.expect("it goes");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_writer_that_is_killed_publishes_nothing() {
        for count in [0, 1000, 3 << 20] {
            let rig = rig();
            let draft = rig.draft(intent("new"));
            write(&draft, &bytes(count), 1 << 20).await.unwrap();
            draft.abandon("killed by signal 9");
            assert!(draft.commit().await.is_err());
            drop(draft);
            no_trace(&rig).await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_refusal_in_the_middle_is_heard_by_the_writer() {
        let rig = rig();
        rig.glance.will(&[Fault::BreakBody(1 << 20, Kind::QuotaExceeded)]);
        let draft = rig.draft(intent("new"));
        assert_eq!(write(&draft, &bytes(16 << 20), 1 << 20).await.unwrap_err().kind(), Kind::QuotaExceeded);
        assert_eq!(draft.commit().await.unwrap_err().kind(), Kind::QuotaExceeded);
        drop(draft);
        no_trace(&rig).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn other_bytes_in_glance_are_an_error_and_the_record_goes() {
        let rig = rig();
        rig.glance.will(&[Fault::Corrupt]);
        let draft = rig.draft(intent("new"));
        write(&draft, &bytes(100_000), 1000).await.unwrap();
        assert_eq!(draft.commit().await.unwrap_err().kind(), Kind::Integrity);
        drop(draft);
        no_trace(&rig).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_lost_answer_is_found_to_be_success() {
        let rig = rig();
        rig.glance.will(&[Fault::LoseUploaded]);
        let draft = rig.draft(intent("new"));
        write(&draft, &bytes(100_000), 1000).await.unwrap();
        draft.commit().await.unwrap();
        assert_eq!(rig.glance.only_image().1.len(), 100_000);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_reservation_is_filled_and_survives_a_failure() {
        let rig = rig();
        let reserved = rig.draft(intent("later")).reserve().await.unwrap();
        let fill = Intent { id: reserved.id.clone(), reserved: true, ..intent("later") };
        let draft = rig.draft(fill.clone());
        write(&draft, b"data", 2).await.unwrap();
        draft.abandon("killed");
        drop(draft);
        assert!(rig.glance.state().images.contains_key(&reserved.id));
        let draft = rig.draft(fill);
        write(&draft, b"data", 2).await.unwrap();
        assert_eq!(draft.commit().await.unwrap().id, reserved.id);
    }
}
