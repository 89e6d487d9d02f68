//! Tests of the merging rules: arguments as a person types them, variables as a map.

use clap::Parser;

use super::*;
use crate::cli::args::{Arguments, Command};
use crate::config::{Passthrough, Prefetch};

const NO_KEYSTONE: &[&str] = &["--os-auth-type=none", "--endpoint=http://glance:9292"];

/// The configuration of `glancefs mount ARGUMENTS <a temporary folder>` for user 1000.
fn merged(arguments: &[&str], variables: &[(&str, &str)]) -> Result<Config> {
    let folder = tempfile::tempdir().unwrap();
    let mountpoint = folder.path().join("m");
    std::fs::create_dir(&mountpoint).unwrap();
    let mount = ["glancefs", "mount"].into_iter().chain(arguments.iter().copied());
    let line: Vec<_> = mount.chain([mountpoint.to_str().unwrap()]).collect();
    let Command::Mount(arguments) = Arguments::try_parse_from(line).unwrap().command else { unreachable!() };
    let home = [("HOME", "/home/u")];
    config(&arguments, &Environment::new(home.iter().chain(variables).copied(), 1000, 100))
}

fn without_keystone(arguments: &[&str], variables: &[(&str, &str)]) -> Result<Config> {
    merged(&[NO_KEYSTONE, arguments].concat(), variables)
}

/// Checks that the merge fails and that its message holds each of `words`.
fn refused(arguments: &[&str], variables: &[(&str, &str)], words: &[&str]) {
    let error = match without_keystone(arguments, variables) {
        Err(error) => error,
        Ok(_) => panic!("{arguments:?} {variables:?} passed"),
    };
    assert_eq!(error.kind(), Kind::Config);
    for word in words {
        assert!(error.to_string().contains(word), "{word:?} is not in {error}");
    }
}

#[test]
fn the_defaults_are_those_of_the_help() {
    let config = without_keystone(&[], &[]).unwrap();
    assert!(matches!(config.auth.method, AuthMethod::None));
    assert_eq!(config.cache.dir, Path::new("/home/u/.cache/glancefs"));
    assert_eq!(config.spool.dir, Path::new("/home/u/.cache/glancefs/spool"));
    assert_eq!((config.cache.size, config.cache.free_floor_percent), (10 << 30, 5));
    assert_eq!(config.spool.size, None);
    assert_eq!(config.passthrough, Passthrough::Auto);
    assert_eq!(config.prefetch, Prefetch::Off);
    assert_eq!(config.catalog.ttl, Duration::from_secs(60));
    assert_eq!((config.http.timeout, config.http.max_connections), (Duration::from_secs(60), 8));
    let access = config.access;
    assert_eq!((access.uid, access.gid, access.file_mode, access.dir_mode), (1000, 100, 0o644, 0o755));
    assert!(!(access.read_only || access.allow_delete || access.allow_overwrite || access.allow_other));
    assert!(!config.http.insecure && !config.catalog.allow_stale && !config.foreground);
}

#[test]
fn passthrough_can_be_turned_off() {
    let config = without_keystone(&["--passthrough", "off"], &[]).unwrap();
    assert_eq!(config.passthrough, Passthrough::Off);
}

#[test]
fn an_option_goes_before_its_variable() {
    let variables = [
        ("OS_REGION_NAME", "env"),
        ("OS_INTERFACE", "internal"),
        ("OS_ENDPOINT", "http://env:1, http://env:2/image,"),
        ("OS_AUTH_TYPE", "none"),
    ];
    let from_env = merged(&[], &variables).unwrap().auth;
    assert_eq!(from_env.region.as_deref(), Some("env"));
    assert_eq!(from_env.interface.as_deref(), Some("internal"));
    let urls: Vec<_> = from_env.endpoints.iter().map(Url::as_str).collect();
    assert_eq!(urls, ["http://env:1/", "http://env:2/image"]);

    let options = ["--os-region-name=cli", "--os-interface=admin", "--endpoint=http://cli"];
    let from_options = merged(&options, &variables).unwrap().auth;
    assert_eq!(from_options.region.as_deref(), Some("cli"));
    assert_eq!(from_options.interface.as_deref(), Some("admin"));
    assert_eq!(from_options.endpoints.len(), 1);
}

#[test]
fn the_older_name_and_spelling_of_the_interface_are_understood() {
    let interface = |variables: &[(&str, &str)]| without_keystone(&[], variables).unwrap().auth.interface;
    assert_eq!(interface(&[("OS_ENDPOINT_TYPE", "internalURL")]).as_deref(), Some("internal"));
    assert_eq!(
        interface(&[("OS_ENDPOINT_TYPE", "internalURL"), ("OS_INTERFACE", "public")]).as_deref(),
        Some("public")
    );
    assert_eq!(interface(&[("OS_INTERFACE", "")]), None);
}

