//! In which way the open handles of a file are read: through us, or past us from a file of the cache.
//!
//! The kernel takes one way per inode at a time, and one registered file per inode: an open that is
//! answered otherwise fails with EIO. So the first handle decides, and those that follow join it until the
//! last is closed; a file that is read past us cannot be opened for writing meanwhile. Pure bookkeeping:
//! `fuse` registers files with the kernel and asks here.
//!
//! A handle counts from before its reply until its RELEASE. The kernel counts it for less long, so this
//! table never takes a way for free that the kernel still uses.
//!
//! A registered file is kept longer: a program may map an image and close it, and a mapping reads the
//! file without any handle. It holds the inode, though. So a file is given back when the kernel has
//! forgotten its inode, which it is asked to do once no handle is open ([`Modes::sweep`]).

use std::collections::HashMap;

use super::Ino;
use crate::error::{Error, Kind, Result};

/// The ways in use. `C` names a content, `F` is a file registered with the kernel.
#[derive(Debug)]
pub struct Modes<C, F> {
    in_use: HashMap<Ino, InUse<C, F>>,
    /// Registered files without a handle.
    idle: HashMap<Ino, F>,
}

#[derive(Debug)]
struct InUse<C, F> {
    handles: u64,
    /// `None`: through us.
    past_us: Option<(C, F)>,
}

impl<C, F> Default for Modes<C, F> {
    fn default() -> Self {
        Self { in_use: HashMap::new(), idle: HashMap::new() }
    }
}

impl<C: PartialEq, F: Clone> Modes<C, F> {
    /// No handle is open, so the next one decides.
    pub fn is_free(&self, ino: Ino) -> bool {
        !self.in_use.contains_key(&ino)
    }

    /// Counts a handle that must be read or written through us.
    ///
    /// # Errors
    /// `Busy` while handles are read past us.
    pub fn open_through(&mut self, ino: Ino) -> Result<()> {
        let used = self.in_use.entry(ino).or_insert(InUse { handles: 0, past_us: None });
        if used.past_us.is_some() {
            return Err(busy());
        }
        used.handles += 1;
        Ok(())
    }

    /// Counts a handle for reading `content`. With `Some` it is read past us, from that file; with
    /// `None` through us. `register` is asked when there is a choice.
    ///
    /// # Errors
    /// `Busy` while handles of another content are read past us: an image was replaced under its name.
    pub fn open(&mut self, ino: Ino, content: C, register: impl FnOnce() -> Option<F>) -> Result<Option<F>> {
        let Some(used) = self.in_use.get_mut(&ino) else {
            let file = register();
            let past_us = file.clone().map(|file| (content, file));
            if past_us.is_some() {
                // It is the same file, or one that has taken its name: the other is nobody's to change.
                self.idle.remove(&ino);
            }
            self.in_use.insert(ino, InUse { handles: 1, past_us });
            return Ok(file);
        };
        let file = match &used.past_us {
            None => None,
            Some((known, file)) if *known == content => Some(file.clone()),
            Some(_) => return Err(busy()),
        };
        used.handles += 1;
        Ok(file)
    }

    /// A counted handle was closed.
    pub fn close(&mut self, ino: Ino) {
        let Some(used) = self.in_use.get_mut(&ino) else { return };
        used.handles -= 1;
        if used.handles == 0
            && let Some(InUse { past_us: Some((_, file)), .. }) = self.in_use.remove(&ino)
        {
            self.idle.insert(ino, file);
        }
    }

    /// Gives back the files that can have no reader any more: without a handle, and of inodes that the
    /// kernel does not know. Tells which it should be asked to forget.
    pub fn sweep(&mut self, is_known: impl Fn(Ino) -> bool) -> Vec<Ino> {
        self.idle.retain(|ino, _| self.in_use.contains_key(ino) || is_known(*ino));
        self.idle.keys().copied().filter(|ino| !self.in_use.contains_key(ino)).collect()
    }
}

