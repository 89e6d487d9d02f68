//! Waiting for what the service does about an image in the background.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::time::Instant;

use super::shown::Shown;
use crate::error::{Error, Kind, Result};
use crate::glance::{Glance, Image, Negotiated, Records, Status, Task, Versioned};
use crate::units::ImageId;

/// Between two looks: at first a small image is told at once, then a look costs Glance 10 ms.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How it ended.
pub(super) enum Settled {
    Done(Box<Image>),
    /// There are data, but not in these stores.
    Partly(String),
    /// The service gave it up, and says why.
    Failed(String),
}

/// One order that the service is at.
pub(super) struct Order<'a> {
    pub(super) glance: &'a Negotiated,
    pub(super) id: &'a ImageId,
    /// Tasks of the image before the order.
    pub(super) before: HashSet<String>,
    /// After so long without any change it is not waited for any more.
    pub(super) patience: Duration,
}

/// The tasks that an image has by now, for [`Order::before`].
pub(super) async fn tasks_so_far(glance: &Glance, id: &ImageId) -> HashSet<String> {
    // Servers that do not tell have none to be confused with.
    glance.tasks(id).await.unwrap_or_default().into_iter().map(|task| task.id).collect()
}

impl Order<'_> {
    /// Waits for its end.
    ///
    /// # Errors
    /// `NotFound` when the image was deleted meanwhile; `TimedOut` and the failures of requests when nothing was
    /// heard for as long as the patience lasts. Then the service may go on.
    pub(super) async fn settle(&self, shown: &mut Shown) -> Result<Settled> {
        let mut pause = FIRST_PAUSE;
        let (mut seen, mut changed_at) = (None, Instant::now());
        loop {
            let looked = self.look().await;
            match looked {
                Ok((image, task)) => {
                    if let Some(end) = ended(&image, task.as_ref()) {
                        return Ok(end);
                    }
                    shown.state(&told(&image, task.as_ref()));
                    let now = (image.status.clone(), image.updated_at, image.record.clone(), task);
                    if seen.as_ref() != Some(&now) {
                        (seen, changed_at) = (Some(now), Instant::now());
                    }
                    if changed_at.elapsed() > self.patience {
                        return Err(Error::new(
                            Kind::TimedOut,
                            format!("nothing has changed for {} s", self.patience.as_secs()),
                        ));
                    }
                }
                Err(error) if error.kind().is_transient() && changed_at.elapsed() < self.patience => {
                    shown.state(&error.to_string());
                }
                Err(error) => return Err(error),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// The image and the task that the order became, where the server tells.
    async fn look(&self) -> Result<(Image, Option<Task>)> {
        // First the task: a record that is read after its end shows the end.
        let tasks = match self.glance.versioned().await? {
            Versioned::V1(_) => Vec::new(),
            Versioned::V2(glance) => match glance.tasks(self.id).await {
                Err(error) if error.kind() == Kind::NotFound => Vec::new(),
                tasks => tasks?,
            },
        };
        let image = self.glance.show(self.id).await?;
        let task = tasks.into_iter().rev().find(|task| !self.before.contains(&task.id));
        Ok((image, task))
    }
}

/// How it ended, if it has. Where no task is told, the record has to do.
fn ended(image: &Image, task: Option<&Task>) -> Option<Settled> {
    let record = record(image);
    let text = |key: &str| record.get(key).and_then(Value::as_str).unwrap_or_default();
    let (missing, waiting) = (text("os_glance_failed_import"), text("os_glance_importing_to_stores"));
    if let Some(task) = task {
        return match task.status.as_str() {
            "failure" => Some(Settled::Failed(reason(task))),
            "success" if !missing.is_empty() => Some(Settled::Partly(missing.to_owned())),
            "success" => Some(Settled::Done(Box::new(image.clone()))),
            _ => None,
        };
    }
    match image.status {
        Status::Active if !waiting.is_empty() => None,
        Status::Active if !missing.is_empty() => Some(Settled::Partly(missing.to_owned())),
        Status::Active => Some(Settled::Done(Box::new(image.clone()))),
        Status::Importing | Status::Uploading | Status::Queued
            if !missing.is_empty() && waiting.is_empty() =>
        {
            Some(Settled::Failed(format!("it could not be put into {missing}")))
        }
        // v1 has no more to tell.
        Status::Killed => Some(Settled::Failed(
            "the image service gave it up (status killed); only its log says why".to_owned(),
        )),
        _ => None,
    }
}

fn reason(task: &Task) -> String {
    let words: Vec<_> = task.message.as_deref().unwrap_or_default().split_whitespace().collect();
    let said = if words.is_empty() { "the service does not say why".to_owned() } else { words.join(" ") };
    // Glance often says "internal error"; its log has the rest under this id.
    format!("{said} (task {})", task.id)
}

/// What goes on, for a person.
fn told(image: &Image, task: Option<&Task>) -> String {
    let message = task.and_then(|task| task.message.as_deref()).unwrap_or_default().trim();
    match message {
        "" => image.status.as_str().to_owned(),
        message => format!("{}, {message}", image.status.as_str()),
    }
}

fn record(image: &Image) -> Map<String, Value> {
    image.record.text().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(status: &str, rest: &str) -> Image {
        let json = format!(
            r#"{{"id":"x","status":"{status}","created_at":"2026-11-20T10:00:00Z","updated_at":"2026-11-20T10:00:00Z"{rest}}}"#
        );
        Image::from_record(&json).unwrap()
    }

    fn task(status: &str, message: &str) -> Task {
        serde_json::from_value(serde_json::json!({ "id": "t", "status": status, "message": message }))
            .unwrap()
    }

    fn word(image: &Image, task: Option<&Task>) -> String {
        match ended(image, task) {
            None => "goes on".into(),
            Some(Settled::Done(_)) => "done".into(),
            Some(Settled::Partly(stores)) => format!("not in {stores}"),
            Some(Settled::Failed(why)) => format!("failed: {why}"),
        }
    }

    #[test]
    fn the_task_decides_where_there_is_one() {
        let missing = r#","os_glance_failed_import":"file2","os_glance_importing_to_stores":"""#;
        for (status, rest, state, expected) in [
            ("importing", "", "processing", "goes on"),
            // Active after the first of several stores.
            ("active", "", "processing", "goes on"),
            ("active", "", "success", "done"),
            ("active", missing, "success", "not in file2"),
            ("importing", "", "failure", "failed: no room (task t)"),
        ] {
            assert_eq!(
                word(&image(status, rest), Some(&task(state, "no\n room "))),
                expected,
                "{status} {state}"
            );
        }
    }

    #[test]
    fn without_tasks_the_record_tells() {
        let waiting = r#","os_glance_importing_to_stores":"file2""#;
        let missing = r#","os_glance_failed_import":"file","os_glance_importing_to_stores":"""#;
        for (status, rest, expected) in [
            ("queued", "", "goes on"),
            ("importing", waiting, "goes on"),
            ("importing", missing, "failed: it could not be put into file"),
            ("active", waiting, "goes on"),
            ("active", missing, "not in file"),
            ("active", "", "done"),
            ("saving", "", "goes on"),
            ("killed", "", "failed: the image service gave it up (status killed); only its log says why"),
        ] {
            assert_eq!(word(&image(status, rest), None), expected, "{status} {rest}");
        }
    }
}
