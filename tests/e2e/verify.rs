//! `--verify`: what is proven of an image before its bytes are given out.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::harness::{Cloud, Folder, Gate, Mount, background, eventually, fails, pattern, run, sh};

const MIB: usize = 1024 * 1024;
const UUID: &str = "6c0f6f5e-0f5c-4f0e-9d3b-3d7a4f6f2f11";

/// An image whose data in the store were changed after Glance had hashed them.
fn tampered(cloud: &Cloud, name: &str, seed: u64) -> String {
    let mut content = pattern(seed, 3 * MIB + 5);
    let id = cloud.image(name, &content);
    content[2 * MIB] ^= 1;
    std::fs::write(cloud.blob(&id), content).unwrap();
    id
}

/// A key and its certificate, in a folder as `--trusted-certs` wants it.
struct Signer {
    folder: Folder,
    key_type: &'static str,
}

impl Signer {
    fn new(key: &str, key_type: &'static str) -> Self {
        let folder = Folder::new("signer");
        sh!(
            "cd {folder} && openssl req -x509 -newkey {key} -nodes -keyout key -out {UUID}.pem -subj /CN=signer 2>&1"
        );
        Self { folder, key_type }
    }

    /// Adds the signature of `content` to an image.
    fn sign(&self, cloud: &Cloud, id: &str, content: &[u8], hash: &str) {
        let Self { folder, key_type } = self;
        let data = folder.file("data", content);
        let pss = match *key_type {
            "RSA-PSS" => "-sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:max",
            _ => "",
        };
        let function = hash.replace('-', "").to_lowercase();
        let signature = sh!("openssl dgst -{function} -sign {folder}/key {pss} {data} | base64 -w0");
        for (key, value) in [
            ("img_signature", signature.as_str()),
            ("img_signature_hash_method", hash),
            ("img_signature_key_type", key_type),
            ("img_signature_certificate_uuid", UUID),
        ] {
            cloud.set(id, key, json!(value));
        }
    }
}

fn opens_past_us(mount: &Mount) -> bool {
    let metrics = String::from_utf8(mount.read(".glancefs/metrics")).unwrap();
    metrics.lines().any(|line| line == "glancefs_opens_total{mode=\"passthrough\"} 1")
}

