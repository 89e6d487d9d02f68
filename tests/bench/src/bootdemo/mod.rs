//! How long a virtual machine takes to start from an image in a cloud, and how much of the image it fetches: through the
//! mount, from a local copy, and after a download. `scripts/bootdemo` makes the images and starts this.
//!
//! - `guest` runs QEMU; `scene` has the server, the link and the images; `ways` are the starts that are compared.
//! - All ways run in each round, and `report` compares within a round, as the other benchmark does.
//! - What a guest read is checked by the guest itself, against hashes in its image.

mod arguments;
mod guest;
mod report;
mod samples;
mod scene;
mod ways;

use std::path::Path;
use std::process::ExitCode;

use arguments::Arguments;
use clap::Parser;
use samples::Samples;
use scene::Scene;

use crate::{Result, folders};

/// The program `glancefs-bootdemo`.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let Some((disk, memory)) = folders() else {
        eprintln!("It is started by scripts/bootdemo.");
        return ExitCode::SUCCESS;
    };
    match run(&arguments, &disk, &memory) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bootdemo: error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments, disk: &Path, memory: &Path) -> Result<()> {
    let mut samples = match &arguments.samples {
        Some(file) => Samples::open(file)?,
        None => Samples::default(),
    };
    let kinds = if arguments.rounds() == 0 { Vec::new() } else { arguments.kinds() };
    for kind in kinds {
        eprintln!("{kind}: setting up");
        let scene = Scene::set_up(arguments, kind, disk, memory)?;
        scene.warm_up()?;
        for round in 0..arguments.rounds() {
            ways::go(&scene, arguments, round, |sample| {
                eprintln!("{kind}, round {}: {}", round + 1, report::brief(&sample));
                samples.add(sample)
            })?;
        }
    }
    let text = report::text(&samples, arguments);
    println!("{text}");
    if arguments.record {
        crate::report::record("scripts/bootdemo", &text)?;
    }
    Ok(())
}
