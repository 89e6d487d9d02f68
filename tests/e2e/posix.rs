//! The assertions of pjdfstest that can be made of a mount without directories, links and devices.
//!
//! pjdfstest itself (0.2.2) begins each test with mkdir, which is refused here. So its cases are rows of ours, each
//! with the name of the file of pjdfstest that it stands for; `docs/reliability.md` lists those that do not apply.

use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, Timespec, Timestamps, UTIME_OMIT, chmodat, chown,
    chownat, link, mkdir, mknodat, open, rename, renameat_with, rmdir, symlink, unlink, utimensat,
};
use rustix::io::{Errno, Result};
use rustix::process::{Uid, getgid, getuid};

use crate::harness::{Cloud, Mount, pattern};

const MIB: usize = 1024 * 1024;

/// A call that names one file.
type Call = fn(&str) -> Result<()>;

/// A call that names two.
type Pair = fn(&str, &str) -> Result<()>;

fn mode() -> Mode {
    Mode::from_raw_mode(0o644)
}

fn create(path: &str) -> Result<OwnedFd> {
    open(path, OFlags::CREATE | OFlags::RDWR, mode())
}

fn truncate(path: &str, length: i64) -> Result<()> {
    let path = CString::new(path).unwrap();
    // SAFETY: the path ends with a NUL and lives until the call returns.
    match unsafe { libc::truncate(path.as_ptr(), length) } {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap()),
    }
}

fn times(path: &str, atime: (i64, i64), mtime: (i64, i64)) -> Result<()> {
    let [last_access, last_modification] =
        [atime, mtime].map(|(tv_sec, tv_nsec)| Timespec { tv_sec, tv_nsec });
    utimensat(CWD, path, &Timestamps { last_access, last_modification }, AtFlags::empty())
}

/// Calls on a file that is there.
const ON_A_FILE: &[(&str, Call)] = &[
    ("open", |path| open(path, OFlags::WRONLY, mode()).map(drop)),
    ("truncate", |path| truncate(path, 123)),
    ("unlink", |path| unlink(path)),
    ("chmod", |path| chmodat(CWD, path, Mode::from_raw_mode(0o600), AtFlags::empty())),
    ("chown", |path| chown(path, Some(Uid::from_raw(65534)), None)),
    ("lchown", |path| chownat(CWD, path, Some(Uid::from_raw(65534)), None, AtFlags::SYMLINK_NOFOLLOW)),
    ("utimensat", |path| times(path, (1, 0), (2, 0))),
];

/// Calls that make something.
const MAKING: &[(&str, Call)] = &[
    ("open", |path| open(path, OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY, mode()).map(drop)),
    ("mkdir", |path| mkdir(path, Mode::from_raw_mode(0o755))),
    ("mkfifo", |path| mknodat(CWD, path, FileType::Fifo, mode(), 0)),
    ("mknod", |path| mknodat(CWD, path, FileType::BlockDevice, mode(), 0x0101)),
    ("mknod", |path| mknodat(CWD, path, FileType::CharacterDevice, mode(), 0x0103)),
    ("mknod", |path| mknodat(CWD, path, FileType::Socket, mode(), 0)),
    ("symlink", |path| symlink("test", path)),
];

const PAIRS: &[(&str, Pair)] =
    &[("rename", |from, to| rename(from, to)), ("link", |from, to| link(from, to))];

/// A mount with an image, and what was found not to be as it must.
struct Table {
    mount: Mount,
    rows: usize,
    wrong: Vec<String>,
}

impl Table {
    fn new(cloud: &Cloud, options: &str) -> Self {
        cloud.image("image.raw", &pattern(710, MIB));
        Self { mount: cloud.mount(&format!("--metadata-ttl 1s {options}")), rows: 0, wrong: Vec::new() }
    }

    /// The path of `name`.
    fn at(&self, name: &str) -> String {
        self.mount.path(name)
    }

    fn fails(&mut self, row: &str, found: Result<()>, expected: Errno) {
        self.is(row, found, Err(expected));
    }

    fn succeeds(&mut self, row: &str, found: Result<()>) {
        self.is(row, found, Ok(()));
    }

    fn is<T: PartialEq + std::fmt::Debug>(&mut self, row: &str, found: T, expected: T) {
        self.rows += 1;
        if found != expected {
            self.wrong.push(format!("{row}: {found:?}, expected: {expected:?}"));
        }
    }

    #[track_caller]
    fn end(self) {
        eprintln!("{} rows", self.rows);
        assert!(self.wrong.is_empty(), "{:#?}", self.wrong);
    }
}

