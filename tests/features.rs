//! Keeps `docs/features.md` true: no id is missing, each row names tests that exist or says why it is not here, and
//! the README names what is not here.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may stop at what should not be")]

use std::fs;
use std::path::{Path, PathBuf};

/// The letter of each table, and how many rows it has.
const TABLES: &[(char, usize)] = &[('M', 25), ('D', 26), ('W', 27), ('S', 7), ('C', 5)];

/// What is in the place of a command in a row that says why there is none.
const REASONS: &[&str] = &["**Not here**: ", "**Not yet**: "];

struct Row {
    id: String,
    /// What to type.
    typed: String,
    /// As `target::module::function`.
    tests: Vec<String>,
}

impl Row {
    /// Of a line like `| M1 | feature | type | fails with | tests |`.
    fn read(line: &str) -> Option<Self> {
        // A `\|` is none between cells.
        let line = line.replace("\\|", "\u{1}");
        let cells: Vec<_> = line.strip_prefix('|')?.strip_suffix('|')?.split('|').map(str::trim).collect();
        let [id, _, typed, _, tests] = cells[..] else { panic!("a row has five cells: {line}") };
        let number = id.strip_prefix(|letter| TABLES.iter().any(|(known, _)| *known == letter))?;
        number.parse::<usize>().ok()?;
        let names = tests.split_whitespace().map(|name| {
            let name = name.strip_prefix('`').and_then(|name| name.strip_suffix('`'));
            name.unwrap_or_else(|| panic!("{id}: tests are `names` and blanks, not {tests}")).to_owned()
        });
        Some(Self { id: id.into(), typed: typed.into(), tests: names.collect() })
    }

    fn reason(&self) -> Option<&str> {
        REASONS.iter().find_map(|why| self.typed.strip_prefix(why))
    }
}

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rows() -> Vec<Row> {
    let text = fs::read_to_string(project().join("docs/features.md")).unwrap();
    text.lines().filter_map(Row::read).collect()
}

/// The file of a test, and its name there.
fn place(test: &str) -> Option<(PathBuf, &str)> {
    let (target, path) = test.split_once("::")?;
    let (module, function) = path.rsplit_once("::").unwrap_or(("", path));
    let (folder, root) = match target {
        "lib" => ("src", "lib.rs"),
        "e2e" | "servers" => (&*format!("tests/{target}"), "main.rs"),
        // A file of its own.
        _ => ("tests", &*format!("{target}.rs")),
    };
    let folder = project().join(folder);
    if module.is_empty() {
        return Some((folder.join(root), function));
    }
    // A module of tests is a file, or a part of the file of the module that it tests.
    let outer = module.strip_suffix("::tests");
    [Some(module), outer].into_iter().flatten().find_map(|module| {
        let path = folder.join(module.replace("::", "/"));
        let candidates = [path.with_extension("rs"), path.join("mod.rs")];
        candidates.into_iter().find(|file| file.is_file()).map(|file| (file, function))
    })
}

/// Whether `text` has the function with `#[test]`, or a like attribute, above it.
fn has_test(text: &str, function: &str) -> bool {
    let declared = |line: &str| {
        let line = line.trim_start();
        let name = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ");
        name.and_then(|name| name.strip_prefix(function)).is_some_and(|rest| rest.starts_with('('))
    };
    let lines: Vec<_> = text.lines().collect();
    lines.iter().enumerate().any(|(at, line)| {
        let above = lines[..at].iter().rev().map(|line| line.trim_start());
        let mut attributes = above.take_while(|line| line.starts_with("#[") || line.starts_with("//"));
        declared(line)
            && attributes.any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"))
    })
}

#[test]
fn no_id_is_missing_or_there_twice() {
    let found: Vec<_> = rows().into_iter().map(|row| row.id).collect();
    let ids = TABLES.iter().flat_map(|(letter, count)| (1..=*count).map(move |n| format!("{letter}{n}")));
    assert_eq!(found, ids.collect::<Vec<_>>());
}

#[test]
fn each_row_has_a_test_or_a_reason() {
    let without: Vec<_> =
        rows().into_iter().filter(|row| row.tests.is_empty() && row.reason().is_none()).collect();
    assert!(without.is_empty(), "{:?}", without.iter().map(|row| &row.id).collect::<Vec<_>>());
}

#[test]
fn each_test_that_is_named_exists() {
    let mut missing = Vec::new();
    for row in rows() {
        for test in row.tests {
            let there =
                place(&test).is_some_and(|(file, name)| has_test(&fs::read_to_string(file).unwrap(), name));
            if !there {
                missing.push(format!("{}: {test}", row.id));
            }
        }
    }
    assert!(missing.is_empty(), "\n{}\n", missing.join("\n"));
}

#[test]
fn each_test_that_reliability_names_exists() {
    let text = fs::read_to_string(project().join("docs/reliability.md")).unwrap();
    let named = text.split('`').filter(|word| {
        ["lib::", "e2e::", "servers::"].iter().any(|target| word.starts_with(target)) && !word.contains(' ')
    });
    let there = |test: &str| {
        place(test).is_some_and(|(file, name)| has_test(&fs::read_to_string(file).unwrap(), name))
    };
    let missing: Vec<_> = named.filter(|test| !there(test)).collect();
    assert!(missing.is_empty(), "\n{}\n", missing.join("\n"));
}

#[test]
fn the_readme_names_what_is_not_here() {
    let readme = fs::read_to_string(project().join("README.md")).unwrap();
    let (_, limits) = readme.split_once("\n## Limits\n").unwrap();
    for row in rows().iter().filter(|row| row.reason().is_some()) {
        assert!(limits.contains(&format!("({})", row.id)), "{} is not in the limits of the README", row.id);
    }
}

#[test]
fn a_function_is_a_test_only_with_the_attribute() {
    let text = "#[test]\n/// Why.\n#[ignore]\nfn one() {\n}\nfn two() {}\n    #[tokio::test(flavor = \"x\")]\n    async fn three() {";
    assert!(has_test(text, "one") && has_test(text, "three"));
    assert!(!has_test(text, "two") && !has_test(text, "thre") && !has_test(text, "four"));
}
