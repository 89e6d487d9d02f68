//! Stand-in for the real session: an empty file system, enough to try the life of a mount.

use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;

use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::fuse::unmount::{Manner, unmount};

struct Empty;

impl fuser::Filesystem for Empty {
    fn getattr(
        &self,
        _request: &fuser::Request,
        ino: fuser::INodeNo,
        _fh: Option<fuser::FileHandle>,
        reply: fuser::ReplyAttr,
    ) {
        let epoch = std::time::UNIX_EPOCH;
        let attr = fuser::FileAttr {
            ino,
            size: 0,
            blocks: 0,
            atime: epoch,
            mtime: epoch,
            ctime: epoch,
            crtime: epoch,
            kind: fuser::FileType::Directory,
            perm: 0o755,
            nlink: 2,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        };
        reply.attr(&std::time::Duration::ZERO, &attr);
    }
}

/// A running mount.
pub struct Session {
    mountpoint: std::path::PathBuf,
    ended: std::sync::Arc<(Mutex<bool>, Condvar)>,
}

impl Session {
    /// Mounts; returns when the kernel has finished INIT.
    pub fn start(config: &Config, _runtime: &tokio::runtime::Runtime) -> Result<Session> {
        // Faults for trying the daemon by hand.
        match std::env::var("GLANCEFS_STANDIN").as_deref() {
            Ok("fail") => return Err(Error::new(Kind::Unreachable, "no server answered: start one")),
            Ok("die") => std::process::abort(),
            Ok("panic") => panic!("stand-in panic"),
            Ok("slow") => thread::sleep(std::time::Duration::from_secs(5)),
            _ => {}
        }
        let mut options = fuser::Config::default();
        options.mount_options = vec![
            fuser::MountOption::FSName("glancefs".into()),
            fuser::MountOption::CUSTOM("subtype=glancefs".into()),
        ];
        let session = fuser::Session::new(Empty, &config.mountpoint, &options)
            .map_err(|error| Error::io("mounting", error))?;
        let ended = std::sync::Arc::new((Mutex::new(false), Condvar::new()));
        let signal = std::sync::Arc::clone(&ended);
        thread::spawn(move || {
            if let Err(error) = session.run() {
                tracing::error!("session: {error}");
            }
            *signal.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
            signal.1.notify_all();
        });
        Ok(Session { mountpoint: config.mountpoint.clone(), ended })
    }

    /// Blocks until the mount has ended.
    pub fn wait(&self) {
        let mut ended = self.ended.0.lock().unwrap_or_else(PoisonError::into_inner);
        while !*ended {
            ended = self.ended.1.wait(ended).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Lazy unmount.
    pub fn stop(&self) {
        if let Err(error) = unmount(&self.mountpoint, Manner::Lazy) {
            tracing::error!("{error}");
        }
    }

    /// Writes out state.
    pub fn finish(self) {
        if let Ok(time) = std::env::var("GLANCEFS_STANDIN_FINISH") {
            thread::sleep(crate::units::parse_duration(&time).unwrap_or_default());
        }
    }
}
