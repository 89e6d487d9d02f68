//! Runs the matrix: each operation under each fault, once and for good, on real mounts of a real Glance.
//!
//! A cell is an expectation (`expected`), and what holds in any case: no wrong bytes, no reply later than its deadline,
//! the daemon alive, no image without data and no file of the spool that `glancefs uploads` does not list.
//! Cells have deadlines of seconds: they need the machine for themselves, which `scripts/test` gives them.
//! `GLANCEFS_CELLS=TEXT` runs only the cells whose name contains the text, such as `flush × 503`.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::act::Act;
use super::expected::{Expected, Span, expected, name};
use super::operation::{Operation, Request};
use super::row::Row;
use crate::harness::{Cloud, Mount, Proxy, is_glancefs, run};

/// `--timeout` of the mounts where an error or the last good list is expected, which mostly takes that long.
const SHORT: Duration = Duration::from_secs(5);

/// The same where success is expected, which a busy machine may keep waiting.
const LONG: Duration = Duration::from_secs(12);

/// What a busy machine may add to a deadline.
const SLACK: Duration = Duration::from_secs(8);

/// Mounts at once; most of their time they wait.
const WORKERS: usize = 14;

/// The token is renewed by a command once a second at the most.
const LOGIN_PAUSE: Duration = Duration::from_millis(1100);

/// Who prepares a cell or looks at what became of it, several at once: no more than leave the real Glance time for those
/// whose deadline runs.
static TURNS: [Mutex<()>; 4] = [const { Mutex::new(()) }; 4];

fn turn(number: usize) -> MutexGuard<'static, ()> {
    TURNS[number % TURNS.len()].lock().unwrap_or_else(PoisonError::into_inner)
}

/// A cell of the matrix.
#[derive(Debug, Clone, Copy)]
pub struct Cell {
    pub operation: Operation,
    pub row: Row,
    pub span: Span,
}

impl Cell {
    /// All of `operations`, those that are not concerned too.
    pub fn all(operations: &[Operation]) -> Vec<Self> {
        let spans = [Span::ForGood, Span::Once];
        let rows = spans.iter().flat_map(|&span| Row::ALL.map(|row| (row, span)));
        rows.flat_map(|(row, span)| operations.iter().map(move |&operation| Self { operation, row, span }))
            .collect()
    }

    /// What is expected of it.
    pub fn expected(self) -> Expected {
        expected(self.operation, self.row, self.span)
    }

    fn name(self) -> String {
        let span = match self.span {
            Span::Once => "once",
            Span::ForGood => "for good",
        };
        format!("{} × {}, {span}", self.operation.word(), self.row.words())
    }

    /// How long all replies together may take.
    fn deadline(self) -> Duration {
        let replies = match self.operation {
            // The old list serves after half of it.
            Operation::List => 1,
            // Bodies of which each brings something are gone on with; a page that the kernel reads ahead in vain is read again.
            Operation::ReadSequential | Operation::ReadRandom | Operation::Prefetch => 6,
            // The deadline on progress, and the account of the requests about the record.
            Operation::Write | Operation::Flush | Operation::Create => 3,
            _ => 1,
        };
        self.timeout() * replies
    }

    fn timeout(self) -> Duration {
        match (self.expected(), self.row, self.span) {
            // A body that stalls each time takes a third of the deadline each time.
            (Expected::Succeeds, Row::Stall, Span::ForGood) => LONG / 2,
            (Expected::Succeeds, ..) => LONG,
            _ => SHORT,
        }
    }

    /// How long it takes, in some unit: a list that is to become old is waited for.
    fn load(self) -> usize {
        if self.operation == Operation::List { 3 } else { 1 }
    }

    /// What it needs of its mount.
    fn options(self) -> String {
        let timeout = self.timeout().as_secs();
        let more = match self.operation {
            Operation::List => "--metadata-ttl 2s",
            Operation::Write => "--metadata-ttl 1h --upload stream",
            _ => "--metadata-ttl 1h",
        };
        format!("--timeout {timeout}s {more}")
    }
}

/// A mount behind a proxy of its own.
struct Bench {
    cloud: &'static Cloud,
    // Before the proxy: unmounting may still ask something.
    mount: Mount,
    proxy: Proxy,
    daemon: u32,
}

impl Bench {
    fn new(cloud: &'static Cloud, options: &str) -> Self {
        let proxy = Proxy::to(&cloud.url);
        let mount = Mount::new(
            Vec::new(),
            &format!(
                "--token-command 'echo a-token' --endpoint {} --retries 2 --allow-delete {options}",
                proxy.url()
            ),
        );
        mount.up();
        let daemon = mount.daemon().unwrap();
        Self { cloud, mount, proxy, daemon }
    }

    /// Runs `go`. A program that hangs is let go by the end of the daemon, which is a complaint of its own.
    fn unless_it_hangs<T>(&self, cell: Cell, go: impl FnOnce() -> T) -> T {
        std::thread::scope(|scope| {
            let (done, waits) = std::sync::mpsc::channel::<()>();
            scope.spawn(move || {
                let limit = cell.deadline() * 2 + Duration::from_secs(30);
                let hangs = waits.recv_timeout(limit) == Err(std::sync::mpsc::RecvTimeoutError::Timeout);
                if hangs {
                    run(&format!("kill -KILL {}", self.daemon));
                }
            });
            let outcome = go();
            drop(done);
            outcome
        })
    }

