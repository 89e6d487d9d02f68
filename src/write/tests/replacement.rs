//! An image that takes the place of another: the old one goes when the new one is there, and not sooner.

use super::rig;
use crate::write::Intent;
use crate::write::fake::{Fault, image, intent};

#[tokio::test]
async fn a_replacement_takes_over_and_the_old_image_goes() {
    let rig = rig();
    let mut old = image(7);
    old.protected = true;
    old.record = r#"{"visibility": "shared", "tags": ["a"], "os_version": "12"}"#.into();
    rig.glance.state().images.insert(old.id.clone(), (old.clone(), bytes::Bytes::new()));
    let draft = rig.draft_of(Intent { replaces: Some(old.clone()), ..intent("old") }, b"data");
    let image = draft.commit().await.unwrap();
    assert_eq!(draft.warning(), None);
    assert!(rig.glance.only_image().0.protected);
    assert_eq!(rig.glance.only_image().0.id, image.id);
    let created = rig.glance.state().created[0].properties.clone();
    assert!(created.contains(&("os_version".into(), "12".into())));
    assert!(!created.iter().any(|(key, _)| key == "protected"));
}

#[tokio::test]
async fn an_old_image_that_cannot_be_deleted_is_a_warning() {
    let rig = rig();
    let old = image(7);
    rig.glance.state().images.insert(old.id.clone(), (old.clone(), bytes::Bytes::new()));
    rig.glance.will(&[Fault::KeepRecord]);
    let draft = rig.draft_of(Intent { replaces: Some(old.clone()), ..intent("old") }, b"data");
    draft.commit().await.unwrap();
    assert!(draft.warning().unwrap().contains(old.id.as_str()));
    assert_eq!(rig.files(), 0);
}

#[tokio::test]
async fn a_failed_replacement_leaves_the_old_image_alone() {
    let rig = rig();
    let old = image(7);
    rig.glance.state().images.insert(old.id.clone(), (old.clone(), bytes::Bytes::new()));
    rig.glance.will(&[Fault::Corrupt]);
    let draft = rig.draft_of(Intent { replaces: Some(old.clone()), ..intent("old") }, b"data");
    assert!(draft.commit().await.is_err());
    assert_eq!(rig.glance.only_image().0.id, old.id);
}
