//! Work that waits for the disk, beside the async runtime's threads.

use crate::error::{Error, Kind, Result};

/// Runs `work` on a thread that may wait. It runs to its end also when nobody waits for it any more.
///
/// # Errors
/// Those of `work`; `Interrupted` when the runtime is shutting down.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(Error::new(Kind::Interrupted, "a local file operation was stopped").with_source(error))
    })
}