#[test]
fn paths_that_lead_nowhere_have_the_errnos_of_pjdfstest() {
    let cloud = Cloud::new("none", "");
    let mut table = Table::new(&cloud, "--allow-delete");
    let image = table.at("image.raw");
    let long_name = table.at(&"x".repeat(256));
    let long_path = table.at(&"x/".repeat(2048));
    let places = [
        ("01.t: a component is no directory", table.at("image.raw/child"), Errno::NOTDIR),
        ("02.t: a component is too long", long_name.clone(), Errno::NAMETOOLONG),
        ("03.t: the path is too long", long_path, Errno::NAMETOOLONG),
        ("04.t: a component is missing", table.at("missing/child"), Errno::NOENT),
        ("04.t: a component is missing", table.at(".by-id/missing/child"), Errno::NOENT),
    ];
    for (what, path, expected) in &places {
        for (group, call) in ON_A_FILE.iter().chain(MAKING) {
            table.fails(&format!("{group}/{what}"), call(path), *expected);
        }
        table.fails(&format!("rmdir/{what}"), rmdir(path.as_str()), *expected);
        for (group, pair) in PAIRS {
            table.fails(&format!("{group}/{what} (from)"), pair(path, &image), *expected);
            table.fails(&format!("{group}/{what} (to)"), pair(&image, path), *expected);
        }
    }
    for (group, call) in ON_A_FILE {
        table.fails(&format!("{group}/04.t: the file is missing"), call(&table.at("missing")), Errno::NOENT);
    }
    table.fails("rmdir/04.t", rmdir(table.at("missing").as_str()), Errno::NOENT);
    for (group, pair) in PAIRS {
        let (missing, other) = (table.at("missing"), table.at("other"));
        table.fails(&format!("{group}/04.t"), pair(&missing, &other), Errno::NOENT);
        let beside = table.mount.beside();
        let (elsewhere, nowhere) = (beside.file("elsewhere", b""), beside.path("nowhere"));
        table.fails(&format!("{group}/15.t: to another file system"), pair(&image, &nowhere), Errno::XDEV);
        table.fails(
            &format!("{group}/15.t: from another file system"),
            pair(&elsewhere, &other),
            Errno::XDEV,
        );
    }
    for (group, call) in MAKING {
        table.fails(&format!("{group}: the file exists (open/22.t, mkdir/10.t)"), call(&image), Errno::EXIST);
    }
    table.fails("link/10.t", link(&image, &image), Errno::EXIST);
    assert_eq!(table.mount.names(), ["image.raw"]);
    table.end();
}

#[test]
fn directories_have_the_errnos_of_pjdfstest() {
    let cloud = Cloud::new("none", "");
    let mut table = Table::new(&cloud, "--allow-delete --allow-overwrite");
    let [image, folder, control] = ["image.raw", ".by-id", ".glancefs"].map(|name| table.at(name));
    for flags in [OFlags::WRONLY, OFlags::RDWR, OFlags::TRUNC, OFlags::WRONLY | OFlags::TRUNC] {
        let opened = open(&*folder, flags, mode()).map(drop);
        table.fails(&format!("open/13.t: {flags:?}"), opened, Errno::ISDIR);
    }
    table.fails("truncate/09.t", truncate(&folder, 0), Errno::ISDIR);
    table.fails("unlink/08.t: a directory", unlink(&*folder), Errno::ISDIR);
    table.fails("rmdir/01.t: a file", rmdir(&*image), Errno::NOTDIR);
    table.fails("rmdir/12.t: .", rmdir(table.at(".").as_str()), Errno::INVAL);
    table.fails("rmdir/12.t: ..", rmdir(table.at(".by-id/..").as_str()), Errno::NOTEMPTY);
    table.fails("rmdir/13.t: a mount point", rmdir(table.at("").trim_end_matches('/')), Errno::BUSY);
    table.fails("rename/13.t: a directory over a file", rename(&*folder, &*image), Errno::NOTDIR);
    table.fails("rename/14.t: a file over a directory", rename(&*image, &*folder), Errno::ISDIR);
    table.fails("rename/18.t: a directory into itself", rename(&*folder, table.at(".by-id/x")), Errno::INVAL);
    table.fails("rename/19.t: .", rename(table.at("."), table.at("x")), Errno::BUSY);
    table.fails("rename/19.t: ..", rename(table.at(".by-id/.."), table.at("x")), Errno::BUSY);
    // What there is of directories belongs to the mount, and there can be no others.
    for (what, path) in [("rmdir/06.t", &folder), ("rmdir/00.t", &control)] {
        table.fails(&format!("{what}: one of the mount's"), rmdir(&**path), Errno::PERM);
    }
    table.fails("rename/00.t: one of the mount's", rename(&*folder, table.at("x")), Errno::PERM);
    let new = table.at("new");
    for (group, call) in &MAKING[1..] {
        table.fails(&format!("{group}/00.t"), call(&new), Errno::PERM);
        table.fails(&format!("{group}/00.t: in .by-id"), call(&table.at(".by-id/new")), Errno::PERM);
    }
    table.fails("link/00.t", link(&*image, &*new), Errno::PERM);
    table.fails("open/00.t: in .by-id", create(&table.at(".by-id/new")).map(drop), Errno::PERM);
    assert_eq!(table.mount.names(), ["image.raw"]);
    assert_eq!(cloud.requests("POST").len(), 1);
    table.end();
}