    /// Runs a cell; the complaints.
    fn run(&mut self, cell: Cell, number: usize, elsewhere: &Proxy) -> Vec<String> {
        let Cell { operation, row, span } = cell;
        let all = Instant::now();
        let prepared = turn(number);
        let mut act = Act::prepare(self.cloud, &self.mount, operation, row, number as u64);
        drop(prepared);
        if row == Row::Status(401, false) {
            std::thread::sleep(LOGIN_PAUSE);
        }
        if operation == Operation::List {
            // Until the list is older than its TTL.
            std::thread::sleep(Duration::from_millis(2100));
        }
        let rule = act.rule(row.fault(operation, &elsewhere.url()));
        self.proxy.take_seen();
        self.proxy.add(match span {
            Span::Once => rule.times(1),
            Span::ForGood => rule,
        });
        let began = Instant::now();
        let outcome = self.unless_it_hangs(cell, || act.go());
        let took = began.elapsed();
        self.proxy.heal();
        let mut wrong = judge(cell.expected(), &outcome);
        if took > cell.deadline() + SLACK {
            wrong.push(format!("it took {took:?}, and {:?} are allowed", cell.deadline()));
        }
        let met = self.proxy.take_seen().iter().any(|seen| seen.spoiled);
        if !met && operation.request() != Request::None {
            wrong.push("no request met the fault".to_owned());
        }
        let _looking = turn(number);
        wrong.extend(act.look(outcome.is_ok()));
        if !is_glancefs(self.daemon) {
            wrong.push("the daemon died".to_owned());
        }
        act.end();
        if row == Row::Short200 && operation.request() == Request::Download {
            // It has learned that this store serves no ranges.
            self.mount.remount();
            self.daemon = self.mount.daemon().unwrap();
        }
        // For whoever looks at a failure, or at --nocapture.
        eprintln!(
            "{:.1} s of {:.1} s: {}: {outcome:?}",
            took.as_secs_f32(),
            all.elapsed().as_secs_f32(),
            cell.name()
        );
        wrong
    }
}

/// Whether the outcome is the expected one; the complaint.
fn judge(expected: Expected, outcome: &io::Result<()>) -> Vec<String> {
    let errno = outcome.as_ref().err().and_then(io::Error::raw_os_error);
    let right = match (expected, outcome) {
        (Expected::Succeeds | Expected::MayFail(_), Ok(())) => true,
        (Expected::Fails(wanted) | Expected::MayFail(wanted), Err(_)) => errno == Some(wanted),
        (Expected::LastGood, Err(error)) => error.to_string() == "the last good list",
        _ => false,
    };
    let said = match outcome {
        Ok(()) => "success".to_owned(),
        Err(error) => format!("{} ({error})", errno.map_or("no errno", name)),
    };
    if right { Vec::new() } else { vec![format!("expected {}, got {said}", expected.word())] }
}

/// Runs the cells of `operations`, several at once.
fn run_cells(operations: &[Operation]) {
    let cloud: &'static Cloud = Cloud::for_faults();
    let filter = std::env::var("GLANCEFS_CELLS").unwrap_or_default();
    let wanted =
        |cell: &Cell| cell.name().contains(&filter) && !matches!(cell.expected(), Expected::NotConcerned(_));
    // One queue for each kind of mount.
    let mut queues: Vec<(String, VecDeque<Cell>)> = Vec::new();
    for cell in Cell::all(operations).into_iter().filter(wanted) {
        let options = cell.options();
        match queues.iter_mut().find(|(known, _)| *known == options) {
            Some((_, queue)) => queue.push_back(cell),
            None => queues.push((options, [cell].into())),
        }
    }
    let count: usize = queues.iter().map(|(_, queue)| queue.len()).sum();
    let whole_load: usize = queues.iter().flat_map(|(_, queue)| queue).map(|cell| cell.load()).sum();
    let (elsewhere, began) = (Proxy::to(&cloud.url), Instant::now());
    let complaints = Mutex::new(Vec::new());
    let next = AtomicUsize::new(operations[0] as usize * 1000);
    std::thread::scope(|scope| {
        for (options, queue) in queues {
            let load: usize = queue.iter().map(|cell| cell.load()).sum();
            let workers = (WORKERS * load / whole_load).max(1);
            let queue = Arc::new(Mutex::new(queue));
            for _ in 0..workers {
                let (queue, options) = (Arc::clone(&queue), options.clone());
                let (elsewhere, complaints, next) = (&elsewhere, &complaints, &next);
                scope.spawn(move || {
                    let mut bench = Bench::new(cloud, &options);
                    loop {
                        let Some(cell) = queue.lock().unwrap().pop_front() else { return };
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        let wrong = bench.run(cell, number, elsewhere);
                        let told = wrong.into_iter().map(|what| format!("{}: {what}", cell.name()));
                        complaints.lock().unwrap().extend(told);
                    }
                });
            }
        }
    });
    eprintln!("{count} cells in {:.1} s", began.elapsed().as_secs_f32());
    let mut complaints = complaints.into_inner().unwrap();
    complaints.sort();
    assert!(complaints.is_empty(), "of {count} cells:\n{}", complaints.join("\n"));
    assert!(elsewhere.take_seen().is_empty(), "no request goes where a `next` points");
}

#[test]
fn operations_that_read_meet_each_fault_as_written() {
    let reading: Vec<_> = Operation::ALL.into_iter().filter(|operation| !operation.changes()).collect();
    run_cells(&reading);
}

#[test]
fn operations_that_change_meet_each_fault_as_written() {
    let changing: Vec<_> = Operation::ALL.into_iter().filter(|operation| operation.changes()).collect();
    run_cells(&changing);
}
