//! The options about access: what may be changed through the mount, and whose the files are.

use clap::Args;

#[derive(Debug, Args)]
#[command(next_help_heading = "Access")]
pub struct AccessArguments {
    /// Refuse every change with EROFS.
    #[arg(long)]
    pub read_only: bool,

    /// Let no program be started from the mount, whatever the permission bits say.
    #[arg(long)]
    pub noexec: bool,

    /// Let rm delete images of the cloud.
    #[arg(long)]
    pub allow_delete: bool,

    /// Let a write over an image upload a new image and remove the old one.
    #[arg(long)]
    pub allow_overwrite: bool,

    /// Show where the data of images are as user.glance.locations and user.glance.direct_url, as far as the cloud tells.
    /// They may hold the credentials of its store (OSSN-0065).
    #[arg(long)]
    pub show_locations: bool,

    /// Keep modification times that are set, in the property glancefs_mtime, and show them instead of the time of
    /// creation: a second rsync -a then sends nothing.
    #[arg(long)]
    pub keep_times: bool,

    /// Let other users in; the kernel then checks owner and permission bits.
    #[arg(long)]
    pub allow_other: bool,

    /// The owner shown for files and directories [default: the user who mounts].
    #[arg(long, value_name = "UID")]
    pub uid: Option<u32>,

    /// The group shown for files and directories [default: the group of the user who mounts].
    #[arg(long, value_name = "GID")]
    pub gid: Option<u32>,

    /// The permission bits of files, in octal.
    #[arg(long, value_name = "MODE", default_value = "0644", value_parser = parse_mode)]
    pub file_mode: u16,

    /// The permission bits of directories, in octal.
    #[arg(long, value_name = "MODE", default_value = "0755", value_parser = parse_mode)]
    pub dir_mode: u16,
}

/// Permission bits in octal, without set-user-id and the like.
fn parse_mode(text: &str) -> Result<u16, String> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let octal = !digits.is_empty() && digits.bytes().all(|digit| matches!(digit, b'0'..=b'7'));
    match u16::from_str_radix(digits, 8) {
        Ok(mode) if octal && mode <= 0o777 => Ok(mode),
        _ => Err("write octal permission bits from 0 to 777, such as 0644".to_owned()),
    }
}
