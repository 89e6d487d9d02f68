//! The cloud: login, how its Glance answers, whose clock is right, and how its stores are read.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use reqwest::header::DATE;
use url::Url;

use super::{Order, Report};
use crate::auth::{Auth, Distrust, distrust};
use crate::config::HttpConfig;
use crate::error::{Error, Kind};
use crate::glance::{Downloads, Glance, Image, Listing, Negotiated, Status};
use crate::manage::Connection;
use crate::units::ByteRange;

/// No request takes longer: who calls the doctor sits in front of it.
const LONGEST: Duration = Duration::from_secs(10);

/// Requests to each server: the first makes the connection, the others tell the latency.
const PROBES: usize = 4;

/// A server that takes longer for a document of 1 KB is the reason why the mount is slow.
const SLOW: Duration = Duration::from_secs(5);

/// Clocks may differ by that much. Certificates and signatures are judged by ours; Date counts in seconds.
const SKEW: Duration = Duration::from_secs(30);

/// Stores that are tried, and images that are looked through for one of each.
const STORES: usize = 8;
const IMAGES: u32 = 200;

pub(super) fn look(report: &mut Report, order: &Order, is_live: bool) {
    let connection = match &order.connection {
        Ok(connection) => connection,
        // The mount's own login may come from variables that are not set here.
        Err(error) if is_live => {
            report.well("login", format!("not tried from here: {}", first_line(error)));
            return;
        }
        Err(error) => {
            report.found(
                "login",
                first_line(error),
                "name the cloud: --os-cloud, OS_CLOUD, or the OS_* variables of its openrc",
            );
            return;
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            report.found(
                "login",
                format!("starting threads: {error}"),
                "ulimit -u: raise the limit of processes",
            );
            return;
        }
    };
    runtime.block_on(look_at(report, connection));
    runtime.shutdown_background();
}

async fn look_at(report: &mut Report, connection: &Connection) {
    let http = HttpConfig {
        timeout: connection.http.timeout.min(LONGEST),
        hard: false,
        retries: 0,
        ..connection.http.clone()
    };
    if http.insecure {
        report.well("tls", "certificates are not checked (--insecure)");
    }
    let auth = match Auth::connect(&connection.auth, &http, None).await {
        Ok(auth) => auth,
        Err(error) => {
            let cure = login_cure(&error);
            report.found("login", error, cure);
            return;
        }
    };
    match auth.project_id() {
        Some(project) => report.well("login", format!("done, for the project {project}")),
        None => report.well("login", "no Keystone is asked"),
    }
    let mut is_there = true;
    for endpoint in auth.endpoints() {
        is_there &= probe(report, &auth, endpoint, http.timeout).await;
    }
    if !is_there {
        return;
    }
    let glance = match Glance::new(auth, &http) {
        Ok(glance) => Negotiated::new(glance, connection.api_version),
        Err(error) => return report.found("glance", error, "install the package ca-certificates"),
    };
    match glance.list(IMAGES, None).await {
        Ok(page) => {
            report.well("list", "Glance accepts the login and lists images");
            stores(report, &glance, &page.images).await;
        }
        Err(error) => {
            let cure = match error.kind() {
                Kind::NotAuthenticated => {
                    "does this Glance use the Keystone that was asked? See its log for the request"
                }
                Kind::Forbidden => {
                    "ask for a role in the project: `openstack role assignment list --names` shows those there are"
                }
                Kind::NotSupported => "check --endpoint (without a version behind it) and --api-version",
                _ => "see the log of Glance, for the request that is named here where one is",
            };
            report.found("list", error, cure);
        }
    }
}

/// The others are ways to name a cloud, as a table.
fn first_line(error: &Error) -> String {
    error
        .to_string()
        .lines()
        .next()
        .unwrap_or_default()
        .trim_end_matches(": choose one of these ways")
        .to_owned()
}

fn login_cure(error: &Error) -> &'static str {
    match error.kind() {
        Kind::NotAuthenticated => {
            "check user, password, project and their domains (OS_USERNAME, OS_PASSWORD, OS_PROJECT_NAME, \
             OS_USER_DOMAIN_NAME), or log in anew: openstack token issue"
        }
        Kind::Untrusted => "name the certificate of the authority with OS_CACERT or --os-cacert",
        Kind::Unreachable | Kind::TimedOut => {
            "is Keystone running at OS_AUTH_URL, and does a firewall or proxy (http_proxy, no_proxy) let us reach it?"
        }
        Kind::ServerError => "see the log of Keystone",
        _ => "correct the option, the variable or clouds.yaml",
    }
}

