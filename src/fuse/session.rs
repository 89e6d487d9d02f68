//! Stand-in for the real session: an empty file system, enough to try the life of a mount.

use std::mem::ManuallyDrop;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::config::Config;
use crate::error::{Error, Result};
use crate::fuse::unmount::{Manner, unmount};

type Ended = Arc<(Mutex<bool>, Condvar)>;

struct Empty(Ended);

impl fuser::Filesystem for Empty {
    fn destroy(&mut self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.1.notify_all();
    }

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
    ended: Ended,
    /// Never dropped: fuser would unmount the path once more, whatever is mounted there by then.
    _session: ManuallyDrop<fuser::BackgroundSession>,
}

impl Session {
    /// Mounts; returns when the kernel has finished INIT.
    pub fn start(config: &Config, _runtime: &tokio::runtime::Runtime) -> Result<Session> {
        let mut options = fuser::Config::default();
        options.mount_options = vec![
            fuser::MountOption::FSName("glancefs".into()),
            fuser::MountOption::CUSTOM("subtype=glancefs".into()),
        ];
        let ended = Ended::default();
        let session = fuser::Session::new(Empty(Arc::clone(&ended)), &config.mountpoint, &options)
            .and_then(fuser::Session::spawn)
            .map_err(|error| Error::io("mounting", error))?;
        Ok(Session { mountpoint: config.mountpoint.clone(), ended, _session: ManuallyDrop::new(session) })
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

    /// Writes out state: there is none.
    pub fn finish(self) {}
}
