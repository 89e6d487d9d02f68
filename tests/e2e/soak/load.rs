//! What readers and writers of a soak do.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::store::{Image, sha512};
use super::{FASHION, Soak};
use crate::harness::{Numbers, background};

/// Alignment for O_DIRECT.
const PAGE: usize = 4096;

/// A reader: opens one image after the other and reads pieces of it until the run is over.
pub fn read(soak: &Soak, number: u64) {
    let mut numbers = Numbers::new(7000 + number);
    while !soak.is_over() {
        {
            let _at_work = soak.at_work.read().unwrap();
            let image = soak.images.choose(numbers.below(usize::MAX), soak.meter.round(FASHION));
            if let Err(error) = visit(soak, &image, &mut numbers) {
                if image.is_going() {
                    soak.meter.gone.fetch_add(1, Ordering::Relaxed);
                } else {
                    soak.fault(format!("reader {number}, image {}: {error}", image.id));
                }
            }
        }
        soak.sleep(Duration::from_millis(200 + numbers.below(300) as u64));
    }
}

/// Opens an image by name or by id, and reads some of it or all.
fn visit(soak: &Soak, image: &Image, numbers: &mut Numbers) -> io::Result<()> {
    let is_direct = numbers.below(4) == 0;
    let mut options = File::options();
    options.read(true).custom_flags(if is_direct { libc::O_DIRECT } else { 0 });
    let file = if numbers.below(2) == 0 {
        let name = image.name.read().unwrap();
        options.open(soak.mount.path(&name))?
    } else {
        options.open(soak.mount.path(&format!(".by-id/{}", image.id)))?
    };
    let mut buffer = vec![0; 256 * 1024 + PAGE];
    let aligned = buffer.as_ptr().align_offset(PAGE);
    if numbers.below(8) == 0 {
        let mut at = 0;
        while at < image.length && !soak.is_over() {
            at += piece(soak, image, &file, at, &mut buffer[aligned..][..256 * 1024])?;
        }
        return Ok(());
    }
    for _ in 0..1 + numbers.below(6) {
        let (mut at, mut length) = (numbers.below(image.length), 1 + numbers.below(256 * 1024));
        if is_direct {
            (at, length) = (at / PAGE * PAGE, length.next_multiple_of(PAGE));
        }
        piece(soak, image, &file, at, &mut buffer[aligned..][..length])?;
    }
    Ok(())
}

/// Reads once and compares; what was read must be all that is there.
fn piece(soak: &Soak, image: &Image, file: &File, at: usize, buffer: &mut [u8]) -> io::Result<usize> {
    let count = file.read_at(buffer, at as u64)?;
    let expected = soak.images.content(image, at, buffer.len().min(image.length - at));
    if count > expected.len() || buffer[..count] != expected[..count] || count == 0 {
        soak.fault(format!("wrong bytes: {count} of {} at {at} of image {}", buffer.len(), image.id));
    }
    soak.meter.reads.fetch_add(1, Ordering::Relaxed);
    soak.meter.bytes.fetch_add(count as u64, Ordering::Relaxed);
    Ok(count)
}

/// A writer: makes images, compares them with Glance, renames some and removes the oldest, until the run is over.
pub fn write(soak: &Soak, number: u64) {
    static NUMBER: AtomicU64 = AtomicU64::new(1);
    let mut numbers = Numbers::new(8000 + number);
    while !soak.is_over() {
        {
            let _at_work = soak.at_work.read().unwrap();
            let made = NUMBER.fetch_add(1, Ordering::Relaxed);
            if let Err(what) = upload(soak, made, &mut numbers) {
                soak.fault(format!("writer {number}, image {made}: {what}"));
            }
        }
        soak.sleep(Duration::from_millis(1000 + numbers.below(2000) as u64));
    }
}

/// Runs a command line, with time for an outage.
fn try_run(line: &str) -> Result<(), String> {
    let outcome = background(line).finish_within(Duration::from_secs(300));
    if outcome.succeeded() { Ok(()) } else { Err(outcome.to_string()) }
}

fn upload(soak: &Soak, number: u64, numbers: &mut Numbers) -> Result<(), String> {
    let name = format!("made-{number}.raw");
    let (at, content) = soak.images.draft(usize::try_from(number).unwrap(), numbers.below(usize::MAX));
    let source = soak.mount.beside().file(&format!("source-{number}"), content);
    try_run(&format!("cp {source} {} && rm {source}", soak.mount.path(&name)))?;
    let record = {
        let _up = soak.servers.read().unwrap();
        soak.cloud.only(&name)
    };
    if record["os_hash_value"] != sha512(content) || record["size"] != content.len() {
        return Err(format!("Glance has other bytes: {record:#}"));
    }
    soak.meter.uploads.fetch_add(1, Ordering::Relaxed);
    let id = record["id"].as_str().unwrap().to_owned();
    let oldest = soak.images.add(id, name, at, content.len());
    if numbers.below(3) == 0
        && let Some(image) = soak.images.choose_made(numbers.below(usize::MAX))
    {
        rename(soak, &image, number)?;
    }
    oldest.map_or(Ok(()), |image| remove(soak, &image, numbers))
}

fn rename(soak: &Soak, image: &Image, number: u64) -> Result<(), String> {
    let mut name = image.name.write().unwrap();
    let new = format!("renamed-{number}.raw");
    match try_run(&format!("mv -T {} {}", soak.mount.path(&name), soak.mount.path(&new))) {
        Ok(()) => *name = new,
        Err(_) if image.is_going() => return Ok(()),
        Err(what) => return Err(what),
    }
    soak.meter.renames.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

/// By the mount, or behind its back.
fn remove(soak: &Soak, image: &Image, numbers: &mut Numbers) -> Result<(), String> {
    let name = image.name.read().unwrap();
    if numbers.below(2) == 0 {
        try_run(&format!("rm {}", soak.mount.path(&name)))?;
    } else {
        let _up = soak.servers.read().unwrap();
        soak.cloud.delete(&image.id);
    }
    soak.meter.removals.fetch_add(1, Ordering::Relaxed);
    Ok(())
}
