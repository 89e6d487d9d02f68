//! `glancefs members`: which projects an image is shared with.

use std::process::ExitCode;

use super::target::Target;
use super::{Connection, run, say};
use crate::error::{Error, Kind, Result};
use crate::glance::{Facts, Glance, Member, Negotiated, Verdict, Versioned, v1_lacks};
use crate::units::ImageId;

/// What v1 of the API does not have.
const VERDICTS: &str = "accepting and rejecting: an image is listed where it was shared with";

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
        if matches!(act, MemberAct::Accept(_) | MemberAct::Reject(_)) {
            glance.v2_for(VERDICTS).await?;
        }
        let target = Target::of(typed)?;
        let image = target.find(&glance).await?;
        let outcome = act.carry_out(&glance, typed, &image.id).await;
        outcome.map_err(|error| error.context(typed))?;
        if !matches!(act, MemberAct::List { .. }) {
            target.changed();
        }
        Ok(())
    })
}

impl MemberAct {
    async fn carry_out(&self, glance: &Negotiated, typed: &str, id: &ImageId) -> Result<()> {
        match (self, glance.versioned().await?) {
            (Self::List { json }, _) => tell(typed, &glance.members(id).await?, *json),
            (Self::Add(project), Versioned::V1(glance)) => {
                glance.add_member(id, project).await?;
                say(format_args!("{typed}: shared with {project}, which may read it, and lists it"));
            }
            (Self::Add(project), Versioned::V2(glance)) => {
                glance.add_member(id, project).await?;
                say(format_args!(
                    "{typed}: shared with {project}, which may read it, and lists it once it accepts"
                ));
            }
            (Self::Remove(project), service) => {
                match service {
                    Versioned::V1(glance) => glance.remove_member(id, project).await?,
                    Versioned::V2(glance) => glance.remove_member(id, project).await?,
                }
                say(format_args!("{typed}: not shared with {project} any more"));
            }
            (Self::Accept(_) | Self::Reject(_), Versioned::V1(_)) => return Err(v1_lacks(VERDICTS)),
            (Self::Accept(project), Versioned::V2(glance)) => {
                glance.judge(id, own_or(glance, project.as_ref())?, Verdict::Accepted).await?;
                say(format_args!("{typed}: accepted, and listed from now on"));
            }
            (Self::Reject(project), Versioned::V2(glance)) => {
                glance.judge(id, own_or(glance, project.as_ref())?, Verdict::Rejected).await?;
                say(format_args!("{typed}: rejected, and not listed"));
            }
        }
        Ok(())
    }
}

fn tell(typed: &str, members: &[Member], json: bool) {
    if json {
        say(serde_json::json!(members));
    } else if members.is_empty() {
        eprintln!("{typed}: shared with no project");
    } else {
        members.iter().for_each(|member| say(format_args!("{}  {}", member.member_id, member.status)));
    }
}

fn own_or<'a>(glance: &'a Glance, project: Option<&'a String>) -> Result<&'a str> {
    project.map(String::as_str).or(glance.project_id()).ok_or_else(|| {
        Error::new(
            Kind::Config,
            "the token does not tell our project: name it by its id behind accept or reject",
        )
    })
}
