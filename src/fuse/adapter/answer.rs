//! Runs the call of an operation: at once where it needs no waiting, else on the runtime.
//!
//! The call is polled once where the request was read. What needs no waiting is answered there, at
//! twice the rate of a hand-off; anything else moves, with its reply, to the runtime, so that the
//! threads that read requests never wait for the network or the disk.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use fuser::INodeNo;
use tracing::{Instrument, debug, error, info_span};

use super::super::errno::errno;
use super::Adapter;
use super::process::killed;
use crate::error::{Error, Kind, Result};
use crate::metrics::{KernelCall, PROCESS};

impl Adapter {
    /// Runs an operation on metadata, within the deadline.
    pub(super) fn answer<T: Send + 'static>(
        &self,
        operation: KernelCall,
        file: INodeNo,
        call: impl Future<Output = Result<T>> + Send + 'static,
        reply: impl FnOnce(Result<T>) + Send + 'static,
    ) {
        self.answer_in_its_time(operation, file, within(self.deadline, call), reply);
    }

    /// Runs an operation whose deadline is on progress and lies in the layers below.
    pub(super) fn answer_in_its_time<T: Send + 'static>(
        &self,
        operation: KernelCall,
        file: INodeNo,
        call: impl Future<Output = Result<T>> + Send + 'static,
        reply: impl FnOnce(Result<T>) + Send + 'static,
    ) {
        PROCESS.kernel(operation);
        let span = info_span!("fuse", operation = operation.word(), ino = file.0);
        let begun = Instant::now();
        let whole = async move {
            let result = call.await;
            if operation == KernelCall::Read {
                PROCESS.read_duration.observe(begun.elapsed());
            }
            if let Err(error) = &result {
                PROCESS.error(errno(error).code());
                debug!(%error, "failed");
            }
            reply(result);
        };
        let mut whole = Box::pin(whole.instrument(span));
        let _runtime = self.runtime.enter();
        let mut nobody = Context::from_waker(Waker::noop());
        match std::panic::catch_unwind(AssertUnwindSafe(|| whole.as_mut().poll(&mut nobody))) {
            Ok(Poll::Ready(())) => {}
            Ok(Poll::Pending) => {
                self.runtime.spawn(whole);
            }
            // The reply was dropped on the way, which answers EIO.
            Err(_) => error!(operation = operation.word(), "a defect of glancefs: the operation panicked"),
        }
    }
}

pub(super) async fn within<T>(deadline: Duration, call: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(deadline, call).await.unwrap_or_else(|_| {
        Err(Error::new(Kind::TimedOut, format!("no answer within {} s", deadline.as_secs())))
    })
}

/// The same for a call that only asks: it ends with the process `pid` that waits for it. The kernel lets nobody go, killed
/// or not, before the reply has come.
pub(super) async fn unless_killed<T>(pid: u32, call: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        // Mostly there is nothing to wait for.
        biased;
        result = call => result,
        () = killed(pid) => Err(interrupted()),
    }
}

/// The same for a call that changes something: it goes on when nobody waits for it any more, so that what is known here
/// stays what the cloud has.
pub(super) async fn even_if_killed<T: Send + 'static>(
    pid: u32,
    call: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    or_given_back(pid, call, |_| std::future::ready(())).await
}

/// The same for a call whose result belongs to the kernel, which hears nothing of it then: `give_back` takes it.
pub(super) async fn or_given_back<T: Send + 'static, G: Future<Output = ()> + Send>(
    pid: u32,
    call: impl Future<Output = Result<T>> + Send + 'static,
    give_back: impl FnOnce(T) -> G + Send + 'static,
) -> Result<T> {
    let mut call = Box::pin(call);
    tokio::select! {
        biased;
        result = &mut call => return result,
        () = killed(pid) => {}
    }
    tokio::spawn(async move {
        match call.await {
            Ok(result) => give_back(result).await,
            Err(error) => debug!(%error, "failed behind a process that was killed"),
        }
    });
    Err(interrupted())
}

fn interrupted() -> Error {
    Error::new(Kind::Interrupted, "the process that waited for it was killed")
}
