//! Bytes read through the mount are those of the image, however they are read, and a second time
//! they do not come from the server.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::harness::{Cloud, Mount, eventually, fails, json as parse, left_out, long, pattern, run, sh};

const MIB: usize = 1024 * 1024;

/// Files below `folder` of at least `least` bytes.
fn files(folder: &Path, least: u64) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let metadata = entry.metadata().unwrap();
        if metadata.is_dir() {
            found.extend(files(&entry.path(), least));
        } else if metadata.len() >= least {
            found.push(entry.path());
        }
    }
    found
}

fn cache_of(mount: &Mount) -> PathBuf {
    mount.beside().root().join("cache")
}

#[test]
fn every_way_to_read_gives_the_same_bytes() {
    let cloud = Cloud::open();
    let content = pattern(30, 9 * MIB + 123);
    let id = cloud.image("ways.raw", &content);
    let mount = cloud.mount("");
    let source = mount.beside().file("source", &content);
    let file = mount.path("ways.raw");
    let copy = mount.beside().path("copy");
    // One block in the middle first, so that the rest has a hole in it.
    sh!(
        "dd if={file} bs=1M skip=5 count=1 status=none | cmp - <(dd if={source} bs=1M skip=5 count=1 status=none)"
    );
    sh!("tail -c 1000 {file} | cmp - <(tail -c 1000 {source})");
    sh!(
        "cmp <(dd if={file} bs=1 skip=3000000 count=5 status=none) <(dd if={source} bs=1 skip=3000000 count=5 status=none)"
    );
    sh!("cp {file} {copy} && cmp {copy} {source}");
    sh!("cat {file} | cmp - {source}");
    sh!("dd if={file} bs=1M iflag=direct status=none | cmp - {source}");
    sh!("cp --sparse=always {file} {copy}2 && cmp {copy}2 {source}");
    sh!("tar -C {mount} -c ways.raw | tar -xO | cmp - {source}");
    sh!("rsync -a {file} {copy}3 && cmp {copy}3 {source}");
    sh!("python3 -c '
import mmap, sys
with open(\"{file}\", \"rb\") as file, open(\"{source}\", \"rb\") as source:
    mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    source = source.read()
    assert mapped[4_000_000:4_100_000] == source[4_000_000:4_100_000]
    assert mapped[:] == source
'");
    assert_eq!(sh!("md5sum < {file} | cut -d' ' -f1"), cloud.record(&id)["checksum"].as_str().unwrap());
    assert_eq!(sh!("dd if={file} bs=1M skip=100 status=none | wc -c"), "0", "beyond the end is nothing");
    let transferred: usize = cloud.downloads(&id).iter().map(|line| bytes_sent(line)).sum();
    assert!(transferred < content.len() + MIB, "each byte came once, not {transferred} in all");
}

/// The body bytes of a line of the access log: `... HTTP/1.1 206 1048576 4ms range=...`.
fn bytes_sent(line: &str) -> usize {
    let fields: Vec<_> = line.split_whitespace().collect();
    let status = fields.iter().position(|field| ["200", "206", "204"].contains(field)).unwrap_or(0);
    fields.get(status + 1).and_then(|bytes| bytes.parse().ok()).unwrap_or(0)
}

#[test]
fn an_empty_image_reads_as_an_empty_file() {
    let cloud = Cloud::open();
    cloud.image("empty.raw", b"");
    let mount = cloud.mount("");
    assert_eq!(sh!("stat -c %s {mount}/empty.raw; wc -c < {mount}/empty.raw"), "0\n0");
    sh!("cp {mount}/empty.raw {mount}/../copy && cmp {mount}/../copy /dev/null");
}

#[test]
fn eight_readers_at_random_offsets_each_get_their_bytes() {
    let cloud = Cloud::open();
    let content = pattern(31, 48 * MIB + 4321);
    let id = cloud.image("readers.raw", &content);
    // Less memory than image: blocks go to disk and come back.
    let mount = cloud.mount("--memory-limit 32M");
    read_at_random(&mount.path("readers.raw"), &content, 8, 150);
    let transferred: usize = cloud.downloads(&id).iter().map(|line| bytes_sent(line)).sum();
    assert!(transferred <= content.len() + content.len() / 4, "{transferred} bytes for {}", content.len());
}

/// Reads `count` random pieces in each of `readers` threads and compares each.
fn read_at_random(file: &str, content: &[u8], readers: u64, count: usize) {
    use std::os::unix::fs::FileExt;
    std::thread::scope(|scope| {
        for reader in 0..readers {
            scope.spawn(move || {
                let file = std::fs::File::open(file).unwrap();
                let places = pattern(1000 + reader, count * 16);
                for place in places.chunks_exact(16) {
                    let number = |bytes: &[u8]| usize::from_le_bytes(bytes.try_into().unwrap());
                    let at = number(&place[..8]) % content.len();
                    let length = (1 + number(&place[8..]) % 300_000).min(content.len() - at);
                    let mut piece = vec![0; length];
                    file.read_exact_at(&mut piece, at as u64).unwrap();
                    assert!(piece == content[at..at + length], "reader {reader}: {length} bytes at {at}");
                }
            });
        }
    });
}

#[test]
fn an_image_of_a_store_without_ranges_is_streamed() {
    let cloud = Cloud::open();
    let content = pattern(32, 20 * MIB + 99);
    let mount = cloud.mount("");
    let source = mount.beside().file("source", &content);
    let id = cloud.http_image("streamed.raw", &source, &[]);
    // From behind first, which such a store serves to nobody.
    sh!("cmp <(tail -c 100000 {mount}/streamed.raw) <(tail -c 100000 {source})");
    assert_eq!(mount.xattr("streamed.raw", "user.glancefs.source"), "streamed");
    read_at_random(&mount.path("streamed.raw"), &content, 4, 25);
    sh!("cmp {mount}/streamed.raw {source}");
    eventually("the whole image is verified", || {
        mount.xattr("streamed.raw", "user.glancefs.verified") == "sha512"
    });
    let whole = cloud.downloads(&id).iter().filter(|line| bytes_sent(line) > MIB).count();
    assert!(whole <= 2, "one download serves all readers: {:#?}", cloud.downloads(&id));
    // The next image of that store is not even asked for ranges.
    let next = cloud.http_image("streamed-2.raw", &source, &[]);
    sh!("cmp {mount}/streamed-2.raw {source}");
    let refused: Vec<_> = cloud.downloads(&next).into_iter().filter(|line| line.contains(" 400 ")).collect();
    assert!(refused.is_empty(), "what a store can do is remembered: {refused:?}");
}

#[test]
fn readers_that_come_together_share_one_stream() {
    let cloud = Cloud::open();
    let content = pattern(44, 24 * MIB);
    let mount = cloud.mount("");
    let source = mount.beside().file("source", &content);
    let id = cloud.http_image("crowded.raw", &source, &[]);
    read_at_random(&mount.path("crowded.raw"), &content, 8, 10);
    let whole = cloud.downloads(&id).iter().filter(|line| bytes_sent(line) > MIB).count();
    assert!(whole <= 2, "{:#?}", cloud.downloads(&id));
}

#[test]
fn an_image_without_a_hash_is_read_and_says_so() {
    let cloud = Cloud::open();
    let content = pattern(33, 2 * MIB);
    let mount = cloud.mount("");
    let source = mount.beside().file("source", &content);
    cloud.http_image("no-hash.raw", &source, &["--no-hash"]);
    sh!("cmp {mount}/no-hash.raw {source}");
    eventually("it is complete", || mount.xattr("no-hash.raw", "user.glancefs.verified") == "none");
}

#[test]
fn a_second_read_and_one_after_a_remount_ask_for_no_data() {
    let cloud = Cloud::open();
    let content = pattern(34, 7 * MIB + 5);
    let id = cloud.image("again.raw", &content);
    let mount = cloud.mount("");
    let source = mount.beside().file("source", &content);
    sh!("cmp {mount}/again.raw {source}");
    let before = cloud.downloads(&id).len();
    assert!(before > 0);
    sh!("cmp {mount}/again.raw {source}");
    sh!("dd if={mount}/again.raw bs=64k iflag=direct status=none | cmp - {source}");
    mount.remount();
    assert_eq!(mount.xattr("again.raw", "user.glancefs.cached_bytes"), content.len().to_string());
    sh!("cmp {mount}/again.raw {source}");
    // A rename and a new property leave the data as they are.
    cloud.set(&id, "name", json!("again-renamed.raw"));
    mount.remount();
    sh!("cmp {mount}/again-renamed.raw {source}");
    assert_eq!(cloud.downloads(&id).len(), before, "{:#?}", cloud.downloads(&id));
}

#[test]
fn two_mounts_share_one_cache_folder() {
    let cloud = Cloud::open();
    let content = pattern(35, 5 * MIB);
    let id = cloud.image("shared-cache.raw", &content);
    let one = cloud.mount("");
    let source = one.beside().file("source", &content);
    let other = cloud.mount(&format!("--cache-dir {}", cache_of(&one).display()));
    // Both at once, then each alone.
    sh!("cmp {one}/shared-cache.raw {source} & cmp {other}/shared-cache.raw {source} && wait $!");
    sh!("cmp {one}/shared-cache.raw {source} && cmp {other}/shared-cache.raw {source}");
    let before = cloud.downloads(&id).len();
    one.down();
    sh!("cmp {other}/shared-cache.raw {source}");
    one.up();
    sh!("cmp {one}/shared-cache.raw {source}");
    other.down();
    other.up();
    sh!("cmp {other}/shared-cache.raw {source}");
    assert_eq!(cloud.downloads(&id).len(), before, "both use what is on disk: {:#?}", cloud.downloads(&id));
}

#[test]
fn corrupted_cache_files_never_give_wrong_bytes() {
    let cloud = Cloud::open();
    let content = pattern(36, 4 * MIB + 777);
    cloud.image("corrupted.raw", &content);
    let mount = cloud.mount("");
    let source = mount.beside().file("source", &content);
    sh!("cmp {mount}/corrupted.raw {source}");
    mount.down();
    let damaged = files(&cache_of(&mount), 4 * MIB as u64);
    assert_eq!(damaged.len(), 1, "the file with the data");
    // One byte, with the file's times as they were: only a checksum can tell.
    let data = damaged[0].display();
    sh!("touch -r {data} {mount}/../times
         printf 'X' | dd of={data} bs=1 seek=1234567 conv=notrunc status=none
         touch -r {mount}/../times {data}");
    assert_ne!(std::fs::read(&damaged[0]).unwrap()[1_234_567], content[1_234_567]);
    mount.up();
    sh!("cmp {mount}/corrupted.raw {source}");

    // And every file of the cache, in turn cut short, emptied or filled with rubbish.
    for spoil in
        ["truncate -s -100", "truncate -s 0", "dd if=/dev/urandom bs=4k count=1 conv=notrunc status=none of="]
    {
        mount.down();
        for file in files(&cache_of(&mount), 1) {
            let file = file.display();
            let gap = if spoil.ends_with('=') { "" } else { " " };
            sh!("{spoil}{gap}{file} 2>/dev/null || true");
        }
        mount.up();
        sh!("cmp {mount}/corrupted.raw {source}");
    }
}

#[test]
fn an_image_larger_than_the_cache_is_read_whole() {
    let cloud = Cloud::open();
    let content = pattern(37, 40 * MIB);
    cloud.image("larger.raw", &content);
    let mount = cloud.mount("--cache-size 8M --memory-limit 32M");
    let source = mount.beside().file("source", &content);
    sh!("cmp {mount}/larger.raw {source}");
    read_at_random(&mount.path("larger.raw"), &content, 4, 30);
    let occupied = || {
        let kilobytes = sh!("du -sk {} | cut -f1", cache_of(&mount).display());
        kilobytes.parse::<u64>().unwrap() * 1024
    };
    eventually("the cache keeps to its size", || occupied() <= 10 * MIB as u64);
}

#[test]
fn a_full_read_verifies_the_image() {
    let cloud = Cloud::open();
    cloud.image("verified.raw", &pattern(38, 3 * MIB));
    let mount = cloud.mount("");
    let verified = || {
        sh!("getfattr --absolute-names --only-values -n user.glancefs.verified {mount}/verified.raw || true")
    };
    assert_ne!(verified(), "sha512");
    sh!("cat {mount}/verified.raw > /dev/null");
    eventually("it is verified", || verified() == "sha512");
    mount.remount();
    assert_eq!(verified(), "sha512", "it is remembered");
}

#[test]
fn data_that_differ_from_their_hash_are_an_error_and_are_not_kept() {
    let cloud = Cloud::open();
    let content = pattern(39, 2 * MIB);
    let id = cloud.image("tampered.raw", &content);
    let mut tampered = content;
    tampered[1_000_000] ^= 1;
    std::fs::write(cloud.blob(&id), &tampered).unwrap();
    let mount = cloud.mount("");
    let file = mount.path("tampered.raw");
    // What was read before the last byte had come could not be known to be wrong. From then on an
    // open file gives errors, also for what the kernel had cached.
    sh!(
        "exec 3< {file}; head -c {size} <&3 > /dev/null || true
         for _ in $(seq 100); do getfattr --absolute-names -n user.glancefs.last_error {file} && break; sleep 0.1; done
         for at in 0 1000000 2000000; do
           (python3 -c \"import os; os.pread(3, 100, $at)\" 2>&1 || true) | grep 'Input/output error'
         done",
        size = 2 * MIB
    );
    assert!(mount.xattr("tampered.raw", "user.glancefs.last_error").contains("does not match its hash"));
    assert_ne!(mount.xattr("tampered.raw", "user.glancefs.verified"), "sha512");
    eventually("it is told", || mount.errors().contains(&id));
    // What was wrong is not kept: once the server is right again, so is the file.
    tampered[1_000_000] ^= 1;
    std::fs::write(cloud.blob(&id), &tampered).unwrap();
    let source = mount.beside().file("source", &tampered);
    sh!("cmp {file} {source}");
    eventually("it is verified", || mount.xattr("tampered.raw", "user.glancefs.verified") == "sha512");
}

#[test]
fn a_tampered_image_is_not_read_whole_with_success() {
    let cloud = Cloud::open();
    let content = pattern(45, 20 * MIB + 5);
    let mount = cloud.mount("--verify-wait 20s");
    let source = mount.beside().file("source", &content);
    let copy = mount.beside().path("copy");
    let ranged = cloud.image("tampered-ranged.raw", &content);
    let streamed = cloud.http_image("tampered-streamed.raw", &source, &[]);
    let mut tampered = content.clone();
    tampered[3_000_000] ^= 1;
    std::fs::write(cloud.blob(&ranged), &tampered).unwrap();
    let behind_http = files(&cloud.folder().join("files"), content.len() as u64);
    let behind_http = behind_http.iter().find(|path| std::fs::read(path).unwrap() == content).unwrap();
    std::fs::write(behind_http, &tampered).unwrap();
    for (name, id) in [("tampered-ranged.raw", &ranged), ("tampered-streamed.raw", &streamed)] {
        for read in ["cat", "cp --sparse=never", "dd bs=1M iflag=direct status=none if="] {
            let (gap, to) = match read {
                "cat" => (" ", ">"),
                _ if read.ends_with('=') => ("", "of="),
                _ => (" ", ""),
            };
            let said = fails!("{read}{gap}{mount}/{name} {to}{copy}");
            assert!(said.contains("Input/output error"), "{read}: {said}");
        }
        let line = format!("image {id} does not match its hash");
        assert!(mount.log().contains(&line), "{}", mount.log());
        eventually("it is told", || mount.errors().contains(&line));
    }
    // Who wants no wait has none, and learns of it behind the read.
    let hasty = cloud.mount("--verify-wait 0");
    // The hash may be known before the last read all the same; then the copy is dropped, and the next is another try.
    eventually("a read that did not wait goes through", || {
        let compared = run(&format!("cmp {hasty}/tampered-ranged.raw {}", cloud.blob(&ranged).display()));
        assert!(compared.succeeded() || compared.stderr.contains("Input/output error"), "{compared}");
        compared.succeeded()
    });
    eventually("it is told", || hasty.errors().contains(&ranged));
    // What is right is read whole at once, each block once.
    let right = cloud.image("not-tampered.raw", &content);
    sh!("cp {mount}/not-tampered.raw {copy} && cmp {copy} {source}");
    assert!(!mount.errors().contains(&right));
}

#[test]
fn an_active_image_whose_data_are_gone_is_an_error() {
    let cloud = Cloud::open();
    let id = cloud.image("lost.raw", &pattern(40, 500_000));
    std::fs::remove_file(cloud.blob(&id)).unwrap();
    let mount = cloud.mount("--timeout 5s");
    assert!(fails!("cat {mount}/lost.raw").contains("Input/output error"));
    assert!(mount.errors().contains(&id), "{}", mount.errors());
}

#[test]
fn a_cut_blob_is_an_error_and_never_zeros() {
    let cloud = Cloud::open();
    let content = pattern(41, 1_000_000);
    let id = cloud.image("cut.raw", &content);
    std::fs::OpenOptions::new().write(true).open(cloud.blob(&id)).unwrap().set_len(600_000).unwrap();
    let mount = cloud.mount("--timeout 5s");
    let copy = mount.beside().path("copy");
    assert!(fails!("cat {mount}/cut.raw > {copy}").contains("Input/output error"));
    let got = std::fs::read(&copy).unwrap();
    assert!(content.starts_with(&got), "what was delivered is right");
}

#[test]
fn the_cache_can_be_gone_or_full_and_reads_go_on() {
    let cloud = Cloud::open();
    let content = pattern(42, 3 * MIB);
    cloud.image("cache-gone.raw", &content);
    cloud.image("cache-gone-2.raw", &content);
    let mount = cloud.mount("--memory-limit 32M");
    let source = mount.beside().file("source", &content);
    sh!("head -c 1000000 {mount}/cache-gone.raw | cmp - <(head -c 1000000 {source})");
    sh!("rm -rf {}", cache_of(&mount).display());
    sh!("cmp {mount}/cache-gone.raw {source} && cmp {mount}/cache-gone-2.raw {source}");

    if !crate::harness::is_root() {
        left_out("the_cache_can_be_gone_or_full_and_reads_go_on", "a small disk needs root");
        return;
    }
    let disk = mount.beside().path("disk");
    sh!("mkdir {disk} && mount -t tmpfs -o size=2m none {disk}");
    let small = cloud.mount(&format!("--cache-dir {disk}/cache --cache-free-percent 0 --memory-limit 32M"));
    let read = crate::harness::run(&format!("cmp {small}/cache-gone.raw {source}"));
    small.down();
    sh!("umount {disk}");
    assert!(read.succeeded(), "{read}");
}

#[test]
fn random_reads_fetch_little() {
    let cloud = Cloud::open();
    let content = pattern(43, 64 * MIB);
    let id = cloud.image("sparse-reads.raw", &content);
    let mount = cloud.mount("");
    sh!("python3 -c '
import os
file = os.open(\"{mount}/sparse-reads.raw\", os.O_RDONLY)
os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
for place in range(40):
    assert len(os.pread(file, 4096, (place * 7919 % 1000) * 65536)) == 4096
'");
    let cached: usize = mount.xattr("sparse-reads.raw", "user.glancefs.cached_bytes").parse().unwrap();
    assert!(cached <= 16 * MIB, "40 reads of 4 KiB left {cached} bytes in the cache");
    assert!(parse(&cached.to_string()).is_u64() && !cloud.downloads(&id).is_empty());
}

#[test]
fn beyond_4_gib_uploads_and_reads_are_right() {
    if !long() {
        left_out(
            "beyond_4_gib_uploads_and_reads_are_right",
            "Glance hashes for a minute; GLANCEFS_TEST_LONG=1 runs it",
        );
        return;
    }
    const GIB: u64 = 1 << 30;
    let size = 5 * GIB + 12_345;
    let cloud = Cloud::open();
    let mount = cloud.mount("");
    let source = mount.beside().path("source");
    let marks = mount.beside().file("marks", pattern(92, 300_000));
    sh!("truncate -s {size} {source}");
    // Not at block borders; one across 4 GiB, one up to the end.
    let places = [1, 2 * GIB - 1000, 4 * GIB - 150_000, 4 * GIB + 77_777_777, size - 300_000];
    for place in places {
        sh!("dd if={marks} of={source} bs=1M seek={place} oflag=seek_bytes conv=notrunc status=none");
    }
    let copy = crate::harness::background(&format!("cp --sparse=always {source} {mount}/huge.raw"));
    copy.finish_within(std::time::Duration::from_secs(600)).expect_success();
    let id = cloud.only("huge.raw")["id"].as_str().unwrap().to_owned();
    assert_eq!(cloud.record(&id)["size"], size);
    // What is read now comes from Glance.
    mount.down();
    sh!("rm -rf {}", cache_of(&mount).display());
    mount.up();
    let file = mount.path("huge.raw");
    assert_eq!(sh!("stat -c '%s %b' {file}"), format!("{size} {}", size.div_ceil(512)));
    for place in places {
        for (skip, count) in [(place.saturating_sub(10_000), 400_000), (place + 4095, 5)] {
            let part = format!("bs=1M iflag=skip_bytes,count_bytes skip={skip} count={count} status=none");
            sh!("cmp <(dd if={file} {part}) <(dd if={source} {part})");
        }
    }
    sh!("cmp <(tail -c 100 {file}) <(tail -c 100 {source})");
    assert_eq!(sh!("dd if={file} bs=1 iflag=skip_bytes skip={size} count=1 status=none | wc -c"), "0");
    let cached: u64 = mount.xattr("huge.raw", "user.glancefs.cached_bytes").parse().unwrap();
    assert!((1_500_000..GIB).contains(&cached), "{cached} bytes were fetched for some MiB");
    cloud.delete(&id);
}

#[test]
fn a_gigabyte_is_copied_out() {
    if !long() {
        left_out("a_gigabyte_is_copied_out", "takes long; GLANCEFS_TEST_LONG=1 runs it");
        return;
    }
    let cloud = Cloud::open();
    let mount = cloud.mount("");
    let source = mount.beside().path("source");
    sh!("head -c 1G /dev/urandom > {source}");
    let id = cloud.reserve(json!({"name": "gigabyte.raw"}));
    let url = &cloud.url;
    sh!(
        "curl -sSf --noproxy '*' -H Expect: -H 'Content-Type: application/octet-stream' -T {source} {url}/v2/images/{id}/file"
    );
    let curl =
        crate::harness::run(&format!("curl -sSf --noproxy '*' {url}/v2/images/{id}/file -o {source}.curl"));
    let cp = crate::harness::run(&format!("cp {mount}/gigabyte.raw {source}.cp"));
    let again = crate::harness::run(&format!("cat {mount}/gigabyte.raw > /dev/null"));
    let memory = sh!("grep -E 'VmHWM|VmRSS' /proc/{}/status | tr -s '\\t \\n' ' '", mount.daemon().unwrap());
    left_out(
        "MEASURED",
        &format!("1 GiB: curl {:?}, cold cp {:?}, warm cat {:?}; {memory}", curl.took, cp.took, again.took),
    );
    sh!("cmp {source} {source}.cp && cmp {source} {source}.curl");
    cloud.delete(&id);
}
