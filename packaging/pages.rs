//! Writes the manual pages and the completions of shells, from the definitions of the command line, and the links of the package:
//! `cargo run --example pages -- FOLDER`. An example, since only examples and tests can use what is not shipped.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Arg, Command};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

fn main() -> io::Result<()> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from);
    let folder = folder.ok_or_else(|| io::Error::other("usage: pages FOLDER"))?;
    let [manual, completions] = ["man", "completions"].map(|name| folder.join(name));
    fs::create_dir_all(&manual)?;
    fs::create_dir_all(&completions)?;
    let definition = glancefs::cli::definition();
    clap_mangen::generate_to(definition.clone(), &manual)?;
    fs::write(manual.join("mount.glancefs.8"), mount_helper(&definition)?)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut definition.clone(), "glancefs", &completions)?;
    }
    for name in ["mount.glancefs", "mount.fuse.glancefs"] {
        link(&folder.join(name))?;
    }
    Ok(())
}

/// As it lies in `/usr/sbin`.
fn link(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::os::unix::fs::symlink("../bin/glancefs", path)
}

/// mount.glancefs(8): what mount(8) calls, with the options of a mount as `-o` takes them.
fn mount_helper(definition: &Command) -> io::Result<Vec<u8>> {
    let helper = Command::new("mount.glancefs")
        .version(env!("CARGO_PKG_VERSION"))
        .disable_help_flag(true)
        .disable_version_flag(true)
        .about("mount the images of an OpenStack cloud as files")
        .arg(Arg::new("SOURCE").required(true).help(
            "A cloud of clouds.yaml, the address of a Glance, one image (CLOUD:IMAGE or its full address), or none when an option, \
             a variable or the configuration file says which cloud it is.",
        ))
        .arg(Arg::new("MOUNTPOINT").required(true).help("An existing directory, or /dev/fd/N: an opened and mounted /dev/fuse."))
        .arg(Arg::new("s").short('s').num_args(0).help("Leave out options that are not known."))
        .arg(Arg::new("f").short('f').num_args(0).help("Check everything, and do not mount."))
        .arg(Arg::new("n").short('n').num_args(0).help("Without effect."))
        .arg(Arg::new("v").short('v').num_args(0).help("Say what was done."))
        .arg(Arg::new("o").short('o').value_name("OPTION,...").help("Mount options, see below."));
    let page = Man::new(helper).section("8").title("mount.glancefs");
    let mut text = Vec::new();
    page.render_title(&mut text)?;
    page.render_name_section(&mut text)?;
    page.render_synopsis_section(&mut text)?;
    let mut roff = Roff::new();
    roff.control("SH", ["DESCRIPTION"]);
    roff.text([roman(
        "mount(8) calls this program for the file system type glancefs, from a command line or for a line of fstab(5), as does \
         systemd. It returns when the images can be listed; a daemon goes on in the background. Exit codes are those of mount(8).",
    )]);
    roff.to_writer(&mut text)?;
    page.render_options_section(&mut text)?;
    mount_options(definition).to_writer(&mut text)?;
    Ok(text)
}

fn mount_options(definition: &Command) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["MOUNT OPTIONS"]);
    roff.text([roman(
        "Generic options (ro, rw, noexec, _netdev, nofail, noauto, user, x-*, ...) are those of mount(8); devices, set-user-id and times of \
         access have no effect on images. A value with a comma is put in double quotes. Of glancefs itself:",
    )]);
    let mount = definition.get_subcommands().find(|command| command.get_name() == "mount");
    let options = mount.into_iter().flat_map(Command::get_arguments).filter(|option| {
        !option.is_hide_set() && !matches!(option.get_id().as_str(), "foreground" | "help" | "version")
    });
    for option in options {
        let Some(name) = option.get_long() else { continue };
        let values = option.get_value_names().filter(|_| option.get_action().takes_values());
        let value = values.and_then(|names| names.first()).map(|name| format!("={name}")).unwrap_or_default();
        let help = option.get_help().map(ToString::to_string).unwrap_or_default();
        roff.control("TP", []);
        roff.text([bold(format!("{}{value}", name.replace('-', "_")))]);
        roff.text([roman(help)]);
    }
    roff.control("SH", ["FILES"]);
    for (file, what) in [
        ("/etc/glancefs/glancefs.toml", "Options for all mounts of this machine, see glancefs-config(1)."),
        ("/etc/openstack/clouds.yaml", "Clouds, and how to log in there."),
        ("/var/cache/glancefs", "Cached image data, and uploads that failed."),
    ] {
        roff.control("TP", []);
        roff.text([bold(file)]);
        roff.text([roman(what)]);
    }
    roff.control("SH", ["SEE ALSO"]);
    roff.text([roman("glancefs(1), glancefs-mount(1), mount(8), fstab(5), systemd.mount(5)")]);
    roff
}