/// Asks a server for what everybody may see, without a token. Tells whether it answers.
async fn probe(report: &mut Report, auth: &Auth, endpoint: &Url, limit: Duration) -> bool {
    let peer = format!(
        "{}:{}",
        endpoint.host_str().unwrap_or_default(),
        endpoint.port_or_known_default().unwrap_or(0)
    );
    let client = match auth.client_builder().http1_only().timeout(limit).build() {
        Ok(client) => client,
        Err(error) => {
            report.found(
                "glance",
                format!("cannot set up TLS: {error}"),
                "install the package ca-certificates",
            );
            return false;
        }
    };
    let (mut times, mut skew) = (Vec::new(), None);
    for _ in 0..PROBES {
        let begun = Instant::now();
        let answer = match client.get(endpoint.clone()).send().await {
            Ok(answer) => answer,
            Err(error) => {
                not_there(report, &peer, error);
                return false;
            }
        };
        times.push(begun.elapsed());
        let status = answer.status();
        if status.is_server_error() {
            let cure = "see the log of Glance, or of the proxy in front of it";
            report.found("glance", format!("{peer} answers HTTP {}", status.as_u16()), cure);
            return false;
        }
        let date = answer.headers().get(DATE).and_then(|date| date.to_str().ok()).and_then(seconds_of);
        skew = date.map(|theirs| theirs - now());
        // To its end, so that the connection serves the next one.
        let _ = answer.bytes().await;
    }
    let first = times.remove(0);
    times.sort();
    let usual = times.get(times.len() / 2).copied().unwrap_or(first);
    let said = format!("{peer} answers in {:.1} ms ({:.1} ms with the connection)", ms(usual), ms(first));
    if usual > SLOW {
        report.found("glance", said, "look at the network and at the load of Glance and its database");
    } else {
        report.well("glance", said);
    }
    if endpoint.scheme() == "https" {
        report.well("tls", format!("the certificate of {peer} is one that is trusted here"));
    }
    clock(report, &peer, skew);
    true
}

fn not_there(report: &mut Report, peer: &str, error: reqwest::Error) {
    match distrust(&error) {
        Some(Distrust::Ours(why)) => {
            let cure = "name the certificate of its authority with OS_CACERT or --os-cacert";
            report.found("tls", format!("{peer} is not trusted: {why}"), cure);
        }
        Some(Distrust::Theirs(why)) => {
            let cure = "name our certificate and its key with OS_CERT and OS_KEY";
            report.found("tls", format!("{peer} does not trust us: {why}"), cure);
        }
        None => {
            let cure = "is Glance running there? Check --endpoint, OS_ENDPOINT or the catalogue (openstack catalog show \
                        image), and that a firewall or proxy (http_proxy, no_proxy) lets us reach it";
            let error = Error::new(Kind::Unreachable, "no answer").with_source(error.without_url());
            report.found("glance", format!("{peer}: {error}"), cure);
        }
    }
}

fn clock(report: &mut Report, peer: &str, skew: Option<i64>) {
    let Some(skew) = skew else {
        return report.well("clock", format!("{peer} does not tell its time"));
    };
    if skew.unsigned_abs() <= SKEW.as_secs() {
        return report.well("clock", format!("as that of {peer}"));
    }
    let side = if skew > 0 { "behind" } else { "ahead of" };
    let said = format!("the clock of this host is {} s {side} that of {peer}", skew.unsigned_abs());
    let cure = "set the one that is wrong: timedatectl set-ntp true, chronyc makestep; certificates and signatures are \
                judged by it";
    report.found("clock", said, cure);
}

/// How an image of each store is read, told by one byte of it.
async fn stores(report: &mut Report, glance: &Negotiated, images: &[Image]) {
    let mut of_store: BTreeMap<&str, &Image> = BTreeMap::new();
    for image in images.iter().filter(|image| image.status == Status::Active && image.size > Some(0)) {
        let store = image.stores.as_deref().unwrap_or("default");
        if of_store.len() < STORES || of_store.contains_key(store) {
            of_store.entry(store).or_insert(image);
        }
    }
    for (store, image) in of_store {
        let size = image.size.unwrap_or(0);
        match glance.download(&image.id, size, Some(ByteRange::new(0, 1))).await {
            Ok(_) => report.well("source", format!("store {store}: parts of images can be read (ranged)")),
            // Deleted since it was listed.
            Err(error) if error.kind() == Kind::NotFound => {}
            Err(error) if error.kind() == Kind::RangeUnsupported => report.well(
                "source",
                format!("store {store}: serves no parts, so an image is read from its beginning (streamed)"),
            ),
            Err(error) => {
                let cure = "see the log of Glance; may the project's role download images?";
                report.found("source", format!("store {store}: {error}"), cure);
            }
        }
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110, 5.6.7) in seconds since 1970.
fn seconds_of(date: &str) -> Option<i64> {
    let parsed = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(date.replace("GMT", "+0000"));
    parsed.ok().map(|time| time.as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_of_an_answer_is_read() {
        assert_eq!(seconds_of("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(seconds_of("yesterday"), None);
    }

    #[test]
    fn a_clock_may_differ_by_seconds() {
        let found = |skew| {
            let mut report = Report::default();
            clock(&mut report, "h:1", skew);
            (report.findings(), report.looks[0].said.clone())
        };
        assert_eq!(found(Some(-20)).0, 0);
        assert_eq!(found(None).0, 0);
        assert_eq!(found(Some(90)), (1, "the clock of this host is 90 s behind that of h:1".into()));
        assert_eq!(found(Some(-90)), (1, "the clock of this host is 90 s ahead of that of h:1".into()));
    }
}
