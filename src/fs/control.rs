//! The texts under `.glancefs`: status, errors, metrics and records.

use std::collections::VecDeque;
use std::sync::Mutex;

use bytes::Bytes;

use super::{ImageFs, Node, lock};
use crate::error::{Error, Kind, Result};
use crate::units::ImageId;

/// Lines that `.glancefs/errors` keeps: enough for a bad night, small enough to read.
const LINES_KEPT: usize = 200;

/// What happened that a person may want to act on, newest last.
#[derive(Debug, Default)]
pub(super) struct Events {
    lines: Mutex<VecDeque<String>>,
}

impl Events {
    /// Adds a line, with the time in front.
    pub(super) fn note(&self, text: impl Into<String>) {
        self.add(text.into(), true);
    }

    /// The same, unless it is among the lines already.
    pub(super) fn note_once(&self, text: impl Into<String>) {
        self.add(text.into(), false);
    }

    fn add(&self, text: String, again: bool) {
        // Names of images, and what servers said: it shall stay one line, and move no cursor.
        let text = format!("Z {}\n", text.replace(char::is_control, " "));
        let line = format!("{}{text}", jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S"));
        let mut lines = lock(&self.lines);
        if !again && lines.iter().any(|line| line.ends_with(&text)) {
            return;
        }
        if lines.len() == LINES_KEPT {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    fn text(&self) -> String {
        lock(&self.lines).iter().map(String::as_str).collect()
    }
}

impl ImageFs {
    /// The record of an image as text, ending in a newline.
    pub(super) async fn record_text(&self, id: &ImageId) -> Result<Bytes> {
        let image = self.known_image(id).ok_or_else(|| Error::new(Kind::NotFound, "no such image"))?;
        let mut text = self.layers.catalog.record(&image).await?.into_string();
        text.push('\n');
        Ok(text.into())
    }

    /// The text behind a node of `.glancefs`, except those that look at the disk.
    pub(super) fn text(&self, node: &Node) -> Result<Bytes> {
        match node {
            Node::Errors => Ok(self.events.text().into()),
            _ => Err(Error::new(Kind::IsDirectory, "not a text")),
        }
    }

    /// The text behind any node of `.glancefs`.
    pub(super) async fn full_text(&self, node: &Node) -> Result<Bytes> {
        match node {
            Node::Status => Ok(self.status().await?.to_string().into()),
            Node::StatusJson => self.status().await?.json(),
            Node::Uploads => self.uploads_text().await,
            Node::Metrics => Ok(self.metrics().await),
            Node::Record(id) => self.record_text(id).await,
            _ => self.text(node),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_called_their_image_stays_one_line_and_moves_no_cursor() {
        let events = Events::default();
        events.note("image \"a\r\n2026-11-20T10:00:00Z all is well\x1b[2J\u{9b}2J\" failed");
        let text = events.text();
        assert_eq!(text.lines().count(), 1, "{text:?}");
        assert!(!text.trim_end_matches('\n').contains(char::is_control), "{text:?}");
    }
}
