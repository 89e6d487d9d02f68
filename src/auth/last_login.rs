//! What the last login told, kept on disk: with `--allow-stale` a mount may begin with it while Keystone is down.
//!
//! One small file for each description of a cloud, `<key>.login`, in a line of JSON:
//!
//! ```text
//! {"glancefs_login":1,"key":"<key>","project_id":"…","endpoints":["https://glance.example.org:9292/"]}
//! ```
//! The key is the SHA-256 of everything that decides who logs in and at which cloud, and of no secret: another user,
//! project, region or address finds nothing. The endpoints only name the cloud to the cache and the saved list; they
//! never get a token before a login has said that Glance is there (`Auth::endpoints`).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};
use url::Url;

use super::endpoint::base_url;
use crate::blocking::blocking;
use crate::error::{Error, Kind, Result};
use crate::units::hexadecimal;

const VERSION: u32 = 1;

/// Bytes of a file that are read: a hundred endpoints of the longest host names.
const MOST_BYTES: u64 = 64 * 1024;

/// Characters of a project's id. Keystone's own limit is 64.
const LONGEST_ID: usize = 255;

/// Where it is kept, and whether a mount may begin with it.
#[derive(Debug, Clone)]
pub struct LastLogins {
    /// A folder that only its owner can enter.
    pub folder: PathBuf,
    /// `--allow-stale`.
    pub allow_stale: bool,
}

/// What a login tells besides the token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// The project of the token, where that is known.
    pub project_id: Option<String>,
    /// From the catalogue; empty when the operator gave endpoints.
    pub endpoints: Vec<Url>,
}

