//! The daemon is killed, or the power is cut, at every step that it makes on its disk while it fills the cache,
//! makes room in it, and uploads: the next mount reads right bytes, and nothing is forgotten here or in Glance.
//!
//! The cache and spool folders are on a [`Disk`], which ends the daemon at the step that is wanted, and knows what
//! a power cut may leave. By default some of the steps are tried, with `GLANCEFS_TEST_LONG=1` all of them.

use serde_json::Value;

use crate::harness::{
    Background, Cloud, Contents, Disk, Loss, Moment, Mount, PROGRAM, background, eventually, json, long,
    pattern, run, sh,
};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// What a power cut takes, from everything to some of it.
const LOSSES: [Loss; 5] = [Loss::All, Loss::Names, Loss::Contents, Loss::Some(1), Loss::Some(2)];

/// The same, and what is worst for a cache.
const LOSSES_OF_CACHE: [Loss; 7] =
    [Loss::All, Loss::Names, Loss::Contents, Loss::Some(1), Loss::Some(2), Loss::Blocks, Loss::Cleared];

/// A mount with its cache and its spool on `disk`, not mounted yet.
fn mount_on(cloud: &Cloud, disk: &Disk, options: &str) -> Mount {
    let (cache, spool) = (disk.path("cache"), disk.path("spool"));
    cloud.mount_later(&format!("--cache-dir {cache} --spool-dir {spool} --cache-free-percent 0 {options}"))
}

/// Of `count` things all, or about `some` that are spread over them, the first and the last included.
fn sample(count: usize, some: usize) -> Vec<usize> {
    let step = if long() { 1 } else { count.div_ceil(some).max(1) };
    let last = count.checked_sub(1);
    let mut sample: Vec<_> = (0..count).step_by(step).chain(last).collect();
    sample.dedup();
    sample
}

/// The daemon that the disk killed is gone, and the disk takes requests again.
fn buried(mount: &Mount, disk: &Disk) {
    eventually("the daemon has ended", || mount.daemon().is_none());
    disk.turn_on();
}

/// Mounts over what a dead daemon left.
#[track_caller]
fn up_again(mount: &Mount) {
    mount.up();
    assert_eq!(sh!("grep -c ' {mount} ' /proc/self/mounts"), "1", "the stale mount is replaced");
}

/// Bytes of an image.
const LENGTH: usize = 2 * MIB + 12_345;

/// Two images that a cache of 3 MiB cannot both hold, with files to compare.
struct Pair {
    cloud: &'static Cloud,
    names: [String; 2],
    sources: [String; 2],
}

impl Pair {
    fn new(mount: &Mount, cloud: &'static Cloud, label: &str) -> Self {
        let names = [1, 2].map(|n| format!("{label}-{n}.raw"));
        let sources = [1, 2].map(|n| {
            let content = pattern(120 + n, LENGTH);
            cloud.image(&names[n as usize - 1], &content);
            mount.beside().file(&format!("source-{n}"), content)
        });
        Self { cloud, names, sources }
    }

    /// Fills the cache with the first and makes room for the second; whether it was read.
    fn read(&self, mount: &Mount) -> bool {
        let Self { names: [one, other], sources: [first, second], .. } = self;
        run(&format!("cmp {mount}/{one} {first} && cmp {mount}/{other} {second}")).succeeded()
    }

    /// Both are right, in the order in which most of what is there is used.
    #[track_caller]
    fn are_right(&self, mount: &Mount, when: &str) {
        let Self { names, sources, .. } = self;
        for n in [1, 0, 1] {
            let read = run(&format!("cmp {mount}/{} {}", names[n], sources[n]));
            assert!(read.succeeded(), "{when}: {read}\n{}", self.cloud.url);
        }
    }
}

const SMALL: &str = "--cache-size 3M --memory-limit 32M";

#[test]
fn killed_at_any_step_of_filling_and_making_room_the_next_mount_reads_right() {
    let (cloud, disk) = (Cloud::open(), Disk::new());
    let mount = mount_on(cloud, &disk, SMALL);
    let pair = Pair::new(&mount, cloud, "killed-filling");
    let empty = disk.contents();
    mount.up();
    disk.record();
    assert!(pair.read(&mount));
    mount.down();
    let steps = disk.steps();
    assert!(steps > 10, "{steps}");
    let mut killed = 0;
    for (turn, step) in sample(steps, 12).into_iter().enumerate() {
        let moment = [Moment::Before, Moment::Within, Moment::After][turn % 3];
        disk.set(&empty);
        mount.up();
        disk.kill_at(step, moment);
        pair.read(&mount);
        // Some of the steps are those of its end.
        run(&format!("{PROGRAM} umount {mount}"));
        if !disk.has_killed() {
            // The steps of a run are not always as many.
            assert!(!mount.is_mounted());
            continue;
        }
        killed += 1;
        buried(&mount, &disk);
        up_again(&mount);
        pair.are_right(&mount, &format!("killed {moment:?} step {step} of {steps}"));
        mount.down();
    }
    assert!(killed >= 8, "only {killed} of the runs were killed");
}

