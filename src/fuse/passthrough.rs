//! FUSE passthrough: which handles the kernel reads past us, and the files registered for that.
//!
//! The one place that knows how each open file is read, for all threads ([`Modes`] has the rules). A file
//! is registered for the first handle of an inode and given back when the kernel has forgotten the inode.
//! It is pinned by a lock of its open file description ([`Backing`]). The kernel holds a registered
//! description also when this process is gone, as long as the mount has a user, so our own descriptor is
//! closed once it is registered.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fuser::{BackingId, InitFlags, KernelConfig};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::thread::{CapabilitySet, capabilities};
use tracing::{debug, info, warn};

use crate::cache::{Backing, Key};
use crate::config;
use crate::error::{Kind, Result};
use crate::fs::{Bypass, ImageFs, Ino, Invalidation, Modes, OpenMode, Opened};
use crate::units::ImageId;

/// File systems below ours: 1 is a plain one. With 2 the cache could be on an overlayfs, but none could
/// be made over our mount.
const STACK_DEPTH: u32 = 1;

/// RELEASE comes after close(2) has returned: a program that closes an image and then writes over it must
/// not meet its own handle.
const RELEASE_LOOKS: u32 = 10;
const RELEASE_PAUSE: Duration = Duration::from_millis(20);

/// How often files are given back that are no longer open. A file that is opened again and again stays
/// registered; one that is done with can be evicted within two periods.
const SWEEP_PERIOD: Duration = Duration::from_secs(5);
/// How often, and how long after each other, the kernel is asked to forget what somebody waits for. It needs one
/// round to be told and one to be seen to have done it; a second in all is for a busy machine.
const LET_GO_TRIES: u32 = 10;
const LET_GO_PAUSE: Duration = Duration::from_millis(100);

/// How the open files of a mount are read.
pub(super) struct Passthrough {
    fs: Arc<ImageFs>,
    modes: Mutex<Modes<Key, Arc<BackingId>>>,
    /// The kernel may take a file; false for good once it has refused one.
    on: AtomicBool,
}

impl Passthrough {
    pub(super) fn new(fs: Arc<ImageFs>, wanted: config::Passthrough) -> Self {
        let on = AtomicBool::new(wanted == config::Passthrough::Auto);
        Self { fs, modes: Mutex::default(), on }
    }

    pub(super) fn fs(&self) -> &ImageFs {
        &self.fs
    }

    fn modes(&self) -> MutexGuard<'_, Modes<Key, Arc<BackingId>>> {
        // The table is whole after each of its operations.
        self.modes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// Asks the kernel for it, at INIT, and says what came of it.
    pub(super) fn negotiate(&self, config: &mut KernelConfig) {
        if !self.is_on() {
            return self.off("--passthrough off");
        }
        if config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_err() {
            return self.off("this kernel has no FUSE passthrough (Linux has it from 6.9 on)");
        }
        // Not above the kernel's limit.
        let _ = config.set_max_stack_depth(STACK_DEPTH);
        let ours = capabilities(None).map(|sets| sets.effective);
        if !ours.is_ok_and(|ours| ours.contains(CapabilitySet::SYS_ADMIN)) {
            return self.off("FUSE passthrough needs CAP_SYS_ADMIN");
        }
        info!("complete, verified images are read past this process, from the cache (FUSE passthrough)");
        self.fs.set_way("read from the cache by the kernel (passthrough)");
    }

    /// From now on every file is read through us.
    fn off(&self, why: &str) {
        self.on.store(false, Ordering::Relaxed);
        info!("all images are read through this process: {why}");
        self.fs.set_way(format!("read through the daemon: {why}"));
    }

    /// An open of this file may choose how it is read, so a complete copy is worth looking for.
    pub(super) fn is_worth_a_look(&self, ino: Ino) -> bool {
        self.is_on() && self.modes().is_free(ino)
    }

    /// Counts a handle for writing over an image before anything is done for it, so that no reader
    /// decides otherwise meanwhile. `None`: nothing is written over here, as far as can be told now.
    ///
    /// # Errors
    /// `Busy` while the image is read past us.
    pub(super) async fn claim(self: &Arc<Self>, ino: Ino, mode: OpenMode) -> Result<Option<Claim>> {
        if !mode.write || !self.fs.permits_overwrite() {
            // Refused below with the reason that matters, unless the file is new.
            return Ok(None);
        }
        for _ in 1..RELEASE_LOOKS {
            if self.modes().open_through(ino).is_ok() {
                return Ok(Some(Claim { passthrough: Arc::clone(self), ino, counted: true }));
            }
            tokio::time::sleep(RELEASE_PAUSE).await;
        }
        self.modes().open_through(ino)?;
        Ok(Some(Claim { passthrough: Arc::clone(self), ino, counted: true }))
    }

