//! What fsx does to a file, as far as an image can be done so to: reads of all kinds at random, compared with a copy,
//! with evictions in between. The steps follow from a seed, which is printed; `GLANCEFS_FSX_SEED` runs them again.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{IoSliceMut, Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::ptr::null_mut;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{Advice, SeekFrom as Place, seek};
use rustix::io::Errno;

use crate::harness::{Cloud, Mount, Numbers, PROGRAM, is_root, long, pattern, run, sh};

const MIB: usize = 1024 * 1024;

/// Alignment of offsets and buffers for O_DIRECT and mmap.
const PAGE: usize = 4096;

/// The largest single read: more than a request of the kernel to us has, which is 1 MiB.
const LONGEST: usize = 3 * MIB / 2;

/// What is said of the steps before one that went wrong.
const REMEMBERED: usize = 20;

fn seed() -> u64 {
    match std::env::var("GLANCEFS_FSX_SEED") {
        Ok(given) => given.parse().expect("a number"),
        Err(_) => SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos().into(),
    }
}

/// A file under test and how it got where it is.
struct Fsx<'a> {
    mount: &'a Mount,
    name: &'a str,
    content: &'a [u8],
    file: File,
    direct: File,
    numbers: Numbers,
    buffer: Vec<u8>,
    done: VecDeque<String>,
}

impl<'a> Fsx<'a> {
    fn new(mount: &'a Mount, name: &'a str, content: &'a [u8], seed: u64) -> Self {
        let (file, direct) = open(mount, name);
        let (numbers, buffer) = (Numbers::new(seed), vec![0; LONGEST + 2 * PAGE]);
        Self { mount, name, content, file, direct, numbers, buffer, done: VecDeque::new() }
    }

    fn note(&mut self, what: String) {
        self.done.truncate(REMEMBERED - 1);
        self.done.push_front(what);
    }

    /// An offset, seldom beyond the end, and a length; small ones are as frequent as large ones.
    fn place(&mut self) -> (usize, usize) {
        let scale = 1 << (1 + self.numbers.below(20));
        let length = (1 + self.numbers.below(scale)).min(LONGEST);
        (self.numbers.below(self.content.len() + 2 * PAGE), length)
    }

