//! A program that is killed while it writes or uploads publishes nothing, wherever it was: what it wrote is in
//! the spool, and `glancefs uploads` lists it.

use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::{Background, Cloud, Gate, Mount, PROGRAM, background, eventually, json, pattern, sh};

const MIB: usize = 1024 * 1024;

/// The end by `kill -9`, and by Ctrl-C.
const SIGNALS: [(Signal, &str); 2] = [(Signal::KILL, "kill"), (Signal::INT, "ctrl-c")];

/// `cp` from a pipe to a file of the mount. Who started the tests in the background made them ignore SIGINT.
fn copy_from(pipe: &str, mount: &Mount, name: &str) -> Background {
    background(&format!("exec env --default-signal=INT cp /dev/stdin {mount}/{name} < {pipe}"))
}

/// What `glancefs uploads` tells of this name: state and bytes of each.
fn told(mount: &Mount, name: &str) -> Vec<(String, u64)> {
    let uploads = json(&sh!("{PROGRAM} uploads --json {mount}"))["uploads"].clone();
    let of_name = uploads.as_array().unwrap().iter().filter(|upload| upload["name"] == name);
    of_name
        .map(|upload| (upload["state"].as_str().unwrap().to_owned(), upload["bytes"].as_u64().unwrap()))
        .collect()
}

#[track_caller]
fn publishes_nothing(cloud: &Cloud, mount: &Mount, name: &str) {
    assert!(!mount.names().contains(&name.to_owned()), "{name} looks like an image");
    let found = cloud.named(name);
    assert!(found.iter().all(|image| image["status"] != "active"), "{found:#?}");
}

#[test]
fn cp_that_is_killed_while_it_writes_publishes_nothing_wherever_it_is() {
    let cloud = Cloud::open();
    let mount = cloud.mount("");
    let content = pattern(90, 4 * MIB);
    // Around the sizes of pages, of FUSE requests and of the writes of cp.
    for written in [0, 1, 4095, 4096, MIB - 1, MIB, MIB + 1, 2 * MIB + 4097, 3 * MIB, 4 * MIB] {
        for (signal, word) in SIGNALS {
            let name = format!("{word}-at-{written}.raw");
            let pipe = mount.beside().path(&format!("{name}.pipe"));
            sh!("mkfifo {pipe}");
            let writer = copy_from(&pipe, &mount, &name);
            let mut feed = File::options().write(true).open(&pipe).unwrap();
            feed.write_all(&content[..written]).unwrap();
            eventually("that much is written", || {
                std::fs::metadata(mount.path(&name)).is_ok_and(|found| found.len() == written as u64)
            });
            writer.signal(signal);
            assert!(!writer.finish().succeeded(), "{name}");
            drop(feed);
            publishes_nothing(cloud, &mount, &name);
            if written == 0 {
                // Nor a reservation; and there is nothing to keep.
                eventually("it is gone", || told(&mount, &name).is_empty());
                assert_eq!(cloud.named(&name).len(), 0);
            } else {
                let kept = [("kept".to_owned(), written as u64)];
                eventually("the spool is listed", || told(&mount, &name) == kept);
            }
        }
    }
    let kept = sh!("find {}/spool -name '*.data' | wc -l", mount.beside());
    assert_eq!(kept, "18", "each of them is there, and nothing else");
}

/// Kills `cp` of `size` bytes when it waits in close(2) and `reached` says that the upload is where it shall be.
/// `prepare` is called when all is written and nothing is closed.
fn kill_in_close(
    cloud: &Cloud,
    mount: &Mount,
    gate: &Gate,
    (stage, size): (&str, usize),
    prepare: impl Fn(),
    reached: impl Fn(&str) -> bool,
) {
    let content = pattern(91, size);
    for (signal, word) in SIGNALS {
        let name = format!("{word}-while-{stage}.raw");
        let pipe = mount.beside().path(&format!("{name}.pipe"));
        sh!("mkfifo {pipe}");
        let writer = copy_from(&pipe, mount, &name);
        let mut feed = File::options().write(true).open(&pipe).unwrap();
        feed.write_all(&content).unwrap();
        eventually("all is written", || {
            std::fs::metadata(mount.path(&name)).is_ok_and(|found| found.len() == size as u64)
        });
        prepare();
        drop(feed);
        eventually("the upload is there", || reached(&name));
        let killed = Instant::now();
        writer.signal(signal);
        assert!(!writer.finish().succeeded());
        assert!(killed.elapsed() < Duration::from_secs(15), "it was not let go: {:?}", killed.elapsed());
        gate.open();
        eventually("the spool is listed", || told(mount, &name) == [("failed".to_owned(), size as u64)]);
        publishes_nothing(cloud, mount, &name);
        // With the answers lost, so may be the deletion: then it is noted, and tried again when that is.
        assert!(cloud.named(&name).is_empty() || mount.log().contains("could not be deleted"));
    }
}

#[test]
fn cp_that_is_killed_while_its_record_is_made_publishes_nothing() {
    let cloud = Cloud::open();
    let gate = Gate::to(&cloud.url);
    let mount = cloud.mount(&format!("--endpoint {} --timeout 5s", gate.url()));
    let uploading = |name: &str| told(&mount, name) == [("uploading".to_owned(), MIB as u64)];
    // Nothing is answered any more: not the POST either.
    kill_in_close(cloud, &mount, &gate, ("creating", MIB), || gate.silence(), uploading);
}

#[test]
fn cp_that_is_killed_in_the_middle_of_its_upload_publishes_nothing() {
    let cloud = Cloud::open();
    let gate = Gate::to(&cloud.url);
    let mount = cloud.mount(&format!("--endpoint {}", gate.url()));
    for (share, word) in [(0.05, "beginning"), (0.5, "half"), (0.9, "ending")] {
        let sent_so_far = |name: &str| {
            let path = mount.path(name);
            let progress =
                sh!("getfattr --only-values -n user.glancefs.upload_progress {path} 2>/dev/null || true");
            let Some((sent, size)) = progress.split_once('/') else { return false };
            sent.parse::<f64>().unwrap() >= share * size.parse::<f64>().unwrap()
        };
        kill_in_close(cloud, &mount, &gate, (word, 16 * MIB), || gate.slow(), sent_so_far);
    }
}

#[test]
fn cp_that_is_killed_while_the_answer_to_its_data_is_awaited_publishes_nothing() {
    let cloud = Cloud::open();
    let gate = Gate::to(&cloud.url);
    let mount = cloud.mount(&format!("--endpoint {} --timeout 5s", gate.url()));
    let has_arrived = |name: &str| cloud.named(name).iter().any(|image| image["status"] == "active");
    gate.lose("HTTP/1.1 204");
    kill_in_close(cloud, &mount, &gate, ("answering", MIB), || {}, has_arrived);
}
