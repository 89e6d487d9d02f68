//! How many downloads are open at once over the whole mount, with some kept for those who wait.
//!
//! The one place that bounds them: only here it is known whether somebody waits.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{Error, Kind, Result};

use super::Urgency;

/// The connections for image data.
pub(super) struct Slots {
    count: usize,
    all: Arc<Semaphore>,
    /// Fewer than `all`: what prefetch can never take is there for demand at once.
    prefetch: Arc<Semaphore>,
    /// How long a demand read waits for one. Transfers are always drained, so one comes free.
    patience: Duration,
}

/// One open connection; free again when dropped.
pub(super) struct Slot {
    _any: OwnedSemaphorePermit,
    _prefetch: Option<OwnedSemaphorePermit>,
}

impl Slots {
    /// `count` connections (at least one). Two of them are kept from prefetch, or as many as leave it one.
    pub(super) fn new(count: usize, patience: Duration) -> Self {
        let count = count.clamp(1, Semaphore::MAX_PERMITS);
        let for_prefetch = count.saturating_sub(2).max(1);
        Self {
            count,
            all: Arc::new(Semaphore::new(count)),
            prefetch: Arc::new(Semaphore::new(for_prefetch)),
            patience,
        }
    }

    /// Connections in use, and how many there may be.
    pub(super) fn in_use(&self) -> (usize, usize) {
        (self.count.saturating_sub(self.all.available_permits()), self.count)
    }

    /// A connection: at once or `Busy` for prefetch, after a bounded wait for demand.
    pub(super) async fn take(&self, urgency: Urgency) -> Result<Slot> {
        let busy = || Error::new(Kind::Busy, "no connection is free for prefetch");
        match urgency {
            Urgency::Prefetch => {
                let prefetch = Arc::clone(&self.prefetch).try_acquire_owned().map_err(|_| busy())?;
                let any = Arc::clone(&self.all).try_acquire_owned().map_err(|_| busy())?;
                Ok(Slot { _any: any, _prefetch: Some(prefetch) })
            }
            Urgency::Demand => {
                let wait = tokio::time::timeout(self.patience, Arc::clone(&self.all).acquire_owned());
                match wait.await {
                    Ok(Ok(any)) => Ok(Slot { _any: any, _prefetch: None }),
                    _ => {
                        let message = "every connection for image data was busy; see --max-connections";
                        Err(Error::new(Kind::TimedOut, message))
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn prefetch_leaves_two_connections_to_demand() {
        let slots = Slots::new(4, Duration::from_millis(20));
        let _one = slots.take(Urgency::Prefetch).await.unwrap();
        let _two = slots.take(Urgency::Prefetch).await.unwrap();
        assert_eq!(slots.in_use(), (2, 4));
        let third = slots.take(Urgency::Prefetch).await;
        assert_eq!(third.err().map(|error| error.kind()), Some(Kind::Busy));
        let _three = slots.take(Urgency::Demand).await.unwrap();
        let four = slots.take(Urgency::Demand).await.unwrap();
        let fifth = slots.take(Urgency::Demand).await;
        assert_eq!(fifth.err().map(|error| error.kind()), Some(Kind::TimedOut));
        drop(four);
        assert!(slots.take(Urgency::Demand).await.is_ok());
    }

    #[tokio::test]
    async fn a_single_connection_still_serves_both() {
        let slots = Slots::new(0, Duration::from_millis(20));
        drop(slots.take(Urgency::Prefetch).await.unwrap());
        assert!(slots.take(Urgency::Demand).await.is_ok());
    }
}