fn busy() -> Error {
    Error::new(Kind::Busy, "the image is open for reading from the cache: close it first")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const INO: Ino = Ino(300);

    #[test]
    fn the_first_handle_decides_and_the_others_join_it() {
        let mut modes = Modes::default();
        assert_eq!(modes.open(INO, 'a', || Some(1)).unwrap(), Some(1));
        assert_eq!(modes.open(INO, 'a', || unreachable!()).unwrap(), Some(1));
        assert!(!modes.is_free(INO));
        modes.close(INO);
        modes.close(INO);
        assert!(modes.is_free(INO));
        assert_eq!(modes.open(INO, 'a', || None).unwrap(), None);
        assert_eq!(modes.open(INO, 'a', || unreachable!()).unwrap(), None, "complete by now, but joined");
        modes.close(INO);
        modes.close(INO);
        assert_eq!(modes.open(INO, 'a', || Some(2)).unwrap(), Some(2));
    }

    #[test]
    fn what_is_read_past_us_is_not_opened_for_writing() {
        let mut modes = Modes::default();
        modes.open(INO, 'a', || Some(1)).unwrap();
        assert_eq!(modes.open_through(INO).unwrap_err().kind(), Kind::Busy);
        modes.close(INO);
        assert!(modes.is_free(INO), "a refused handle does not count");
        modes.open_through(INO).unwrap();
        assert_eq!(modes.open(INO, 'a', || unreachable!()).unwrap(), None);
    }

    #[test]
    fn another_content_under_the_same_number_is_refused() {
        let mut modes = Modes::default();
        modes.open(INO, 'a', || Some(1)).unwrap();
        assert_eq!(modes.open(INO, 'b', || unreachable!()).unwrap_err().kind(), Kind::Busy);
        modes.close(INO);
        assert!(modes.open(INO, 'b', || None).is_ok());
        assert!(modes.open(INO, 'a', || unreachable!()).is_ok(), "through us each handle has its own bytes");
    }

    #[test]
    fn a_file_stays_registered_until_the_kernel_has_forgotten_its_inode() {
        let mut modes = Modes::default();
        let file = std::rc::Rc::new(());
        let kept = || std::rc::Rc::strong_count(&file) > 1;
        modes.open(INO, 'a', || Some(file.clone())).unwrap();
        assert_eq!(modes.sweep(|_| false), [], "a handle is open");
        assert!(kept());
        modes.close(INO);
        assert_eq!(modes.sweep(|_| true), [INO], "a mapping may hold it");
        modes.open(INO, 'a', || None).unwrap();
        assert_eq!(modes.sweep(|_| false), [], "it is open in another way, and mapped");
        modes.close(INO);
        assert!(kept());
        assert_eq!(modes.sweep(|_| false), []);
        assert!(!kept());
        assert_eq!(modes.sweep(|_| true), []);
    }

    /// The kernel's own rules (`fs/fuse/iomode.c`), for one inode.
    #[derive(Debug, Default)]
    struct Kernel {
        through: u32,
        past: u32,
        file: Option<u32>,
    }

    impl Kernel {
        /// False: the user gets EIO.
        fn opened(&mut self, answer: Option<u32>) -> bool {
            match answer {
                None if self.past > 0 => return false,
                None => self.through += 1,
                Some(_) if self.through > 0 => return false,
                Some(file) if self.file.is_some_and(|known| known != file) => return false,
                Some(file) => (self.past, self.file) = (self.past + 1, Some(file)),
            }
            true
        }

        fn closed(&mut self, answer: Option<u32>) {
            match answer {
                None => self.through -= 1,
                Some(_) => self.past -= 1,
            }
            if self.past == 0 {
                self.file = None;
            }
        }
    }

    proptest! {
        /// Opens and closes in any order, each RELEASE arriving later than the kernel forgot the handle.
        #[test]
        fn no_order_of_opens_and_late_releases_gives_eio(steps in prop::collection::vec(0_u8..6, 1..200)) {
            let mut modes = Modes::default();
            let mut kernel = Kernel::default();
            let (mut open, mut releases, mut last) = (Vec::new(), 0, 0);
            for step in steps {
                match step {
                    0..=2 => {
                        let answer = match step {
                            0 => modes.open_through(INO).map(|()| None),
                            1 => modes.open(INO, 'a', || None),
                            _ => modes.open(INO, 'a', || { last += 1; Some(last) }),
                        };
                        if let Ok(answer) = answer {
                            prop_assert!(kernel.opened(answer), "{kernel:?} after {answer:?}");
                            open.push(answer);
                        } else {
                            prop_assert_eq!(step, 0, "a reader is never refused");
                        }
                    }
                    3 | 4 => if let Some(answer) = open.pop() {
                        kernel.closed(answer);
                        releases += 1;
                    },
                    _ => if releases > 0 {
                        releases -= 1;
                        modes.close(INO);
                    },
                }
            }
        }
    }
}
