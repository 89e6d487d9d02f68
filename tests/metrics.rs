//! Keeps `docs/metrics.md`, the dashboard and the alerts true: each metric that they name is one that mounts have.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may stop at what should not be")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use glancefs::metrics::{document, families};

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[test]
fn the_document_is_that_of_the_definitions() {
    let path = project("docs/metrics.md");
    if std::env::var_os("GLANCEFS_WRITE_DOCS").is_some() {
        fs::write(&path, document()).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap();
    assert!(found == document(), "docs/metrics.md is old: GLANCEFS_WRITE_DOCS=1 cargo test --test metrics");
}

/// The metrics that a text names, without the ends that histograms have.
fn named(text: &str) -> BTreeSet<String> {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices("glancefs_") {
        let before = text[..at].chars().next_back();
        if before.is_some_and(is_of_name) {
            continue;
        }
        let name: String = text[at..].chars().take_while(|c| is_of_name(*c)).collect();
        found.insert(name);
    }
    found
}

fn exist(text: &str) -> BTreeSet<String> {
    let mut known: BTreeSet<String> = BTreeSet::new();
    for family in families::ALL {
        let ends: &[&str] = match family.kind {
            families::Kind::Histogram => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        known.extend(ends.iter().map(|end| format!("{}{end}", family.name)));
    }
    let named = named(text);
    let unknown: Vec<_> = named.difference(&known).collect();
    assert!(unknown.is_empty(), "no such metrics: {unknown:?}");
    named
}

#[test]
fn the_dashboard_is_json_and_names_metrics_that_exist() {
    let text = fs::read_to_string(project("packaging/grafana/glancefs.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(dashboard["uid"], "glancefs");
    let panels = dashboard["panels"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "an id twice: {panel}");
        assert!(!panel["title"].as_str().unwrap().is_empty());
        if panel["type"] == "row" {
            continue;
        }
        for target in panel["targets"].as_array().unwrap() {
            let expression = target["expr"].as_str().unwrap();
            assert!(!exist(expression).is_empty(), "{expression}");
            // Each shows the mounts that were chosen above.
            assert!(expression.contains("instance=~\"$instance\""), "{expression}");
            balanced(expression);
        }
    }
    assert!(exist(&text).len() > 15);
}

#[test]
fn the_alerts_name_metrics_that_exist_and_say_what_to_do() {
    let text = fs::read_to_string(project("packaging/prometheus/glancefs.rules.yml")).unwrap();
    assert!(exist(&text).len() > 8);
    assert!(!text.contains('\t'), "YAML has no tabs");
    let alerts: Vec<&str> = text.split("\n      - alert: ").skip(1).collect();
    assert!(alerts.len() >= 8);
    let mut names = BTreeSet::new();
    for alert in alerts {
        let name = alert.lines().next().unwrap();
        assert!(names.insert(name) && name.starts_with("Glancefs"), "{name}");
        for part in ["expr: ", "for: ", "severity: ", "summary: ", "description: "] {
            assert!(alert.contains(part), "{name} has no {part}");
        }
        let expression = alert.split("expr: ").nth(1).unwrap().split("\n        for: ").next().unwrap();
        assert!(!exist(expression).is_empty() || expression.contains("up{"), "{expression}");
        balanced(expression);
    }
}

/// Brackets and quotes of an expression are in pairs: what `promtool` would find first (see `e2e::metrics`).
fn balanced(expression: &str) {
    let mut open = Vec::new();
    let mut quoted = false;
    for c in expression.chars() {
        match c {
            '"' => quoted = !quoted,
            _ if quoted => {}
            '(' => open.push(')'),
            '{' => open.push('}'),
            '[' => open.push(']'),
            ')' | '}' | ']' => assert_eq!(open.pop(), Some(c), "{expression}"),
            _ => {}
        }
    }
    assert!(open.is_empty() && !quoted, "{expression}");
}
