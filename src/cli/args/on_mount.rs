//! The commands that work on a mount from outside: what they take.

use std::path::PathBuf;

use clap::{Args, Subcommand};

const ON_MOUNT: &str = "\
An image is named by its path on a mount, or by its id, its name or its full address
(https://glance:9292/v2/images/ID), which are looked for on one mount. With --mount, only what begins with /, ./ or ../
is a path. Of several images of one name the one whose file has that name is meant.";

/// The mount that images are on which are not named by a path.
#[derive(Debug, Args)]
pub struct OnMountArguments {
    /// The mount that has the images which are not named by a path [default: the only one that this user mounted].
    #[arg(long, value_name = "MOUNTPOINT")]
    pub mount: Option<PathBuf>,
}

/// Bring whole images into the cache, and wait until they are verified.
///
/// Readers go first. Ctrl-C stops it and leaves what came. Exits with 1 when an image could not be brought or
/// does not match its hash.
#[derive(Debug, Args)]
#[command(after_help = ON_MOUNT)]
pub struct PrefetchArguments {
    /// The images.
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<PathBuf>,

    #[command(flatten)]
    pub on: OnMountArguments,
}

/// Drop images from the cache of their mount.
///
/// Only root and the user who mounted may. Who reads them goes on, from the server. An image that programs
/// read straight from the cache (FUSE passthrough) must be closed first.
#[derive(Debug, Args)]
#[command(after_help = ON_MOUNT)]
pub struct EvictArguments {
    /// The images.
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<PathBuf>,

    #[command(flatten)]
    pub on: OnMountArguments,
}

/// Show how a mount is: the cloud, the cache and the images in it, hits and transfers.
#[derive(Debug, Args)]
pub struct StatusArguments {
    /// Where the images are mounted.
    #[arg(value_name = "MOUNTPOINT")]
    pub mountpoint: PathBuf,

    /// As JSON, with sizes in bytes.
    #[arg(long)]
    pub json: bool,
}

/// List the uploads of a mount, or of the spool folder: those that run, and what failed, was killed or crashed.
///
/// Without MOUNTPOINT the folder is looked at as a mount of this user would find it.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct UploadsArguments {
    #[command(subcommand)]
    pub command: Option<UploadsCommand>,

    /// Where the images are mounted.
    #[arg(value_name = "MOUNTPOINT")]
    pub mountpoint: Option<PathBuf>,

    /// As JSON, with sizes in bytes.
    #[arg(long)]
    pub json: bool,

    /// The cache folder that was given to the mount; its folder "spool" is looked at.
    #[arg(long, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,

    /// The spool folder that was given to the mount.
    #[arg(long, value_name = "DIR")]
    pub spool_dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum UploadsCommand {
    /// Upload from the spool again, and wait until the image is active.
    ///
    /// Ctrl-C ends it: nothing is published, and the bytes stay in the spool.
    Retry {
        /// The upload, as `glancefs uploads` shows it; its first digits will do.
        id: String,
        /// Make a new image of this name, instead of the one that was meant.
        #[arg(long = "as", value_name = "NAME")]
        name: Option<String>,
        /// Where its cloud is mounted [default: the mount that has its spool].
        #[arg(long, value_name = "MOUNTPOINT")]
        mountpoint: Option<PathBuf>,
    },
    /// Remove it from the spool, and its unfinished record from the cloud.
    Discard {
        /// The upload, as `glancefs uploads` shows it; its first digits will do.
        id: String,
        /// Where its cloud is mounted [default: the mount that has its spool].
        #[arg(long, value_name = "MOUNTPOINT")]
        mountpoint: Option<PathBuf>,
    },
}

/// Copy boot profiles between hosts.
///
/// What a guest reads while it starts from an image is recorded once, and fetched ahead of it at later starts. The
/// record is small and belongs to the data: it works on every mount of every host that has it.
#[derive(Debug, Subcommand)]
#[command(after_help = ON_MOUNT)]
pub enum ProfileCommand {
    /// Write the boot profile of an image to standard output or a file.
    Export {
        /// The image.
        image: PathBuf,
        #[command(flatten)]
        on: OnMountArguments,
        /// The file to write.
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Store the boot profile of an image in the property glancefs_profile of the image.
    ///
    /// Mounts that have none of their own use it. Whoever may change the image may publish; to take it back:
    /// setfattr -x user.glance.property.glancefs_profile PATH.
    Publish {
        /// The image.
        image: PathBuf,
        #[command(flatten)]
        on: OnMountArguments,
    },
    /// Take over the boot profile of an image from a file ("-": standard input).
    Import {
        /// The image.
        image: PathBuf,
        #[command(flatten)]
        on: OnMountArguments,
        /// What `glancefs profile export` wrote.
        #[arg(default_value = "-")]
        file: PathBuf,
    },
}

/// End the mount at MOUNTPOINT and wait until its daemon has ended.
///
/// A mount whose daemon has died ("Transport endpoint is not connected") is cleaned up.
#[derive(Debug, Args)]
pub struct UmountArguments {
    /// Where the images are mounted.
    #[arg(value_name = "MOUNTPOINT")]
    pub mountpoint: PathBuf,

    /// Detach the mount even while files on it are open; the daemon serves those until they are closed.
    #[arg(long, short = 'l')]
    pub lazy: bool,
}
