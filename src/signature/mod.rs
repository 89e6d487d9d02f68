//! The signature of an image: what its record says of it, and whether a certificate of ours vouches for it.
//!
//! As cursive has it, by which Nova, Cinder and Glance sign and verify: four properties of the image, a hash of all of its
//! data, RSA-PSS (MGF1, the longest salt) or ECDSA (DER) over that hash. Of cursive's choices these cannot be had, since
//! our cryptographic library has none of them, and are refused: RSA-PSS with SHA-224 or a key below 2048 bits, the curve
//! SECP384R1 with SHA-224, the binary curves (SECT*), and DSA.
//!
//! Where cursive asks Barbican for the certificate, we look into a folder of the operator. A certificate in there is
//! trusted for itself: there are no chains, and what is removed is not trusted any more.

mod certificate;

use std::path::Path;
use std::time::SystemTime;

use aws_lc_rs::digest::{self, Digest};
use aws_lc_rs::signature::{self as sign, RsaParameters, RsaPssSaltLength, VerificationAlgorithm};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::error::{Error, Kind, Result};

/// The properties that make a signature (`cursive.signature_utils`).
const SIGNATURE: &str = "img_signature";
const HASH_METHOD: &str = "img_signature_hash_method";
const KEY_TYPE: &str = "img_signature_key_type";
const CERTIFICATE: &str = "img_signature_certificate_uuid";

/// The longest salt that the key leaves room for: what cursive signs with, and insists on.
const PSS_SHA256: RsaParameters = sign::RSA_PSS_2048_8192_SHA256.with_pss_salt_length(RsaPssSaltLength::Max);
const PSS_SHA384: RsaParameters = sign::RSA_PSS_2048_8192_SHA384.with_pss_salt_length(RsaPssSaltLength::Max);
const PSS_SHA512: RsaParameters = sign::RSA_PSS_2048_8192_SHA512.with_pss_salt_length(RsaPssSaltLength::Max);

/// The signature of an image, as its record has it.
pub struct Signature {
    bytes: Vec<u8>,
    certificate: Uuid,
    key: KeyType,
    hash: Hash,
}

/// The kinds of keys that we can verify with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeyType {
    Rsa,
    P384,
    P521,
}

/// What was signed is the hash of the data by this function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hash {
    /// SHA-224.
    Sha224,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl Hash {
    /// Each of them.
    pub const ALL: [Self; 4] = [Self::Sha224, Self::Sha256, Self::Sha384, Self::Sha512];

    /// The function itself.
    pub fn algorithm(self) -> &'static digest::Algorithm {
        match self {
            Self::Sha224 => &digest::SHA224,
            Self::Sha256 => &digest::SHA256,
            Self::Sha384 => &digest::SHA384,
            Self::Sha512 => &digest::SHA512,
        }
    }

    /// As Glance writes it in `os_hash_algo`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha224 => "sha224",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }
}

impl Signature {
    /// Reads the signature out of an image's record, a JSON object.
    ///
    /// # Errors
    /// `KeyMissing`: the image is not signed, or a property of the four is missing. `KeyRejected`: one of them makes no
    /// sense, or asks for what cannot be verified here.
    pub fn of(record: &Map<String, Value>) -> Result<Self> {
        let text = |key: &'static str| {
            let value = record.get(key).and_then(Value::as_str);
            value.ok_or_else(|| {
                Error::new(Kind::KeyMissing, format!("it is not signed: it has no property {key}"))
            })
        };
        let (signature, hash, key, certificate) =
            (text(SIGNATURE)?, text(HASH_METHOD)?, text(KEY_TYPE)?, text(CERTIFICATE)?);
        // A property is often pasted, with the line breaks of base64(1).
        let signature: String =
            signature.chars().filter(|character| !character.is_ascii_whitespace()).collect();
        let bytes = STANDARD.decode(signature).map_err(|error| {
            rejected(format!("its property {SIGNATURE} is not base64")).with_source(error)
        })?;
        let hash = match hash {
            "SHA-224" => Hash::Sha224,
            "SHA-256" => Hash::Sha256,
            "SHA-384" => Hash::Sha384,
            "SHA-512" => Hash::Sha512,
            other => return Err(rejected(format!("its {HASH_METHOD} is {other:?}, which is not known"))),
        };
        let key = match key {
            "RSA-PSS" => KeyType::Rsa,
            "ECC_SECP384R1" => KeyType::P384,
            "ECC_SECP521R1" => KeyType::P521,
            other => {
                return Err(rejected(format!("its {KEY_TYPE} is {other:?}, which cannot be verified here")));
            }
        };
        // It becomes a file name: nothing but a UUID.
        let certificate = certificate.parse().map_err(|error: uuid::Error| {
            rejected(format!("its property {CERTIFICATE} is no UUID")).with_source(error)
        })?;
        let signature = Self { bytes, certificate, key, hash };
        signature.algorithm()?;
        Ok(signature)
    }

    /// The function whose result over all of the data was signed.
    pub fn hash(&self) -> Hash {
        self.hash
    }

    fn algorithm(&self) -> Result<&'static dyn VerificationAlgorithm> {
        Ok(match (self.key, self.hash) {
            (KeyType::Rsa, Hash::Sha256) => &PSS_SHA256,
            (KeyType::Rsa, Hash::Sha384) => &PSS_SHA384,
            (KeyType::Rsa, Hash::Sha512) => &PSS_SHA512,
            (KeyType::P384, Hash::Sha256) => &sign::ECDSA_P384_SHA256_ASN1,
            (KeyType::P384, Hash::Sha384) => &sign::ECDSA_P384_SHA384_ASN1,
            (KeyType::P384, Hash::Sha512) => &sign::ECDSA_P384_SHA512_ASN1,
            (KeyType::P521, Hash::Sha224) => &sign::ECDSA_P521_SHA224_ASN1,
            (KeyType::P521, Hash::Sha256) => &sign::ECDSA_P521_SHA256_ASN1,
            (KeyType::P521, Hash::Sha384) => &sign::ECDSA_P521_SHA384_ASN1,
            (KeyType::P521, Hash::Sha512) => &sign::ECDSA_P521_SHA512_ASN1,
            (key, hash) => {
                let what = format!("signatures by {key:?} with {} cannot be verified here", hash.name());
                return Err(rejected(what));
            }
        })
    }

    /// Whether a certificate of `folder`, valid at the time `now`, signed these data. Reads a file.
    ///
    /// # Errors
    /// `KeyRejected`, with the reason.
    pub fn check(&self, digest: &Digest, folder: &Path, now: SystemTime) -> Result<()> {
        let key = certificate::public_key(folder, self.certificate, self.key, now)?;
        let valid = sign::UnparsedPublicKey::new(self.algorithm()?, key).verify_digest(digest, &self.bytes);
        valid.map_err(|_| rejected(format!("the certificate {} did not sign these data", self.certificate)))
    }
}

fn rejected(what: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(Kind::KeyRejected, what)
}

#[cfg(test)]
mod tests;
