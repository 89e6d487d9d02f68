//! The configuration file on a real mount, and `glancefs config`.

use crate::harness::{Cloud, Folder, PROGRAM, in_a_copy, leave_out, no_copy, run_with, sh};

fn variables(file: &str) -> Vec<(String, String)> {
    vec![("GLANCEFS_CONFIG".to_owned(), file.to_owned())]
}

#[test]
fn a_file_says_what_is_mounted_and_config_where_each_value_comes_from() {
    let cloud = Cloud::open();
    cloud.image("by-file.raw", b"by the file");
    let folder = Folder::new("file");
    let url = &cloud.url;
    let file = folder.file(
        "glancefs.toml",
        format!(
            "read_only = true\ntoken_command = \"echo hush\"\n[cloud.lab]\nos_auth_type = \"none\"\nendpoint = \"{url}\"\n\
             cache_dir = \"{folder}/cache\"\nlog_file = \"{folder}/log\"\n"
        ),
    );
    let variables = variables(&file);
    sh!("mkdir {folder}/m");
    run_with(&format!("{PROGRAM} mount lab {folder}/m"), &variables).expect_success();
    assert_eq!(sh!("cat {folder}/m/by-file.raw"), "by the file");
    assert!(
        sh!("grep ' {folder}/m ' /proc/mounts").starts_with(&format!("lab {folder}/m fuse.glancefs ro,"))
    );
    sh!("{PROGRAM} umount {folder}/m");
    // Commands for the cloud have the same login.
    run_with(&format!("{PROGRAM} tasks --os-cloud lab by-file.raw"), &variables).expect_success();

    let shown = run_with(
        &format!("OS_REGION_NAME=north OS_PASSWORD=hush {PROGRAM} config --timeout 5s lab"),
        &variables,
    );
    let shown = shown.expect_success();
    for (value, origin) in [
        ("timeout = \"5s\"", "option --timeout"),
        ("os_region_name = \"north\"", "variable OS_REGION_NAME"),
        ("read_only = true", &format!("{file}:1")),
        (&format!("endpoint = [\"{url}\"]"), &format!("{file}:5 [cloud.lab]")),
        ("cache_size = \"10GiB\"", "default"),
        ("hard = false", "default"),
    ] {
        let line =
            shown.lines().find(|line| line.starts_with(value)).unwrap_or_else(|| panic!("{value}: {shown}"));
        assert_eq!(line.split("  # ").last(), Some(origin), "{line}");
    }
    assert!(shown.contains("OS_PASSWORD") && !shown.contains("hush"), "{shown}");
    // It can be given back as a file.
    let again = folder.file("again.toml", &shown);
    run_with(&format!("GLANCEFS_CONFIG={again} {PROGRAM} config"), &[]).expect_success();

    let wrong = folder.file("wrong.toml", "\nread_onyl = true\n");
    let said =
        run_with(&format!("GLANCEFS_CONFIG={wrong} {PROGRAM} mount lab {folder}/m"), &[]).expect_failure();
    assert_eq!(said, format!("glancefs: {wrong}:2: unknown key \"read_onyl\": did you mean read_only?\n"));
}

#[test]
fn the_file_of_the_machine_is_found_by_mount_and_must_be_roots_alone() {
    if let Some(why) = no_copy() {
        leave_out!("{why}");
    }
    let cloud = Cloud::open();
    cloud.image("by-machine.raw", b"of the machine");
    let script = format!(
        r#"
unset GLANCEFS_CONFIG
export HOME=/var/tmp
ln -s {PROGRAM} /usr/sbin/mount.glancefs
mkdir -p /etc/glancefs /mnt/lab /var/tmp/.config/glancefs
printf '[cloud.lab]\nos_auth_type = "none"\nendpoint = "{url}"\nmetadata_ttl = "7s"\n' > /etc/glancefs/glancefs.toml
echo 'lab /mnt/lab glancefs _netdev 0 0' > /etc/fstab
mount /mnt/lab
[ "$(cat /mnt/lab/by-machine.raw)" = 'of the machine' ]
umount /mnt/lab
# The user's goes before it.
echo 'metadata_ttl = "9s"' > /var/tmp/.config/glancefs/glancefs.toml
{PROGRAM} config lab | grep -q '^metadata_ttl = "9s" *# /var/tmp/.config/glancefs/glancefs.toml:1$'
{PROGRAM} config lab | grep -q '^os_auth_type = "none" *# /etc/glancefs/glancefs.toml:2 \[cloud.lab\]$'
chmod 666 /etc/glancefs/glancefs.toml
if said=$(mount /mnt/lab 2>&1); then exit 1; fi
case $said in *'can be written by others than root'*) ;; *) echo "$said" >&2; exit 1 ;; esac
"#,
        url = cloud.url
    );
    in_a_copy(&script, &[]).expect_success();
}
