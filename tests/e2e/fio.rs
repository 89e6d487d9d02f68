//! `fio --verify`: a file that fio wrote with a checksum in each block is uploaded, and fio checks it on the mount.

use crate::harness::{Cloud, leave_out, run, sh};

#[test]
fn fio_verifies_what_it_wrote_and_cp_uploaded() {
    if !run("fio --version").succeeded() {
        leave_out!("fio is not installed");
    }
    let cloud = Cloud::open();
    // Read past the daemon once it is here; and never here as a whole.
    for (name, options) in [("fio-whole.raw", ""), ("fio-part.raw", "--passthrough off --cache-size 24M")] {
        let mount = cloud.mount(options);
        let source = mount.beside().path("source");
        // Each block says where it belongs and has its CRC; 64 KiB are a block of the cache, so that none could be
        // taken for another.
        let job = "fio --name=verifiable --bs=64k --size=32M --verify=crc32c --verify_fatal=1";
        sh!("{job} --rw=write --do_verify=0 --filename={source}");
        sh!("cp {source} {mount}/{name}");
        // The upload is in the cache as a whole; a mount that has nothing has to fetch it.
        mount.down();
        sh!("rm -r {}/cache", mount.beside());
        mount.up();
        let job = format!("{job} --readonly --filename={mount}/{name}");
        for engine in ["psync", "mmap", "libaio", "posixaio"] {
            let direct = u8::from(engine != "mmap");
            for order in ["randread", "read"] {
                sh!("{job} --rw={order} --ioengine={engine} --iodepth=8 --direct={direct}");
            }
        }
        // Four at once, each all of it in an order of its own.
        sh!("{job} --rw=randread --ioengine=psync --numjobs=4");
        assert!(!run(&format!("{job} --rw=read --verify=md5")).succeeded(), "fio does look at the checksums");
    }
}
