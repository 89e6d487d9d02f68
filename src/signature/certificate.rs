//! Certificates of the operator: found by the UUID that an image names, and checked before their key is used.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use uuid::Uuid;
use x509_parser::oid_registry::{
    OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_NIST_EC_P521, OID_PKCS1_RSAENCRYPTION,
    OID_PKCS1_RSASSAPSS, Oid,
};
use x509_parser::x509::SubjectPublicKeyInfo;

use super::{KeyType, rejected};
use crate::error::Result;

/// A certificate with a key of 8192 bits has 3 KiB; its text form, which `openssl x509 -text` puts before it, four times that.
const MOST_BYTES: u64 = 64 * 1024;

/// The public key in `<folder>/<uuid>.pem`, if it is of this kind and the certificate is valid at the time `now`.
pub(super) fn public_key(folder: &Path, uuid: Uuid, wanted: KeyType, now: SystemTime) -> Result<Vec<u8>> {
    let file = folder.join(format!("{}.pem", uuid.hyphenated()));
    let shown = file.display();
    let mut text = Vec::new();
    File::open(&file)
        .and_then(|file| file.take(MOST_BYTES).read_to_end(&mut text))
        .map_err(|error| rejected(format!("there is no trusted certificate {shown}")).with_source(error))?;
    let unreadable = || rejected(format!("{shown} is no X.509 certificate in PEM"));
    let (_, pem) = x509_parser::pem::parse_x509_pem(&text).map_err(|_| unreadable())?;
    let certificate = pem.parse_x509().map_err(|_| unreadable())?;
    let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let validity = certificate.validity();
    let (first, last) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    // A clock beyond the year 292 billion is wrong.
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    if now < first || last < now {
        let (first, last) = (&validity.not_before, &validity.not_after);
        return Err(rejected(format!("the certificate {shown} is valid from {first} to {last} only")));
    }
    let key = certificate.public_key();
    if kind_of(key) != Some(wanted) {
        return Err(rejected(format!("the certificate {shown} has no key of the kind that the image names")));
    }
    Ok(key.subject_public_key.data.to_vec())
}

fn kind_of(key: &SubjectPublicKeyInfo<'_>) -> Option<KeyType> {
    let is = |found: &Oid<'_>, wanted: &Oid<'_>| found == wanted;
    let algorithm = &key.algorithm.algorithm;
    if is(algorithm, &OID_PKCS1_RSAENCRYPTION) || is(algorithm, &OID_PKCS1_RSASSAPSS) {
        return Some(KeyType::Rsa);
    }
    if !is(algorithm, &OID_KEY_TYPE_EC_PUBLIC_KEY) {
        return None;
    }
    let curve = key.algorithm.parameters.as_ref()?.as_oid().ok()?;
    match curve {
        curve if is(&curve, &OID_NIST_EC_P384) => Some(KeyType::P384),
        curve if is(&curve, &OID_NIST_EC_P521) => Some(KeyType::P521),
        _ => None,
    }
}
