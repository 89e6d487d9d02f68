//! The command lines of those that mount.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::files::{Files, Mount};
use crate::process::Daemon;
use crate::server::Image;
use crate::{Result, within};

/// `glancefs mount` of the images with these ids, with the defaults that a user gets.
pub fn glancefs(program: &Path, wrapper: &[String], port: u16, folder: &Path, ids: &[&str]) -> Result<Files> {
    let at = folder.join("glancefs");
    let mut command = match wrapper.split_first() {
        Some((first, rest)) => {
            let mut command = Command::new(first);
            command.args(rest).arg(program);
            command
        }
        None => Command::new(program),
    };
    command.arg("mount").arg("--foreground").args(["--os-auth-type", "none"]);
    command.arg(format!("--endpoint=http://127.0.0.1:{port}"));
    command
        .arg("--cache-dir")
        .arg(folder.join("cache"))
        .arg("--spool-dir")
        .arg(folder.join("spool"))
        .arg(&at);
    without_settings(&mut command);
    let mut files = Files::default();
    let mount = Mount::start(command, &at)?;
    files.add(mount, ids.iter().map(|id| ((*id).to_owned(), at.join(".by-id").join(id))));
    Ok(files)
}

/// `rclone mount` of nginx's listing. `--vfs-cache-mode full` is what its manual asks for when files are read at random.
pub fn rclone(port: u16, folder: &Path, images: &[&Image]) -> Result<Files> {
    let at = folder.join("rclone");
    let mut command = Command::new("rclone");
    command
        .args(["mount", ":http:"])
        .arg(&at)
        .arg("--http-url")
        .arg(format!("http://127.0.0.1:{port}/files/"));
    command.args(["--read-only", "--vfs-cache-mode", "full", "--config", "/dev/null", "--cache-dir"]);
    command.arg(folder.join("cache"));
    without_settings(&mut command);
    let mut files = Files::default();
    let mount = Mount::start(command, &at)?;
    files.add(mount, images.iter().map(|image| (image.id.clone(), at.join(&image.id))));
    Ok(files)
}

/// For each image one `nbdkit curl`, and one `nbdfuse` that shows it as a file.
pub fn nbdkit(port: u16, folder: &Path, images: &[&Image]) -> Result<Files> {
    let mut files = Files::default();
    for image in images {
        let at = folder.join(format!("nbdfuse-{}", image.name));
        let socket = folder.join(format!("{}.sock", image.name));
        let _ = std::fs::remove_file(&socket);
        let mut server = Command::new("nbdkit");
        server.args(["--foreground", "--readonly", "--unix"]).arg(&socket);
        server.arg("curl").arg(format!("url=http://127.0.0.1:{port}/v2/images/{}/file", image.id));
        without_settings(&mut server);
        files.add_helper(Daemon::start(server, &folder.join("nbdkit.log"))?);
        if !within(Duration::from_secs(10), || socket.exists()) {
            return Err("nbdkit does not open its socket".into());
        }
        let mut fuse = Command::new("nbdfuse");
        fuse.arg("--readonly").arg(at.join("image")).arg("--unix").arg(&socket);
        without_settings(&mut fuse);
        let mount = Mount::start(fuse, &at)?;
        files.add(mount, [(image.id.clone(), at.join("image"))]);
    }
    Ok(files)
}

/// Takes the caller's own cloud, and a proxy for the web, out of the environment.
fn without_settings(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        let proxy = ["http_proxy", "https_proxy", "all_proxy"].contains(&name.to_lowercase().as_str());
        if proxy || name.starts_with("OS_") || name.starts_with("RCLONE_") {
            command.env_remove(&*name);
        }
    }
}
