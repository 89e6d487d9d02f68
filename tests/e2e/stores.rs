//! Which store of several serves an image (`--prefer-store`).

use crate::harness::{Cloud, PROGRAM, pattern, run_with};

#[test]
fn an_image_is_served_from_the_store_that_is_preferred() {
    let cloud = Cloud::of_stores();
    let [first, second] = [pattern(450, 3_000_000), pattern(451, 3_000_000)];
    let id = cloud.image("preferred.raw", &first);
    run_with(&format!("{PROGRAM} copy {id} --to-store file2"), &cloud.variables(None)).expect_success();
    // So that the bytes tell where they come from.
    std::fs::write(cloud.folder().join("glance/images2").join(&id), &second).unwrap();
    let usual = cloud.mount("--verify none");
    assert!(usual.read("preferred.raw") == first);
    for stores in ["file2", "file2,http"] {
        let mount = cloud.mount(&format!("--verify none --prefer-store {stores}"));
        assert!(mount.read("preferred.raw") == second, "{stores}");
        assert!(!mount.log().contains("--prefer-store"), "{}", mount.log());
    }
    let asked = cloud.requests(&format!("GET /v2/images/{id}/file?prefer=file2 "));
    assert!(!asked.is_empty());
    // What the store does not have comes from where it is.
    cloud.image("elsewhere.raw", &first);
    let mount = cloud.mount("--prefer-store file2");
    assert!(mount.read("elsewhere.raw") == first);
    assert!(!mount.log().contains("--prefer-store"), "{}", mount.log());
}

#[test]
fn a_store_that_is_none_is_told_once_and_images_are_read() {
    let cloud = Cloud::of_stores();
    let content = pattern(452, 2_000_000);
    let mount = cloud.mount("--prefer-store file,ceph");
    for name in ["preferred-nowhere.raw", "preferred-nowhere-2.raw"] {
        cloud.image(name, &content);
        assert!(mount.read(name) == content);
    }
    let log = mount.log();
    assert_eq!(log.matches("--prefer-store file,ceph has no effect").count(), 1, "{log}");
    assert!(log.contains("Store 'ceph' is not configured"), "{log}");
}
