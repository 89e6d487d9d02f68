//! `glancefs tasks`: what the service does and did about an image in the background.

use std::process::ExitCode;

use super::target::Target;
use super::{Connection, run, say};

/// Tells the tasks of the image that was `typed`, the latest last.
pub fn tasks(connection: &Connection, typed: &str, json: bool) -> ExitCode {
    run(connection, async |glance| {
        let service = glance.v2_for("tasks").await?;
        let image = Target::of(typed)?.find(&glance).await?;
        let tasks = service.tasks(&image.id).await.map_err(|error| error.context(typed))?;
        if json {
            say(serde_json::json!(tasks));
            return Ok(());
        }
        if tasks.is_empty() {
            eprintln!("{typed}: no tasks");
        }
        for task in tasks {
            let [created, message] = [task.created_at, task.message].map(Option::unwrap_or_default);
            let words = [created.as_str(), &task.status, &task.kind, message.trim()];
            let line: Vec<_> = words.into_iter().filter(|word| !word.is_empty()).collect();
            say(format_args!("{}  (task {})", line.join("  "), task.id));
        }
        Ok(())
    })
}
