//! Changes of one image take turns: Glance loses those that run at once, and undoes those made during an
//! upload of its data.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;
use tokio::time::{Instant, sleep, timeout_at};

use super::{ImageFs, lock};
use crate::error::{Error, Kind, Result};
use crate::glance::{Change, Image, Status};
use crate::units::ImageId;

/// Between looks at an image that somebody else fills: a request costs Glance 5 ms.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// The right to change one image; the next in line has it when this is dropped.
pub(super) type Turn = OwnedMutexGuard<()>;

/// Who is changing which image. It holds the images only that somebody changes or waits for.
#[derive(Debug, Default)]
pub(super) struct Turns {
    taken: Mutex<HashMap<ImageId, Weak<tokio::sync::Mutex<()>>>>,
}

impl Turns {
    /// Waits for the right to change `id`, in the order of asking.
    pub(super) async fn take(&self, id: &ImageId) -> Turn {
        let queue = {
            let mut taken = lock(&self.taken);
            taken.retain(|_, queue| queue.strong_count() > 0);
            let known = taken.get(id).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let queue = Arc::new(tokio::sync::Mutex::new(()));
                taken.insert(id.clone(), Arc::downgrade(&queue));
                queue
            })
        };
        queue.lock_owned().await
    }
}

impl ImageFs {
    /// The turn to change an image, waited for up to `--timeout`.
    ///
    /// # Errors
    /// `Busy`: it is being uploaded all the time.
    pub(super) async fn turn(&self, id: &ImageId) -> Result<Turn> {
        let until = Instant::now() + self.access.patience;
        timeout_at(until, self.turns.take(id)).await.map_err(|_| busy(id))
    }

    /// Changes the record of an image whose turn it is, and lets the list know.
    ///
    /// # Errors
    /// `Busy` when somebody else uploads its data all the time; what Glance says.
    pub(super) async fn change(&self, id: &ImageId, changes: &[Change], turn: &Turn) -> Result<Arc<Image>> {
        self.until_no_upload(id, turn).await?;
        match self.layers.service.update(id, changes).await {
            Ok(image) => Ok(self.learn(image)),
            Err(error) => {
                if error.kind() == Kind::NotFound {
                    self.layers.catalog.forget(id);
                }
                Err(error)
            }
        }
    }

    /// Waits until nobody fills the image. What has data never gets others, so only what was not active
    /// when it was listed is asked for.
    pub(super) async fn until_no_upload(&self, id: &ImageId, _turn: &Turn) -> Result<()> {
        let until = Instant::now() + self.access.patience;
        let has_data = |image: &Image| matches!(image.status, Status::Active | Status::Deactivated);
        if self.known_image(id).is_some_and(|image| has_data(&image)) {
            return Ok(());
        }
        while let Status::Saving | Status::Uploading | Status::Importing = self.shown_image(id).await?.status
        {
            if Instant::now() + LOOK_AGAIN > until {
                return Err(busy(id));
            }
            sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    /// Shows an image, or shows it no more, as listings do after these changes: at once, and not at the next walk.
    pub(super) fn show_as_listed(&self, image: &Arc<Image>, changes: &[Change]) {
        let decides = |change: &Change| matches!(change.key(), "os_hidden" | "visibility");
        if !changes.iter().any(decides) {
            return;
        }
        let listed = self.layers.catalog.snapshot().get(&image.id).is_some();
        match (listed, self.layers.service.lists(image)) {
            (true, false) => {
                // Who has its id can still have it.
                lock(&self.unlisted).put(image.id.clone(), (Arc::clone(image), std::time::Instant::now()));
                self.layers.catalog.forget(&image.id);
            }
            // Whether it is ours decides, too, and that knows the server.
            (false, true) => self.layers.catalog.expire(),
            _ => {}
        }
    }

    /// Takes over what the server just said of an image; one that listings do not show stays out of ours.
    pub(super) fn learn(&self, image: Image) -> Arc<Image> {
        if self.layers.catalog.snapshot().get(&image.id).is_some() {
            return self.layers.catalog.learn(image);
        }
        let image = Arc::new(image);
        lock(&self.unlisted).put(image.id.clone(), (Arc::clone(&image), std::time::Instant::now()));
        image
    }
}

fn busy(id: &ImageId) -> Error {
    Error::new(Kind::Busy, format!("image {id} is being uploaded: Glance would undo a change when that ends"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn changes_of_one_image_wait_and_those_of_others_do_not() {
        let (turns, one, other) = (Turns::default(), ImageId::generate(), ImageId::generate());
        let turn = turns.take(&one).await;
        drop(turns.take(&other).await);
        let mut next = std::pin::pin!(turns.take(&one));
        assert!(futures_util::poll!(&mut next).is_pending());
        drop(turn);
        drop(next.await);
        drop(turns.take(&other).await);
        assert_eq!(lock(&turns.taken).len(), 1, "what nobody changes is forgotten");
    }
}