    /// What must be there.
    fn expected(&self, at: usize, length: usize) -> &'a [u8] {
        let at = at.min(self.content.len());
        &self.content[at..(at + length).min(self.content.len())]
    }

    #[track_caller]
    fn compare(&self, at: usize, length: usize, found: &[u8]) {
        let expected = self.expected(at, length);
        let differs = expected.iter().zip(found).position(|(one, other)| one != other);
        assert!(
            found == expected,
            "{} bytes at {at}, {} expected, the first that differs: {differs:?}\nlatest first: {:#?}",
            found.len(),
            expected.len(),
            self.done
        );
    }

    fn step(&mut self) {
        let (at, length) = self.place();
        let (low, high) = (at / PAGE * PAGE, length.next_multiple_of(PAGE));
        match self.numbers.below(100) {
            0..25 => self.pread(at, length),
            25..40 => self.seek_and_read(at, length),
            40..55 => self.readv(at, length),
            55..70 => self.mapped(low, length),
            70..85 => self.direct_read(low, high),
            85..90 => self.seek_hole(at),
            90..93 => self.advise(low, high),
            93..98 => self.reopen(),
            98 => self.evict(),
            _ => self.drop_caches(),
        }
    }

    fn pread(&mut self, at: usize, length: usize) {
        self.note(format!("pread of {length} at {at}"));
        let count = read_at(&self.file, &mut self.buffer[..length], at);
        self.compare(at, length, &self.buffer[..count]);
    }

    fn seek_and_read(&mut self, at: usize, length: usize) {
        self.note(format!("lseek and read of {length} at {at}"));
        // From each of the three places that an offset can be counted from.
        let here = i64::try_from(at).unwrap();
        let to = match self.numbers.below(3) {
            0 => SeekFrom::Start(at as u64),
            1 => SeekFrom::Current(here - i64::try_from(self.file.stream_position().unwrap()).unwrap()),
            _ => SeekFrom::End(here - i64::try_from(self.content.len()).unwrap()),
        };
        assert_eq!(self.file.seek(to).unwrap(), at as u64);
        let count = self.file.read(&mut self.buffer[..length]).unwrap();
        self.compare(at, length, &self.buffer[..count]);
        assert_eq!(self.file.stream_position().unwrap(), (at + count) as u64);
    }

    fn readv(&mut self, at: usize, length: usize) {
        let first = self.numbers.below(length + 1);
        self.note(format!("readv of {first} and {} at {at}", length - first));
        self.file.seek(SeekFrom::Start(at as u64)).unwrap();
        let (one, other) = self.buffer[..length].split_at_mut(first);
        let count = self.file.read_vectored(&mut [IoSliceMut::new(one), IoSliceMut::new(other)]).unwrap();
        self.compare(at, length, &self.buffer[..count]);
    }

    /// Through a mapping of whole pages; beyond the end its last page has zeros.
    fn mapped(&mut self, at: usize, length: usize) {
        self.note(format!("mmap of {length} at {at}"));
        if at >= self.content.len() {
            return;
        }
        let flags = if self.numbers.below(2) == 0 { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
        let pages = length.min(self.content.len() - at).next_multiple_of(PAGE);
        // SAFETY: a new mapping at an address of the kernel's choice, of a range that ends with the file's last page.
        let mapping = unsafe {
            let offset = libc::off_t::try_from(at).unwrap();
            libc::mmap(null_mut(), pages, libc::PROT_READ, flags, self.file.as_raw_fd(), offset)
        };
        assert!(mapping != libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
        // SAFETY: the mapping is readable and as long; nobody writes to it, since images do not change.
        let bytes = unsafe { std::slice::from_raw_parts(mapping.cast::<u8>(), pages) };
        let (inside, beyond) = bytes.split_at(pages.min(self.content.len() - at));
        self.compare(at, inside.len(), inside);
        assert!(beyond.iter().all(|byte| *byte == 0), "beyond the end are zeros");
        // SAFETY: it was mapped above, and `bytes` is not used any more.
        assert_eq!(unsafe { libc::munmap(mapping, pages) }, 0);
    }

    fn direct_read(&mut self, at: usize, length: usize) {
        self.note(format!("O_DIRECT read of {length} at {at}"));
        let aligned = self.buffer.as_ptr().align_offset(PAGE);
        let count = read_at(&self.direct, &mut self.buffer[aligned..][..length], at);
        self.compare(at, length, &self.buffer[aligned..][..count]);
    }

    /// Holes are not known: all of an image is data, and the hole is at its end.
    fn seek_hole(&mut self, at: usize) {
        self.note(format!("lseek for data and holes at {at}"));
        let (here, end) = (at as u64, self.content.len() as u64);
        let [data, hole] = [Place::Data(here), Place::Hole(here)].map(|to| seek(&self.file, to));
        if here < end {
            assert_eq!((data, hole), (Ok(here), Ok(end)));
        } else {
            assert_eq!((data, hole), (Err(Errno::NXIO), Err(Errno::NXIO)));
        }
    }

    /// Has the kernel drop pages, or fetch them.
    fn advise(&mut self, at: usize, length: usize) {
        let advice = [Advice::DontNeed, Advice::WillNeed, Advice::Random, Advice::Sequential];
        let advice = advice[self.numbers.below(advice.len())];
        self.note(format!("posix_fadvise {advice:?} of {length} at {at}"));
        let length = std::num::NonZeroU64::new(length as u64);
        rustix::fs::fadvise(&self.file, at as u64, length, advice).unwrap();
    }

    fn reopen(&mut self) {
        self.note("close and open".to_owned());
        (self.file, self.direct) = open(self.mount, self.name);
    }

    /// Has glancefs drop what it has of the image, which it refuses while the kernel reads the file past it.
    fn evict(&mut self) {
        self.note("glancefs evict".to_owned());
        if self.mount_is_ours_to_read() {
            sh!("{PROGRAM} evict {}", self.mount.path(self.name));
        }
    }

    /// Whether reads come to the daemon.
    fn mount_is_ours_to_read(&self) -> bool {
        !is_root() || self.mount.options().contains("--passthrough off")
    }

    /// Has the kernel drop all clean pages, of everybody: so it is seldom done.
    fn drop_caches(&mut self) {
        self.note("drop_caches".to_owned());
        if is_root() && self.numbers.below(8) == 0 {
            // A container may not be allowed to.
            let _ = run("echo 1 > /proc/sys/vm/drop_caches");
        }
    }
}

fn open(mount: &Mount, name: &str) -> (File, File) {
    let mut options = File::options();
    let path = mount.path(name);
    let file = options.read(true).open(&path).unwrap();
    (file, options.custom_flags(libc::O_DIRECT).open(&path).unwrap())
}

/// Reads until the end of the file or of `buffer`; how much that was.
fn read_at(file: &File, buffer: &mut [u8], at: usize) -> usize {
    let mut count = 0;
    while count < buffer.len() {
        match file.read_at(&mut buffer[count..], (at + count) as u64).unwrap() {
            0 => break,
            more => count += more,
        }
        if count % PAGE != 0 {
            // The end; from here O_DIRECT would be unaligned.
            break;
        }
    }
    count
}

/// Runs `steps` on an image of a store with ranges, and on one of a store without.
#[track_caller]
fn exercise(options: &str, steps: usize) {
    let cloud = Cloud::open();
    let seed = seed();
    eprintln!("GLANCEFS_FSX_SEED={seed}, options {options:?}");
    let mount = cloud.mount(options);
    // No two sizes have the same rest in a page or a block.
    let (ranged, streamed) = (pattern(seed ^ 1, 24 * MIB + 4321), pattern(seed ^ 2, 9 * MIB + 77));
    let [ranged_name, streamed_name] = ["ranged", "streamed"].map(|kind| format!("fsx-{kind}-{seed}.raw"));
    cloud.image(&ranged_name, &ranged);
    cloud.http_image(&streamed_name, &mount.beside().file("source", &streamed), &[]);
    let mut one = Fsx::new(&mount, &ranged_name, &ranged, seed);
    let mut other = Fsx::new(&mount, &streamed_name, &streamed, seed.rotate_left(7));
    for step in 0..steps {
        if step % 4 == 3 { other.step() } else { one.step() }
    }
}

fn steps() -> usize {
    if long() { 40_000 } else { 2_000 }
}

#[test]
fn random_reads_are_right_with_all_in_the_cache() {
    exercise("", steps());
}

#[test]
fn random_reads_are_right_through_the_daemon() {
    exercise("--passthrough off", steps());
}

#[test]
fn random_reads_are_right_while_blocks_are_evicted_all_the_time() {
    // A third of the images fits.
    exercise("--passthrough off --cache-size 12M --memory-limit 16M", steps() / 2);
}
