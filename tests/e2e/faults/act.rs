//! Carries out the operations of the matrix, as a program would, and looks at what they left.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::IntoRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::operation::Operation;
use super::row::Row;
use crate::harness::{Cloud, Mount, PROGRAM, Rule, pattern, run};

/// Read in the tests: some requests' worth.
const READ_SIZE: usize = 2 << 20;
/// Uploaded in the tests; and what the buffers of two sockets cannot swallow, which would count as progress.
const UPLOAD_SIZE: usize = 1 << 20;
const LARGE_UPLOAD_SIZE: usize = 24 << 20;

/// What has to be there before the fault: with the short deadlines of these mounts a busy machine may need several tries.
fn patiently<T>(mut go: impl FnMut() -> io::Result<T>) -> T {
    for _ in 0..10 {
        match go() {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
            done => return done.expect("all is well before the fault"),
        }
    }
    panic!("the mount gave no answer ten times, before the fault");
}

/// One operation on an image of its own.
pub struct Act<'a> {
    pub cloud: &'a Cloud,
    pub mount: &'a Mount,
    pub operation: Operation,
    /// The name of its image, and where its bytes differ from others'.
    pub name: String,
    pub content: Vec<u8>,
    /// The id, where there is an image before.
    pub id: String,
    /// A file that was opened before.
    open: Option<File>,
}

impl<'a> Act<'a> {
    /// Makes what the operation needs, while all is well.
    pub fn prepare(cloud: &'a Cloud, mount: &'a Mount, operation: Operation, row: Row, number: u64) -> Self {
        let name = format!("cell-{number}.raw");
        let large = matches!(row, Row::Stall | Row::BlackHole);
        let size = match operation {
            Operation::ReadSequential | Operation::ReadRandom | Operation::Prefetch => READ_SIZE,
            Operation::Write | Operation::Flush if large => LARGE_UPLOAD_SIZE,
            Operation::Write | Operation::Flush => UPLOAD_SIZE,
            _ => 1000,
        };
        let content = pattern(10_000 + number, size);
        let mut act = Self { cloud, mount, operation, name, content, id: String::new(), open: None };
        act.begin();
        act
    }

    fn begin(&mut self) {
        let (name, content) = (self.name.as_str(), self.content.as_slice());
        match self.operation {
            Operation::Create => {}
            Operation::Write | Operation::Flush | Operation::Fsync => {
                let mut file = patiently(|| {
                    OpenOptions::new().write(true).create(true).truncate(false).open(self.path())
                });
                if self.operation != Operation::Write {
                    file.write_all(content).expect("the spool takes it");
                }
                self.open = Some(file);
            }
            Operation::Open => {
                self.id = self.cloud.reserve(json!({"name": name}));
                patiently(|| std::fs::metadata(self.path_by_id()));
                self.cloud.upload(&self.id, content);
            }
            _ => {
                self.id = self.cloud.image(name, content);
                if matches!(self.operation, Operation::Rename | Operation::Unlink | Operation::Setxattr) {
                    patiently(|| std::fs::metadata(self.path()));
                }
            }
        }
    }

    fn path(&self) -> String {
        self.mount.path(&self.name)
    }

    fn path_by_id(&self) -> String {
        self.mount.path(&format!(".by-id/{}", self.id))
    }

    /// The name that `mv` gives.
    fn new_name(&self) -> String {
        format!("renamed-{}", self.name)
    }

    /// The requests that are to meet the fault.
    pub fn rule(&self, fault: crate::harness::Fault) -> Rule {
        let id = &self.id;
        match self.operation {
            Operation::List => Rule::new("GET", "/v2/images?*", fault),
            Operation::Lookup => Rule::new("GET", "/v2/images?*name=*", fault),
            Operation::Open => Rule::new("GET", format!("/v2/images/{id}"), fault),
            Operation::ReadSequential | Operation::ReadRandom | Operation::Prefetch => {
                Rule::new("GET", format!("/v2/images/{id}/file"), fault)
            }
            Operation::Create => Rule::new("POST", "/v2/images", fault),
            Operation::Write | Operation::Flush => Rule::new("PUT", "/v2/images/*/file", fault),
            Operation::Fsync => Rule::new("*", "*", fault),
            Operation::Rename | Operation::Setxattr => Rule::new("PATCH", format!("/v2/images/{id}"), fault),
            Operation::Unlink => Rule::new("DELETE", format!("/v2/images/{id}"), fault),
        }
    }

