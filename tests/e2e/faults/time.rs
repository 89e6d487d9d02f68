//! Time: what waits, how long, and whom it holds up.
//!
//! Deadlines here are generous, since the machine of a test is busy. That a signal is heeded within a second is shown by
//! the fastest of several tries, and that none waits for `--timeout`, which is a minute, by all of them.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::{
    Cloud, Fault, Mount, PATIENCE, PROGRAM, Proxy, Rule, background, eventually, pattern, run, sh, within,
};

const MIB: usize = 1024 * 1024;

/// A mount of the shared cloud behind a proxy.
fn behind_a_proxy(options: &str) -> (Proxy, Mount) {
    let proxy = Proxy::to(&Cloud::open().url);
    let mount = Cloud::open().mount(&format!("--endpoint {} {options}", proxy.url()));
    (proxy, mount)
}

/// Signals `command` while it waits for the request that `rule` spoils: from the signal to its end.
fn let_go(proxy: &Proxy, rule: Rule, command: &str, signal: Signal) -> Duration {
    proxy.add(rule);
    proxy.take_seen();
    // Who started the tests in the background made them ignore SIGINT.
    let mut program = background(&format!("exec env --default-signal=INT {command}"));
    let met = || proxy.take_seen().iter().any(|seen| seen.spoiled);
    if !within(PATIENCE, || met() || !program.is_running()) || !program.is_running() {
        panic!("{command} met no fault: {}", program.finish());
    }
    let signalled = Instant::now();
    program.signal(signal);
    let outcome = program.finish();
    let took = signalled.elapsed();
    assert!(!outcome.succeeded(), "{outcome}");
    proxy.heal();
    took
}

#[test]
fn a_signal_lets_a_program_go_whatever_it_waits_for() {
    let cloud = Cloud::open();
    let (proxy, mount) = behind_a_proxy("--metadata-ttl 1h --allow-delete");
    let upload = mount.beside().file("upload", pattern(720, 24 * MIB));
    type Case = (&'static str, fn(&str) -> (&'static str, String), fn(&str, &str, &str) -> String);
    let cases: [Case; 8] = [
        ("read", |id| ("GET", format!("/v2/images/{id}/file")), |at, id, _| format!("cat {at}/.by-id/{id}")),
        (
            "direct",
            |id| ("GET", format!("/v2/images/{id}/file")),
            // With O_DIRECT; dd would catch SIGINT.
            |at, id, _| {
                format!(
                    "perl -e 'sysopen(F, shift, 040000) and sysread(F, $_, 65536) or die' {at}/.by-id/{id}"
                )
            },
        ),
        ("lookup", |_| ("GET", "/v2/images?*name=*".into()), |at, id, _| format!("stat {at}/unknown-{id}")),
        (
            "rename",
            |id| ("PATCH", format!("/v2/images/{id}")),
            |at, id, name| format!("mv {at}/{name} {at}/moved-{id}"),
        ),
        (
            "setxattr",
            |id| ("PATCH", format!("/v2/images/{id}")),
            |at, id, _| format!("setfattr -n user.glance.property.p -v v {at}/.by-id/{id}"),
        ),
        ("unlink", |id| ("DELETE", format!("/v2/images/{id}")), |at, id, _| format!("rm {at}/.by-id/{id}")),
        ("create", |_| ("POST", "/v2/images".into()), |at, id, _| format!("touch {at}/touched-{id}")),
        ("flush", |_| ("PUT", "/v2/images/*/file".into()), |at, id, _| format!("cp UPLOAD {at}/copied-{id}")),
    ];
    // Images of the same bytes are downloaded once.
    let mut seeds = 7210..;
    for (what, target, command) in cases {
        let mut took = Vec::new();
        for (number, signal) in [Signal::KILL, Signal::INT, Signal::TERM].into_iter().enumerate() {
            let name = format!("signalled-{what}-{number}.raw");
            let id = cloud.image(&name, &pattern(seeds.next().unwrap(), MIB));
            sh!("stat {mount}/{name} {mount}/.by-id/{id}");
            let (method, target) = target(&id);
            let rule = Rule::new(method, target, Fault::BlackHole);
            let command = command(&mount.to_string(), &id, &name).replace("UPLOAD", &upload);
            took.push(let_go(&proxy, rule, &command, signal));
        }
        let (best, worst) = (took.iter().min().unwrap(), took.iter().max().unwrap());
        assert!(*best < Duration::from_secs(1) && *worst < Duration::from_secs(8), "{what}: {took:?}");
    }
    assert!(mount.daemon().is_some());
    // What was given up holds nothing up either.
    let name = "after-the-signals.raw";
    sh!("echo after > {mount}/{name}");
    assert_eq!(cloud.only(name)["size"], 6);
}