#[test]
fn killed_at_any_step_of_its_start_the_next_mount_is_right() {
    let (cloud, disk) = (Cloud::open(), Disk::new());
    let mount = mount_on(cloud, &disk, SMALL);
    let pair = Pair::new(&mount, cloud, "killed-starting");
    let empty = disk.contents();
    mount.up();
    let steps = disk.steps();
    mount.down();
    for step in sample(steps, 8) {
        disk.set(&empty);
        disk.kill_at(step, Moment::Within);
        let began = mount.try_up();
        if !disk.has_killed() {
            began.expect_success();
            mount.down();
            continue;
        }
        buried(&mount, &disk);
        up_again(&mount);
        pair.are_right(&mount, &format!("killed in step {step} of {steps}"));
        mount.down();
    }
}

#[test]
fn a_power_cut_at_any_step_of_filling_and_making_room_leaves_no_wrong_byte() {
    let (cloud, disk) = (Cloud::open(), Disk::new());
    let mount = mount_on(cloud, &disk, SMALL);
    let empty = disk.contents();
    let cached = |name: &str| mount.xattr(name, "user.glancefs.cached_bytes").parse::<usize>().unwrap();
    // Both are used in the same minute: it is chance which of them makes room. The one that was proven is to.
    let recorded = (1..=20).find_map(|turn| {
        disk.set(&empty);
        let pair = Pair::new(&mount, cloud, &format!("power-filling-{turn}"));
        let Pair { names: [one, other], sources: [first, second], .. } = &pair;
        mount.up();
        disk.record();
        sh!("cmp {mount}/{one} {first}");
        eventually("it is verified", || mount.xattr(one, "user.glancefs.verified") == "sha512");
        // Also told to those who come later.
        let is_proven = || disk.files(".index").iter().any(|(_, index)| index[88] != 0);
        eventually("the proof is on the disk", is_proven);
        let proven = disk.steps();
        sh!("cmp {mount}/{other} {second}");
        let made_room = cached(one) < LENGTH;
        mount.down();
        made_room.then_some((pair, proven))
    });
    let (pair, proven) = recorded.expect("the image that was proven makes room, once in twenty times");
    let steps = disk.steps();
    let mut tried = sample(steps + 1, 14);
    tried.push(proven);
    for (turn, step) in tried.into_iter().enumerate() {
        let all = long() || step == proven || step == steps;
        let losses = &LOSSES_OF_CACHE;
        let losses = if all { &losses[..] } else { &losses[turn % losses.len()..][..1] };
        for loss in losses {
            let loss = match loss {
                Loss::Some(seed) => Loss::Some(seed + 2 * step as u64),
                loss => *loss,
            };
            disk.cut_power_at(step, loss);
            up_again(&mount);
            pair.are_right(&mount, &format!("{loss:?} lost after step {step} of {steps}"));
            mount.down();
        }
    }
}

#[test]
fn killed_or_cut_at_any_step_of_an_eviction_the_next_mount_reads_right() {
    let (cloud, disk) = (Cloud::open(), Disk::new());
    // Read by the daemon alone, so that the image can be evicted at once.
    let mount = mount_on(cloud, &disk, "--passthrough off");
    let pair = Pair::new(&mount, cloud, "evicted");
    mount.up();
    assert!(pair.read(&mount));
    mount.down();
    let full = disk.contents();
    let evict = format!("{PROGRAM} evict {mount}/{} {mount}/{}", pair.names[0], pair.names[1]);
    mount.up();
    disk.record();
    sh!("{evict}");
    mount.down();
    let steps = disk.steps();
    for (turn, step) in sample(steps + 1, 7).into_iter().enumerate() {
        let loss = LOSSES_OF_CACHE[turn % LOSSES_OF_CACHE.len()];
        disk.cut_power_at(step, loss);
        up_again(&mount);
        pair.are_right(&mount, &format!("{loss:?} lost after step {step} of {steps} of an eviction"));
        mount.down();
    }
    for (turn, step) in sample(steps, 5).into_iter().enumerate() {
        let moment = [Moment::Before, Moment::Within, Moment::After][turn % 3];
        disk.set(&full);
        mount.up();
        disk.kill_at(step, moment);
        run(&evict);
        run(&format!("{PROGRAM} umount {mount}"));
        if disk.has_killed() {
            buried(&mount, &disk);
            up_again(&mount);
        } else {
            // The steps of a run are not always as many.
            mount.up();
        }
        pair.are_right(&mount, &format!("killed {moment:?} step {step} of {steps} of an eviction"));
        mount.down();
    }
}

