//! `--direct`: image data are read from where they are stored, and from Glance where that fails.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::harness::{Cloud, Folder, Mount, fails, pattern, run, sh};

const MIB: usize = 1024 * 1024;

/// The source that shows while an image is open.
fn source(mount: &Mount, name: &str) -> String {
    sh!("exec 3< {mount}/{name}
         head -c 100000 <&3 > /dev/null
         getfattr --only-values -n user.glancefs.source --absolute-names {mount}/{name}")
}

fn told(mount: &Mount) -> usize {
    mount.log().lines().filter(|line| line.contains("read through Glance")).count()
}

fn passthrough_works(mount: &Mount) -> bool {
    sh!("cat {mount}/.glancefs/status").contains("complete images: read from the cache by the kernel")
}

fn store(cloud: &Cloud) -> String {
    cloud.folder().join("glance/images").display().to_string()
}

#[test]
fn a_file_of_a_shared_store_is_read_without_glance_and_past_the_daemon() {
    let cloud = Cloud::open();
    let content = pattern(340, 5 * MIB + 9);
    let id = cloud.image("direct-file.raw", &content);
    for options in ["", "--passthrough off"] {
        let mount = cloud.mount(&format!("--direct file --direct-root {} {options}", store(cloud)));
        let compare = mount.beside().file("source", &content);
        sh!("cmp {mount}/direct-file.raw {compare}");
        sh!("dd if={mount}/direct-file.raw bs=64k iflag=direct status=none | cmp - {compare}");
        sh!("dd if={mount}/direct-file.raw bs=1000 skip=3000 count=5 status=none |
             cmp - <(dd if={compare} bs=1000 skip=3000 count=5 status=none)");
        assert_eq!(source(&mount, "direct-file.raw"), "direct");
        assert_eq!(mount.xattr("direct-file.raw", "user.glancefs.cached_bytes"), "0", "nothing is copied");
        let metrics = String::from_utf8(mount.read(".glancefs/metrics")).unwrap();
        let past = metrics.lines().any(|line| line == "glancefs_opens_total{mode=\"passthrough\"} 4");
        assert_eq!(past, passthrough_works(&mount), "{metrics}");
        assert_eq!((mount.errors().as_str(), told(&mount)), ("", 0));
    }
    assert!(cloud.downloads(&id).is_empty());
}

#[test]
fn a_store_may_have_another_path_here_and_what_it_lacks_comes_from_glance() {
    let cloud = Cloud::open();
    let contents: Vec<_> = (0..4).map(|seed| pattern(350 + seed, MIB + 100)).collect();
    let ids: Vec<_> = (0..4).map(|at| cloud.image(&format!("mapped-{at}.raw"), &contents[at])).collect();
    let here = Folder::new("store");
    here.file(&ids[0], &contents[0]);
    here.file(&ids[1], &contents[1][1..]);
    let elsewhere = here.file("elsewhere", &contents[2]);
    std::os::unix::fs::symlink(elsewhere, here.path(&ids[2])).unwrap();
    let mount = cloud.mount(&format!("--direct file --direct-root {}={here}", store(cloud)));
    for at in 0..4 {
        let name = format!("mapped-{at}.raw");
        assert_eq!(mount.read(&name), contents[at], "{name}");
        assert_eq!(source(&mount, &name) == "direct", at == 0, "{name}");
        assert_eq!(cloud.downloads(&ids[at]).is_empty(), at == 0, "{name}");
    }
    assert_eq!(mount.errors(), "");
    assert!(mount.log().contains("is no file of") && told(&mount) >= 3, "{}", mount.log());
    // No folder of ours is where the server says.
    let other = cloud.mount(&format!("--direct file --direct-root {here}"));
    assert_eq!(other.read("mapped-0.raw"), contents[0]);
    assert_ne!(source(&other, "mapped-0.raw"), "direct");
}

#[test]
fn what_is_asked_of_images_is_asked_of_direct_files_too() {
    let cloud = Cloud::open();
    // Different ones: images of one content share what is in the cache.
    let [content, tampered] = [pattern(360, 2 * MIB), pattern(362, 2 * MIB)];
    let (good, bad) = (cloud.image("direct-good.raw", &content), cloud.image("direct-bad.raw", &tampered));
    let here = Folder::new("store");
    let changed = |content: &[u8]| {
        let mut other = content.to_vec();
        other[MIB] ^= 1;
        other
    };
    here.file(&good, &content);
    here.file(&bad, changed(&tampered));
    let direct = format!("--direct file --direct-root {}={here}", store(cloud));
    let mount = cloud.mount(&format!("{direct} --verify strict"));
    assert_eq!(mount.read("direct-good.raw"), content);
    assert_eq!(mount.read("direct-bad.raw"), tampered);
    assert!(cloud.downloads(&good).is_empty() && !cloud.downloads(&bad).is_empty());
    assert!(mount.errors().contains("does not match its hash"), "{}", mount.errors());
    // A file that was changed since is compared again.
    here.file(&good, changed(&content));
    assert_eq!(mount.read("direct-good.raw"), content);
    assert!(!cloud.downloads(&good).is_empty());

    let unsafe_one = cloud.image("direct-unsafe.raw", &content);
    sh!("cd {here} && qemu-img create -q -f qcow2 {unsafe_one} 1M && truncate -s 2M {unsafe_one}");
    let mount = cloud.mount(&format!("{direct} --inspect deny"));
    let said = fails!("head -c 1 {mount}/direct-unsafe.raw");
    assert!(said.contains("Operation not permitted"), "{said}");
    let mount = cloud.mount(&direct);
    sh!("head -c 1 {mount}/direct-unsafe.raw > /dev/null");
    assert!(mount.errors().contains("its content is qcow2"), "{}", mount.errors());
}

#[test]
fn a_server_that_shows_no_locations_is_read_as_ever() {
    let cloud = Cloud::keystone();
    let content = pattern(361, MIB);
    cloud.image("hidden-location.raw", &content);
    let mount = cloud.mount(&format!("--direct file,http --direct-root {}", store(cloud)));
    assert_eq!(mount.read("hidden-location.raw"), content);
    assert_ne!(source(&mount, "hidden-location.raw"), "direct");
    assert_eq!(mount.errors(), "");
    assert_eq!(mount.log().lines().filter(|line| line.contains("shows no locations")).count(), 1);
}

/// An HTTP server with one file, which takes ranges, and writes down what it was asked.
struct FileServer {
    port: u16,
    heads: Arc<Mutex<Vec<String>>>,
    refuses_ranges: Arc<AtomicBool>,
}

impl FileServer {
    fn with(content: Vec<u8>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = Self { port, heads: Arc::default(), refuses_ranges: Arc::default() };
        let (heads, refuses, content) =
            (Arc::clone(&server.heads), Arc::clone(&server.refuses_ranges), Arc::new(content));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (heads, refuses, content) =
                    (Arc::clone(&heads), Arc::clone(&refuses), Arc::clone(&content));
                std::thread::spawn(move || answer(stream, &heads, &refuses, &content));
            }
        });
        server
    }

    fn ranges(&self) -> usize {
        self.heads.lock().unwrap().iter().filter(|head| head.contains("range: bytes")).count()
    }
}

