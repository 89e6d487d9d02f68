//! The program as a person meets it: exit codes and messages, without a mount.

#![allow(clippy::unwrap_used, reason = "a test may stop at what should not be")]

use std::process::{Command, Output};

/// Runs glancefs with these arguments and nothing in the environment but `variables`.
fn glancefs(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_glancefs"));
    command
        .args(arguments)
        .env_clear()
        .env("GLANCEFS_CONFIG", "/dev/null")
        .envs(variables.iter().copied())
        .output()
        .unwrap()
}

/// Exit code, standard output and standard error.
fn told(arguments: &[&str], variables: &[(&str, &str)]) -> (i32, String, String) {
    let output = glancefs(arguments, variables);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn help_and_version_succeed_on_standard_output() {
    for arguments in [&["--help"][..], &["mount", "--help"], &["umount", "--help"], &["--version"]] {
        let (code, output, errors) = told(arguments, &[("OS_TOKEN", "hush"), ("OS_CLOUD", "mine")]);
        assert_eq!((code, errors.as_str()), (0, ""), "{arguments:?}");
        assert!(output.contains("glancefs"));
        // Help that showed what a variable holds would put it on every screen share.
        assert!(!output.contains("hush") && !output.contains("mine"), "{output}");
    }
}

#[test]
fn a_line_that_cannot_be_read_gives_2() {
    for arguments in [&[][..], &["mount"], &["mount", "--no-such", "/m"], &["fly"]] {
        let (code, output, errors) = told(arguments, &[]);
        assert_eq!((code, output.as_str()), (2, ""), "{arguments:?}");
        assert!(!errors.is_empty());
    }
}

#[test]
fn a_failed_mount_gives_1_and_one_message_with_the_cure() {
    let folder = tempfile::tempdir().unwrap();
    let mountpoint = folder.path().to_str().unwrap();
    let (code, output, errors) = told(&["mount", mountpoint], &[]);
    assert_eq!((code, output.as_str()), (1, ""));
    assert!(errors.starts_with("glancefs: ") && errors.contains("--os-cloud"), "{errors}");
    assert_eq!(errors.matches("glancefs: ").count(), 1, "{errors}");

    let (code, _, errors) = told(&["mount", "/no/such/place"], &[("OS_CLOUD", "c")]);
    assert_eq!(code, 1);
    assert!(errors.contains("mkdir -p /no/such/place"), "{errors}");
}

#[test]
fn the_background_part_tells_its_failure_through_standard_output() {
    let (code, output, errors) = told(&["mount", "--daemon", "/no/such/place"], &[("OS_CLOUD", "c")]);
    assert_eq!((code, errors.as_str()), (1, ""));
    assert!(output.starts_with("failed\nthe mount point /no/such/place does not exist"), "{output}");
}

#[test]
fn a_failure_behind_the_scenes_reaches_the_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let mountpoint = folder.path().to_str().unwrap();
    let variables = [("OS_AUTH_TYPE", "none"), ("OS_ENDPOINT", "http://127.0.0.1:1"), ("HOME", mountpoint)];
    let arguments = ["mount", "--cache-dir=/var/cache/x", "--log-file=/no/such/log", mountpoint];
    let (code, _, errors) = told(&arguments, &variables);
    assert_eq!(code, 1);
    assert!(errors.starts_with("glancefs: --log-file /no/such/log cannot be written"), "{errors}");
    assert_eq!(errors.matches("glancefs: ").count(), 1, "{errors}");
}

#[test]
fn unmounting_what_is_not_mounted_gives_1() {
    let folder = tempfile::tempdir().unwrap();
    let (code, _, errors) = told(&["umount", folder.path().to_str().unwrap()], &[]);
    assert_eq!(code, 1);
    assert!(errors.starts_with("glancefs: no glancefs is mounted at "), "{errors}");
}
