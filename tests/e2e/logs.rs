//! What the log tells of requests and failures, and what of it reaches the one who looks into `.glancefs/errors`.

use crate::harness::{
    Cloud, Folder, Mount, PROGRAM, eventually, in_a_copy, leave_out, no_copy, pattern, run, sh,
};

/// The value of `name=value` or `name="value"` in a line of the log.
fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let value = line.split(&format!(" {name}=")).nth(1)?;
    match value.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next(),
        None => value.split(' ').next(),
    }
}

#[test]
fn each_request_is_logged_and_a_failure_names_the_request_of_the_server() {
    let cloud = Cloud::open();
    let id = cloud.image("logged.raw", &pattern(81, 300_000));
    let mut variables = cloud.variables(None);
    variables.push(("GLANCEFS_LOG".into(), "debug".into()));
    let mount = Mount::new(variables, "--passthrough off");
    mount.up();
    sh!("cat {mount}/logged.raw > /dev/null");
    let log = mount.log();
    let is_download = |line: &&str| {
        field(line, "operation") == Some("download") && field(line, "image") == Some(id.as_str())
    };
    let line = log.lines().find(is_download).unwrap_or_else(|| panic!("no download in {log}"));
    assert!(line.contains(" DEBUG ") && line.contains(" request "), "{line}");
    assert!(cloud.url.ends_with(field(line, "peer").unwrap()), "{line}");
    assert!(field(line, "status").is_some_and(|status| status == "200" || status == "206"), "{line}");
    assert!(field(line, "latency_ms").unwrap().parse::<u64>().is_ok(), "{line}");
    for name in ["request_id", "server_request_id"] {
        assert!(field(line, name).unwrap().starts_with("req-"), "{line}");
    }
    assert!(log.lines().any(|line| field(line, "operation") == Some("list")), "{log}");

    // The store loses its data, and the cache its copy: a read fails.
    let lost = cloud.image("logged-lost.raw", &pattern(82, 300_000));
    sh!("ls {mount} > /dev/null; find {} -type f -name {lost} -delete", cloud.folder().display());
    let fail = || assert!(!run(&format!("cat {mount}/logged-lost.raw > /dev/null")).succeeded());
    fail();
    let errors = mount.errors();
    let told = errors.lines().find(|line| line.contains(&lost)).unwrap_or_else(|| panic!("{errors}"));
    assert!(told.contains("; request req-"), "{told}");
    let ours = |log: &str| {
        log.lines().filter(|line| line.contains(" WARN ") && line.contains("cannot read")).count()
    };
    eventually("it is logged", || ours(&mount.log()) == 1);
    // The same again is not written again.
    for _ in 0..4 {
        fail();
    }
    assert_eq!(ours(&mount.log()), 1, "{}", mount.log());
    assert!(mount.errors().lines().filter(|line| line.contains(&lost)).count() >= 2);
    let metrics = String::from_utf8(mount.read(".glancefs/metrics")).unwrap();
    let left_out =
        metrics.lines().find_map(|line| line.strip_prefix("glancefs_log_lines_left_out_total ")).unwrap();
    assert!(left_out.parse::<u64>().unwrap() >= 1, "{left_out}");
}

/// Takes what is sent to the socket of the journal, and prints it by the rules of journald's native protocol: `NAME=value` or
/// `NAME`, a length of 64 bits and the value, each with a newline; an empty line after each entry.
const JOURNAL: &str = r#"
import os, socket, sys
path = "/run/systemd/journal/socket"
os.makedirs(os.path.dirname(path))
taker = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
taker.bind(path)
while True:
    entry, files, _, _ = socket.recv_fds(taker, 1 << 20, 1)
    for file in files:
        entry = os.pread(file, 1 << 20, 0)
    while entry:
        line, _, rest = entry.partition(b"\n")
        if b"=" in line:
            name, _, value = line.partition(b"=")
        else:
            name, size = line, int.from_bytes(rest[:8], "little")
            value, rest = rest[8:8 + size], rest[9 + size:]
        print(name.decode() + "=" + value.decode().replace("\n", " "))
        entry = rest
    print(flush=True)
"#;

#[test]
fn the_journal_gets_image_operation_and_request_as_fields() {
    if let Some(why) = no_copy() {
        leave_out!("{why}");
    }
    let cloud = Cloud::open();
    let id = cloud.image("journal.raw", &pattern(83, 300_000));
    let folder = Folder::new("journal");
    folder.file("journal.py", JOURNAL);
    let script = format!(
        r#"
python3 {folder}/journal.py > {folder}/entries & journal=$!
for _ in $(seq 300); do [ ! -S /run/systemd/journal/socket ] || break; sleep 0.1; done
mkdir /mnt/j
GLANCEFS_LOG=debug {PROGRAM} mount --cache-dir {folder}/cache --spool-dir {folder}/spool /mnt/j
cat /mnt/j/journal.raw > /dev/null
{PROGRAM} umount /mnt/j
for _ in $(seq 300); do ! grep -q '^GLANCEFS_OPERATION=download' {folder}/entries || break; sleep 0.1; done
kill $journal
"#
    );
    in_a_copy(&script, &cloud.variables(None)).expect_success();
    let entries = std::fs::read_to_string(folder.path("entries")).unwrap();
    let mut entries = entries.split("\n\n").map(|entry| entry.lines().collect::<Vec<_>>());
    let wanted = format!("GLANCEFS_IMAGE={id}");
    let entry = entries
        .find(|entry| entry.contains(&wanted.as_str()) && entry.contains(&"GLANCEFS_OPERATION=download"))
        .expect("the download is in the journal");
    let value = |name: &str| {
        let found = entry.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        found.unwrap_or_else(|| panic!("{name} in {entry:?}"))
    };
    assert_eq!((value("SYSLOG_IDENTIFIER"), value("PRIORITY")), ("glancefs", "7"));
    assert!(
        cloud.url.ends_with(value("GLANCEFS_PEER"))
            && value("GLANCEFS_SERVER_REQUEST_ID").starts_with("req-")
    );
    assert!(value("GLANCEFS_LATENCY_MS").parse::<u64>().is_ok() && !value("MESSAGE").is_empty());
}