/// One request a connection.
fn answer(mut stream: TcpStream, heads: &Mutex<Vec<String>>, refuses: &AtomicBool, content: &[u8]) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    heads.lock().unwrap().push(head.clone());
    let range = head.lines().find_map(|line| line.strip_prefix("range: bytes=")?.split_once('-'));
    let (status, first, last) = match range {
        Some(_) if refuses.load(Ordering::Relaxed) => ("500 No", 0, 0),
        Some((first, last)) => {
            ("206 Partial Content", first.parse().unwrap(), last.parse::<usize>().unwrap() + 1)
        }
        None => ("200 OK", 0, content.len()),
    };
    let mut answer =
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n", last - first);
    if status.starts_with("206") {
        answer += &format!("Content-Range: bytes {first}-{}/{}\r\n", last - 1, content.len());
    }
    let _ = stream.write_all((answer + "\r\n").as_bytes());
    if !head.starts_with("head ") {
        let _ = stream.write_all(&content[first..last]);
    }
}

/// An image whose data are on that server; its id. `record` may say more.
fn located(cloud: &Cloud, name: &str, server: &FileServer, content: &[u8], url: &str) -> String {
    let folder = Folder::new("located");
    let file = folder.file("data", content);
    let id = cloud.reserve(json!({"name": name}));
    let hash: Value = sh!("sha512sum < {file} | cut -d' ' -f1").into();
    let md5: Value = sh!("md5sum < {file} | cut -d' ' -f1").into();
    let location = json!({
        "url": format!("http://127.0.0.1:{}{url}", server.port),
        "metadata": {"store": "http"},
        "validation_data": {"checksum": md5, "os_hash_algo": "sha512", "os_hash_value": hash},
    });
    let change = json!([{"op": "add", "path": "/locations/-", "value": location}]);
    cloud.api("PATCH", &format!("/v2/images/{id}"), &change);
    id
}

fn cloud_with(server: &FileServer, auth: &str) -> Cloud {
    let port = server.port;
    Cloud::new(
        auth,
        &format!(
            "--stores file,http --set DEFAULT.show_multiple_locations=true \
             --set import_filtering_opts.allowed_ports=[{port}]"
        ),
    )
}

