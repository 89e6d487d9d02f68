//! `glancefs members`: which projects an image is shared with.

use std::process::ExitCode;

use super::target::Target;
use super::{Connection, run, say};
use crate::error::{Error, Kind, Result};
use crate::glance::{Glance, Verdict};

/// What is done to the members of an image; projects are named by their ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberAct {
    /// Tells them.
    List {
        /// As JSON.
        json: bool,
    },
    /// Shares the image with a project.
    Add(String),
    /// Ends that.
    Remove(String),
    /// Takes an image that was shared with us; `None` stands for our own project.
    Accept(Option<String>),
    /// Declines it.
    Reject(Option<String>),
}

/// Does `act` to the members of the image that was `typed`.
pub fn members(connection: &Connection, typed: &str, act: &MemberAct) -> ExitCode {
    run(connection, async |glance| {
        let target = Target::of(typed)?;
        let image = target.find(&glance).await?;
        let told = |error: Error| error.context(typed);
        match act {
            MemberAct::List { json } => {
                let members = glance.members(&image.id).await.map_err(told)?;
                if *json {
                    say(serde_json::json!(members));
                } else if members.is_empty() {
                    eprintln!("{typed}: shared with no project");
                } else {
                    members
                        .iter()
                        .for_each(|member| say(format_args!("{}  {}", member.member_id, member.status)));
                }
                return Ok(());
            }
            MemberAct::Add(project) => {
                glance.add_member(&image.id, project).await.map_err(told)?;
                say(format_args!(
                    "{typed}: shared with {project}, which may read it, and lists it once it accepts"
                ));
            }
            MemberAct::Remove(project) => {
                glance.remove_member(&image.id, project).await.map_err(told)?;
                say(format_args!("{typed}: not shared with {project} any more"));
            }
            MemberAct::Accept(project) => {
                let project = own_or(&glance, project.as_ref())?;
                glance.judge(&image.id, project, Verdict::Accepted).await.map_err(told)?;
                say(format_args!("{typed}: accepted, and listed from now on"));
            }
            MemberAct::Reject(project) => {
                let project = own_or(&glance, project.as_ref())?;
                glance.judge(&image.id, project, Verdict::Rejected).await.map_err(told)?;
                say(format_args!("{typed}: rejected, and not listed"));
            }
        }
        target.changed();
        Ok(())
    })
}

fn own_or<'a>(glance: &'a Glance, project: Option<&'a String>) -> Result<&'a str> {
    project.map(String::as_str).or(glance.project_id()).ok_or_else(|| {
        Error::new(
            Kind::Config,
            "the token does not tell our project: name it by its id behind accept or reject",
        )
    })
}
