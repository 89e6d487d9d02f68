//! Where log lines go, and which: standard error in the foreground, unless that is read by the journal; in the background
//! `--log-file`, else the journal, else syslog.

use std::backtrace::Backtrace;
use std::fs::OpenOptions;
use std::io::IsTerminal;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::panic;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use tracing::{Subscriber, error};
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::filter::{EnvFilter, LevelFilter, filter_fn};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use super::limiter::Limiter;
use crate::config::Config;
use crate::error::{Error, Kind, Result};

/// The variable that says what is logged, and its meaning when unset.
const VARIABLE: &str = "GLANCEFS_LOG";
// fuser's own lines tell of killed readers and unknown operations as errors and warnings; what matters
// of them it returns.
const DEFAULT_FILTER: &str = "warn,fuser=off,glancefs=info";

const JOURNAL_SOCKET: &str = "/run/systemd/journal/socket";
const SYSLOG_SOCKET: &str = "/dev/log";

/// Where log lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// Standard error.
    Stderr,
    /// Appended to this file.
    File(PathBuf),
    /// The systemd journal, as `glancefs`.
    Journal,
    /// syslog(3), facility daemon, as `glancefs`.
    Syslog,
    /// This system has none of them.
    Nowhere,
}

impl Destination {
    /// In the foreground: `--log-file`, else standard error. As a service of systemd that would be read by the journal line by
    /// line: it gets the fields instead.
    pub fn foreground(config: &Config) -> Self {
        match &config.log_file {
            Some(file) => Self::File(file.clone()),
            None if stderr_is_the_journal() && is_socket(JOURNAL_SOCKET) => Self::Journal,
            None => Self::Stderr,
        }
    }

    /// In the background: `--log-file`, else the journal, else syslog.
    pub fn background(config: &Config) -> Self {
        match &config.log_file {
            Some(file) => Self::File(file.clone()),
            None if is_socket(JOURNAL_SOCKET) => Self::Journal,
            None if is_socket(SYSLOG_SOCKET) => Self::Syslog,
            None => Self::Nowhere,
        }
    }

    /// For a person: where to look.
    pub fn hint(&self) -> String {
        match self {
            Self::Stderr => "see the messages above".into(),
            Self::File(file) => format!("see {}", file.display()),
            Self::Journal => "see: journalctl -t glancefs".into(),
            Self::Syslog => "see the lines of glancefs in syslog".into(),
            Self::Nowhere => "run it with --foreground or --log-file FILE to see why".into(),
        }
    }
}

fn is_socket(path: &str) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

/// Whether systemd has connected standard error to the journal and nobody has changed that since: `JOURNAL_STREAM` (systemd.exec(5))
/// has the device and the inode of the connection.
pub fn stderr_is_the_journal() -> bool {
    let Some(stream) = std::env::var_os("JOURNAL_STREAM") else { return false };
    let stderr = rustix::fs::fstat(rustix::stdio::stderr());
    stderr.is_ok_and(|stderr| *stream == *format!("{}:{}", stderr.st_dev, stderr.st_ino))
}

/// Starts logging for the life of the process, panics included.
///
/// # Errors
/// `Config` when `GLANCEFS_LOG` cannot be read, or the log file cannot be written.
pub fn start(destination: &Destination) -> Result<()> {
    let filter = filter(std::env::var(VARIABLE).ok().as_deref())?;
    // What the filter drops does not count as repeated.
    let layer = Limiter::start().around(layer(destination)?).with_filter(filter);
    let installed = tracing_subscriber::registry().with(layer).try_init();
    installed.map_err(|error| Error::new(Kind::Config, "logging is already started").with_source(error))?;
    log_panics(destination);
    Ok(())
}

type BoxedLayer<S> = Box<dyn Layer<S> + Send + Sync>;

fn layer<S>(destination: &Destination) -> Result<BoxedLayer<S>>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    let lines = tracing_subscriber::fmt::layer().with_target(true);
    Ok(match destination {
        Destination::Stderr => {
            lines.with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr).boxed()
        }
        Destination::File(path) => lines.with_ansi(false).with_writer(Mutex::new(open(path)?)).boxed(),
        Destination::Journal => journal()?.boxed(),
        Destination::Syslog => {
            let options = syslog_tracing::Options::LOG_PID;
            let syslog = syslog_tracing::Syslog::new(c"glancefs", options, syslog_tracing::Facility::Daemon)
                .ok_or_else(|| Error::new(Kind::Config, "syslog is already in use"))?;
            // syslog adds the time itself.
            lines.with_ansi(false).without_time().with_writer(syslog).boxed()
        }
        Destination::Nowhere => lines.with_writer(std::io::sink).boxed(),
    })
}

/// Appends, so that several mounts and logrotate's copytruncate get along; private when new.
fn open(path: &Path) -> Result<std::fs::File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path).map_err(|error| {
        let message = format!("--log-file {} cannot be written: name another file", path.display());
        Error::new(Kind::Config, message).with_source(error)
    })
}