#[test]
fn an_http_location_is_read_by_ranges_and_without_the_token() {
    let content = pattern(370, 6 * MIB + 3);
    let server = FileServer::with(content.clone());
    let cloud = cloud_with(&server, "keystone");
    let id = located(&cloud, "direct-http.raw", &server, &content, "/data");
    server.heads.lock().unwrap().clear();
    let mount = cloud.mount("--direct http");
    let compare = mount.beside().file("source", &content);
    sh!("dd if={mount}/direct-http.raw bs=64k skip=50 count=1 status=none |
         cmp - <(dd if={compare} bs=64k skip=50 count=1 status=none)");
    assert!(server.ranges() > 0);
    assert_eq!(source(&mount, "direct-http.raw"), "direct");
    sh!("cmp {mount}/direct-http.raw {compare}");
    crate::harness::eventually("what came is verified as ever", || {
        mount.xattr("direct-http.raw", "user.glancefs.verified") == "sha512"
    });
    assert!(cloud.downloads(&id).is_empty());
    assert_eq!((mount.errors().as_str(), told(&mount)), ("", 0));
    let heads = server.heads.lock().unwrap().join("\n");
    assert!(!heads.contains("x-auth") && !heads.contains("authorization"), "{heads}");
    assert!(!mount.log().contains("/data"), "a location is not logged");
}

#[test]
fn an_http_location_that_fails_is_given_up_for_glance_without_an_error() {
    let content = pattern(371, 6 * MIB + 3);
    let server = FileServer::with(content.clone());
    let cloud = cloud_with(&server, "none");
    let id = located(&cloud, "direct-fails.raw", &server, &content, "/data");
    let mount = cloud.mount("--direct http --max-connections 2");
    let compare = mount.beside().file("source", &content);
    // At the first request.
    server.refuses_ranges.store(true, Ordering::Relaxed);
    sh!("cmp {mount}/direct-fails.raw {compare}");
    assert!(!cloud.downloads(&id).is_empty());
    assert_eq!((mount.errors().as_str(), told(&mount)), ("", 1));
    // While the image is read. Glance asks this server for the whole only.
    server.refuses_ranges.store(false, Ordering::Relaxed);
    let other = cloud.mount("--direct http");
    let middle = server.refuses_ranges.clone();
    let read = std::thread::spawn({
        let (path, content) = (other.path("direct-fails.raw"), content.clone());
        move || {
            use std::os::unix::fs::FileExt;
            let file = std::fs::File::open(path).unwrap();
            let mut bytes = vec![0; content.len()];
            for at in (0..content.len()).step_by(MIB / 2) {
                if at == 2 * MIB {
                    middle.store(true, Ordering::Relaxed);
                }
                let end = content.len().min(at + MIB / 2);
                file.read_exact_at(&mut bytes[at..end], at as u64).unwrap();
            }
            assert!(bytes == content);
        }
    });
    read.join().unwrap();
    assert_eq!(other.errors(), "");
}

#[test]
fn credentials_in_a_location_are_not_used() {
    let content = pattern(372, MIB);
    let server = FileServer::with(content.clone());
    let cloud = cloud_with(&server, "none");
    let id = located(&cloud, "direct-secret.raw", &server, &content, "/data");
    let database = cloud.folder().join("glance/glance.db");
    sh!("python3 -c 'import sqlite3
with sqlite3.connect(\"{}\") as db:
    changed = db.execute(\"update image_locations set value = replace(value, ?, ?) where image_id = ?\", (\"http://\", \"http://user:secret@\", \"{id}\"))
    assert changed.rowcount == 1'", database.display());
    let mut variables = cloud.variables(None);
    variables.push(("GLANCEFS_LOG".into(), "trace,glancefs=trace,fuser=trace".into()));
    let mount = Mount::new(variables, "--direct http");
    mount.up();
    server.heads.lock().unwrap().clear();
    let read = run(&format!("cat {mount}/direct-secret.raw"));
    assert_eq!(server.ranges(), 0);
    let mut shown = vec![read.stderr, mount.errors()];
    shown.push(sh!("getfattr --absolute-names -d -m - {mount}/direct-secret.raw
         for which in url direct_url locations stores; do
           getfattr --absolute-names -n user.glance.$which {mount}/direct-secret.raw 2>&1 || true; done"));
    shown.push(sh!("cat {mount}/.glancefs/{{status,status.json,metrics}} {mount}/.glancefs/images/*.json"));
    mount.down();
    assert!(mount.log().contains("TRACE"), "the log says all that it can");
    shown.push(mount.log());
    for shown in shown {
        assert!(!shown.contains("user:secret"), "{shown}");
    }
    let files = run(&format!("grep -rlaF user:secret {}", mount.beside()));
    assert_eq!((files.code(), files.stdout.as_str()), (Some(1), ""));
}
