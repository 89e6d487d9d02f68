//! The matrix in `docs/reliability.md`, as the code has it. `GLANCEFS_WRITE_DOCS=1` writes it anew.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::expected::{Expected, Span, expected};
use super::matrix::Cell;
use super::operation::Operation;
use super::row::Row;

const BEGIN: &str = "<!-- matrix: written by tests/e2e/faults/reliability.rs -->\n";
const END: &str = "<!-- end of the matrix -->\n";

const PREFACE: &str = "\
## Operations and faults

A proxy between glancefs and a real Glance spoils the requests that an operation waits for. In a cell stands what the
program sees when the first of them is spoiled, and behind the stroke what it sees when all are; one word for both. `ok`:
it succeeds. `last`: it succeeds and shows the last good list. `ok or EIO`: how the bytes are cut on their way decides.
`–`: the fault cannot happen to it; the reasons are below.

Looked at in each cell besides: no wrong bytes; no reply later than its deadline, where T is `--timeout` (T for a list, a
look-up and a change of a record; 3 T for an upload of which no byte moves; 6 T for 2 MiB of which each request brings a
part); the daemon alive; what succeeded is in the cloud with the right bytes, and what failed is no image; no image without
data and no file of the spool that `glancefs uploads` does not list; no request at the host to which a `next` points.
";

/// The test that runs an operation's cells.
fn test(operation: Operation) -> &'static str {
    match operation.changes() {
        true => "operations_that_change_meet_each_fault_as_written",
        false => "operations_that_read_meet_each_fault_as_written",
    }
}

fn cell(operation: Operation, row: Row) -> String {
    let [once, for_good] = [Span::Once, Span::ForGood].map(|span| expected(operation, row, span).word());
    if once == for_good { once } else { format!("{once} / {for_good}") }
}

/// The section.
fn section() -> String {
    let mut text = PREFACE.to_owned();
    let is_run = |cell: &Cell| !matches!(cell.expected(), Expected::NotConcerned(_));
    let cells = Cell::all(&Operation::ALL);
    let run = cells.iter().filter(|cell| is_run(cell)).count();
    let (all, apart) = (cells.len(), cells.len() - run);
    let _ = writeln!(
        text,
        "\n{all} cases, once and for good: {run} can be run, {apart} cannot happen. `scripts/test` runs all.\n"
    );
    for changes in [false, true] {
        let operations: Vec<_> = Operation::ALL.into_iter().filter(|op| op.changes() == changes).collect();
        let test = test(operations[0]);
        let _ = writeln!(text, "Test of each cell of this table: `e2e::faults::matrix::{test}`.\n");
        let heads: Vec<_> = operations.iter().map(|operation| operation.word()).collect();
        let _ = writeln!(text, "| fault | {} |", heads.join(" | "));
        let _ = writeln!(text, "| --- |{}", " --- |".repeat(operations.len()));
        for row in Row::ALL {
            let cells: Vec<_> = operations.iter().map(|&operation| cell(operation, row)).collect();
            let _ = writeln!(text, "| {} | {} |", row.words(), cells.join(" | "));
        }
        text.push('\n');
    }
    text.push_str("One cell alone: `GLANCEFS_CELLS='flush × 503' cargo test --test e2e faults::matrix`.\n\n");
    text.push_str("What each operation is here, and which of its requests are spoiled:\n\n");
    for operation in Operation::ALL {
        let _ = writeln!(text, "- {}: {}.", operation.word(), operation.meaning());
    }
    text.push_str("\nWhat cannot happen, and why:\n\n");
    let mut reasons: BTreeSet<(String, &str)> = BTreeSet::new();
    for row in Row::ALL {
        for operation in Operation::ALL {
            if let Some(why) = row.does_not_concern(operation.request()) {
                reasons.insert((row.words(), why));
            }
        }
    }
    for (row, why) in reasons {
        let concerned = |operation: &Operation| {
            Row::ALL
                .into_iter()
                .find(|known| known.words() == row)
                .is_some_and(|known| known.does_not_concern(operation.request()) == Some(why))
        };
        let operations: Vec<_> = Operation::ALL.iter().filter(|operation| concerned(operation)).collect();
        let words: Vec<_> = operations.into_iter().map(|operation| operation.word()).collect();
        let _ = writeln!(text, "- {row}, at {}: {why}.", words.join(", "));
    }
    text
}

#[test]
fn the_matrix_in_the_docs_is_the_one_that_is_run() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reliability.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("where the matrix begins");
    let (written, after) = rest.split_once(END).expect("where it ends");
    let section = section();
    if std::env::var_os("GLANCEFS_WRITE_DOCS").is_some() {
        std::fs::write(path, format!("{before}{BEGIN}{section}{END}{after}")).unwrap();
        return;
    }
    assert!(written == section, "GLANCEFS_WRITE_DOCS=1 writes docs/reliability.md anew");
}
