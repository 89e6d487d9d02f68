//! `.glancefs/metrics` and `--metrics-listen`: what an operator sees of a mount from outside.

use std::collections::BTreeMap;

use crate::harness::{Cloud, Mount, fails, free_port, leave_out, pattern, run, sh};

#[path = "../common/prometheus.rs"]
mod prometheus;

use prometheus::{Family, families};

fn metrics(mount: &Mount) -> BTreeMap<String, Family> {
    families(&String::from_utf8(mount.read(".glancefs/metrics")).unwrap())
}

/// The sum of the samples with these labels; 0 where there is none.
fn value(metrics: &BTreeMap<String, Family>, name: &str, labels: &[(&str, &str)]) -> f64 {
    let family = metrics.get(name).unwrap_or_else(|| panic!("no {name}"));
    let has = |sample: &&prometheus::Sample| {
        labels.iter().all(|(label, wanted)| sample.labels.get(*label).is_some_and(|found| found == wanted))
    };
    family.samples.iter().filter(has).map(|sample| sample.value).sum()
}

#[test]
fn metrics_tell_what_was_read_written_asked_and_refused() {
    let cloud = Cloud::open();
    let content = pattern(61, 3 << 20);
    let id = cloud.image("measured.raw", &content);
    let mount = cloud.mount("--metadata-ttl 1s --spool-size 1G");
    let before = metrics(&mount);
    let source = mount.beside().file("source", &content);
    sh!("cmp {mount}/measured.raw {source}");
    sh!("cp {source} {mount}/measured-upload.raw");
    fails!("rm -f {mount}/measured.raw");
    fails!("mkdir {mount}/measured-folder");
    sh!("cat {mount}/measured.raw > /dev/null");
    let text = String::from_utf8(mount.read(".glancefs/metrics")).unwrap();
    let after = families(&text);
    let size = content.len() as f64;
    for (name, labels, least) in [
        ("glancefs_build_info", &[("version", env!("CARGO_PKG_VERSION"))][..], 1.0),
        ("glancefs_fetched_bytes_total", &[], size),
        ("glancefs_served_bytes_total", &[], size),
        ("glancefs_uploaded_bytes_total", &[], size),
        ("glancefs_uploads_total", &[("outcome", "done")], 1.0),
        ("glancefs_cache_misses_total", &[("tier", "disk")], 1.0),
        ("glancefs_cache_bytes", &[("tier", "disk")], size),
        ("glancefs_requests_total", &[("operation", "list"), ("status", "200")], 1.0),
        ("glancefs_requests_total", &[("operation", "upload"), ("status", "204")], 1.0),
        ("glancefs_requests_total", &[("operation", "create"), ("status", "201")], 1.0),
        ("glancefs_kernel_requests_total", &[("operation", "lookup")], 1.0),
        ("glancefs_kernel_requests_total", &[("operation", "mkdir")], 1.0),
        ("glancefs_errors_total", &[("errno", "EPERM")], 2.0),
        ("glancefs_images", &[("status", "active")], 1.0),
        ("glancefs_memory_budget_bytes", &[], 1e6),
        ("glancefs_memory_resident_bytes", &[], 1e6),
        ("glancefs_spool_limit_bytes", &[], f64::from(1 << 30)),
        ("glancefs_start_time_seconds", &[], 1.7e9),
        ("glancefs_cache_disk_usable", &[], 1.0),
        ("glancefs_transfers_limit", &[], 8.0),
    ] {
        let found = value(&after, name, labels);
        assert!(found >= least, "{name} {labels:?}: {found}, expected {least} at least");
    }
    assert!(value(&after, "glancefs_read_duration_seconds", &[("le", "+Inf")]) >= 1.0);
    assert!(
        value(&after, "glancefs_request_duration_seconds", &[("operation", "download"), ("le", "+Inf")])
            >= 1.0
    );
    assert_eq!(value(&after, "glancefs_uploads", &[("state", "failed")]), 0.0);
    assert!(value(&after, "glancefs_list_age_seconds", &[]) >= 0.0);
    // What only grows never goes back.
    for (name, family) in before.iter().filter(|(_, family)| family.kind == "counter") {
        for sample in &family.samples {
            let now = after[name].samples.iter().find(|found| found.labels == sample.labels);
            assert!(now.is_some_and(|now| now.value >= sample.value), "{sample:?} became {now:?}");
        }
    }
    // All that is defined is there, but for what this cloud cannot have: tokens.
    for family in glancefs::metrics::families::ALL {
        let is_there = after.contains_key(family.name);
        assert!(is_there || family.name == "glancefs_token_expiry_timestamp_seconds", "{}", family.name);
    }
    assert!(!text.contains(&id) && !text.contains("measured"), "labels are of fixed tables");
    assert!(text.lines().count() < 1000, "{} lines", text.lines().count());
}

#[test]
fn promtool_finds_nothing_to_complain_about() {
    if !run("command -v promtool").succeeded() {
        leave_out!("there is no promtool (Debian: prometheus)");
    }
    let cloud = Cloud::open();
    let mount = cloud.mount("");
    sh!("promtool check metrics < {mount}/.glancefs/metrics");
    let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/prometheus/glancefs.rules.yml");
    sh!("promtool check rules {rules}");
}

#[test]
fn metrics_are_served_by_http_on_a_port_of_this_host() {
    let cloud = Cloud::open();
    let port = free_port();
    let _mount = cloud.mount(&format!("--metrics-listen {port}"));
    let curl = format!("curl -sS --noproxy '*' -i http://127.0.0.1:{port}");
    let served = sh!("{curl}/metrics");
    let (head, body) = served.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    assert!(families(&format!("{body}\n")).contains_key("glancefs_build_info"));
    assert!(sh!("{curl}/").starts_with("HTTP/1.1 404 "));
    assert!(sh!("{curl}/metrics -X POST -d x").starts_with("HTTP/1.1 405 "));
    assert!(sh!("curl -sS --noproxy '*' -I http://127.0.0.1:{port}/metrics").starts_with("HTTP/1.1 405 "));
    // Those who say nothing keep nobody from asking for long.
    let silent: Vec<_> = (0..8).map(|_| std::net::TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
    sh!("curl -sS --noproxy '*' -m 60 http://127.0.0.1:{port}/metrics | grep -c ^glancefs_build_info");
    drop(silent);
    // A second mount cannot have the port, says so, and is not there.
    let second = cloud.mount_later(&format!("--metrics-listen {port}"));
    let told = second.try_up();
    assert!(!told.succeeded() && !second.is_mounted());
    let told = told.to_string();
    assert!(
        told.contains(&format!("--metrics-listen 127.0.0.1:{port}")) && told.contains("another port"),
        "{told}"
    );
}
