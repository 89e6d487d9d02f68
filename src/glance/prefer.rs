//! Which of an image's stores shall serve it (`--prefer-store`): `GET /v2/images/<id>/file?prefer=a,b`.
//!
//! Glance has this since 2026.1 (33.0.0), for sites with several stores: data come from the named stores where they have
//! them, else from the others. Among several that are named the order is that of the image's locations
//! (`glance/api/v2/image_data.py`). No version number tells whether a server knows the word, and one that does not ignores it. So the
//! first download asks for a store that cannot exist, behind the wanted ones: who knows the word refuses the first
//! name that is no store with a 400 that repeats it.
//!
//! What cannot be had is told in the log, once, and then Glance chooses: a preference is no reason for a read to fail.

use std::sync::atomic::{AtomicBool, Ordering};

use reqwest::Method;
use tokio::sync::OnceCell;

use super::client::{Glance, Request, Wants};
use super::error::Operation;
use crate::error::Kind;
use crate::units::ByteRange;

/// No store has this name.
const NO_STORE: &str = "glancefs-asks-whether-prefer-is-known";

/// The stores that are wanted, and what the servers make of it.
#[derive(Debug)]
pub(super) struct Prefer {
    /// The value of the parameter.
    stores: String,
    asked: OnceCell<()>,
    given_up: AtomicBool,
}

impl Prefer {
    /// `None` when no store is wanted.
    pub(super) fn of(stores: &[String]) -> Option<Self> {
        (!stores.is_empty()).then(|| Self {
            stores: stores.join(","),
            asked: OnceCell::new(),
            given_up: AtomicBool::new(false),
        })
    }

    /// `path`, asking for data from these stores; `None` once that was given up.
    pub(super) fn path(&self, path: &str) -> Option<String> {
        (!self.given_up.load(Ordering::Relaxed)).then(|| parametrised(path, &self.stores))
    }

    /// Glance chooses from now on; `why` is told once.
    pub(super) fn give_up(&self, why: &str) {
        if !self.given_up.swap(true, Ordering::Relaxed) {
            tracing::warn!("--prefer-store {} has no effect, Glance chooses the store: {why}", self.stores);
        }
    }
}

fn parametrised(path: &str, stores: &str) -> String {
    let value: String = url::form_urlencoded::byte_serialize(stores.as_bytes()).collect();
    format!("{path}?prefer={value}")
}

impl Glance {
    /// Finds out, once, what the servers make of the preference, with the data at `path` as the occasion.
    pub(super) async fn ask_about_preference(&self, prefer: &Prefer, path: &str, subject: &str) {
        let asking = || async {
            let path = parametrised(path, &format!("{},{NO_STORE}", prefer.stores));
            let mut request = Request::new(Operation::Download, Method::GET, &path, subject);
            request.wants = Wants::Data(Some(ByteRange::new(0, 1)));
            let Ok(answer) = self.exchange(&request).await else { return Err(()) };
            if answer.stream.is_none() {
                let error = answer.error(&request);
                match error.kind() {
                    // It has looked for the wanted ones before.
                    Kind::NotSupported if error.to_string().contains(NO_STORE) => return Ok(()),
                    Kind::NotSupported => {
                        prefer.give_up(&error.to_string());
                        return Ok(());
                    }
                    // It would have served.
                    Kind::RangeUnsupported => {}
                    // The image itself is the matter: another one will tell.
                    _ => return Err(()),
                }
            }
            tracing::warn!(
                "--prefer-store {}: Glance serves {subject} from a store that it cannot have, so it does not know this wish (it \
                 came with 2026.1) or has the image in its own cache; it may choose another store",
                prefer.stores
            );
            Ok(())
        };
        // Without an answer it is asked again at the next download.
        let _ = prefer.asked.get_or_try_init(asking).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_stores_are_encoded() {
        let prefer = Prefer::of(&["a&b".to_owned(), "c".to_owned()]).unwrap();
        assert_eq!(prefer.path("v2/images/1/file").as_deref(), Some("v2/images/1/file?prefer=a%26b%2Cc"));
        prefer.give_up("a test");
        assert_eq!(prefer.path("v2/images/1/file"), None);
        assert!(Prefer::of(&[]).is_none());
    }
}