/// Who logs in, and at which cloud: names with values, never a secret.
#[derive(Debug, Clone)]
pub(super) struct Description(BTreeMap<&'static str, String>);

impl Description {
    /// The beginning of one; `method` is the way to log in.
    pub(super) fn of(method: &str) -> Self {
        Self([("method", method.to_owned())].into())
    }

    /// Adds what is given.
    pub(super) fn with(mut self, name: &'static str, value: Option<&str>) -> Self {
        self.0.extend(value.map(|value| (name, value.to_owned())));
        self
    }

    /// Adds the endpoints that the operator gave, in any order.
    fn with_endpoints(self, given: &[Url]) -> Self {
        let mut given: Vec<_> = given.iter().map(Url::as_str).collect();
        given.sort_unstable();
        given.dedup();
        self.with("endpoints", Some(given.join(" ")).as_deref().filter(|text| !text.is_empty()))
    }

    fn key(&self) -> Result<String> {
        // JSON keeps neighbours apart whatever is in them, and a map has one order.
        let text = serde_json::to_vec(&self.0)
            .map_err(|error| Error::new(Kind::Invalid, "the description of the cloud").with_source(error))?;
        Ok(hexadecimal(digest::digest(&digest::SHA256, &text).as_ref()))
    }
}

/// The place of one description's last login.
#[derive(Debug)]
pub(super) struct LastLogin {
    path: PathBuf,
    key: String,
    allow_stale: bool,
}

impl LastLogin {
    /// The place for `description` with the endpoints that the operator gave.
    pub(super) fn new(logins: &LastLogins, description: Description, given: &[Url]) -> Result<Self> {
        let key = description.with_endpoints(given).key()?;
        Ok(Self { path: logins.folder.join(format!("{key}.login")), key, allow_stale: logins.allow_stale })
    }

    /// Keeps the facts of a login; a failure is logged and costs nothing but them.
    pub(super) async fn keep(&self, facts: &Facts) {
        let (path, key, facts) = (self.path.clone(), self.key.clone(), facts.clone());
        let kept = blocking(move || {
            // Most mounts find what the mount before them left.
            if read(&path, &key).is_ok_and(|known| known.as_ref() == Some(&facts)) {
                return Ok(());
            }
            write(&path, &key, &facts)
        });
        if let Err(error) = kept.await {
            warn!(%error, path = %self.path.display(), "cannot keep what this login told for --allow-stale");
        }
    }

    async fn load(&self) -> Result<Option<Facts>> {
        let (path, key) = (self.path.clone(), self.key.clone());
        blocking(move || read(&path, &key)).await
    }
}

/// The facts that may stand in for the login that failed with `error`.
///
/// # Errors
/// `error` itself, unless nobody answered the login, `--allow-stale` was given, and facts are kept; with what is
/// missing of that.
pub(super) async fn stand_in(last: Option<&LastLogin>, error: &Error) -> Result<Facts> {
    let refused = |more: &str| Err(Error::new(error.kind(), format!("{error}{more}")));
    // A refusal is an answer: credentials that are wrong now were not right then.
    let (Some(last), true) = (last, error.kind().is_transient()) else { return refused("") };
    match (last.allow_stale, last.load().await) {
        (true, Ok(Some(facts))) => {
            info!("nobody answers the login: beginning with what the last one told");
            Ok(facts)
        }
        (true, Ok(None)) => refused(
            "; and --allow-stale found nothing kept: no mount has logged in this way with this cache folder",
        ),
        (true, Err(unusable)) => refused(&format!("; and --allow-stale cannot use what is kept: {unusable}")),
        (false, Ok(Some(_))) => refused("; or mount with the list saved last: --allow-stale"),
        (false, _) => refused(""),
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    glancefs_login: u32,
    key: String,
    project_id: Option<String>,
    endpoints: Vec<String>,
}

fn write(path: &Path, key: &str, facts: &Facts) -> Result<()> {
    let fail = |error| Error::io("writing it", error);
    let record = Record {
        glancefs_login: VERSION,
        key: key.to_owned(),
        project_id: facts.project_id.clone(),
        endpoints: facts.endpoints.iter().map(Url::to_string).collect(),
    };
    let text = serde_json::to_string(&record)
        .map_err(|error| Error::new(Kind::Invalid, "writing it").with_source(error))?;
    // Two mounts may write at once: each its own file, the rename decides.
    let part = path.with_extension(format!("{}.part", std::process::id()));
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    let mut file = options.open(&part).map_err(fail)?;
    writeln!(file, "{text}").map_err(fail)?;
    // It is for the morning after a power cut.
    file.sync_data().map_err(fail)?;
    fs::rename(&part, path).map_err(fail)
}

/// What is kept; `None`: nothing.
fn read(path: &Path, key: &str) -> Result<Option<Facts>> {
    let fail = |error| Error::io(format!("reading {}", path.display()), error);
    let damaged = |what: &str| Error::new(Kind::Integrity, format!("{} is damaged ({what})", path.display()));
    let mut options = File::options();
    // No link is followed, no FIFO waited for.
    let file = match options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(error)),
    };
    if !file.metadata().map_err(fail)?.is_file() {
        return Err(damaged("no file"));
    }
    let mut text = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut text).map_err(fail)?;
    let record: Record =
        serde_json::from_slice(&text).map_err(|error| damaged("no record").with_source(error))?;
    if record.glancefs_login != VERSION {
        return Err(damaged("another version"));
    }
    if record.key != key {
        return Err(damaged("of another login"));
    }
    let printable =
        |id: &String| (1..=LONGEST_ID).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
    if !record.project_id.as_ref().is_none_or(printable) {
        return Err(damaged("no project"));
    }
    let endpoint = |text: &String| {
        let url = Url::parse(text).ok()?;
        // As `base_url` gave it when it was written: HTTP or HTTPS, without a user, a version or a query.
        (base_url(&url).ok()? == url).then_some(url)
    };
    let endpoints = record.endpoints.iter().map(endpoint).collect::<Option<_>>();
    let endpoints = endpoints.ok_or_else(|| damaged("no endpoint"))?;
    Ok(Some(Facts { project_id: record.project_id, endpoints }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};

    fn facts() -> Facts {
        let endpoints = vec![Url::parse("https://glance.example.org:9292/").unwrap()];
        Facts { project_id: Some("cafe".into()), endpoints }
    }

    fn alice() -> Description {
        Description::of("v3password")
            .with("auth_url", Some("https://keystone.example.org/v3"))
            .with("username", Some("alice"))
            .with("project_name", None)
    }

    fn last(folder: &Path, allow_stale: bool) -> LastLogin {
        let logins = LastLogins { folder: folder.to_owned(), allow_stale };
        LastLogin::new(&logins, alice(), &[]).unwrap()
    }

    /// The SHA-256 of `{"auth_url":"https://keystone.example.org/v3","method":"v3password","username":"alice"}`. When
    /// it changes, every login that is kept is lost.
    const KEY: &str = "5c8bb570b4420541bb6c6e1754614a6ee3ce547c654f0a692a11ed3c564cbccf";

    fn saved() -> String {
        format!(
            "{{\"glancefs_login\":1,\"key\":\"{KEY}\",\"project_id\":\"cafe\",\
             \"endpoints\":[\"https://glance.example.org:9292/\"]}}\n"
        )
    }

    #[tokio::test]
    async fn the_file_is_written_as_documented_and_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let last = last(folder.path(), true);
        last.keep(&facts()).await;
        let path = folder.path().join(format!("{KEY}.login"));
        assert_eq!(fs::read_to_string(&path).unwrap(), saved());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no part file stays");
        assert_eq!(last.load().await.unwrap(), Some(facts()));

        let before = fs::metadata(&path).unwrap().ino();
        last.keep(&facts()).await;
        assert_eq!(fs::metadata(&path).unwrap().ino(), before, "the same facts are not written again");
        let moved = Facts { project_id: None, endpoints: Vec::new() };
        last.keep(&moved).await;
        assert_eq!(last.load().await.unwrap(), Some(moved));
    }

    #[test]
    fn everything_that_decides_who_we_are_has_a_key_of_its_own() {
        let given = [Url::parse("http://b/").unwrap(), Url::parse("http://a/").unwrap()];
        let keys = [
            alice(),
            alice().with("username", Some("bob")),
            alice().with("username", Some("alice\",\"x\":\"")),
            alice().with("region", Some("north")),
            alice().with("cloud", Some("north")),
            alice().with_endpoints(&given),
            alice().with_endpoints(&given[..1]),
            Description::of("v3token").with("username", Some("alice")),
        ]
        .map(|description| description.key().unwrap());
        let different: std::collections::BTreeSet<_> = keys.iter().collect();
        assert_eq!(different.len(), keys.len());
        let turned = [given[1].clone(), given[0].clone(), given[1].clone()];
        assert_eq!(alice().with_endpoints(&turned).key().unwrap(), keys[5]);
    }

    #[test]
    fn what_the_file_says_is_checked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.login");
        assert_eq!(read(&path, KEY).unwrap(), None);
        fs::write(&path, saved()).unwrap();
        assert_eq!(read(&path, KEY).unwrap(), Some(facts()));
        assert_eq!(read(&path, "another").unwrap_err().kind(), Kind::Integrity, "copied from another");
        let endpoint = "https://glance.example.org:9292/";
        for (from, to) in [
            (saved().as_str(), ""),
            ("\"glancefs_login\":1", "\"glancefs_login\":2"),
            ("\"cafe\"", "\"\""),
            ("\"cafe\"", "\"ca\\nfe\""),
            ("\"cafe\"", "7"),
            (endpoint, "ftp://glance.example.org/"),
            (endpoint, "file:///etc/passwd"),
            (endpoint, "https://user:pass@glance.example.org/"),
            (endpoint, "https://glance.example.org/v2"),
            (endpoint, "glance.example.org:9292"),
            (endpoint, "/"),
        ] {
            let text = saved().replace(from, to);
            assert_ne!(text, saved());
            fs::write(&path, text).unwrap();
            assert_eq!(read(&path, KEY).unwrap_err().kind(), Kind::Integrity, "{to:?}");
        }
        fs::write(&path, saved() + &" ".repeat(1 << 20)).unwrap();
        assert!(read(&path, KEY).is_ok(), "what is beyond the limit is not read");
        fs::remove_file(&path).unwrap();
        fs::write(folder.path().join("real"), saved()).unwrap();
        symlink(folder.path().join("real"), &path).unwrap();
        assert!(read(&path, KEY).is_err(), "a link is not followed");
    }

    #[tokio::test]
    async fn facts_stand_in_for_a_login_that_nobody_answered_only() {
        let folder = tempfile::tempdir().unwrap();
        let (strict, stale) = (last(folder.path(), false), last(folder.path(), true));
        let failed = |kind| Error::new(kind, "the login failed");
        let said = async |last: Option<&LastLogin>, kind| {
            let error = stand_in(last, &failed(kind)).await.unwrap_err();
            assert_eq!(error.kind(), kind);
            error.to_string()
        };

        assert_eq!(said(None, Kind::Unreachable).await, "the login failed");
        assert_eq!(said(Some(&strict), Kind::Unreachable).await, "the login failed");
        assert!(said(Some(&stale), Kind::Unreachable).await.contains("--allow-stale found nothing kept"));

        stale.keep(&facts()).await;
        assert!(said(Some(&strict), Kind::Unreachable).await.contains("or mount with the list saved last"));
        for kind in [Kind::Unreachable, Kind::TimedOut, Kind::ServerError] {
            assert_eq!(stand_in(Some(&stale), &failed(kind)).await.unwrap(), facts());
        }
        for kind in [Kind::NotAuthenticated, Kind::Config] {
            assert_eq!(said(Some(&stale), kind).await, "the login failed", "a refusal stays one");
        }

        fs::write(&stale.path, "{}").unwrap();
        assert!(said(Some(&stale), Kind::Unreachable).await.contains("is damaged"));
    }
}