/// Bytes of a file that are written one after the other, so that a power cut may take each.
const PIECE: usize = 64 * KIB;

/// Pieces that are written before the program makes what it has written durable.
const SYNCED: usize = 5;

/// Writes a file in pieces, the first of which it makes durable, and goes on to hold it open; returns when all is written.
fn write_and_hold(mount: &Mount, disk: &Disk, from: &str, name: &str) -> Background {
    let program = format!(
        "import os, sys, time
out = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_EXCL)
source = open(sys.argv[2], 'rb')
for _ in range({SYNCED}):
    os.write(out, source.read({PIECE}))
os.fsync(out)
while piece := source.read({PIECE}):
    os.write(out, piece)
time.sleep(60)
"
    );
    let program = mount.beside().file("program.py", program.as_bytes());
    let length = std::fs::metadata(from).unwrap().len();
    let writer = background(&format!("exec python3 {program} {mount}/{name} {from}"));
    eventually("all is written", || {
        disk.files(".data").iter().any(|(_, bytes)| bytes.len() as u64 == length)
    });
    writer
}

/// A mount whose daemon was killed while a program had `content` written to `name` and not closed it.
fn killed_while_written(cloud: &Cloud, disk: &Disk, options: &str, name: &str, content: &[u8]) -> Mount {
    let mount = mount_on(cloud, disk, options);
    let from = mount.beside().file("source", content);
    mount.up();
    disk.record();
    let writer = write_and_hold(&mount, disk, &from, name);
    sh!("kill -KILL {}", mount.daemon().expect("a daemon"));
    drop(writer);
    buried(&mount, disk);
    mount
}

#[test]
fn bytes_that_a_power_cut_may_have_damaged_are_listed_and_sent_only_when_a_person_says_so() {
    let (cloud, disk) = (Cloud::open(), Disk::new());
    let content = pattern(131, 10 * PIECE + 77);
    let mount = killed_while_written(cloud, &disk, "", "damaged.raw", &content);
    let (steps, mut damaged) = (disk.steps(), 0);
    for loss in (1..7).map(Loss::Some).chain([Loss::Contents, Loss::Names]) {
        disk.cut_power_at(steps, loss);
        boot_anew(&disk);
        up_again(&mount);
        let uploads = listed(&mount, "damaged.raw");
        assert_eq!(uploads.len(), 1, "{loss:?}: {uploads:#?}");
        for upload in uploads {
            let (id, file) = (upload["id"].as_str().unwrap(), upload["file"].as_str().unwrap());
            let kept = std::fs::read(file).unwrap();
            damaged += usize::from(!content.starts_with(&kept));
            let synced = SYNCED * PIECE;
            assert!(kept[..synced] == content[..synced], "{loss:?}: what fsync was called for is lost");
            assert!(upload["reason"].as_str().unwrap().contains("may be damaged"), "{loss:?}: {upload:#}");
            let said = run(&format!("{PROGRAM} uploads retry {id}")).expect_failure();
            assert!(said.contains("--as NAME"), "{loss:?}: {said}");
        }
        assert!(cloud.named("damaged.raw").is_empty(), "{loss:?}");
        mount.down();
    }
    assert!(damaged >= 3, "only {damaged} of the cuts did damage");
}