#[test]
fn a_read_only_mount_has_the_errnos_of_pjdfstest() {
    let cloud = Cloud::new("none", "");
    let mut table = Table::new(&cloud, "--read-only");
    let (image, new) = (table.at("image.raw"), table.at("new"));
    for (group, call) in ON_A_FILE {
        table.fails(&format!("{group}: read-only (unlink/12.t, chmod/09.t)"), call(&image), Errno::ROFS);
    }
    for (group, call) in MAKING {
        table.fails(&format!("{group}: read-only (open/15.t, mkdir/09.t)"), call(&new), Errno::ROFS);
    }
    for flags in [OFlags::RDWR, OFlags::TRUNC] {
        let opened = open(&*image, flags, mode()).map(drop);
        table.fails(&format!("open/14.t: {flags:?}"), opened, Errno::ROFS);
    }
    table.fails("rmdir/14.t", rmdir(table.at(".by-id").as_str()), Errno::ROFS);
    for (group, pair) in PAIRS {
        table.fails(&format!("{group}/16.t"), pair(&image, &new), Errno::ROFS);
    }
    table.end();
}

#[test]
fn a_file_that_is_written_behaves_as_pjdfstest_wants_it() {
    let cloud = Cloud::new("none", "");
    let mut table = Table::new(&cloud, "--allow-delete");
    let path = table.at("draft");
    let file = File::from(create(&path).unwrap());
    let size = |path: &str| fs::metadata(path).unwrap().len();
    let made = fs::metadata(&path).unwrap();
    table.is("open/00.t: a regular file", (made.is_file(), made.len(), made.nlink()), (true, 0, 1));
    table.is("open/00.t: the owner", (made.uid(), made.gid()), (getuid().as_raw(), getgid().as_raw()));

    file.write_all_at(b"data", 2 << 30).unwrap();
    table.is("open/25.t: more than 2 GiB", size(&path), (2 << 30) + 4);
    let mut read = [0; 4];
    file.read_exact_at(&mut read, 2 << 30).unwrap();
    table.is("open/25.t: more than 2 GiB", &read, b"data");

    file.set_len(1_234_567).unwrap();
    table.is("ftruncate/00.t: shrink", size(&path), 1_234_567);
    file.set_len(23_456_789).unwrap();
    table.is("ftruncate/00.t: extend", size(&path), 23_456_789);
    let mut read = vec![1; 4096];
    file.read_exact_at(&mut read, 20_000_000).unwrap();
    table.is("ftruncate/00.t: what was extended is zero", read.iter().all(|byte| *byte == 0), true);
    table.fails("ftruncate/13.t", truncate_open(&file, -1), Errno::INVAL);
    table.succeeds("truncate/00.t: shrink", truncate(&path, 10));
    table.is("truncate/00.t: shrink", size(&path), 10);
    table.succeeds("truncate/00.t: extend", truncate(&path, 12_345));
    table.is("truncate/00.t: extend", size(&path), 12_345);
    table.fails("truncate/13.t", truncate(&path, -1), Errno::INVAL);

    file.set_len(0).unwrap();
    table.succeeds("posix_fallocate/00.t: empty", allocate(&file, 0, 567));
    table.is("posix_fallocate/00.t: empty", size(&path), 567);
    table.succeeds("posix_fallocate/00.t: not empty", allocate(&file, 20_000, 3_456));
    table.is("posix_fallocate/00.t: not empty", size(&path), 23_456);
    drop(open(&*path, OFlags::WRONLY | OFlags::TRUNC, mode()).unwrap());
    table.is("open/00.t: O_TRUNC", size(&path), 0);

    table.succeeds("utimensat/00.t", times(&path, (1_900_000_000, 0), (1_950_000_000, 0)));
    table.succeeds("chmod/00.t", chmodat(CWD, &*path, Mode::from_raw_mode(0o600), AtFlags::empty()));
    table.succeeds("chown/00.t", chown(&*path, Some(getuid()), Some(getgid())));
    let other = table.at("other");
    table.succeeds("rename/00.t", rename(&*path, &*other));
    let renamed = fs::metadata(&other).unwrap();
    table.is("rename/00.t: the same file", (renamed.ino(), renamed.len()), (made.ino(), 0));
    table.fails("rename/00.t: the old name", unlink(&*path), Errno::NOENT);
    table.succeeds("unlink/00.t", unlink(&*other));
    table.is("unlink/00.t: it is gone", fs::exists(&other).unwrap(), false);
    drop(file);
    assert_eq!(table.mount.names(), ["image.raw"]);
    assert_eq!(cloud.named("draft").len() + cloud.named("other").len(), 0, "nothing was published");
    table.end();
}