fn journal() -> Result<tracing_journald::Layer> {
    let layer = tracing_journald::layer().map_err(|error| {
        Error::new(Kind::Config, "the journal cannot be reached: use --log-file").with_source(error)
    })?;
    // The crate's own mapping calls INFO a notice and DEBUG informational.
    let priorities = PriorityMappings {
        info: Priority::Informational,
        debug: Priority::Debug,
        trace: Priority::Debug,
        ..PriorityMappings::new()
    };
    // journalctl GLANCEFS_IMAGE=... finds all lines about an image.
    let layer = layer.with_field_prefix(Some("GLANCEFS".into()));
    Ok(layer.with_syslog_identifier("glancefs".into()).with_priority_mappings(priorities))
}

/// What is logged. A bare level means that level of glancefs itself: what a person wants who sets
/// `GLANCEFS_LOG=debug` is not every frame of the HTTP library.
fn filter<S: Subscriber>(wish: Option<&str>) -> Result<impl tracing_subscriber::layer::Filter<S> + use<S>> {
    use tracing_subscriber::filter::FilterExt;
    let wish = wish.map(str::trim).filter(|wish| !wish.is_empty());
    let directives = match wish {
        None => DEFAULT_FILTER.to_owned(),
        Some(wish) if wish.parse::<LevelFilter>().is_ok() => format!("warn,glancefs={wish}"),
        Some(wish) => format!("{DEFAULT_FILTER},{wish}"),
    };
    let wished = EnvFilter::try_new(&directives).map_err(|error| {
        let cure = "write a level (error, warn, info, debug, trace) or pairs such as glancefs::cache=debug";
        let wish = wish.unwrap_or_default();
        Error::new(Kind::Config, format!("{VARIABLE}={wish:?} cannot be read ({error}): {cure}"))
    })?;
    // These libraries write whole requests and login answers at debug and trace: tokens stay out of
    // the log whatever the filter says.
    let harmless = filter_fn(|metadata| {
        *metadata.level() <= tracing::Level::INFO || !metadata.target().starts_with("openstack")
    });
    Ok(wished.and(harmless))
}

/// A panic is a defect: its place and its stack go to the log, and to standard error while that is
/// still somewhere else.
fn log_panics(destination: &Destination) {
    let usual = panic::take_hook();
    let usual = (*destination != Destination::Stderr).then_some(usual);
    panic::set_hook(Box::new(move |panic| {
        error!("{panic}\n{}", Backtrace::force_capture());
        if let Some(usual) = &usual {
            usual(panic);
        }
    }));
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// The lines that pass this filter, of one line per target and level.
    fn passed(wish: Option<&str>) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        let layer = layer(&Destination::File(file.path().to_owned())).unwrap();
        let subscriber = tracing_subscriber::registry().with(layer.with_filter(filter(wish).unwrap()));
        tracing::subscriber::with_default(subscriber, || {
            tracing::debug!(target: "glancefs::cache", "own debug");
            tracing::info!(target: "glancefs", "own info");
            tracing::info!(target: "hyper", "foreign info");
            tracing::warn!(target: "hyper", "foreign warning");
            tracing::trace!(target: "openstack_sdk::auth", "token");
        });
        std::fs::read_to_string(file.path()).unwrap()
    }

    #[test]
    fn by_default_own_info_and_foreign_warnings_are_logged() {
        for wish in [None, Some("")] {
            let lines = passed(wish);
            assert!(lines.contains("own info") && lines.contains("foreign warning"), "{lines}");
            assert!(!lines.contains("own debug") && !lines.contains("foreign info"), "{lines}");
        }
    }

    #[test]
    fn a_bare_level_is_for_glancefs_only() {
        let lines = passed(Some("debug"));
        assert!(lines.contains("own debug") && !lines.contains("foreign info"), "{lines}");
        let lines = passed(Some("error"));
        assert!(!lines.contains("own info"), "{lines}");
    }

    #[test]
    fn pairs_add_to_the_default() {
        let lines = passed(Some("hyper=info"));
        assert!(lines.contains("foreign info") && lines.contains("own info"), "{lines}");
    }

    #[test]
    fn libraries_that_log_tokens_never_reach_the_log() {
        assert!(!passed(Some("trace,openstack_sdk=trace")).contains("token"));
    }

    #[test]
    fn a_filter_that_cannot_be_read_is_told() {
        let error = filter::<tracing_subscriber::Registry>(Some("glancefs=loud")).err().unwrap().to_string();
        assert!(error.contains("GLANCEFS_LOG") && error.contains("loud"), "{error}");
    }

    #[test]
    fn a_new_log_file_is_private_and_an_old_one_is_kept() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        drop(open(&path).unwrap());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, "before\n").unwrap();
        drop(open(&path).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "before\n");
        let error = open(Path::new("/no/such/log")).unwrap_err().to_string();
        assert!(error.contains("--log-file /no/such/log"), "{error}");
    }

    #[test]
    fn a_panic_is_logged_with_its_place() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let layer = layer(&Destination::File(file.path().to_owned())).unwrap();
        let subscriber = Arc::new(tracing_subscriber::registry().with(layer));
        tracing::subscriber::with_default(subscriber, || {
            let before = panic::take_hook();
            log_panics(&Destination::Stderr);
            let _ = panic::catch_unwind(|| panic!("on purpose"));
            panic::set_hook(before);
        });
        let lines = std::fs::read_to_string(file.path()).unwrap();
        assert!(lines.contains("on purpose") && lines.contains("logging.rs"), "{lines}");
    }
}
