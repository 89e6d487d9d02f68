//! Readers of files, as programs read them; each compares what it got with what the image consists of.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::Result;
use crate::content::Content;

/// What `cp` and `cat` ask for in one read(2). The buffer stays in the processor's cache while it is compared.
const PIECE: usize = 128 << 10;

/// One read of a trace or of a random pattern.
#[derive(Debug, Clone, Copy)]
pub struct Access {
    /// Where it begins.
    pub offset: u64,
    /// In bytes.
    pub length: usize,
}

/// What a reader found.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reading {
    /// From the open() to the last read(2), comparisons included.
    pub wall: Duration,
    /// Within open() and read(2) only.
    pub in_calls: Duration,
    /// Bytes.
    pub bytes: u64,
    /// read(2) calls.
    pub reads: u64,
}

/// How files are opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Through the page cache.
    Buffered,
    /// Past the page cache (O_DIRECT), as qemu reads with `cache=none`.
    Direct,
}

/// Reads all of a file, front to back.
pub fn sequential(path: &Path, content: Content) -> Result<Reading> {
    let began = Instant::now();
    let file = File::open(path)?;
    let mut reading = Reading { in_calls: began.elapsed(), ..Reading::default() };
    let mut buffer = vec![0; PIECE];
    loop {
        let call = Instant::now();
        let length = file.read_at(&mut buffer, reading.bytes)?;
        reading.in_calls += call.elapsed();
        if length == 0 {
            break;
        }
        content.check(reading.bytes, &buffer[..length])?;
        reading.bytes += length as u64;
        reading.reads += 1;
    }
    reading.wall = began.elapsed();
    if reading.bytes != content.size {
        return Err(
            format!("{} ends after {} of {} bytes", path.display(), reading.bytes, content.size).into()
        );
    }
    Ok(reading)
}

/// Makes all accesses with `depth` of them under way at any time, each by a thread of its own.
pub fn scattered(
    path: &Path,
    content: Content,
    mode: Mode,
    accesses: &[Access],
    depth: usize,
) -> Result<Reading> {
    let began = Instant::now();
    let next = AtomicUsize::new(0);
    let reader = || -> Result<Reading> {
        let flags = if mode == Mode::Direct { rustix::fs::OFlags::DIRECT.bits() as i32 } else { 0 };
        let opened = Instant::now();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        let mut reading = Reading { in_calls: opened.elapsed(), ..Reading::default() };
        let longest = accesses.iter().map(|access| access.length).max().unwrap_or_default();
        let mut buffer = Aligned::new(longest);
        while let Some(access) = accesses.get(next.fetch_add(1, Ordering::Relaxed)) {
            let bytes = buffer.first(access.length);
            let call = Instant::now();
            file.read_exact_at(bytes, access.offset)?;
            reading.in_calls += call.elapsed();
            content.check(access.offset, bytes)?;
            reading.bytes += access.length as u64;
            reading.reads += 1;
        }
        Ok(reading)
    };
    let mut sum = Reading::default();
    if depth == 1 {
        sum = reader()?;
    } else {
        for reading in in_parallel((0..depth).map(|_| reader).collect())? {
            sum.bytes += reading.bytes;
            sum.reads += reading.reads;
            sum.in_calls += reading.in_calls / u32::try_from(depth)?;
        }
    }
    sum.wall = began.elapsed();
    Ok(sum)
}

/// Runs all at once, each in a thread; the first failure is the failure of all.
pub fn in_parallel<T: Send>(readers: Vec<impl FnOnce() -> Result<T> + Send>) -> Result<Vec<T>> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = readers.into_iter().map(|reader| scope.spawn(reader)).collect();
        let results = threads.into_iter().map(|thread| thread.join());
        results.map(|result| result.unwrap_or_else(|_| Err("a reader panicked".into()))).collect()
    })
}

/// Memory aligned to a page, as O_DIRECT wants it.
struct Aligned {
    bytes: Vec<u8>,
    from: usize,
}

impl Aligned {
    fn new(size: usize) -> Self {
        let page = crate::content::PAGE;
        let bytes = vec![0; size + page];
        let from = bytes.as_ptr().align_offset(page);
        Self { bytes, from }
    }

    fn first(&mut self, length: usize) -> &mut [u8] {
        &mut self.bytes[self.from..self.from + length]
    }
}