    /// Decides how the kernel is to read a file that was opened: with `Some` past us, from that file.
    ///
    /// # Errors
    /// `Busy` when it is read in a way that this handle cannot be; the handle is closed then.
    pub(super) fn admit(
        &self,
        ino: Ino,
        opened: Opened,
        bypass: Option<Bypass>,
        claim: Option<Claim>,
        register: impl FnOnce(&Backing) -> io::Result<BackingId>,
    ) -> Result<Option<Arc<BackingId>>> {
        let decision = match (claim, bypass) {
            (Some(claim), _) => {
                claim.keep();
                Ok(None)
            }
            (None, None) => self.modes().open_through(ino).map(|()| None),
            (None, Some(Bypass { content, file })) => {
                // Under the lock: a second opener waits for the ioctl, which waits for nothing.
                self.modes().open(ino, content, || self.register(file.as_ref()?, register))
            }
        };
        match &decision {
            Ok(Some(_)) => self.fs.opens().passthrough.add(1),
            Ok(None) if opened.direct_io => self.fs.opens().direct.add(1),
            Ok(None) => self.fs.opens().cached.add(1),
            Err(error) => {
                warn!(ino = ino.0, %error, "an open was refused");
                let fs = Arc::clone(&self.fs);
                tokio::spawn(async move { fs.release(opened.handle).await });
            }
        }
        decision
    }

    fn register(
        &self,
        file: &Backing,
        register: impl FnOnce(&Backing) -> io::Result<BackingId>,
    ) -> Option<Arc<BackingId>> {
        if !takes_direct_io(file) {
            if !file.is_cached() {
                debug!("the file system of a store has no O_DIRECT: its files are read through this process");
                return None;
            }
            // The kernel opens it with the flags of each program, and an open with O_DIRECT would fail.
            self.off("the file system of the cache folder has no O_DIRECT");
            return None;
        }
        let error = match register(file) {
            Ok(registered) => return Some(Arc::new(registered)),
            Err(error) => error,
        };
        match error.raw_os_error() {
            // What one store cannot do says nothing of the cache.
            Some(code) if !file.is_cached() && code != libc::EPERM => {
                debug!(%error, "a file of a store was not registered")
            }
            Some(libc::ENOMEM | libc::ENOSPC) => debug!(%error, "a file was not registered"),
            Some(libc::EPERM) => self.off("FUSE passthrough needs CAP_SYS_ADMIN outside of user namespaces"),
            Some(libc::ELOOP) => self.off("the cache folder is on a stacked file system such as overlayfs"),
            _ => self.off(&format!("the kernel does not take files of the cache folder: {error}")),
        }
        None
    }

    /// What the kernel should drop once an image is proven: the pages that it read through us. The next open
    /// goes past us and would have to drop them first (65 ms for 1 GiB); the cache file's own pages serve
    /// from then on, and memory holds the bytes once. Pages of an open file stay.
    pub(super) fn outdated_pages(&self, image: &ImageId) -> Vec<Invalidation> {
        let inos = self.fs.inos_of(image).into_iter();
        let outdated = inos.filter(|ino| self.is_worth_a_look(*ino) && self.fs.is_known(*ino));
        outdated.map(Invalidation::Data).collect()
    }

    /// RELEASE: the kernel no longer counts a handle.
    pub(super) fn closed(&self, ino: Ino) {
        self.modes().close(ino);
    }

    /// Tries what wants a file that may be held for the kernel, while the kernel lets go of those that are closed.
    ///
    /// # Errors
    /// Those of `attempt`; `Busy` when it is read still.
    pub(super) async fn let_go_until<T, F: Future<Output = Result<T>>>(
        &self,
        attempt: impl Fn() -> F,
    ) -> Result<T> {
        for _ in 0..LET_GO_TRIES {
            match attempt().await {
                Err(error) if error.kind() == Kind::Busy => self.sweep(),
                outcome => return outcome,
            }
            tokio::time::sleep(LET_GO_PAUSE).await;
        }
        attempt().await
    }

    /// Gives files back that nothing reads any more: they may be evicted then.
    fn sweep(&self) {
        // An open has to wait here for its answer, so the kernel cannot learn of an inode meanwhile and
        // map it: what it does not know has no reader.
        let idle = self.modes().sweep(|ino| self.fs.is_known(ino));
        idle.into_iter().for_each(|ino| self.fs.let_go(ino));
    }
}

fn takes_direct_io(file: &Backing) -> bool {
    let flags = fcntl_getfl(file);
    let set = flags.and_then(|flags| fcntl_setfl(file, flags | OFlags::DIRECT).map(|()| flags));
    set.and_then(|flags| fcntl_setfl(file, flags)).is_ok()
}

/// Runs until the mount ends.
pub(super) async fn sweep_now_and_then(passthrough: Arc<Passthrough>) {
    loop {
        tokio::time::sleep(SWEEP_PERIOD).await;
        passthrough.sweep();
    }
}

/// A handle that counts already; given back when dropped, unless kept.
pub(super) struct Claim {
    passthrough: Arc<Passthrough>,
    ino: Ino,
    counted: bool,
}

impl Claim {
    /// The handle was opened: its RELEASE ends it.
    fn keep(mut self) {
        self.counted = false;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.counted {
            self.passthrough.closed(self.ino);
        }
    }
}