    /// What the program does. Bytes that were read are compared here: wrong ones are another error than any expected.
    pub fn go(&mut self) -> io::Result<()> {
        let (path, by_id) = (self.path(), self.path_by_id());
        match self.operation {
            Operation::List => {
                let names: io::Result<Vec<_>> =
                    std::fs::read_dir(self.mount.to_string())?.map(|entry| Ok(entry?.file_name())).collect();
                let shows = |name: &str| names.as_ref().is_ok_and(|names| names.iter().any(|n| n == name));
                assert!(shows("anchor.raw"), "the list lost an image: {names:?}");
                if shows(&self.name) { Ok(()) } else { Err(io::Error::other("the last good list")) }
            }
            Operation::Lookup => std::fs::symlink_metadata(path).map(|found| assert_eq!(found.len(), 1000)),
            Operation::Open => File::open(by_id).map(drop),
            Operation::ReadSequential => {
                let mut bytes = Vec::new();
                File::open(by_id)?.read_to_end(&mut bytes)?;
                same(&bytes, &self.content)
            }
            Operation::ReadRandom => {
                let file = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(by_id)?;
                for offset in [1_500_000, 4096, 900_000, 2_000_000, 300_000] {
                    let mut bytes = vec![0; 8192];
                    file.read_exact_at(&mut bytes, offset)?;
                    same(&bytes, &self.content[offset as usize..][..8192])?;
                }
                Ok(())
            }
            Operation::Prefetch => {
                let outcome = run(&format!("{PROGRAM} prefetch {by_id}"));
                if outcome.succeeded() {
                    return same(&std::fs::read(by_id)?, &self.content);
                }
                eprintln!("{outcome}");
                // Its exit code is 1 whatever the reason, which it tells: an errno of its own is not a command's to give.
                Err(io::Error::from_raw_os_error(libc::EIO))
            }
            Operation::Create => close(OpenOptions::new().write(true).create_new(true).open(path)?),
            Operation::Write => {
                let mut file = self.open.take().expect("it was opened");
                let written = self.content.chunks(200_000).try_for_each(|piece| file.write_all(piece));
                // A program that fails closes what it has; the first error is what it tells.
                let closed = close(file);
                written.and(closed)
            }
            Operation::Flush => close(self.open.take().expect("it was opened")),
            Operation::Fsync => self.open.as_ref().expect("it was opened").sync_all(),
            Operation::Rename => std::fs::rename(path, self.mount.path(&self.new_name())),
            Operation::Unlink => std::fs::remove_file(path),
            Operation::Setxattr => {
                let flags = rustix::fs::XattrFlags::empty();
                Ok(rustix::fs::setxattr(path, "user.glance.property.met", b"a fault", flags)?)
            }
        }
    }

