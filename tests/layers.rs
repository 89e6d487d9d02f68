//! Keeps the layers of `docs/design.md` apart: a layer uses only those below it.

#![allow(clippy::unwrap_used, reason = "a test may stop at what should not be")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Each layer and what lies directly below it; what is below that may be used too.
const LAYERS: &[(&str, &[&str])] = &[
    ("main", &["cli"]),
    ("cli", &["doctor"]),
    ("doctor", &["mount", "manage"]),
    ("manage", &["client", "write"]),
    ("client", &[]),
    ("mount", &["fuse"]),
    ("fuse", &["fs"]),
    ("fs", &["read", "write", "catalog"]),
    ("read", &["cache"]),
    ("write", &["cache", "glance"]),
    ("catalog", &["glance"]),
    ("cache", &["source"]),
    ("source", &["glance"]),
    ("glance", &["auth"]),
    ("auth", &[]),
];

/// Usable by every layer and by each other; they use no layer.
const LEAVES: &[&str] = &[
    "config",
    "units",
    "budget",
    "allocator",
    "metrics",
    "blocking",
    "private_folder",
    "ioctl",
    "reference",
    "format",
    "signature",
    "error",
];

#[test]
fn a_layer_uses_only_those_below_it() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut violations = Vec::new();
    let mut seen = BTreeSet::new();
    for file in rust_files(&source) {
        let path = file.strip_prefix(&source).unwrap().to_owned();
        let layer = layer_of(&path);
        if layer == "lib" {
            continue;
        }
        seen.insert(layer.clone());
        let allowed = allowed(&layer);
        for used in uses(&fs::read_to_string(&file).unwrap(), depth(&path)) {
            if used != layer && !allowed.contains(used.as_str()) {
                violations.push(format!("src/{} uses {used}, which is not below {layer}", path.display()));
            }
        }
    }
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
    let known: BTreeSet<String> =
        LAYERS.iter().map(|(layer, _)| *layer).chain(LEAVES.iter().copied()).map(String::from).collect();
    assert_eq!(seen, known, "the layers in src/ and in this table differ");
}

/// Everything that `layer` may use.
fn allowed(layer: &str) -> BTreeSet<&'static str> {
    let table: BTreeMap<_, _> = LAYERS.iter().copied().collect();
    let mut allowed: BTreeSet<&str> = LEAVES.iter().copied().collect();
    let mut open: Vec<&str> = table.get(layer).map(|below| below.to_vec()).unwrap_or_default();
    while let Some(below) = open.pop() {
        if allowed.insert(below) {
            open.extend(table[below]);
        }
    }
    allowed
}

/// Every Rust file that is built outside of tests.
fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") && !is_test_module(&path) {
            files.push(path);
        }
    }
    files
}

/// The module above declares this file behind `#[cfg(test)]`.
fn is_test_module(path: &Path) -> bool {
    let (Some(folder), Some(name)) = (path.parent(), path.file_stem().and_then(|stem| stem.to_str())) else {
        return false;
    };
    [folder.join("mod.rs"), folder.with_extension("rs"), folder.join("lib.rs")].iter().any(|parent| {
        let text = fs::read_to_string(parent).unwrap_or_default();
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        lines.windows(2).any(|pair| {
            pair[0].starts_with("#[cfg(")
                && pair[0].contains("test")
                && pair[1].ends_with(&format!("mod {name};"))
        })
    })
}

/// `cache/index.rs` is of the layer `cache`, `units.rs` of `units`.
fn layer_of(path: &Path) -> String {
    let first = path.components().next().unwrap().as_os_str().to_str().unwrap();
    first.strip_suffix(".rs").unwrap_or(first).to_owned()
}

/// How many `super::` lead from this file to the crate's root: 1 from `cache/mod.rs` or `units.rs`.
fn depth(path: &Path) -> usize {
    path.components().count() - usize::from(path.file_name().is_some_and(|name| name == "mod.rs"))
}

/// The modules of the crate's root that this text names.
fn uses(text: &str, depth: usize) -> BTreeSet<String> {
    let code = code_of(text);
    let to_root = "super::".repeat(depth);
    let mut found = BTreeSet::new();
    for prefix in ["crate::", "glancefs::", to_root.as_str()] {
        for (at, _) in code.match_indices(prefix) {
            let before = code[..at].chars().next_back().unwrap_or(' ');
            // Inside a longer path or word (`super::super::x` seen from its second half).
            if before.is_alphanumeric() || before == '_' || before == ':' {
                continue;
            }
            found.extend(first_names(&code[at + prefix.len()..]));
        }
    }
    found.retain(|name| LEAVES.contains(&name.as_str()) || LAYERS.iter().any(|(layer, _)| layer == name));
    found
}

/// The first name of a path, or of each path in `{a::b, c::{d, e}}`.
fn first_names(path: &str) -> Vec<String> {
    let name = |text: &str| -> String {
        text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let Some(group) = path.strip_prefix('{') else { return vec![name(path)] };
    let mut names = vec![name(group)];
    let mut nesting = 0;
    for (at, symbol) in group.char_indices() {
        match symbol {
            '{' => nesting += 1,
            '}' if nesting == 0 => break,
            '}' => nesting -= 1,
            ',' if nesting == 0 => names.push(name(&group[at + 1..])),
            _ => {}
        }
    }
    names
}

/// The text without comments and without what is built for tests only.
fn code_of(text: &str) -> String {
    let mut code = String::new();
    let mut in_tests = false;
    for line in text.lines() {
        // rustfmt puts both ends of an inline module at the first column.
        in_tests |= line == "#[cfg(test)]";
        if !in_tests {
            code.push_str(line.split("//").next().unwrap_or_default());
            code.push('\n');
        }
        // The item behind the attribute ends at a closing brace or, in one line, at a semicolon.
        if in_tests && (line == "}" || (!line.starts_with(' ') && line.ends_with(';'))) {
            in_tests = false;
        }
    }
    code
}

#[test]
fn the_checker_sees_every_way_to_name_a_module() {
    let found = |text, depth| uses(text, depth).into_iter().collect::<Vec<_>>().join(" ");
    assert_eq!(found("use crate::cache::Cache;", 2), "cache");
    assert_eq!(found("let x = crate::fs::open();", 2), "fs");
    assert_eq!(found("use crate::{error::{Error, Kind}, mount, units::ByteSize};", 2), "error mount units");
    assert_eq!(found("use super::super::glance::Glance;", 2), "glance");
    assert_eq!(found("use super::auth::Auth;", 1), "auth");
    assert_eq!(found("use super::auth::Auth;", 2), "");
    assert_eq!(found("/// See [`crate::fuse`].\n// crate::mount", 2), "");
    assert_eq!(found("#[cfg(test)]\nmod tests {\n    use crate::cli;\n}\nuse crate::read;", 2), "read");
    assert_eq!(found("#[cfg(test)]\nuse crate::cli;\nuse crate::read;", 2), "read");
}

#[test]
fn below_means_all_the_way_down() {
    assert!(allowed("cli").contains("auth"));
    assert!(allowed("read").contains("glance"));
    assert!(!allowed("catalog").contains("cache"));
    assert!(!allowed("cache").contains("read"));
    assert!(!allowed("config").contains("auth"));
}
