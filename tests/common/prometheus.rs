//! A strict reader of the text format of Prometheus, for tests: whatever departs from it is a panic.
//!
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>

use std::collections::{BTreeMap, BTreeSet};

/// One family of metrics as a text has it.
#[derive(Debug, Default)]
pub struct Family {
    pub kind: String,
    pub samples: Vec<Sample>,
}

/// One line with a value.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

/// The families of a text by name.
///
/// # Panics
/// Where the text departs from the format.
#[track_caller]
pub fn families(text: &str) -> BTreeMap<String, Family> {
    assert!(text.ends_with('\n'), "the last line ends like every other");
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let (mut current, mut helped) = (String::new(), None);
    let mut seen = BTreeSet::new();
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, said) = help.split_once(' ').expect("a sentence behind the name");
            assert!(!said.is_empty(), "{line}");
            helped = Some(name.to_owned());
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect("a type behind the name");
            assert!(matches!(kind, "counter" | "gauge" | "histogram"), "{line}");
            assert_eq!(helped.take().as_deref(), Some(name), "each type has its help: {line}");
            let family = Family { kind: kind.to_owned(), samples: Vec::new() };
            assert!(families.insert(name.to_owned(), family).is_none(), "declared twice: {line}");
            current = name.to_owned();
        } else {
            let sample = sample(line);
            let family = families.get_mut(&current).expect("a type goes before");
            let end = sample.name.strip_prefix(&current).unwrap_or_else(|| panic!("of {current}: {line}"));
            let ends: &[&str] =
                if family.kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(ends.contains(&end), "{line}");
            assert!(seen.insert((sample.name.clone(), sample.labels.clone())), "twice: {line}");
            if family.kind != "gauge" {
                assert!(sample.value >= 0.0, "{line}");
            }
            family.samples.push(sample);
        }
    }
    families.iter().filter(|(_, family)| family.kind == "histogram").for_each(check_histogram);
    families
}

/// Buckets grow, and the last one is the count.
fn check_histogram((name, family): (&String, &Family)) {
    let mut last: BTreeMap<BTreeMap<String, String>, (f64, f64)> = BTreeMap::new();
    for sample in &family.samples {
        let mut labels = sample.labels.clone();
        match labels.remove("le") {
            Some(bound) => {
                assert!(sample.name.ends_with("_bucket"), "{sample:?}");
                let bound: f64 = if bound == "+Inf" { f64::INFINITY } else { bound.parse().unwrap() };
                let before = last.insert(labels, (bound, sample.value)).unwrap_or((-1.0, 0.0));
                assert!(before.0 < bound && before.1 <= sample.value, "{name}: {before:?} before {sample:?}");
            }
            None if sample.name.ends_with("_count") => {
                assert_eq!(last[&labels], (f64::INFINITY, sample.value), "{sample:?}");
            }
            None => assert!(sample.name.ends_with("_sum"), "{sample:?}"),
        }
    }
}

fn is_word(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    !text.is_empty() && text.chars().all(plain) && !text.starts_with(|c: char| c.is_ascii_digit())
}

/// `name{label="value",...} value`.
fn sample(line: &str) -> Sample {
    let name_end = line.find(['{', ' ']).unwrap_or_else(|| panic!("no sample: {line:?}"));
    let (name, mut rest) = line.split_at(name_end);
    assert!(is_word(name), "{line:?}");
    let mut labels = BTreeMap::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            let (label, value) = rest.split_once("=\"").unwrap_or_else(|| panic!("a label: {line:?}"));
            assert!(is_word(label), "{line:?}");
            let (mut text, mut escaped, mut end) = (String::new(), false, None);
            for (at, c) in value.char_indices() {
                match (escaped, c) {
                    (true, 'n') => text.push('\n'),
                    (true, '\\' | '"') => text.push(c),
                    (true, _) => panic!("no such escape: {line:?}"),
                    (false, '\\') => {
                        escaped = true;
                        continue;
                    }
                    (false, '"') => {
                        end = Some(at + 1);
                        break;
                    }
                    (false, c) => text.push(c),
                }
                escaped = false;
            }
            assert!(labels.insert(label.to_owned(), text).is_none(), "a label twice: {line:?}");
            rest = &value[end.expect("an end of the value")..];
            match rest.strip_prefix(',') {
                Some(more) => rest = more,
                None => break,
            }
        }
        rest = rest.strip_prefix('}').unwrap_or_else(|| panic!("no end of the labels: {line:?}"));
    }
    let value = rest.strip_prefix(' ').unwrap_or_else(|| panic!("a blank before the value: {line:?}"));
    let value = value.parse().unwrap_or_else(|_| panic!("no value: {line:?}"));
    Sample { name: name.to_owned(), labels, value }
}