    /// Looks, when all is well again, whether the cloud is as the outcome says, and whether what was left is told. The
    /// complaints.
    pub fn look(&mut self, succeeded: bool) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut complain = |is_wrong: bool, what: String| {
            if is_wrong {
                wrong.push(what);
            }
        };
        if self.operation == Operation::List {
            // Also, no refresh is under way any more that would bring the next cell's image.
            let shows = || self.mount.names().contains(&self.name);
            let recovers = crate::harness::within(crate::harness::PATIENCE, shows);
            complain(!recovers, "the list does not recover".into());
        }
        if !self.operation.changes() {
            return wrong;
        }
        let named = self.cloud.named(&self.name);
        let active = named.iter().filter(|image| image["status"] == "active").count();
        match self.operation {
            Operation::Write | Operation::Flush if succeeded => {
                let size = named.first().map(|image| image["size"].clone()).unwrap_or_default();
                complain(
                    active != 1 || named.len() != 1 || size != self.content.len(),
                    format!("not one whole image: {named:?}"),
                );
                if let Some(id) = named.first().and_then(|image| image["id"].as_str()) {
                    let blob = std::fs::read(self.cloud.blob(id)).unwrap_or_default();
                    complain(blob != self.content, "the image has other bytes".into());
                }
            }
            Operation::Write | Operation::Flush => {
                complain(active > 0, format!("an upload that failed is an image: {named:?}"));
            }
            Operation::Create if succeeded => complain(named.len() != 1, format!("{named:?}")),
            Operation::Fsync => {
                complain(!named.is_empty(), format!("fsync made {named:?}"));
                // Nobody wants it: then it is not uploaded at the close either.
                let _ = std::fs::remove_file(self.path());
                drop(self.open.take());
            }
            Operation::Rename if succeeded => {
                let renamed = self.cloud.named(&self.new_name());
                complain(renamed.len() != 1 || !named.is_empty(), format!("{named:?} {renamed:?}"));
            }
            Operation::Unlink if succeeded => complain(!named.is_empty(), format!("still there: {named:?}")),
            Operation::Setxattr if succeeded => {
                let value = named.first().map(|image| image["met"].clone()).unwrap_or_default();
                complain(value != "a fault", format!("{named:?}"));
            }
            _ => {}
        }
        let unfinished = named.iter().any(is_unfinished);
        let told = !unfinished && self.spooled().is_empty()
            || crate::harness::within(crate::harness::PATIENCE, || self.untold().is_empty());
        complain(!told, format!("nobody tells of {:?}", self.untold()));
        wrong
    }

    /// The files of the spool with data.
    fn spooled(&self) -> Vec<PathBuf> {
        let spool = self.mount.beside().path("spool");
        let files = std::fs::read_dir(Path::new(&spool)).into_iter().flatten().flatten();
        files.map(|file| file.path()).filter(|path| path.extension().is_some_and(|e| e == "data")).collect()
    }

    /// Images of ours without data, and files of the spool, that `glancefs uploads` does not list.
    fn untold(&self) -> Vec<String> {
        let listed = run(&format!("{PROGRAM} uploads --json {}", self.mount)).stdout;
        let listed: Value = serde_json::from_str(&listed).unwrap_or_default();
        let listed = listed["uploads"].as_array().cloned().unwrap_or_default();
        let lists = |key: &str, value: &str| listed.iter().any(|upload| upload[key] == value);
        let reserved = self.operation == Operation::Create;
        let mut untold: Vec<String> = Vec::new();
        if !reserved {
            let images = self.cloud.named(&self.name);
            let unfinished = images.iter().filter(|image| is_unfinished(image));
            let names = unfinished.map(|image| image["id"].to_string());
            untold.extend(names.filter(|_| !lists("name", &self.name)));
        }
        let data = self.spooled().into_iter().map(|path| path.display().to_string());
        untold.extend(data.filter(|path| !lists("file", path)));
        untold
    }

    /// Removes the image, so that lists stay small.
    pub fn end(mut self) {
        drop(self.open.take());
        let mut ids = vec![self.id.clone()];
        if self.id.is_empty() {
            let images = self.cloud.named(&self.name);
            ids = images.iter().filter_map(|image| image["id"].as_str().map(str::to_owned)).collect();
        }
        for id in ids {
            // `rm` may have been faster.
            let _ = self.cloud.call("DELETE", &format!("/v2/images/{id}"), None);
        }
    }
}

/// It has no data.
fn is_unfinished(image: &Value) -> bool {
    image["status"] == "queued" || image["status"] == "saving"
}

/// close(2), with its error.
fn close(file: File) -> io::Result<()> {
    // SAFETY: the descriptor is ours alone, and nobody uses it afterwards.
    match unsafe { libc::close(file.into_raw_fd()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn same(read: &[u8], content: &[u8]) -> io::Result<()> {
    if read == content { Ok(()) } else { Err(io::Error::other("WRONG BYTES")) }
}