#[test]
fn what_a_killed_daemon_left_outlives_a_power_cut_once_it_was_mounted_again() {
    let (cloud, disk) = (Cloud::open(), Disk::new());
    let content = pattern(132, 10 * PIECE + 77);
    let mount = killed_while_written(cloud, &disk, "--allow-delete", "durable.raw", &content);
    up_again(&mount);
    eventually("its bytes are durable", || {
        let journals = disk.files(".json");
        let ours = journals.iter().find(|(_, bytes)| String::from_utf8_lossy(bytes).contains("durable.raw"));
        ours.is_some_and(|(_, bytes)| !String::from_utf8_lossy(bytes).contains("unsynced"))
    });
    sh!("kill -KILL {}", mount.daemon().expect("a daemon"));
    buried(&mount, &disk);
    let steps = disk.steps();
    for loss in LOSSES_OF_CACHE {
        disk.cut_power_at(steps, loss);
        boot_anew(&disk);
        up_again(&mount);
        let uploads = listed(&mount, "durable.raw");
        assert_eq!(uploads.len(), 1, "{loss:?}: {uploads:#?}");
        sh!("{PROGRAM} uploads retry {}", uploads[0]["id"].as_str().unwrap());
        assert!(mount.read("durable.raw") == content, "{loss:?}");
        sh!("rm {mount}/durable.raw");
        mount.down();
    }
}

/// What the power cut left says that it is of an earlier boot of the machine.
fn boot_anew(disk: &Disk) {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let earlier = "00000000-0000-4000-8000-000000000000";
    disk.spoil(".json", |bytes| {
        *bytes = String::from_utf8_lossy(bytes).replace(boot.trim(), earlier).into_bytes();
    });
}

/// What is done to the mount that is to be crashed.
struct Act {
    /// Part of the name of its images.
    label: &'static str,
    options: &'static str,
    /// With `FROM` and `TO`.
    line: &'static str,
    /// About how many of its steps are tried.
    tried: usize,
}

/// The uploads that are listed, of this name.
fn listed(mount: &Mount, name: &str) -> Vec<Value> {
    all_listed(mount).into_iter().filter(|upload| upload["name"] == name).collect()
}

fn all_listed(mount: &Mount) -> Vec<Value> {
    json(&sh!("{PROGRAM} uploads --json {mount}"))["uploads"].as_array().unwrap().clone()
}

/// Crashes `act` at its steps, each time over `empty`; a power cut comes with the crash if `losses` has any.
fn crash_at_steps(act: &Act, losses: &[Loss]) {
    let (cloud, disk) = (Cloud::open(), Disk::new());
    let mount = mount_on(cloud, &disk, act.options);
    let content = pattern(130, 600 * KIB + 77);
    let from = mount.beside().file("source", &content);
    let kind = if losses.is_empty() { "kill" } else { "power" };
    let to_name = |turn: &str| format!("{kind}-{}-{turn}.raw", act.label);
    let do_it = |name: &str| run(&act.line.replace("FROM", &from).replace("TO", &mount.path(name)));
    mount.up();
    let ready = disk.contents();
    disk.record();
    do_it(&to_name("whole")).expect_success();
    let steps = disk.steps();
    mount.down();
    let (mut tried, mut killed) = (0, 0);
    // By turns; in the long run each step is tried with each loss.
    let each = if long() { losses.len().max(1) } else { 1 };
    let steps_tried = sample(steps, act.tried).into_iter().flat_map(|step| vec![step; each]);
    for (turn, step) in steps_tried.enumerate() {
        let name = to_name(&format!("{step}-{turn}"));
        let moment = [Moment::After, Moment::Before, Moment::Within][turn % 3];
        tried += 1;
        let crash =
            Crash { cloud, disk: &disk, mount: &mount, content: &content, name: &name, ready: &ready };
        let loss = losses.get(turn % losses.len().max(1)).map(|loss| match loss {
            Loss::Some(seed) => Loss::Some(seed + 2 * step as u64),
            loss => *loss,
        });
        let when = format!("{} of {name}, {moment:?} step {step} of {steps}, {loss:?} lost", act.line);
        killed += usize::from(crash.happens(step, moment, loss, || do_it(&name).succeeded(), &when));
    }
    assert!(killed * 2 >= tried, "only {killed} of {tried} runs were killed, of {steps} steps");
    eprintln!("{}: {steps} steps, {tried} runs, {killed} of them crashed", act.label);
}

struct Crash<'a> {
    cloud: &'static Cloud,
    disk: &'a Disk,
    mount: &'a Mount,
    content: &'a [u8],
    name: &'a str,
    ready: &'a Contents,
}

