//! `glancefs deactivate` and `reactivate`: whether the data of an image may be read.

use std::process::ExitCode;

use super::target::Target;
use super::{Connection, run, say};
use crate::error::{Error, Kind, Result};
use crate::glance::{Glance, Negotiated};

/// Sets it for each of the images that were `typed`; a failure does not keep the others from being done.
pub fn set_active(connection: &Connection, typed: &[String], active: bool) -> ExitCode {
    run(connection, async |glance| {
        let service = glance.v2_for("deactivation of images").await?;
        let mut failed = None;
        for (index, image) in typed.iter().enumerate() {
            if let Err(error) = set(&glance, service, image, active).await {
                if index + 1 < typed.len() {
                    eprintln!("glancefs: {error}");
                    failed = Some(Error::new(error.kind(), "not all images were changed"));
                } else {
                    return Err(error);
                }
            }
        }
        failed.map_or(Ok(()), Err)
    })
}

async fn set(glance: &Negotiated, service: &Glance, typed: &str, active: bool) -> Result<()> {
    let target = Target::of(typed)?;
    let image = target.find(glance).await?;
    service.set_active(&image.id, active).await.map_err(|error| match error.kind() {
        Kind::Forbidden => {
            Error::new(Kind::Forbidden, format!("{typed}: {error}: a cloud may leave this to administrators"))
        }
        _ => error.context(typed),
    })?;
    target.changed();
    say(format_args!("{typed}: {}", if active { "active" } else { "deactivated" }));
    Ok(())
}