#[test]
fn a_strict_open_waits_until_the_whole_was_verified() {
    let cloud = Cloud::open();
    let content = pattern(310, 5 * MIB + 7);
    let id = cloud.image("strict.raw", &content);
    for options in ["--verify strict", "--verify strict --passthrough off"] {
        let before = cloud.downloads(&id).len();
        let mount = cloud.mount(options);
        let source = mount.beside().file("source", &content);
        // Held open while it is looked at.
        sh!("exec 3< {mount}/strict.raw
             test $(getfattr --only-values -n user.glancefs.verified --absolute-names {mount}/strict.raw) = sha512
             test $(getfattr --only-values -n user.glancefs.cached_bytes --absolute-names {mount}/strict.raw) = {}
             head -c 1 <&3 > /dev/null", content.len());
        let downloads = cloud.downloads(&id).len();
        assert!(downloads > before);
        sh!(
            "cmp {mount}/strict.raw {source} && dd if={mount}/strict.raw bs=64k iflag=direct status=none | cmp - {source}"
        );
        assert_eq!(cloud.downloads(&id).len(), downloads, "the second open had nothing to fetch");
        assert_eq!(mount.errors(), "");
    }
}

#[test]
fn of_a_tampered_image_a_strict_open_gives_no_byte() {
    let cloud = Cloud::open();
    let id = tampered(cloud, "strict-tampered.raw", 311);
    let mount = cloud.mount("--verify strict");
    for _ in 0..2 {
        let refused = run(&format!("head -c 1 {mount}/strict-tampered.raw"));
        assert_eq!(refused.stdout, "", "{refused}");
        let said = refused.expect_failure();
        assert!(said.contains("Input/output error"), "{said}");
    }
    assert!(
        mount.errors().contains(&id) && mount.errors().contains("does not match its hash"),
        "{}",
        mount.errors()
    );
    let last = mount.xattr("strict-tampered.raw", "user.glancefs.last_error");
    assert!(last.contains("does not match its hash"), "{last}");
    assert!(mount.log().contains("does not match its hash"));
    // The store was repaired.
    std::fs::write(cloud.blob(&id), pattern(311, 3 * MIB + 5)).unwrap();
    assert_eq!(mount.read("strict-tampered.raw"), pattern(311, 3 * MIB + 5));
}

#[test]
fn what_cannot_be_verified_is_not_opened_strictly() {
    let cloud = Cloud::open();
    let folder = Folder::new("no-hash");
    let file = folder.file("data", pattern(312, MIB));
    cloud.http_image("strict-no-hash.raw", &file, &["--no-hash"]);
    cloud.image("strict-large.raw", &pattern(313, 3 * MIB));
    cloud.image("strict-empty.raw", b"");
    let mount = cloud.mount("--verify strict --cache-size 2M");
    let said = fails!("head -c 1 {mount}/strict-no-hash.raw");
    assert!(said.contains("Input/output error"), "{said}");
    assert!(mount.errors().contains("no hash"), "{}", mount.errors());
    let said = fails!("head -c 1 {mount}/strict-large.raw");
    assert!(said.contains("No space left"), "it does not fit the cache: {said}");
    assert_eq!(mount.read("strict-empty.raw"), b"");
}

#[test]
fn a_strict_open_shows_its_progress_and_a_killed_program_does_not_wait_for_it() {
    let cloud = Cloud::open();
    cloud.image("strict-slow.raw", &pattern(314, 24 * MIB));
    let gate = Gate::to(&cloud.url);
    let variables =
        vec![("OS_AUTH_TYPE".to_owned(), "none".to_owned()), ("OS_ENDPOINT".to_owned(), gate.url())];
    let mount = Mount::new(variables, "--verify strict --max-connections 2");
    mount.up();
    gate.slow();
    let mut reader = background(&format!("exec head -c 1 {mount}/strict-slow.raw"));
    eventually("its progress shows", || {
        let status = crate::harness::json(&sh!("cat {mount}/.glancefs/status.json"));
        let images = status["cached_images"].as_array().unwrap().clone();
        images.iter().any(|image| {
            image["name"] == "strict-slow.raw"
                && image["filling"] == true
                && image["cached_bytes"].as_u64() > Some(0)
        })
    });
    assert!(reader.is_running());
    reader.signal(Signal::INT);
    let ended = reader.finish_within(Duration::from_secs(10));
    assert!(!ended.succeeded() && ended.stdout.is_empty(), "{ended}");
    // Nobody wants it any more.
    eventually("the fill ends", || !sh!("cat {mount}/.glancefs/status").contains("filling"));
    gate.open();
    sh!("head -c 1 {mount}/strict-slow.raw > /dev/null");
}

#[test]
fn with_verify_none_nothing_is_compared() {
    let cloud = Cloud::open();
    tampered(cloud, "none-tampered.raw", 315);
    let mount = cloud.mount("--verify none --verify-wait 20s");
    for _ in 0..2 {
        sh!("cat {mount}/none-tampered.raw > /dev/null");
    }
    assert_eq!(mount.xattr("none-tampered.raw", "user.glancefs.verified"), "none");
    assert_eq!(mount.errors(), "");
    assert!(!opens_past_us(&mount), "only what was proven is read past the daemon");
}

#[test]
fn a_signed_image_is_opened_when_a_trusted_certificate_vouches_for_it() {
    let cloud = Cloud::open();
    for (number, (key, key_type, hash)) in [
        ("rsa:2048", "RSA-PSS", "SHA-512"),
        ("rsa:3072", "RSA-PSS", "SHA-256"),
        ("ec -pkeyopt ec_paramgen_curve:P-384", "ECC_SECP384R1", "SHA-384"),
        ("ec -pkeyopt ec_paramgen_curve:P-521", "ECC_SECP521R1", "SHA-224"),
    ]
    .into_iter()
    .enumerate()
    {
        let signer = Signer::new(key, key_type);
        let (name, content) = (format!("signed-{number}.raw"), pattern(320 + number as u64, 2 * MIB + 3));
        let id = cloud.image(&name, &content);
        signer.sign(cloud, &id, &content, hash);
        let mount = cloud.mount(&format!("--verify signature --trusted-certs {}", signer.folder));
        sh!("exec 3< {mount}/{name}
             test $(getfattr --only-values -n user.glancefs.verified --absolute-names {mount}/{name}) = signature");
        assert_eq!(mount.read(&name), content);
        assert_eq!(mount.errors(), "");
        // What is withdrawn counts no more, also on a mount that has seen it.
        let certificate = signer.folder.path(&format!("{UUID}.pem"));
        sh!("mv {certificate} {certificate}.old");
        let said = fails!("head -c 1 {mount}/{name}");
        assert!(said.contains("Key was rejected by service"), "{said}");
    }
}

#[test]
fn an_image_that_is_not_signed_by_whom_we_trust_cannot_be_opened() {
    let cloud = Cloud::open();
    let signer = Signer::new("rsa:2048", "RSA-PSS");
    let content = pattern(330, MIB + 1);
    let unsigned = cloud.image("unsigned.raw", &content);
    let wrong = cloud.image("wrongly-signed.raw", &pattern(331, MIB));
    signer.sign(cloud, &wrong, &content, "SHA-256");
    let partly = cloud.image("partly-signed.raw", &content);
    signer.sign(cloud, &partly, &content, "SHA-256");
    let drop = json!([{"op": "remove", "path": "/img_signature_key_type"}]);
    cloud.api("PATCH", &format!("/v2/images/{partly}"), &drop);
    let by_another = cloud.image("signed-by-another.raw", &content);
    Signer::new("rsa:2048", "RSA-PSS").sign(cloud, &by_another, &content, "SHA-256");
    let dsa = cloud.image("signed-by-dsa.raw", &content);
    signer.sign(cloud, &dsa, &content, "SHA-256");
    cloud.set(&dsa, "img_signature_key_type", json!("DSA"));

    let mount = cloud.mount(&format!("--verify signature --trusted-certs {}", signer.folder));
    for (name, errno) in [
        ("unsigned.raw", "Required key not available"),
        ("partly-signed.raw", "Required key not available"),
        ("wrongly-signed.raw", "Key was rejected by service"),
        ("signed-by-another.raw", "Key was rejected by service"),
        ("signed-by-dsa.raw", "Key was rejected by service"),
    ] {
        let refused = run(&format!("head -c 1 {mount}/{name}"));
        assert_eq!(refused.stdout, "");
        let said = refused.expect_failure();
        assert!(said.contains(errno), "{name}: {said}");
        assert!(mount.xattr(name, "user.glancefs.last_error").contains("sign"), "{name}");
    }
    assert!(cloud.downloads(&unsigned).is_empty(), "what has no signature is not fetched for it");
    // An expired certificate is none.
    let Signer { folder, .. } = &signer;
    let good = cloud.image("signed-once.raw", &content);
    signer.sign(cloud, &good, &content, "SHA-256");
    sh!("head -c 1 {mount}/signed-once.raw > /dev/null");
    sh!("cd {folder} && openssl req -new -key key -subj /CN=signer -out request 2>&1 &&
         openssl x509 -req -in request -signkey key -days -1 -out {UUID}.pem 2>&1");
    let said = fails!("head -c 1 {mount}/signed-once.raw");
    assert!(said.contains("Key was rejected by service"), "{said}");
    assert!(mount.errors().contains("is valid from"), "{}", mount.errors());
}

#[test]
fn a_tampered_image_is_refused_whoever_signed_it() {
    let cloud = Cloud::open();
    let signer = Signer::new("rsa:2048", "RSA-PSS");
    let id = tampered(cloud, "signed-tampered.raw", 332);
    // Signed as it was.
    signer.sign(cloud, &id, &pattern(332, 3 * MIB + 5), "SHA-256");
    let mount = cloud.mount(&format!("--verify signature --trusted-certs {}", signer.folder));
    let said = fails!("head -c 1 {mount}/signed-tampered.raw");
    assert!(said.contains("Input/output error"), "{said}");
}
