//! `glancefs copy` and `uncopy`: the data of an image in further stores of its cloud, or no more in one.

use std::process::ExitCode;
use std::time::Duration;

use super::shown::Shown;
use super::target::Target;
use super::wait::{Order, Settled, tasks_so_far};
use super::{Connection, run, say, unless_interrupted};
use crate::error::{Error, Kind, Result};
use crate::glance::{Image, ImportMethod, ImportStores, Negotiated};

/// What shall be copied where.
#[derive(Debug, Clone)]
pub struct Copy {
    /// The image, as it was typed.
    pub image: String,
    /// Where to.
    pub stores: ImportStores,
    /// How long nothing may change; `None`: the end is not waited for.
    pub patience: Option<Duration>,
}

/// Copies it, and waits until it is there.
pub fn copy(connection: &Connection, order: &Copy) -> ExitCode {
    run(connection, async |glance| {
        let target = Target::of(&order.image)?;
        let outcome = unless_interrupted(order.carry_out(&glance, &target)).await?;
        outcome.unwrap_or_else(|| {
            let what = "interrupted: what the image service was asked to copy it goes on to copy; see: glancefs tasks";
            Err(Error::new(Kind::Interrupted, format!("{what} {}", order.image)))
        })
    })
}

/// Removes the data of the image that was `typed` from one of its stores; the last one keeps them.
pub fn uncopy(connection: &Connection, typed: &str, store: &str) -> ExitCode {
    run(connection, async |glance| {
        let service = glance.v2_for("stores from which data are removed").await?;
        let target = Target::of(typed)?;
        let image = target.find(&glance).await?;
        if !stores_of(&image).any(|known| known == store) {
            let stores: Vec<_> = stores_of(&image).collect();
            let what = format!("{typed}: it is not in {store:?} (it is in: {})", stores.join(", "));
            return Err(Error::new(Kind::NotFound, what));
        }
        service.remove_from_store(&image.id, store).await.map_err(|error| error.context(typed))?;
        target.changed();
        say(format_args!("{typed}: removed from {store}"));
        Ok(())
    })
}

impl Copy {
    async fn carry_out(&self, glance: &Negotiated, target: &Target) -> Result<()> {
        let service = glance.v2_for("copies to further stores").await?;
        let image = target.find(glance).await?;
        let typed = target.typed();
        let has = |store: &String| stores_of(&image).any(|known| known == store);
        if !self.stores.all && self.stores.named.iter().all(has) {
            say(format_args!("{typed}: it is in {} already", self.stores.named.join(", ")));
            return Ok(());
        }
        let before = tasks_so_far(service, &image.id).await;
        let stores = ImportStores {
            named: self.stores.named.iter().filter(|store| !has(store)).cloned().collect(),
            ..self.stores.clone()
        };
        service.import(&image.id, &ImportMethod::CopyImage, &stores).await.map_err(|error| {
            match error.kind() {
                Kind::Forbidden => Error::new(
                    Kind::Forbidden,
                    format!(
                        "{typed}: {error}: the policy copy_image of the cloud leaves this to administrators"
                    ),
                ),
                _ => error.context(typed),
            }
        })?;
        let Some(patience) = self.patience else {
            say(format_args!("{typed}: the image service goes on by itself; see: glancefs tasks {typed}"));
            return Ok(());
        };
        let mut shown = Shown::begin(typed);
        let settled = Order { glance, id: &image.id, before, patience }.settle(&mut shown).await;
        drop(shown);
        target.changed();
        match settled.map_err(|error| error.context(typed))? {
            Settled::Done(image) => {
                let stores: Vec<_> = stores_of(&image).collect();
                say(format_args!("{typed}: in {}", stores.join(", ")));
                Ok(())
            }
            Settled::Partly(stores) => Err(Error::new(Kind::Io, format!("{typed}: not copied to {stores}"))),
            Settled::Failed(why) => Err(Error::new(Kind::Io, format!("{typed}: not copied: {why}"))),
        }
    }
}

fn stores_of(image: &Image) -> impl Iterator<Item = &str> {
    image.stores.as_deref().unwrap_or_default().split(',').filter(|store| !store.is_empty())
}
