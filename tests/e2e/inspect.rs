//! `--inspect`: an image that is unsafe to use is told of or cannot be opened, for the price of its header.

use crate::harness::{Cloud, Folder, Mount, fails, pattern, run, sh};

const MIB: usize = 1024 * 1024;

/// Makes images that Glance would not take, in its http store, which it does not look into; their names, each with what is
/// to be said of it.
fn bad_images(cloud: &Cloud, prefix: &str) -> Vec<(String, &'static str)> {
    let folder = Folder::new("bad");
    let at = folder.root().display();
    sh!("cd {at} && truncate -s 1M base && qemu-img create -q -f qcow2 good 1M");
    sh!("cd {at} && qemu-img create -q -f qcow2 -b base -F raw backing");
    sh!("cd {at} && qemu-img create -q -f qcow2 -o data_file=data,data_file_raw=on data-file 1M");
    sh!("cd {at} && qemu-img create -q -f vmdk -o subformat=monolithicFlat flat 1M");
    sh!(
        "cd {at} && qemu-img create -q -f vmdk -o subformat=twoGbMaxExtentSparse split 1M && mv split-s001* extent"
    );
    let image = |file: &str, format: &str, said| {
        let name = format!("{prefix}-{file}-{format}");
        cloud.http_image(&name, &folder.path(file), &["--disk-format", format]);
        (name, said)
    };
    vec![
        image("backing", "qcow2", "backing file"),
        image("data-file", "qcow2", "another file"),
        image("good", "raw", "its content is qcow2"),
        image("base", "qcow2", "no mark of that format"),
        image("flat", "vmdk", "a description without data"),
        image("extent", "vmdk", "may name other files"),
    ]
}

fn good_images(cloud: &Cloud, prefix: &str) -> Vec<String> {
    let folder = Folder::new("good");
    let at = folder.root().display();
    sh!("cd {at} && head -c 3M /dev/urandom > data && cp data raw && qemu-img convert -O qcow2 data qcow2");
    sh!("cd {at} && qemu-img convert -O vmdk -o subformat=streamOptimized data stream");
    sh!("cd {at} && qemu-img convert -O vmdk -o subformat=monolithicSparse data sparse");
    sh!(
        "cd {at} && qemu-img convert -O vpc -o subformat=fixed data fixed && qemu-img convert -O vhdx data vhdx"
    );
    let all = [
        ("raw", "raw"),
        ("qcow2", "qcow2"),
        ("stream", "vmdk"),
        ("sparse", "vmdk"),
        ("fixed", "vhd"),
        ("vhdx", "vhdx"),
    ];
    let image = |(file, format)| {
        let name = format!("{prefix}-{file}-{format}");
        cloud.http_image(&name, &folder.path(file), &["--disk-format", format]);
        name
    };
    all.into_iter().map(image).collect()
}

fn told(mount: &Mount, what: &str) -> usize {
    mount.log().lines().filter(|line| line.contains(" WARN ") && line.contains(what)).count()
}

#[test]
fn with_inspect_deny_an_unsafe_image_cannot_be_opened_and_a_safe_one_can() {
    let cloud = Cloud::new("none", "--stores file,http");
    let (bad, good) = (bad_images(&cloud, "deny"), good_images(&cloud, "deny"));
    let mount = cloud.mount("--inspect deny");
    for (name, said) in &bad {
        for _ in 0..2 {
            let refused = fails!("cat {mount}/{name}");
            assert!(refused.contains("Operation not permitted"), "{name}: {refused}");
        }
        let errors = mount.errors();
        assert_eq!(errors.lines().filter(|line| line.contains(said)).count(), 1, "{name}: {errors}");
        let last = mount.xattr(name, "user.glancefs.last_error");
        assert!(last.contains(said), "{name}: {last}");
        assert!(told(&mount, said) > 0, "{name}: {}", mount.log());
    }
    for name in &good {
        sh!("cat {mount}/{name} > /dev/null");
    }
    assert_eq!(mount.errors().lines().count(), bad.len(), "{}", mount.errors());
}

#[test]
fn by_default_an_unsafe_image_is_told_of_once_and_can_be_read() {
    let cloud = Cloud::new("none", "--stores file,http");
    let (bad, good) = (bad_images(&cloud, "warn"), good_images(&cloud, "warn"));
    let mount = cloud.mount("");
    for (name, _) in &bad {
        sh!("cat {mount}/{name} > /dev/null && head -c 10 {mount}/{name} > /dev/null");
    }
    for name in &good {
        sh!("cat {mount}/{name} > /dev/null");
    }
    let errors = mount.errors();
    for (name, said) in &bad {
        assert_eq!(errors.lines().filter(|line| line.contains(said)).count(), 1, "{name}: {errors}");
        assert_eq!(told(&mount, said), 1, "{name}: {}", mount.log());
    }
    assert_eq!(errors.lines().count(), bad.len(), "{errors}");
}

#[test]
fn with_inspect_off_nobody_looks() {
    let cloud = Cloud::open();
    let folder = Folder::new("off");
    sh!("cd {folder} && qemu-img create -q -f qcow2 off 1M");
    cloud.http_image("off-as-raw", &folder.path("off"), &["--disk-format", "raw"]);
    let mount = cloud.mount("--inspect off");
    sh!("cat {mount}/off-as-raw > /dev/null");
    assert_eq!(mount.errors(), "");
}

#[test]
fn a_cold_image_is_opened_for_the_price_of_its_header() {
    let cloud = Cloud::open();
    let id = cloud.image("header-only.raw", &pattern(300, 8 * MIB));
    let mount = cloud.mount("--inspect deny");
    sh!("true < {mount}/header-only.raw && true < {mount}/header-only.raw");
    let asked = cloud.downloads(&id);
    assert_eq!(asked.len(), 1, "{asked:#?}");
    assert!(asked[0].contains("range=bytes=0-65535"), "{asked:#?}");

    // And by default it costs nothing at all.
    let other = cloud.image("no-header.raw", &pattern(301, 8 * MIB));
    let usual = cloud.mount("");
    sh!("true < {usual}/no-header.raw");
    assert!(
        run(&format!("dd if={usual}/no-header.raw bs=64k skip=40 count=1 status=none > /dev/null"))
            .succeeded()
    );
    let asked = cloud.downloads(&other);
    assert!(asked.iter().all(|line| !line.contains("range=bytes=0-")), "{asked:#?}");
}

#[test]
fn an_image_that_is_read_past_the_daemon_was_looked_at_before() {
    let cloud = Cloud::open();
    let folder = Folder::new("past");
    sh!("cd {folder} && qemu-img create -q -f qcow2 x 1M");
    cloud.http_image("past-as-raw", &folder.path("x"), &["--disk-format", "raw"]);
    let mount = cloud.mount("--inspect off");
    sh!("cat {mount}/past-as-raw > /dev/null");
    crate::harness::eventually("it is verified", || {
        mount.xattr("past-as-raw", "user.glancefs.verified") == "sha512"
    });
    mount.down();
    assert!(mount.try_up_with("--inspect warn").succeeded());
    sh!("head -c 1 {mount}/past-as-raw > /dev/null");
    assert!(mount.errors().contains("its content is qcow2"), "{}", mount.errors());
    mount.down();
    assert!(mount.try_up_with("--inspect deny").succeeded());
    let refused = fails!("head -c 1 {mount}/past-as-raw");
    assert!(refused.contains("Operation not permitted"), "{refused}");
}