#[test]
fn a_program_that_catches_the_signal_gets_its_reply_by_the_deadline() {
    let cloud = Cloud::open();
    let id = cloud.image("caught.raw", &pattern(722, MIB));
    let (proxy, mount) = behind_a_proxy("--timeout 3s");
    proxy.add(Rule::new("GET", format!("/v2/images/{id}/file"), Fault::BlackHole));
    let program = background(&format!(
        r#"exec python3 -c '
import errno, os, signal
signal.signal(signal.SIGTERM, lambda *_: print("caught", flush=True))
try: os.read(os.open("{mount}/.by-id/{id}", os.O_RDONLY), 4096)
except OSError as error: print(errno.errorcode[error.errno])
'"#
    ));
    eventually("it waits", || proxy.take_seen().iter().any(|seen| seen.spoiled));
    program.signal(Signal::TERM);
    let outcome = program.finish();
    // The kernel reads a page again that it could not read ahead: two replies.
    assert!(outcome.took < Duration::from_secs(6 + 10), "{outcome}");
    assert_eq!(outcome.expect_success(), "caught\nEIO");
}

#[test]
fn a_dead_server_blocks_neither_lists_nor_what_is_cached_nor_umount() {
    let cloud = Cloud::new("none", "");
    let content = pattern(723, 2 * MIB);
    cloud.image("cached.raw", &content);
    cloud.image("missing.raw", &pattern(724, MIB));
    let proxy = Proxy::to(&cloud.url);
    let mount = cloud.mount(&format!("--endpoint {} --metadata-ttl 1s", proxy.url()));
    assert!(mount.read("cached.raw") == content);
    let names = mount.names();
    proxy.add(Rule::new("*", "*", Fault::BlackHole));
    let mut reader = background(&format!("exec cat {mount}/missing.raw"));
    eventually("it waits", || proxy.take_seen().iter().any(|seen| seen.target.ends_with("/file")));
    std::thread::sleep(Duration::from_millis(1100));
    let source = mount.beside().file("source", &content);
    for command in [
        format!("ls -l {mount}"),
        format!("cmp {mount}/cached.raw {source}"),
        format!("dd if={mount}/cached.raw bs=1M iflag=direct status=none | cmp - {source}"),
        format!("cat {mount}/.glancefs/status"),
        format!("{PROGRAM} uploads {mount}"),
    ] {
        let outcome = run(&command);
        // 5 s for a list, where a minute is the deadline.
        assert!(outcome.succeeded() && outcome.took < Duration::from_secs(5 + 10), "{outcome}");
    }
    assert_eq!(mount.names(), names);
    assert!(reader.is_running(), "nobody waits for it");
    // A mount in use is busy, as every one is; that is told at once.
    let busy = run(&format!("{PROGRAM} umount {mount}"));
    assert!(busy.took < Duration::from_secs(10), "{busy}");
    assert!(busy.expect_failure().contains("is in use"));
    reader.signal(Signal::KILL);
    reader.finish();
    let down = run(&format!("{PROGRAM} umount {mount}"));
    assert!(down.succeeded() && down.took < Duration::from_secs(30) && !mount.is_mounted(), "{down}");
}

#[test]
fn an_image_whose_data_do_not_come_blocks_no_other() {
    let cloud = Cloud::open();
    let stuck = cloud.image("never-comes.raw", &pattern(725, 32 * MIB));
    let content = pattern(726, 4 * MIB);
    cloud.image("flows.raw", &content);
    let (proxy, mount) = behind_a_proxy("");
    proxy.add(Rule::new("GET", format!("/v2/images/{stuck}/file"), Fault::BlackHole));
    let readers: Vec<_> = (0..12)
        .map(|at| {
            background(&format!("exec dd if={mount}/never-comes.raw of=/dev/null bs=64K skip={}", at * 40))
        })
        .collect();
    eventually("they wait", || proxy.take_seen().iter().any(|seen| seen.spoiled));
    std::thread::sleep(Duration::from_secs(1));
    let source = mount.beside().file("source", &content);
    let other = run(&format!("cmp {mount}/flows.raw {source}"));
    assert!(other.succeeded() && other.took < Duration::from_secs(20), "{other}");
    readers.iter().for_each(|reader| reader.signal(Signal::KILL));
}

#[test]
fn a_hard_mount_never_gives_up_and_still_lets_the_killed_go() {
    let cloud = Cloud::open();
    let content = pattern(727, 2 * MIB);
    let id = cloud.image("hard.raw", &content);
    let (proxy, mount) = behind_a_proxy("--hard --timeout 1s --metadata-ttl 1h");
    let source = mount.beside().file("source", &content);
    let new = mount.beside().file("new", pattern(728, MIB));
    sh!("stat {mount}/hard.raw");
    for (round, fault) in [Fault::BlackHole, Fault::Status(503, None), Fault::Reset].into_iter().enumerate() {
        proxy.add(Rule::new("*", "*", fault.clone()));
        let mut waiting: Vec<_> = [
            format!("cmp {mount}/hard.raw {source}"),
            format!("setfattr -n user.glance.property.round -v {round} {mount}/.by-id/{id}"),
            format!("cp {new} {mount}/hard-{round}.raw"),
        ]
        .iter()
        .map(|command| background(command))
        .collect();
        // Four times the deadline of a mount that is not hard.
        std::thread::sleep(Duration::from_secs(4));
        // What was read once is cached.
        let read_before = round > 0;
        let running: Vec<_> = waiting.iter_mut().map(|command| command.is_running()).collect();
        assert_eq!(running, [!read_before, true, true], "{fault:?}: {}", mount.log());
        proxy.heal();
        waiting.into_iter().for_each(|command| drop(command.finish().expect_success()));
        assert_eq!(cloud.record(&id)["round"], round.to_string());
        cloud.only(&format!("hard-{round}.raw"));
    }
    let rule = Rule::new("PATCH", format!("/v2/images/{id}"), Fault::BlackHole);
    let took = let_go(
        &proxy,
        rule,
        &format!("setfattr -n user.glance.property.round -v killed {mount}/.by-id/{id}"),
        Signal::KILL,
    );
    assert!(took < Duration::from_secs(8), "{took:?}");
}

