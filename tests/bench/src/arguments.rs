//! The command line of `scripts/bench`.

use std::path::PathBuf;

use clap::Parser;

use crate::Result;
use crate::cases::{self, Case};
use crate::contender::Contender;
use crate::link::LinkKind;
use crate::server::ServerKind;
use crate::site::Place;

/// Measures glancefs against what else a user would pick, and prints a table of ratios.
#[derive(Debug, Parser)]
#[command(name = "scripts/bench", next_line_help = true)]
pub struct Arguments {
    /// Smaller images, fewer reads and two rounds: for trying out, not for figures to be quoted.
    #[arg(long)]
    pub quick: bool,

    /// Only these cases: sequential, random, random-deep, boot, readers, images, first-byte, listing, limited, upload.
    #[arg(long = "case", value_name = "NAME", num_args = 1..)]
    case_names: Vec<String>,

    /// Only these servers.
    #[arg(long = "server", value_name = "NAME", num_args = 1..)]
    servers: Vec<ServerKind>,

    /// Only these distances to the server. The slow ones lead to nginx only, unless Glance is named by --server.
    #[arg(long = "link", value_name = "NAME", num_args = 1..)]
    links: Vec<LinkKind>,

    /// Compare with these only.
    #[arg(long, value_name = "NAME", num_args = 1..)]
    pub with: Vec<Contender>,

    /// Compare with this build of glancefs as well.
    #[arg(long, value_name = "PROGRAM")]
    pub against: Option<PathBuf>,

    /// Measure this build of glancefs.
    #[arg(
        long,
        value_name = "PROGRAM",
        default_value = "target/release/glancefs",
        overrides_with = "glancefs"
    )]
    pub glancefs: PathBuf,

    /// How often each case is run by each contender [default: 5, behind slow links 3; with --quick 2].
    #[arg(long = "rounds", value_name = "NUMBER")]
    rounds: Option<usize>,

    /// Write the table into docs/benchmarks.md.
    #[arg(long)]
    pub record: bool,
}

impl Arguments {
    /// Where to measure.
    pub fn places(&self) -> Vec<Place> {
        let all = |server: ServerKind| {
            let links = [LinkKind::Direct, LinkKind::Near, LinkKind::Far];
            links.into_iter().map(move |link| Place { server, link })
        };
        let wanted = |place: &Place| {
            let usual = place.server == ServerKind::Nginx || place.link == LinkKind::Direct;
            let server = if self.servers.is_empty() { usual } else { self.servers.contains(&place.server) };
            let link = self.links.is_empty() || self.links.contains(&place.link);
            server && link && (usual || !self.links.is_empty())
        };
        [ServerKind::Nginx, ServerKind::Glance].into_iter().flat_map(all).filter(wanted).collect()
    }

    /// What to measure.
    pub fn cases(&self) -> Result<Vec<&'static dyn Case>> {
        if let Some(unknown) =
            self.case_names.iter().find(|name| !cases::ALL.iter().any(|case| case.name() == *name))
        {
            let known: Vec<_> = cases::ALL.iter().map(|case| case.name()).collect();
            return Err(format!("there is no case {unknown:?}; there are {}", known.join(", ")).into());
        }
        let wanted = |case: &&dyn Case| {
            self.case_names.is_empty() || self.case_names.iter().any(|name| name == case.name())
        };
        Ok(cases::ALL.iter().copied().filter(wanted).collect())
    }

    /// How often.
    pub fn rounds(&self, place: Place) -> usize {
        let usual = if place.link == LinkKind::Direct { 5 } else { 3 };
        self.rounds.unwrap_or(if self.quick { 2 } else { usual }).max(1)
    }
}