fn truncate_open(file: &File, length: i64) -> Result<()> {
    // SAFETY: the descriptor is open; no memory is passed.
    match unsafe { libc::ftruncate(file.as_raw_fd(), length) } {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap()),
    }
}

fn allocate(file: &File, at: i64, length: i64) -> Result<()> {
    // SAFETY: the descriptor is open; no memory is passed.
    match unsafe { libc::posix_fallocate(file.as_raw_fd(), at, length) } {
        0 => Ok(()),
        error => Err(Errno::from_raw_os_error(error)),
    }
}

#[test]
fn an_image_behaves_as_pjdfstest_wants_it_where_it_can() {
    let cloud = Cloud::new("none", "");
    let mut table = Table::new(&cloud, "--allow-delete --keep-times");
    let (image, renamed) = (table.at("image.raw"), table.at("renamed.raw"));
    let before = fs::metadata(&image).unwrap();
    // Data never change, and who an image belongs to is not a matter of this host.
    for (group, call) in [ON_A_FILE[0], ON_A_FILE[1], ON_A_FILE[3], ON_A_FILE[4], ON_A_FILE[5]] {
        table.fails(&format!("{group}: of an image"), call(&image), Errno::PERM);
    }
    let unchanged = fs::metadata(&image).unwrap();
    let facts =
        |of: &fs::Metadata| (of.ino(), of.len(), of.mode(), of.uid(), of.gid(), of.nlink(), of.mtime());
    table.is(
        "truncate/00.t, chmod/00.t: a call that fails changes nothing",
        facts(&unchanged),
        facts(&before),
    );
    table.is("chmod/00.t: nor ctime", unchanged.ctime(), before.ctime());
    let opened = open(&*image, OFlags::WRONLY | OFlags::RDWR, mode()).map(drop);
    // pjdfstest takes EINVAL, too. Linux gives such a handle neither reads nor writes.
    table.succeeds("open/23.t: an access mode that is none", opened);

    // Records have times in seconds.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    table.succeeds("rename/00.t", rename(&*image, &*renamed));
    let after = fs::metadata(&renamed).unwrap();
    table.is("rename/00.t: it is the same file", facts(&after), facts(&before));
    table.is("rename/22.t: ctime", after.ctime() > before.ctime(), true);
    table.is("rename/00.t: the old name", fs::exists(&image).unwrap(), false);
    table.succeeds("rename: to its own name", rename(&*renamed, &*renamed));
    let exchange = renameat_with(CWD, &*renamed, CWD, table.at(".by-id"), RenameFlags::EXCHANGE);
    table.fails("renameat2: RENAME_EXCHANGE", exchange, Errno::INVAL);

    // 2^31 s and more, before and after the time of access, with nanoseconds.
    for (file, mtime) in
        [("00.t", (1_950_000_000, 0)), ("08.t", (1_950_000_000, 123_456_789)), ("09.t", (1 << 31, 0))]
    {
        table.succeeds(&format!("utimensat/{file}"), times(&renamed, (1_900_000_000, 0), mtime));
        let found = fs::metadata(&renamed).unwrap();
        table.is(&format!("utimensat/{file}"), (found.mtime(), found.mtime_nsec()), mtime);
    }
    table.succeeds("utimensat/02.t", times(&renamed, (0, UTIME_OMIT), (0, UTIME_OMIT)));
    table.is("utimensat/02.t: UTIME_OMIT", fs::metadata(&renamed).unwrap().mtime(), 1 << 31);

    let file = File::open(&renamed).unwrap();
    let mut first = vec![0; MIB];
    file.read_exact_at(&mut first, 0).unwrap();
    table.succeeds("unlink/00.t", unlink(&*renamed));
    table.is("unlink/00.t: it is gone", fs::exists(&renamed).unwrap(), false);
    let mut again = vec![0; MIB];
    table.is("unlink/14.t: an open file can be read", file.read_exact_at(&mut again, 0).is_ok(), true);
    table.is("unlink/14.t: an open file can be read", again == first, true);
    assert!(table.mount.names().is_empty());
    table.end();
}
