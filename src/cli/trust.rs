//! The options about trust in image data: as written, and merged and checked.

use std::path::{Path, PathBuf};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};

use crate::config::{DirectConfig, DirectRoot, Inspect, TrustConfig, Verify, paths};
use crate::error::{Error, Kind, Result};

#[derive(Debug, Args)]
#[command(next_help_heading = "Trust")]
pub struct TrustArguments {
    /// What has to be proven of an image: none, hash (the whole is compared with its hash once it is here, behind the readers),
    /// strict (an open waits until the whole was fetched and matched its hash) or signature (strict, and the signature in
    /// the properties img_signature* is checked with a certificate of --trusted-certs).
    #[arg(long, value_name = "LEVEL", default_value = "hash", value_parser = verify())]
    pub verify: Verify,

    /// The certificates (X.509, PEM) that signatures are checked with: of the property img_signature_certificate_uuid the
    /// file UUID.pem. Each is trusted for itself, until it expires or is removed.
    #[arg(long, value_name = "DIR")]
    pub trusted_certs: Option<PathBuf>,

    /// What becomes of an image that is unsafe to use (a qcow2 with a backing or data file, a VMDK that names other files, a
    /// content that is not what disk_format says): off, warn (the log and .glancefs/errors tell) or deny (it cannot be
    /// opened: EPERM).
    #[arg(long, value_name = "WHEN", default_value = "warn", value_parser = inspect())]
    pub inspect: Inspect,

    /// Read image data from where they are stored instead of through Glance, where it shows the locations of an image
    /// (show_image_direct_url or show_multiple_locations) and this host reaches them: file (below the folders of
    /// --direct-root), http (and https; without a token). Glance is asked when that fails.
    #[arg(long, value_name = "SCHEMES", value_delimiter = ',')]
    pub direct: Vec<Scheme>,

    /// A folder of Glance's file store that is on this host, too; as GLANCE=HERE where it has another path here. May be
    /// repeated.
    #[arg(long, value_name = "[GLANCE=]DIR")]
    pub direct_root: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scheme {
    File,
    Http,
}

fn verify() -> impl TypedValueParser<Value = Verify> {
    PossibleValuesParser::new(["none", "hash", "strict", "signature"]).map(|word| match word.as_str() {
        "none" => Verify::None,
        "strict" => Verify::Strict,
        "signature" => Verify::Signature,
        _ => Verify::Hash,
    })
}

fn inspect() -> impl TypedValueParser<Value = Inspect> {
    PossibleValuesParser::new(["off", "warn", "deny"]).map(|word| match word.as_str() {
        "off" => Inspect::Off,
        "deny" => Inspect::Deny,
        _ => Inspect::Warn,
    })
}

/// The options, checked.
///
/// # Errors
/// `Config`, with a message for the person at the keyboard.
pub fn config(given: &TrustArguments) -> Result<TrustConfig> {
    let trusted_certs = match (&given.trusted_certs, given.verify) {
        (Some(folder), Verify::Signature) => folder_of("--trusted-certs", folder)?,
        (None, Verify::Signature) => {
            return Err(wrong(
                "--verify signature needs the folder of the certificates: --trusted-certs DIR",
            ));
        }
        (Some(_), _) => return Err(wrong("--trusted-certs is for --verify signature: give both or none")),
        (None, _) => PathBuf::new(),
    };
    let by_file = given.direct.contains(&Scheme::File);
    if by_file == given.direct_root.is_empty() {
        return Err(wrong("--direct file and --direct-root DIR belong together: give both or none"));
    }
    let roots = given.direct_root.iter().map(|text| root(text)).collect::<Result<_>>()?;
    let direct = DirectConfig { roots, http: given.direct.contains(&Scheme::Http) };
    Ok(TrustConfig { verify: given.verify, trusted_certs, inspect: given.inspect, direct })
}

/// `DIR` or `GLANCE=DIR`.
fn root(text: &str) -> Result<DirectRoot> {
    let (theirs, ours) = text.split_once('=').unwrap_or((text, text));
    let theirs = PathBuf::from(theirs);
    if !theirs.is_absolute() {
        return Err(wrong(format!("--direct-root {text:?}: Glance's folder must be an absolute path")));
    }
    Ok(DirectRoot { theirs, ours: folder_of("--direct-root", Path::new(ours))? })
}

fn folder_of(option: &str, folder: &Path) -> Result<PathBuf> {
    let folder = paths::resolve(folder)?;
    if folder.is_dir() {
        return Ok(folder);
    }
    Err(wrong(format!("{option} {} is not a folder that can be read", folder.display())))
}

fn wrong(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(Kind::Config, message)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        trust: TrustArguments,
    }

    fn parsed(line: &str) -> Result<TrustConfig> {
        let line = Line::try_parse_from(["x"].into_iter().chain(line.split_whitespace()));
        config(&line.map_err(|error| Error::new(Kind::Config, error.to_string()))?.trust)
    }

    #[test]
    fn by_default_hashes_are_compared_behind_the_readers_and_dangers_told() {
        let usual = parsed("").unwrap();
        assert_eq!((usual.verify, usual.inspect), (Verify::Hash, Inspect::Warn));
        assert!(usual.direct.is_off());
    }

    #[test]
    fn options_that_mean_nothing_alone_are_refused_with_a_cure() {
        for (line, word) in [
            ("--verify signature", "--trusted-certs"),
            ("--trusted-certs /tmp", "--verify signature"),
            ("--verify signature --trusted-certs /no/such", "/no/such"),
            ("--direct file", "--direct-root"),
            ("--direct-root /tmp", "--direct file"),
            ("--direct file --direct-root glance=/tmp", "absolute"),
            ("--direct rbd", "file, http"),
            ("--verify full", "strict"),
        ] {
            let error = parsed(line).unwrap_err().to_string();
            assert!(error.contains(word), "{line}: {error}");
        }
    }

    #[test]
    fn a_root_may_have_another_path_here() {
        let given = parsed("--direct file,http --direct-root /tmp --direct-root /srv/glance=/tmp").unwrap();
        let root = |theirs: &str| DirectRoot { theirs: theirs.into(), ours: "/tmp".into() };
        assert_eq!(given.direct.roots, [root("/tmp"), root("/srv/glance")]);
        assert!(given.direct.http);
    }
}
