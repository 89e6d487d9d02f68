//! Tests of what mount(8) may say.

use super::*;

fn request(words: &[&str]) -> Result<Request, String> {
    read(&words.iter().map(OsString::from).collect::<Vec<_>>())
}

/// The options that `-o TEXT` becomes.
fn options_of(text: &str) -> Result<Vec<String>, String> {
    let line = request(&["mycloud", "/m", "-o", text])?.line;
    let end = line.len() - 2;
    assert_eq!(line[..2], ["glancefs", "mount"]);
    assert_eq!(line[end..], ["mycloud", "/m"]);
    Ok(line[2..end].iter().map(|word| word.to_str().unwrap().to_owned()).collect())
}

#[test]
fn the_name_of_the_program_tells_who_calls() {
    let called = |name: &str| is_meant(&[name.into(), "x".into()]);
    for name in ["mount.glancefs", "/sbin/mount.glancefs", "/usr/sbin/mount.fuse.glancefs"] {
        assert!(called(name), "{name}");
    }
    for name in ["glancefs", "/usr/bin/glancefs", "mount.glancefs/glancefs", "mount"] {
        assert!(!called(name), "{name}");
    }
    assert!(!is_meant(&[]));
}

#[test]
fn options_may_stand_anywhere_and_in_one_word() {
    for words in [
        &["s", "/m", "-o", "ro"][..],
        &["-o", "ro", "s", "/m"],
        &["s", "/m", "-oro"],
        &["s", "/m", "-no", "ro", "-t", "fuse.glancefs"],
    ] {
        let found = request(words).unwrap();
        assert_eq!(found.line, ["glancefs", "mount", "--read-only", "s", "/m"], "{words:?}");
        assert!(!found.fake && !found.verbose);
    }
    let found = request(&["s", "/m", "-sfnv"]).unwrap();
    assert!(found.fake && found.verbose);
    for words in [&["s"][..], &[], &["s", "/m", "extra"], &["s", "/m", "-o"], &["s", "/m", "-x"], &["--help"]]
    {
        assert!(request(words).is_err(), "{words:?}");
    }
    assert_eq!(request(&["none", "/m"]).unwrap().line, ["glancefs", "mount", "/m"]);
}

#[test]
fn our_options_are_taken_in_both_spellings() {
    assert_eq!(options_of("cache_dir=/c,metadata-ttl=5m").unwrap(), ["--cache-dir=/c", "--metadata-ttl=5m"]);
    assert_eq!(options_of("allow_other,uid=7,gid=8").unwrap(), ["--allow-other", "--uid=7", "--gid=8"]);
    assert_eq!(options_of("endpoint=http://a,endpoint=http://b").unwrap().len(), 2);
    // A value keeps its signs of equality.
    assert_eq!(options_of("direct_root=/a=/b").unwrap(), ["--direct-root=/a=/b"]);
}

#[test]
fn what_is_said_to_others_is_accepted_without_effect() {
    let generic = "rw,defaults,_netdev,nofail,noauto,user,x-systemd.automount,x-systemd.idle-timeout=60,nosuid,nodev,\
                   noatime,relatime,comment=hello,user=alice,X-mount.mkdir=0755,sync,,exec,suid,dev,users,owner,group";
    assert_eq!(options_of(generic).unwrap(), [""; 0]);
}

#[test]
fn of_opposites_the_last_counts() {
    assert_eq!(options_of("ro").unwrap(), ["--read-only"]);
    assert_eq!(options_of("ro,rw").unwrap(), [""; 0]);
    assert_eq!(options_of("rw,noexec,ro").unwrap(), ["--read-only", "--noexec"]);
    assert_eq!(options_of("noexec,exec").unwrap(), [""; 0]);
}

#[test]
fn an_unknown_option_is_named_with_the_nearest_and_passes_with_sloppy() {
    assert_eq!(
        options_of("ro,cachedir=/x").unwrap_err(),
        "unknown mount option \"cachedir\": did you mean cache_dir?"
    );
    assert_eq!(options_of("nofial").unwrap_err(), "unknown mount option \"nofial\": did you mean nofail?");
    assert_eq!(options_of("qqq").unwrap_err(), "unknown mount option \"qqq\"");
    for internal in ["daemon", "help", "source=x"] {
        assert!(options_of(internal).unwrap_err().contains("unknown"), "{internal}");
    }
    let sloppy = request(&["s", "/m", "-s", "-o", "qqq,ro"]).unwrap();
    assert_eq!(sloppy.line, ["glancefs", "mount", "--read-only", "s", "/m"]);
}

#[test]
fn what_cannot_be_done_is_refused_with_a_cure() {
    assert!(options_of("remount,ro").unwrap_err().contains("umount it"));
    assert!(options_of("foreground").unwrap_err().contains("--foreground"));
    assert!(request(&["s", "/m", "-N", "1"]).unwrap_err().contains("nsenter"));
}

#[test]
fn a_comma_can_be_part_of_a_value() {
    for list in [r#"prefer_store="a,b",ro"#, r"prefer_store=a\,b,ro", r#""prefer_store=a,b",ro"#] {
        assert_eq!(options_of(list).unwrap(), ["--prefer-store=a,b", "--read-only"], "{list}");
    }
    assert_eq!(options_of(r"cache_dir=/a\\b\c").unwrap(), [r"--cache-dir=/a\b\c"]);
    // Bytes that are no text reach the option as they are.
    let word = OsString::from_vec(b"cache_dir=/\xff".to_vec());
    let line = read(&["s".into(), "/m".into(), "-o".into(), word]).unwrap().line;
    assert_eq!(line[2].as_bytes(), b"--cache-dir=/\xff");
}

#[test]
fn every_mount_option_means_one_thing_only() {
    let definition = options::definition();
    for name in WITHOUT_EFFECT {
        assert!(options::find(&definition, name).is_none(), "{name} is an option of ours");
    }
}
