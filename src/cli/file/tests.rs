//! Tests of what a file may say.

use super::*;

fn read(text: &str) -> Result<Document> {
    document(Path::new("/etc/g.toml"), text)
}

fn refused(text: &str) -> String {
    read(text).unwrap_err().to_string()
}

/// Each key of the common part with its values.
fn common(text: &str) -> Vec<String> {
    let mut found: Vec<_> = read(text)
        .unwrap()
        .common
        .iter()
        .map(|setting| format!("{}={}", setting.name, setting.values.join("|")))
        .collect();
    found.sort();
    found
}

#[test]
fn every_kind_of_value_becomes_the_words_of_a_command_line() {
    let text = r#"
        cache_dir = "/srv/cache"
        cache-size = "100GiB"
        metadata_ttl = 120
        file_mode = 0o640
        dir_mode = "0750"
        read_only = true
        hard = false
        endpoint = ["http://a", "http://b"]
        prefer_store = ["fast", "slow"]
        visibility = "public,shared"
        direct_root = "/a=/b"
    "#;
    assert_eq!(
        common(text),
        [
            "cache-dir=/srv/cache",
            "cache-size=100GiB",
            "dir-mode=0750",
            "direct-root=/a=/b",
            "endpoint=http://a|http://b",
            "file-mode=0o640",
            "hard=false",
            "metadata-ttl=120",
            "prefer-store=fast,slow",
            "read-only=true",
            "visibility=public,shared",
        ]
    );
}

#[test]
fn a_setting_knows_its_line_and_section() {
    let document = read("hard = true\n\n[cloud.lab]\n# of the lab\ncache_size = \"1GiB\"\n").unwrap();
    assert_eq!(document.common[0].place.to_string(), "/etc/g.toml:1");
    assert_eq!(document.clouds["lab"][0].place.to_string(), "/etc/g.toml:5 [cloud.lab]");
}

#[test]
fn what_is_wrong_is_told_with_its_line_and_a_cure() {
    for (text, words) in [
        (
            "\ncachedir = \"/x\"",
            &["/etc/g.toml:2: ", "unknown key \"cachedir\"", "did you mean cache_dir?"][..],
        ),
        ("[cloud.lab]\nread_onyl = true", &["g.toml:2: ", "did you mean read_only?"]),
        ("[mount]\nhard = true", &["g.toml:1: ", "unknown section \"mount\"", "[cloud.NAME]"]),
        ("[cloud]\nlab = 1", &["g.toml:2: ", "[cloud.lab]"]),
        ("cache_size = \"10XB\"", &["g.toml:1: cache_size: ", "10XB", "GiB"]),
        ("timeout = true", &["g.toml:1: timeout: ", "in quotes"]),
        ("hard = \"yes\"", &["hard: write true or false"]),
        ("hard = 1", &["hard: write true or false"]),
        ("cache_dir = [\"/a\"]", &["cache_dir: this takes one value"]),
        ("cache_size = 0x10", &["cache_size: "]),
        ("cache_size = 0o10", &["cache_size: ", "0o10"]),
        ("timeout = 1.5", &["timeout: "]),
        ("verify = \"full\"", &["verify: ", "strict"]),
        ("hard = true\nhard = true", &["g.toml:2: no TOML"]),
        ("hard", &["g.toml:1: no TOML"]),
    ] {
        let told = refused(text);
        for word in words {
            assert!(told.contains(word), "{text:?}: {word:?} is not in {told}");
        }
        assert_eq!(told.lines().count(), 1, "{told}");
    }
}

#[test]
fn what_is_no_setting_of_a_mount_is_unknown() {
    for name in ["foreground", "daemon", "mountpoint", "source", "help", "own_cloud", "all_stores"] {
        assert!(refused(&format!("{name} = true")).contains("unknown key"), "{name}");
    }
}

#[test]
fn the_default_file_of_the_package_says_nothing() {
    let text = include_str!("../../../packaging/glancefs.toml");
    let document = read(text).unwrap();
    assert!(document.common.is_empty() && document.clouds.is_empty());
    // What is behind its remarks can be read.
    let told: String = text
        .lines()
        .filter_map(|line| line.strip_prefix('#'))
        .filter(|line| !line.starts_with(' '))
        .fold(String::new(), |text, line| text + line + "\n");
    let document = read(&told).unwrap();
    assert!(!document.common.is_empty() && !document.clouds.is_empty());
}