impl Crash<'_> {
    /// Crashes at this step and looks at what the next mount makes of it; false: there was no such step.
    fn happens(
        &self,
        step: usize,
        moment: Moment,
        loss: Option<Loss>,
        act: impl FnOnce() -> bool,
        when: &str,
    ) -> bool {
        let Self { cloud, disk, mount, name, .. } = self;
        disk.set(self.ready);
        mount.up();
        disk.record();
        disk.kill_at(step, moment);
        let succeeded = act();
        let killed = disk.has_killed();
        if killed {
            eventually("the daemon has ended", || mount.daemon().is_none());
            if let Some(loss) = loss {
                disk.cut_power(loss);
                boot_anew(disk);
            }
            buried(mount, disk);
        } else {
            mount.down();
        }
        let had_bytes = disk.files(".data").iter().any(|(id, bytes)| id.len() < 48 && !bytes.is_empty());
        up_again(mount);
        if succeeded {
            self.is_there(when);
        }
        eventually(&format!("its record is settled: {when}"), || self.is_settled());
        let records = cloud.named(name);
        assert!(records.len() <= 1, "{when}: {records:#?}");
        // The record is settled before the spool is.
        if loss.is_none() && records.iter().any(|record| record["status"] == "active") {
            eventually(&format!("nothing is listed: {when}"), || listed(mount, name).is_empty());
        }
        // What has no bytes here is listed for its record only, until that is settled.
        eventually(&format!("nothing without bytes is listed: {when}"), || {
            all_listed(mount).iter().all(|upload| upload["bytes"] != 0)
        });
        let uploads = listed(mount, name);
        if records.iter().any(|record| record["status"] == "active") {
            // After a power cut there may be other bytes than were sent: they are told, and not sent again.
            self.is_there(when);
        } else if had_bytes && loss.is_none() {
            assert_eq!(uploads.len(), 1, "its bytes are in the spool and nobody knows: {when}");
        }
        for upload in uploads {
            self.can_be_resumed(&upload, loss, when);
        }
        // A power cut may take the journal, and with it the name.
        for upload in all_listed(mount).iter().filter(|upload| upload["name"] != *name) {
            assert!(loss.is_some() && upload["name"].is_null(), "{when}: {upload:#}");
            sh!("{PROGRAM} uploads discard {}", upload["id"].as_str().unwrap());
        }
        let half_written = || disk.files(".tmp").iter().any(|(file, _)| file.contains(".json"));
        eventually(&format!("no half of a journal is left: {when}"), || !half_written());
        mount.down();
        killed
    }

    /// No record of ours is left in a state that only an upload would end.
    fn is_settled(&self) -> bool {
        self.cloud.named(self.name).iter().all(|record| record["status"] == "active")
    }

    #[track_caller]
    fn is_there(&self, when: &str) {
        eventually(&format!("the image is listed: {when}"), || {
            self.mount.names().contains(&self.name.to_owned())
        });
        assert!(self.mount.read(self.name) == self.content, "its bytes are wrong: {when}");
    }

    /// What is listed can be sent, and is what was written as far as it was.
    #[track_caller]
    fn can_be_resumed(&self, upload: &Value, loss: Option<Loss>, when: &str) {
        let kept = std::fs::read(upload["file"].as_str().unwrap()).unwrap();
        let is_right = self.content.starts_with(&kept);
        let retried = run(&format!("{PROGRAM} uploads retry {}", upload["id"].as_str().unwrap()));
        if loss.is_some() && !retried.succeeded() {
            let said = retried.expect_failure();
            let known = said.contains("before its bytes were on the disk") || said.contains("--as NAME");
            assert!(known, "{when}: {said}");
            sh!("{PROGRAM} uploads discard {}", upload["id"].as_str().unwrap());
            return;
        }
        assert!(retried.succeeded(), "{when}: {retried}");
        assert!(is_right, "other bytes than were written became an image: {when}: {upload:#}");
        let sent = self.mount.read(self.name);
        let (sent_len, kept_len) = (sent.len(), kept.len());
        assert!(sent == kept, "{sent_len} bytes are in the image, {kept_len} were kept: {when}: {upload:#}");
        self.cloud.only(self.name);
    }
}

const COPY: Act = Act { label: "copy", options: "", line: "cp FROM TO", tried: 14 };

#[test]
fn killed_at_any_step_of_an_upload_nothing_is_forgotten() {
    crash_at_steps(&COPY, &[]);
}

#[test]
fn a_power_cut_at_any_step_of_an_upload_publishes_no_wrong_byte_and_forgets_nothing() {
    crash_at_steps(&COPY, &LOSSES);
}

#[test]
fn killed_at_any_step_of_a_streamed_upload_no_record_is_left() {
    let act = Act { label: "stream", options: "--upload stream", line: "cp FROM TO", tried: 8 };
    crash_at_steps(&act, &[]);
    crash_at_steps(&Act { tried: 5, ..act }, &LOSSES);
}
