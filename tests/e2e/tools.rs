//! `qemu-img` on both ends, and an image as a block device.

use std::path::Path;

use serde_json::json;

use crate::harness::{Cloud, Mount, eventually, leave_out, run, sh};

/// A disk of 24 MiB with an ext4 in it, whose files a loop mount can compare, and some holes.
fn disk(mount: &Mount) -> String {
    let beside = mount.beside();
    sh!(
        "cd {beside} && mkdir content && head -c 5M /dev/urandom > content/random && echo hello > content/hello
         mkfs.ext4 -q -d content disk.raw 24M"
    );
    beside.path("disk.raw")
}

#[test]
fn qemu_img_reads_a_mounted_qcow2() {
    let cloud = Cloud::open();
    let mount = cloud.mount("");
    let disk = disk(&mount);
    let source = format!("{disk}.qcow2");
    sh!("qemu-img convert -f raw -O qcow2 {disk} {source}");
    let id = cloud
        .image_of(json!({"name": "read.qcow2", "disk_format": "qcow2"}), &std::fs::read(&source).unwrap());
    let image = format!("{mount}/.by-id/{id}");
    let info = sh!("qemu-img info {image}");
    assert!(info.contains("file format: qcow2") && info.contains("virtual size: 24 MiB"), "{info}");
    sh!("qemu-img check -q {image}");
    sh!("qemu-img compare {image} {source}");
    sh!("qemu-img compare -f qcow2 -F raw {mount}/read.qcow2 {disk}");
    sh!("qemu-img convert -O raw {image} {disk}.back && cmp {disk}.back {disk}");
    sh!("qemu-img convert -T none -O raw {image} {disk}.direct && cmp {disk}.direct {disk}");
    sh!("qemu-img map --output=json {image} > /dev/null");
    // A disk on top of it, as a hypervisor makes one.
    sh!(
        "qemu-img create -q -f qcow2 -b {image} -F qcow2 {disk}.overlay && qemu-img compare {disk}.overlay {source}"
    );
}

#[test]
fn qemu_img_convert_ends_as_exactly_one_image() {
    let cloud = Cloud::open();
    let mount = cloud.mount("");
    let disk = disk(&mount);
    for (name, options, format) in [
        ("out.raw", "-O raw", "raw"),
        ("out-w.raw", "-W -O raw", "raw"),
        ("out.qcow2", "-O qcow2", "qcow2"),
        ("out-w.qcow2", "-W -m 8 -O qcow2", "qcow2"),
        ("out-c.qcow2", "-c -O qcow2", "qcow2"),
        ("out-prealloc.qcow2", "-O qcow2 -o preallocation=metadata", "qcow2"),
        ("out.vmdk", "-O vmdk -o subformat=streamOptimized", "vmdk"),
        ("out-sparse.vmdk", "-O vmdk", "vmdk"),
        ("out.vhdx", "-O vhdx", "vhdx"),
        ("out.vdi", "-O vdi", "vdi"),
        ("out.vhd", "-O vpc", "vhd"),
        ("out-none.qcow2", "-t none -O qcow2", "qcow2"),
        ("out-writethrough.raw", "-t writethrough -O raw", "raw"),
    ] {
        sh!("qemu-img convert -f raw {options} {disk} {mount}/{name}");
        // It may open its file again as long as it runs: the image is there soon after its end.
        eventually(&format!("{name} is active"), || {
            cloud.named(name).iter().any(|image| image["status"] == "active")
        });
        assert_eq!(cloud.only(name)["disk_format"], format, "{name}");
        let driver = format.replace("vhd", "vpc").replace("vpcx", "vhdx");
        // vpc rounds the size up to its cylinders.
        let strict = if driver == "vpc" { "" } else { "-s" };
        sh!(
            "qemu-img compare {strict} -f raw -F {driver} {disk} {mount}/{name}",
            strict = strict.replace("-s", "")
        );
    }
    assert_eq!(sh!("find {}/spool -type f | wc -l", mount.beside()), "0");
}

#[test]
fn qemu_img_create_ends_as_exactly_one_image() {
    let cloud = Cloud::open();
    let mount = cloud.mount("");
    // Several times, since the end of a process and the release of its files race.
    for (number, format) in ["qcow2", "raw", "qcow2", "vmdk", "qcow2", "vhdx"].into_iter().enumerate() {
        let name = format!("created-{number}.{format}");
        sh!("qemu-img create -q -f {format} {mount}/{name} 16M");
        eventually(&format!("{name} is active"), || {
            cloud.named(&name).iter().any(|image| image["status"] == "active")
        });
        let record = cloud.only(&name);
        assert_eq!(record["disk_format"], format);
        let info = sh!("qemu-img info -f {format} {mount}/{name}");
        assert!(info.contains("virtual size: 16 MiB"), "{info}");
    }
}

#[test]
fn an_upload_by_qemu_img_that_fails_publishes_nothing_and_is_told() {
    let cloud = Cloud::new("none", "--set DEFAULT.image_size_cap=1000000");
    let mount = cloud.mount("");
    let disk = disk(&mount);
    for format in ["raw", "qcow2"] {
        // qemu-img does not look at what close(2) returns, and nothing before it can know: its exit
        // code says nothing.
        let name = format!("refused.{format}");
        let _ = run(&format!("qemu-img convert -f raw -O {format} {disk} {mount}/{name}"));
        eventually("the failure is told", || mount.errors().contains(&format!("\"{name}\"")));
        assert!(mount.errors().contains("larger than the cloud allows"), "{}", mount.errors());
        assert!(cloud.named(&name).iter().all(|image| image["status"] != "active"));
        assert!(!mount.names().contains(&name));
    }
}

#[test]
fn a_raw_image_is_a_read_only_disk() {
    if !crate::harness::is_root() || !Path::new("/dev/loop-control").exists() {
        leave_out!("loop devices need root and /dev/loop-control");
    }
    let cloud = Cloud::open();
    let mount = cloud.mount("");
    let disk = disk(&mount);
    cloud.image("disk.raw", &std::fs::read(&disk).unwrap());
    let inside = mount.beside().path("inside");
    sh!(
        "mkdir {inside}
         device=$(losetup --find --show --read-only {mount}/disk.raw)
         trap 'umount {inside} 2>/dev/null || true; losetup -d $device' EXIT
         mount -o ro $device {inside}
         diff -r --exclude lost+found {inside} {beside}/content
         [ \"$(cat {inside}/hello)\" = hello ]
         if touch {inside}/new 2>/dev/null; then exit 1; fi",
        beside = mount.beside()
    );
    // The same by mount(8) alone.
    sh!(
        "mount -o loop,ro {mount}/disk.raw {inside} && cmp {inside}/random {}/content/random; umount {inside}",
        mount.beside()
    );
}