/// A mount of the cloud with Keystone, behind proxies to Keystone and to Glance.
fn with_proxied_keystone(options: &str) -> (Proxy, Proxy, Mount) {
    let cloud = Cloud::keystone();
    let clouds = std::fs::read_to_string(cloud.folder().join("clouds.yaml")).unwrap();
    let auth_url = clouds.lines().find_map(|line| line.trim().strip_prefix("auth_url: ")).unwrap();
    let origin = auth_url.trim_matches(['"', '\'']).trim_end_matches("/v3");
    let (keystone, glance) = (Proxy::to(origin), Proxy::to(&cloud.url));
    let folder = cloud.folder().join(format!("proxied-{}", glance.url().rsplit(':').next().unwrap()));
    std::fs::create_dir(&folder).unwrap();
    let file = folder.join("clouds.yaml");
    std::fs::write(&file, clouds.replace(origin, &keystone.url())).unwrap();
    let mut variables = cloud.variables(None);
    let named = variables.iter_mut().find(|(name, _)| name == "OS_CLIENT_CONFIG_FILE").unwrap();
    named.1 = file.to_str().unwrap().to_owned();
    let mount = Mount::new(variables, &format!("--endpoint {} {options}", glance.url()));
    mount.up();
    (keystone, glance, mount)
}

#[test]
fn an_expired_token_refused_credentials_and_an_absent_keystone_are_told_apart() {
    let cloud = Cloud::keystone();
    let id = cloud.image("told-apart.raw", b"told apart");
    let (keystone, glance, mount) = with_proxied_keystone("--timeout 3s --metadata-ttl 1h");
    let path = format!("{mount}/.by-id/{id}");
    let change = |value: &str| run(&format!("setfattr -n user.glance.property.told -v {value} {path}"));
    sh!("stat {path}");
    let all = |fault: Fault| Rule::new("*", "*", fault);
    // Longer than logins follow each other.
    let pause = || std::thread::sleep(Duration::from_millis(1300));

    // Expired, or revoked: Glance refuses the token, and a new login is all it takes.
    pause();
    glance.add(all(Fault::Status(401, None)).times(1));
    change("expired").expect_success();
    assert_eq!(cloud.record(&id)["told"], "expired");
    assert!(keystone.take_seen().iter().filter(|seen| seen.method == "POST").count() >= 2, "a login each");
    glance.heal();

    // Keystone is away, and so Glance refuses what it has not seen: nobody is refused, somebody is away.
    pause();
    glance.add(all(Fault::Status(401, None)));
    keystone.add(all(Fault::Reset));
    let away = change("away");
    assert!(away.took < Duration::from_secs(3 + 10), "{away}");
    assert!(away.expect_failure().contains("timed out"), "{}", mount.log());
    assert!(mount.log().contains("the token could not be renewed"), "{}", mount.log());

    // Keystone refuses the credentials.
    keystone.heal();
    pause();
    keystone.add(Rule::new("POST", "*", Fault::Status(401, None)));
    assert!(change("refused").expect_failure().contains("Permission denied"), "{}", mount.log());
    assert!(mount.log().contains("401"), "{}", mount.log());

    // Keystone is there for us, and Glance refuses the new token as well: it cannot reach Keystone, or has another.
    keystone.heal();
    std::thread::sleep(Duration::from_secs(3));
    assert!(change("twice").expect_failure().contains("Permission denied"), "{}", mount.log());

    // All of it passes by itself.
    glance.heal();
    eventually("it works again", || change("again").succeeded());
    assert_eq!(cloud.record(&id)["told"], "again");
}

#[test]
fn a_keystone_that_is_away_when_the_token_ends_is_waited_for() {
    let cloud = Cloud::keystone();
    let id = cloud.image("waits-for-login.raw", b"waits");
    let (keystone, glance, mount) = with_proxied_keystone("--timeout 20s --metadata-ttl 1h");
    sh!("stat {mount}/.by-id/{id}");
    // Longer than logins follow each other.
    std::thread::sleep(Duration::from_millis(1300));
    glance.add(Rule::new("*", "*", Fault::Status(401, None)).times(1));
    keystone.add(Rule::new("*", "*", Fault::Reset).times(4));
    assert_eq!(sh!("cat {mount}/.by-id/{id}"), "waits");
    let failed = mount.log().matches("the token could not be renewed").count();
    assert_eq!(failed, 1, "told once: {}", mount.log());
}
