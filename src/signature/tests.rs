//! Signatures made by openssl, as people make them.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::json;

use super::*;

const UUID: &str = "0f2c1d8e-8a0b-4c57-9c2e-0b1d2f3a4b5c";
const DATA: &[u8] = b"the data of an image";

fn openssl(folder: &Path, line: &str) {
    let run = Command::new("openssl").current_dir(folder).args(line.split_whitespace()).output().unwrap();
    assert!(run.status.success(), "openssl {line}: {}", String::from_utf8_lossy(&run.stderr));
}

/// Makes a key and its certificate, as `<UUID>.pem`.
fn certificate(folder: &Path, key: &str, more: &str) {
    openssl(
        folder,
        &format!("req -x509 -newkey {key} -nodes -keyout key -out {UUID}.pem -subj /CN=signer {more}"),
    );
}

/// Signs [`DATA`] and gives the record that says so.
fn signed(folder: &Path, key_type: &str, hash: &str, options: &str) -> Map<String, Value> {
    std::fs::write(folder.join("data"), DATA).unwrap();
    let function = hash.replace('-', "").to_lowercase();
    openssl(folder, &format!("dgst -{function} -sign key {options} -out signature data"));
    let mut signature = STANDARD.encode(std::fs::read(folder.join("signature")).unwrap());
    signature.insert(64, '\n');
    let record =
        json!({SIGNATURE: signature, HASH_METHOD: hash, KEY_TYPE: key_type, CERTIFICATE: UUID, "name": "x"});
    record.as_object().unwrap().clone()
}

fn check(folder: &Path, record: &Map<String, Value>, data: &[u8]) -> Result<()> {
    let signature = Signature::of(record)?;
    let digest = digest::digest(signature.hash().algorithm(), data);
    signature.check(&digest, folder, SystemTime::now())
}

fn kind(outcome: Result<()>) -> Kind {
    outcome.unwrap_err().kind()
}

const PSS: &str = "-sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:max";

#[test]
fn what_the_seeds_sign_is_verified_and_nothing_else() {
    for (key, key_type, options, hashes) in [
        ("rsa:2048", "RSA-PSS", PSS, &["SHA-256", "SHA-384", "SHA-512"][..]),
        ("ec -pkeyopt ec_paramgen_curve:P-384", "ECC_SECP384R1", "", &["SHA-256", "SHA-384", "SHA-512"]),
        (
            "ec -pkeyopt ec_paramgen_curve:P-521",
            "ECC_SECP521R1",
            "",
            &["SHA-224", "SHA-256", "SHA-384", "SHA-512"],
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        certificate(dir.path(), key, "");
        for hash in hashes {
            let mut record = signed(dir.path(), key_type, hash, options);
            check(dir.path(), &record, DATA).unwrap_or_else(|error| panic!("{key_type} {hash}: {error}"));
            assert_eq!(
                kind(check(dir.path(), &record, b"other data")),
                Kind::KeyRejected,
                "{key_type} {hash}"
            );
            let other = if *hash == "SHA-512" { "SHA-384" } else { "SHA-512" };
            record.insert(HASH_METHOD.into(), other.into());
            assert_eq!(kind(check(dir.path(), &record, DATA)), Kind::KeyRejected, "{key_type} {hash}");
        }
    }
}

#[test]
fn the_salt_must_be_the_longest_as_for_the_seeds() {
    let dir = tempfile::tempdir().unwrap();
    certificate(dir.path(), "rsa:2048", "");
    let short = signed(
        dir.path(),
        "RSA-PSS",
        "SHA-256",
        "-sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:digest",
    );
    assert_eq!(kind(check(dir.path(), &short, DATA)), Kind::KeyRejected);
}

#[test]
fn an_image_without_all_of_the_properties_is_not_signed() {
    let dir = tempfile::tempdir().unwrap();
    certificate(dir.path(), "rsa:2048", "");
    let whole = signed(dir.path(), "RSA-PSS", "SHA-256", PSS);
    for key in [SIGNATURE, HASH_METHOD, KEY_TYPE, CERTIFICATE] {
        let mut record = whole.clone();
        record.remove(key);
        assert_eq!(kind(check(dir.path(), &record, DATA)), Kind::KeyMissing, "{key}");
    }
}

#[test]
fn what_cannot_be_verified_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    certificate(dir.path(), "rsa:2048", "");
    let whole = signed(dir.path(), "RSA-PSS", "SHA-256", PSS);
    for (key, value) in [
        (SIGNATURE, "*"),
        (SIGNATURE, ""),
        (HASH_METHOD, "MD5"),
        (HASH_METHOD, "SHA-224"),
        (KEY_TYPE, "DSA"),
        (KEY_TYPE, "ECC_SECT571K1"),
        (KEY_TYPE, "ECC_SECP384R1"),
        (CERTIFICATE, "../../etc/passwd"),
        (CERTIFICATE, "00000000-0000-4000-8000-000000000000"),
    ] {
        let mut record = whole.clone();
        record.insert(key.into(), value.into());
        assert_eq!(kind(check(dir.path(), &record, DATA)), Kind::KeyRejected, "{key} {value:?}");
    }
    std::fs::write(dir.path().join(format!("{UUID}.pem")), "no certificate").unwrap();
    assert_eq!(kind(check(dir.path(), &whole, DATA)), Kind::KeyRejected);
    std::fs::remove_file(dir.path().join(format!("{UUID}.pem"))).unwrap();
    assert_eq!(kind(check(dir.path(), &whole, DATA)), Kind::KeyRejected, "it was withdrawn");
}

#[test]
fn a_certificate_counts_only_while_it_is_valid() {
    let dir = tempfile::tempdir().unwrap();
    certificate(dir.path(), "rsa:2048", "-days 30");
    let record = signed(dir.path(), "RSA-PSS", "SHA-256", PSS);
    let signature = Signature::of(&record).unwrap();
    let digest = digest::digest(&digest::SHA256, DATA);
    let at = |time| signature.check(&digest, dir.path(), time);
    let day = Duration::from_secs(24 * 3600);
    at(SystemTime::now() + day).unwrap();
    assert_eq!(kind(at(SystemTime::now() + 31 * day)), Kind::KeyRejected);
    assert_eq!(kind(at(SystemTime::now() - day)), Kind::KeyRejected);
    assert_eq!(kind(at(UNIX_EPOCH - day)), Kind::KeyRejected);
}
