//! The list of images over a service in memory: paging, outages, and what this mount changed itself.

use super::*;
use crate::glance::fake::FakeService;

fn catalog(service: &Arc<FakeService>, folder: &std::path::Path, allow_stale: bool) -> Arc<Catalog> {
    let config = CatalogConfig { ttl: Duration::ZERO, allow_stale };
    Arc::new(Catalog::new(service.clone(), config, Some(folder.join("list"))))
}

fn names(catalog: &Catalog) -> Vec<String> {
    let list = catalog.snapshot();
    let mut names: Vec<_> = list.iter().map(|image| image.name.as_deref().unwrap_or("").to_owned()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn every_page_is_walked_and_a_lost_marker_begins_again() {
    let (service, folder) = (Arc::new(FakeService::default()), tempfile::tempdir().unwrap());
    (0..7).for_each(|number| drop(service.add(&number.to_string(), b"")));
    service.state().page = 3;
    service.state().lost_markers = 2;
    let catalog = catalog(&service, folder.path(), false);
    catalog.start().await.unwrap();
    assert_eq!(names(&catalog), ["0", "1", "2", "3", "4", "5", "6"]);
    assert_eq!(service.state().pages, 5, "two first pages were in vain");
}

#[tokio::test]
async fn a_list_that_changes_too_fast_or_goes_in_circles_is_an_error() {
    let (service, folder) = (Arc::new(FakeService::default()), tempfile::tempdir().unwrap());
    (0..4).for_each(|number| drop(service.add(&number.to_string(), b"")));
    service.state().page = 1;
    service.state().lost_markers = usize::MAX;
    let catalog = catalog(&service, folder.path(), false);
    assert_eq!(catalog.start().await.unwrap_err().kind(), Kind::ServerError);
    service.state().lost_markers = 0;
    service.state().circular = true;
    assert_eq!(catalog.start().await.unwrap_err().kind(), Kind::ServerError);
}

#[tokio::test]
async fn the_last_good_list_stays_while_the_server_is_down() {
    let (service, folder) = (Arc::new(FakeService::default()), tempfile::tempdir().unwrap());
    service.add("a", b"");
    let catalog = catalog(&service, folder.path(), false);
    catalog.start().await.unwrap();
    service.state().down = true;
    catalog.refresh_if_stale().await;
    assert_eq!(names(&catalog), ["a"]);
    service.state().down = false;
    service.add("b", b"");
    catalog.refresh_if_stale().await;
    assert_eq!(names(&catalog), ["a", "b"]);
}

#[tokio::test]
async fn a_saved_list_serves_when_no_server_answers_and_only_when_allowed() {
    let (service, folder) = (Arc::new(FakeService::default()), tempfile::tempdir().unwrap());
    let first = catalog(&service, folder.path(), true);
    service.state().down = true;
    let error = first.start().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable);
    assert!(error.to_string().contains("no saved list"), "{error}");
    service.state().down = false;
    service.add("a", b"");
    first.start().await.unwrap();
    service.state().down = true;
    let stale = catalog(&service, folder.path(), true);
    stale.start().await.unwrap();
    assert_eq!(names(&stale), ["a"]);
    assert!(stale.schema().attributes.contains("tags"), "the schema is saved with it");
    let strict = catalog(&service, folder.path(), false);
    assert_eq!(strict.start().await.unwrap_err().kind(), Kind::Unreachable);
}

#[tokio::test]
async fn what_this_mount_changed_during_a_walk_wins_over_what_the_walk_saw() {
    let (service, folder) = (Arc::new(FakeService::default()), tempfile::tempdir().unwrap());
    let (kept, gone) = (service.add("kept", b""), service.add("gone", b""));
    let catalog = catalog(&service, folder.path(), false);
    catalog.start().await.unwrap();
    let before = catalog.snapshot();
    let seen_by_walk = (*before).clone();
    // While the walk is under way: one image is made here, one is deleted.
    service.add("made", b"");
    catalog.find_by_name("made").await.unwrap();
    catalog.forget(&gone);
    catalog.publish(seen_by_walk, Some(Instant::now()), &before);
    assert_eq!(names(&catalog), ["kept", "made"]);
    assert!(catalog.snapshot().get(&kept).is_some());
}

#[tokio::test]
async fn only_differences_are_announced() {
    let (service, folder) = (Arc::new(FakeService::default()), tempfile::tempdir().unwrap());
    service.add("a", b"");
    let catalog = catalog(&service, folder.path(), false);
    catalog.start().await.unwrap();
    let mut changes = catalog.subscribe();
    catalog.refresh().await.unwrap();
    assert!(changes.try_recv().is_err(), "nothing changed");
    let id = service.add("b", b"");
    catalog.refresh().await.unwrap();
    let change = changes.try_recv().unwrap();
    assert!(change.old.get(&id).is_none() && change.new.get(&id).is_some());
}

#[tokio::test]
async fn an_image_that_is_not_listed_can_be_shown_and_stays_unlisted() {
    let (service, folder) = (Arc::new(FakeService::default()), tempfile::tempdir().unwrap());
    let catalog = catalog(&service, folder.path(), false);
    catalog.start().await.unwrap();
    let id = service.add("community", b"");
    assert_eq!(catalog.show(&id).await.unwrap().id, id);
    assert!(catalog.snapshot().is_empty());
}

#[tokio::test]
async fn an_image_that_the_server_calls_gone_is_forgotten() {
    let (service, folder) = (Arc::new(FakeService::default()), tempfile::tempdir().unwrap());
    let id = service.add("a", b"");
    let catalog = catalog(&service, folder.path(), false);
    catalog.start().await.unwrap();
    service.state().records.clear();
    assert_eq!(catalog.show(&id).await.unwrap_err().kind(), Kind::NotFound);
    assert!(catalog.snapshot().is_empty());
}
