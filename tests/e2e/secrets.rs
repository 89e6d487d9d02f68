//! What others can learn of a mount: no secret from anything that it writes or shows, nothing at all without being let in.

use std::io::Write;

use crate::harness::{
    Cloud, Folder, Gate, Mount, PROGRAM, background, eventually, fails, is_root, leave_out, pattern, run,
    run_with, sh,
};

type Variables = Vec<(String, String)>;

fn variables(pairs: &[(&str, &str)]) -> Variables {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Uses a mount in ways that make it write and say all that it can, and gives all of it. `gate` is before Glance.
fn all_that_shows(cloud: &Cloud, mount: &Mount, gate: &Gate, name: &str) -> String {
    let content = pattern(900, 300_000);
    let id = cloud.image(&format!("{name}.raw"), &content);
    cloud.image(&format!("{name}-unread.raw"), &content[1..]);
    mount.up();
    let mut shown = vec![
        sh!("ls -la {mount}/ {mount}/.by-id {mount}/.glancefs"),
        sh!("cmp {mount}/{name}.raw <(cat {mount}/.by-id/{id})"),
        sh!("cp {mount}/{name}.raw {mount}/{name}-copy.raw"),
        sh!("{PROGRAM} prefetch {mount}/{name}.raw 2>&1"),
        fails!("rm {mount}/{name}.raw"),
        fails!("cat {mount}/{name}-missing.raw"),
    ];
    // Its close() finds the server gone, so its spool and journal stay.
    let mut lost = std::fs::File::create(mount.path(&format!("{name}-lost.raw"))).unwrap();
    lost.write_all(b"kept").unwrap();
    gate.shut();
    drop(lost);
    shown.push(fails!("cat {mount}/{name}-unread.raw"));
    gate.open();
    eventually("the server is found again", || run(&format!("cat {mount}/{name}-unread.raw")).succeeded());
    shown.extend([
        sh!("cat {mount}/.glancefs/{{status,status.json,uploads.json,metrics,errors}}"),
        sh!("cat {mount}/.glancefs/images/*.json"),
        // Attributes that cost a request are not in the list of names.
        sh!("getfattr --absolute-names -d -m - {mount} {mount}/{name}.raw {mount}/{name}-copy.raw"),
        sh!("for which in url members stores locations; do
               getfattr --absolute-names -n user.glance.$which {mount}/{name}.raw 2>&1 || true; done"),
        sh!("{PROGRAM} status {mount}; {PROGRAM} uploads {mount}"),
        sh!("tr '\\0' ' ' < /proc/{}/cmdline; cat /proc/mounts", mount.daemon().unwrap()),
    ]);
    mount.down();
    shown.push(mount.log());
    shown.join("\n")
}

#[test]
fn no_token_and_no_password_shows_in_anything_that_a_mount_writes_or_says() {
    let cloud = Cloud::keystone();
    let token = cloud.token("alice");
    let keystone = std::fs::read_to_string(cloud.folder().join("clouds.yaml")).unwrap();
    let keystone = keystone.lines().find_map(|line| line.trim().strip_prefix("auth_url: ")).unwrap();
    let password = variables(&[
        ("OS_AUTH_URL", keystone),
        ("OS_USERNAME", "alice"),
        ("OS_PASSWORD", "alicepw"),
        ("OS_PROJECT_NAME", "alpha"),
        ("OS_USER_DOMAIN_ID", "default"),
        ("OS_PROJECT_DOMAIN_ID", "default"),
    ]);
    let given = variables(&[("OS_AUTH_TYPE", "admin_token"), ("OS_TOKEN", &token)]);
    for (name, mut variables) in [("secret-password", password), ("secret-token", given)] {
        // All that this program and its libraries can say.
        variables.push(("GLANCEFS_LOG".into(), "trace,glancefs=trace,fuser=trace".into()));
        let gate = Gate::to(&cloud.url);
        let options = format!("--endpoint {} --timeout 2s --keep-times", gate.url());
        let mount = Mount::new(variables, &options);
        let shown = all_that_shows(cloud, &mount, &gate, name);
        assert!(shown.contains("TRACE"), "the log says all that it can");
        // Keystone's tokens begin so; which ones a mount gets for itself nobody else knows.
        for secret in ["alicepw", "gAAAA", token.as_str()] {
            if let Some(at) = shown.find(secret) {
                panic!("{name}: {secret:?} in {:?}", &shown[at.saturating_sub(300)..at]);
            }
            let files = run(&format!("grep -rlaF -e '{secret}' {}", mount.beside()));
            assert_eq!((files.code(), files.stdout.as_str()), (Some(1), ""), "{name}: files with {secret:?}");
        }
        assert!(sh!("ls {}/spool", mount.beside()).contains(".json"), "a failed upload was among the files");
    }
}

#[test]
fn allow_other_never_comes_without_the_kernels_checks() {
    let cloud = Cloud::open();
    let options = |mount: &Mount| {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let line = mounts.lines().find(|line| line.split(' ').nth(1) == Some(&mount.to_string())).unwrap();
        let options = line.split(' ').nth(3).unwrap().to_owned();
        ["allow_other", "default_permissions"].map(|word| options.split(',').any(|option| option == word))
    };
    assert_eq!(options(&cloud.mount("")), [false, false]);
    if is_root() {
        assert_eq!(options(&cloud.mount("--allow-other")), [true, true]);
    }
}

#[test]
fn a_mount_of_a_user_is_closed_to_root_and_its_memory_to_other_programs_of_the_user() {
    if !is_root() {
        leave_out!("becoming another user needs root");
    }
    // A view of the machine in which users may open /dev/fuse, as udev has it; in a container it is often root's.
    let view = Folder::new("view");
    let mut holder = background(&format!(
        "exec unshare --mount --propagation private bash -c 'mount -t tmpfs none {view} &&
           mknod -m 666 {view}/fuse c 10 229 && mount --bind {view}/fuse /dev/fuse && : > {view}/ready && exec sleep 600'"
    ));
    let root = format!("nsenter --mount --target {}", holder.id());
    eventually("the view is made or refused", || {
        !holder.is_running() || run(&format!("{root} test -e {view}/ready")).succeeded()
    });
    if !holder.is_running() {
        leave_out!("no view of one's own here: {}", holder.finish());
    }
    let user = &format!("{root} setpriv --reuid 65534 --regid 65534 --clear-groups");
    let cloud = Cloud::open();
    cloud.image("users-own.raw", b"of the user");
    let folder = Folder::new("user");
    let at = folder.path("mnt");
    // The program may be where the user cannot go.
    sh!("mkdir {at} && cp {PROGRAM} {folder}/program && chown -R 65534:65534 {folder}
         chmod 755 $(dirname $(dirname {folder})) $(dirname {folder}) {folder} 2>/dev/null || true");
    let secret = variables(&[("HOME", &folder.to_string()), ("OS_PASSWORD", "of-the-environment")]);
    let line = format!(
        "{user} {folder}/program mount --os-auth-type none --endpoint {} --cache-dir {folder}/cache \
         --spool-dir {folder}/spool --log-file {folder}/log {at}",
        cloud.url
    );
    run_with(&line, &secret).expect_success();
    let daemon = process_of(&at).expect("a daemon");
    assert_eq!(sh!("{user} cat {at}/users-own.raw"), "of the user");
    let other = &format!("{root} setpriv --reuid 65533 --regid 65533 --clear-groups");
    for who in [&root, other] {
        for what in
            [format!("ls {at}"), format!("cat {at}/users-own.raw"), format!("stat {at}/.glancefs/status")]
        {
            let said = fails!("{who} {what}");
            assert!(said.contains("Permission denied"), "{who} {what}: {said}");
        }
    }
    let said = fails!("{other} ls {folder}/cache");
    assert!(said.contains("Permission denied"), "{said}");
    for file in ["environ", "mem", "maps", "fd/"] {
        let said = fails!(
            "{user} ls -l /proc/{daemon}/{file} > /dev/null && {user} head -c 1 /proc/{daemon}/{file}"
        );
        assert!(said.contains("Permission denied"), "{file}: {said}");
    }
    // Which does not keep it from being found and ended by its user.
    let umount = run_with(&format!("{user} {folder}/program umount {at}"), &secret);
    assert!(umount.succeeded() && process_of(&at).is_none(), "umount waits for the end: {umount}");
}

/// The daemon of the mount at this path; one that has ended has no command line.
fn process_of(at: &str) -> Option<u32> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let mut ids = processes.filter_map(|process| process.file_name().to_str()?.parse::<u32>().ok());
    let serves = |id: &u32| {
        let line = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|word| word == at.as_bytes())
    };
    ids.find(serves)
}