#[test]
fn an_auth_type_given_as_option_is_handed_to_keystone() {
    let auth = merged(&["--os-auth-type=v3token", "--os-cloud=c"], &[]).unwrap().auth;
    assert_eq!(auth.auth_type.as_deref(), Some("v3token"));
    let auth = merged(&[], &[("OS_CLOUD", "c"), ("OS_AUTH_TYPE", "v3token")]).unwrap().auth;
    assert_eq!(auth.auth_type, None);
    assert_eq!(without_keystone(&[], &[]).unwrap().auth.auth_type, None);
}

#[test]
fn insecure_comes_from_the_option_or_the_variable() {
    let insecure = |arguments: &[&str], variables: &[(&str, &str)]| {
        without_keystone(arguments, variables).unwrap().http.insecure
    };
    assert!(insecure(&["--insecure"], &[]));
    assert!(insecure(&[], &[("OS_INSECURE", "yes")]));
    assert!(!insecure(&[], &[("OS_INSECURE", "false")]));
    refused(&[], &[("OS_INSECURE", "perhaps")], &["OS_INSECURE", "perhaps", "true or false"]);
}

#[test]
fn relative_paths_become_absolute() {
    let config = without_keystone(&["--cache-dir=c", "--spool-dir=s", "--log-file=l"], &[]).unwrap();
    let here = std::env::current_dir().unwrap().canonicalize().unwrap();
    assert_eq!(config.cache.dir, here.join("c"));
    assert_eq!(config.spool.dir, here.join("s"));
    assert_eq!(config.log_file, Some(here.join("l")));
}

#[test]
fn unusable_endpoints_are_refused_without_showing_passwords() {
    let with = |url: &str| format!("--endpoint={url}");
    for (url, words) in [
        ("glance:9292", &["--endpoint", "glance:9292", "https://"][..]),
        ("ftp://glance", &["--endpoint", "ftp://glance"]),
        ("nonsense", &["--endpoint", "nonsense", "is not a URL"]),
        ("http://g/?x=1", &["query"]),
    ] {
        refused(&[&with(url)], &[], words);
    }
    for url in ["http://u:hush@g", "u:hush@g:x"] {
        let error = without_keystone(&[&with(url)], &[]).unwrap_err().to_string();
        assert!(error.contains("--endpoint") && !error.contains("hush"), "{error}");
    }
}

#[test]
fn values_out_of_bounds_are_refused_with_the_bounds() {
    refused(&["--timeout=0"], &[], &["--timeout 0ns", "1s to 24h"]);
    refused(&["--metadata-ttl=999999h"], &[], &["--metadata-ttl", "720h"]);
    refused(&["--max-connections=0"], &[], &["--max-connections 0", "1 to 1024"]);
    refused(&["--memory-limit=1M"], &[], &["--memory-limit 1MiB", "at least 16MiB"]);
    refused(&["--cache-size=0"], &[], &["--cache-size 0", "at least 1MiB"]);
    refused(&["--os-interface=privat"], &[], &["--os-interface \"privat\"", "public, internal or admin"]);
    refused(&["--os-cacert=/no/such.pem"], &[], &["--os-cacert /no/such.pem", "PEM"]);
}

#[test]
fn options_that_exclude_each_other_are_refused() {
    refused(&["--read-only", "--allow-delete"], &[], &["--read-only excludes --allow-delete"]);
    refused(&["--read-only", "--allow-overwrite"], &[], &["--read-only excludes --allow-overwrite"]);
}

#[test]
fn allow_other_of_a_user_needs_a_line_in_fuse_conf() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fuse.conf");
    std::fs::write(&file, "#user_allow_other\nmount_max = 9\n").unwrap();
    assert!(fuse_conf_allows_other(&file).unwrap_err().to_string().contains("user_allow_other"));
    std::fs::write(&file, "mount_max = 9\nuser_allow_other \n").unwrap();
    assert!(fuse_conf_allows_other(&file).is_ok());
    assert!(fuse_conf_allows_other(&folder.path().join("missing")).is_err());
}

#[test]
fn a_cache_around_the_mount_point_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mountpoint = folder.path().join("m");
    std::fs::create_dir(&mountpoint).unwrap();
    let of = |option: &str, path: &Path| {
        let cache = format!("{option}={}", path.display());
        let line =
            ["glancefs", "mount", NO_KEYSTONE[0], NO_KEYSTONE[1], &cache, mountpoint.to_str().unwrap()];
        let Command::Mount(arguments) = Arguments::try_parse_from(line).unwrap().command else {
            unreachable!()
        };
        config(&arguments, &Environment::new([("HOME", "/home/u")], 1000, 100))
    };
    assert!(of("--cache-dir", folder.path()).is_err());
    assert!(of("--cache-dir", &mountpoint.join("c")).is_err());
    assert!(of("--log-file", &mountpoint.join("log")).is_err());
    assert!(of("--spool-dir", &folder.path().join("m2")).is_ok());
}
