//! What the log tells of requests and failures, and what of it reaches the one who looks into `.glancefs/errors`.

use crate::harness::{Cloud, Mount, eventually, pattern, run, sh};

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
