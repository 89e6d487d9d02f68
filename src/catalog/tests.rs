//! The list of images over a service in memory: refreshes and what they cost, outages, and what this
//! mount changed itself.

use super::*;
use crate::glance::fake::FakeService;

fn catalog(service: &Arc<FakeService>, folder: &std::path::Path, allow_stale: bool) -> Arc<Catalog> {
    let config = CatalogConfig { ttl: Duration::ZERO, allow_stale, ..config() };
    Arc::new(Catalog::new(service.clone(), config, Some(folder.join("list"))))
}

fn config() -> CatalogConfig {
    CatalogConfig { ttl: Duration::from_secs(3600), timeout: Duration::from_secs(60), allow_stale: false }
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
    eventually(|| folder.path().join("list").exists()).await;
    service.state().down = true;
    let stale = catalog(&service, folder.path(), true);
    stale.start().await.unwrap();
    assert_eq!(names(&stale), ["a"]);
    assert!(stale.schema().attributes.contains("tags"), "the schema is saved with it");
    let strict = catalog(&service, folder.path(), false);
    assert_eq!(strict.start().await.unwrap_err().kind(), Kind::Unreachable);
}

#[tokio::test(start_paused = true)]
async fn where_a_saved_list_can_stand_in_the_first_answer_is_not_waited_for_long() {
    let (service, folder) = (Arc::new(FakeService::default()), tempfile::tempdir().unwrap());
    service.add("a", b"");
    catalog(&service, folder.path(), true).start().await.unwrap();
    eventually(|| folder.path().join("list").exists()).await;
    service.state().stuck = true;
    let stale = catalog(&service, folder.path(), true);
    let begun = tokio::time::Instant::now();
    stale.start().await.unwrap();
    assert_eq!((names(&stale), stale.is_failing()), (vec!["a".to_owned()], true));
    assert!(begun.elapsed() < Duration::from_secs(20));
    for without in
        [catalog(&service, folder.path(), false), catalog(&service, &folder.path().join("none"), true)]
    {
        tokio::time::timeout(Duration::from_secs(50), without.start()).await.unwrap_err();
    }
}

#[tokio::test]
async fn what_this_mount_changed_during_a_walk_wins_over_what_the_walk_saw() {
    let (service, folder) = (Arc::new(FakeService::default()), tempfile::tempdir().unwrap());
    let (kept, gone) = (service.add("kept", b""), service.add("gone", b""));
    let catalog = catalog(&service, folder.path(), false);
    catalog.start().await.unwrap();
    let before = catalog.snapshot();
    // While a walk is under way: one image is made here, one is deleted.
    service.add("made", b"");
    catalog.find_by_name("made").await.unwrap();
    catalog.forget(&gone);
    // The walk saw the one that is deleted by now, in another state than before.
    let seen = Image { protected: true, ..Image::clone(before.get(&gone).unwrap()) };
    let edits = vec![put(&Arc::new(seen))];
    catalog.publish(&before, Found { edits, news: 1 }, Some(Instant::now())).await.unwrap();
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

/// A catalogue of `count` images that is refreshed only when the test says so.
async fn of_many(count: usize) -> (Arc<FakeService>, Arc<Catalog>, tempfile::TempDir) {
    let (service, folder) = (Arc::new(FakeService::default()), tempfile::tempdir().unwrap());
    (0..count).for_each(|number| drop(service.add(&format!("image-{number}"), b"")));
    service.state().page = 100;
    let config = CatalogConfig { allow_stale: true, ..config() };
    let catalog = Arc::new(Catalog::new(service.clone(), config, Some(folder.path().join("list"))));
    catalog.start().await.unwrap();
    service.state().pages = 0;
    (service, catalog, folder)
}

/// Requests of one refresh.
async fn cost_of_refresh(service: &FakeService, catalog: &Catalog) -> usize {
    catalog.refresh().await.unwrap();
    std::mem::take(&mut service.state().pages)
}

#[tokio::test]
async fn a_refresh_without_news_costs_one_request_and_each_tenth_walks_the_whole_list() {
    let (service, catalog, _folder) = of_many(300).await;
    let mut changes = catalog.subscribe();
    for _ in 0..2 {
        for _ in 1..10 {
            assert_eq!(cost_of_refresh(&service, &catalog).await, 1);
        }
        assert_eq!(cost_of_refresh(&service, &catalog).await, 1 + 3);
    }
    assert!(changes.try_recv().is_err(), "nothing is announced");
}

#[tokio::test]
async fn new_and_changed_images_show_after_one_request_and_deleted_ones_after_a_walk() {
    let (service, catalog, _folder) = of_many(300).await;
    let (renamed, gone) = {
        let list = catalog.snapshot();
        let mut ids = list.iter().map(|image| image.id.clone());
        (ids.next().unwrap(), ids.next().unwrap())
    };
    let made = service.add("made", b"");
    {
        let mut state = service.state();
        let at = state.tick();
        let record = state.records.get_mut(&renamed).unwrap();
        (record["name"], record["updated_at"]) = ("renamed".into(), at);
        state.records.remove(&gone);
    }
    let mut changes = catalog.subscribe();
    assert_eq!(cost_of_refresh(&service, &catalog).await, 1);
    let list = catalog.snapshot();
    assert_eq!(list.names().find("made"), Some(&made));
    assert_eq!(list.names().find("renamed"), Some(&renamed));
    let change = changes.try_recv().unwrap();
    assert_eq!(change.old.changed_in(&change.new).count(), 1);
    assert!(list.get(&gone).is_some(), "no filter shows deletions");
    for _ in 1..10 {
        catalog.refresh().await.unwrap();
    }
    assert!(catalog.snapshot().get(&gone).is_none());
    assert_eq!(catalog.snapshot().len(), 300);
}

#[tokio::test]
async fn a_change_to_a_status_that_no_list_shows_takes_the_image_away() {
    let (service, catalog, _folder) = of_many(300).await;
    let ids: Vec<_> = catalog.snapshot().iter().map(|image| image.id.clone()).take(2).collect();
    for (id, status) in ids.iter().zip(["killed", "deleted"]) {
        let mut state = service.state();
        let at = state.tick();
        let record = state.records.get_mut(id).unwrap();
        (record["status"], record["updated_at"]) = (status.into(), at);
    }
    // As v1 tells of them; one that was never listed is none to take away.
    let stranger = service.add("stranger", b"");
    service.state().records.get_mut(&stranger).unwrap()["status"] = "deleted".into();
    let mut changes = catalog.subscribe();
    cost_of_refresh(&service, &catalog).await;
    assert_eq!(catalog.snapshot().len(), 298);
    assert!(ids.iter().all(|id| catalog.snapshot().get(id).is_none()));
    assert!(changes.try_recv().is_ok());
}

#[tokio::test]
async fn a_list_of_few_images_is_walked_each_time() {
    let (service, catalog, _folder) = of_many(100).await;
    let gone = catalog.snapshot().iter().next().unwrap().id.clone();
    service.state().records.remove(&gone);
    assert_eq!(cost_of_refresh(&service, &catalog).await, 1);
    assert!(catalog.snapshot().get(&gone).is_none());
}

#[tokio::test]
async fn a_thousand_images_of_one_second_do_not_come_again_each_time() {
    let (service, catalog, _folder) = of_many(300).await;
    let at = service.state().tick();
    service.state().records.values_mut().for_each(|record| record["updated_at"] = at.clone());
    assert_eq!(cost_of_refresh(&service, &catalog).await, 6, "now they are new: 50 a page");
    assert_eq!(cost_of_refresh(&service, &catalog).await, 1);
    service.add("made", b"");
    assert_eq!(cost_of_refresh(&service, &catalog).await, 2, "a page with news, a page without");
    assert!(catalog.snapshot().names().find("made").is_some());
}

#[tokio::test]
async fn what_this_mount_did_itself_does_not_hide_what_others_did() {
    let (service, catalog, _folder) = of_many(300).await;
    let made = service.add("by another", b"");
    // More than a page, all later.
    for number in 0..60 {
        let name = format!("ours-{number}");
        service.add(&name, b"");
        catalog.find_by_name(&name).await.unwrap();
    }
    catalog.refresh().await.unwrap();
    assert!(catalog.snapshot().get(&made).is_some());
    service.state().pages = 0;
    assert_eq!(cost_of_refresh(&service, &catalog).await, 1, "ours are put away by now");
}

#[tokio::test]
async fn a_record_from_the_future_hides_nothing() {
    let (service, catalog, _folder) = of_many(300).await;
    let odd = service.add("from the future", b"");
    service.state().records.get_mut(&odd).unwrap()["updated_at"] = "2345-06-07T08:09:10Z".into();
    catalog.refresh().await.unwrap();
    let made = service.add("made", b"");
    let now = jiff::Timestamp::now().to_string();
    service.state().records.get_mut(&made).unwrap()["updated_at"] = now.into();
    assert_eq!(cost_of_refresh(&service, &catalog).await, 2);
    assert!(catalog.snapshot().get(&made).is_some());
}

#[tokio::test]
async fn a_server_that_knows_no_filter_by_time_is_walked() {
    let (service, catalog, _folder) = of_many(300).await;
    service.state().ancient = true;
    service.add("made", b"");
    assert_eq!(cost_of_refresh(&service, &catalog).await, 1 + 4);
    assert!(catalog.snapshot().names().find("made").is_some());
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_walk_that_takes_long() {
    let (service, folder) = (Arc::new(FakeService::default()), tempfile::tempdir().unwrap());
    service.add("a", b"");
    let catalog = catalog(&service, folder.path(), false);
    catalog.start().await.unwrap();
    service.state().stuck = true;
    let began = tokio::time::Instant::now();
    catalog.refresh_if_stale().await;
    let first = began.elapsed();
    assert!(first >= PATIENCE && first < 2 * PATIENCE, "{first:?}");
    for _ in 0..1000 {
        catalog.refresh_if_stale().await;
    }
    assert!(began.elapsed() < 2 * PATIENCE, "one wait for one refresh, not one for each look");
    assert_eq!(names(&catalog), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn the_old_list_is_shown_before_the_deadline_of_the_reply() {
    let (service, folder) = (Arc::new(FakeService::default()), tempfile::tempdir().unwrap());
    service.add("a", b"");
    let timeout = Duration::from_secs(2);
    let config = CatalogConfig { ttl: Duration::ZERO, timeout, ..config() };
    let catalog = Arc::new(Catalog::new(service.clone(), config, Some(folder.path().join("list"))));
    catalog.start().await.unwrap();
    service.state().stuck = true;
    let began = tokio::time::Instant::now();
    catalog.refresh_if_stale().await;
    assert!(began.elapsed() < timeout, "{:?}", began.elapsed());
    assert_eq!(names(&catalog), ["a"]);
}

#[tokio::test]
async fn what_was_changed_shows_while_the_whole_list_is_still_walked() {
    let (service, catalog, _folder) = of_many(300).await;
    for _ in 1..10 {
        catalog.refresh().await.unwrap();
    }
    service.add("made", b"");
    service.state().stuck = true;
    let walk = tokio::spawn({
        let catalog = Arc::clone(&catalog);
        async move { catalog.refresh().await }
    });
    tokio::time::timeout(Duration::from_secs(30), async {
        while catalog.snapshot().names().find("made").is_none() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    assert!(!walk.is_finished());
    walk.abort();
}

#[tokio::test]
async fn records_are_on_disk_and_not_in_memory() {
    let (service, catalog, folder) = of_many(300).await;
    let list = catalog.snapshot();
    assert!(list.iter().all(|image| image.record.text().is_none()));
    let image = Arc::clone(list.iter().next().unwrap());
    let expected = service.state().records[&image.id].to_string();
    service.state().records.remove(&image.id);
    assert_eq!(&*catalog.record(&image).await.unwrap(), expected, "the server is not asked");
    // What is learned between refreshes is in memory, until the next.
    let id = service.add("made", b"");
    catalog.find_by_name("made").await.unwrap();
    assert!(catalog.snapshot().get(&id).unwrap().record.text().is_some());
    catalog.refresh().await.unwrap();
    assert!(catalog.snapshot().get(&id).unwrap().record.text().is_none());
    assert!(catalog.record(catalog.snapshot().get(&id).unwrap()).await.unwrap().contains("made"));
    drop(folder);
}

#[tokio::test]
async fn a_record_that_the_disk_lost_or_did_not_take_is_asked_of_the_server() {
    let (service, damaged, folder) = of_many(3).await;
    let path = folder.path().join("list");
    eventually(|| path.exists()).await;
    let len = std::fs::metadata(&path).unwrap().len();
    std::fs::write(&path, vec![b'x'; len as usize]).unwrap();
    let config = config();
    let nowhere = Some(folder.path().join("no folder/list"));
    let refused = Catalog::new(service.clone(), config, nowhere);
    refused.start().await.unwrap();
    for catalog in [&*damaged, &refused] {
        let list = catalog.snapshot();
        assert_eq!(list.len(), 3);
        for image in list.iter() {
            assert_eq!(image.record.text(), None);
            let expected = service.state().records[&image.id].to_string();
            assert_eq!(&*catalog.record(image).await.unwrap(), expected);
        }
    }
}

#[tokio::test]
async fn the_saved_list_follows_what_refreshes_find() {
    let (service, catalog, folder) = of_many(300).await;
    let gone = catalog.snapshot().iter().next().unwrap().id.clone();
    service.add("made", b"");
    service.state().records.remove(&gone);
    for _ in 0..10 {
        catalog.refresh().await.unwrap();
    }
    eventually(|| folder.path().join("list").exists()).await;
    service.state().down = true;
    let config = CatalogConfig { allow_stale: true, ..config() };
    let stale = Catalog::new(service.clone(), config, Some(folder.path().join("list")));
    stale.start().await.unwrap();
    assert_eq!(*stale.snapshot(), *catalog.snapshot());
    let made = stale.snapshot().names().find("made").cloned().unwrap();
    let text = stale.record(stale.snapshot().get(&made).unwrap()).await.unwrap();
    assert!(text.contains("made"), "from the file: the server is down");
}

#[tokio::test]
async fn a_walk_that_failed_leaves_nothing_in_the_saved_list() {
    let (service, catalog, folder) = of_many(300).await;
    eventually(|| folder.path().join("list").exists()).await;
    // An image is seen by a walk that then goes in circles, and is gone before the next.
    let ghost = service.add("ghost", b"");
    service.state().ancient = true;
    service.state().lost_markers = usize::MAX;
    catalog.refresh().await.unwrap_err();
    service.state().lost_markers = 0;
    service.state().records.remove(&ghost);
    catalog.refresh().await.unwrap();
    eventually(|| records::load(&folder.path().join("list")).unwrap().0.len() == 300).await;
}

/// Waits for what is done behind.
async fn eventually(condition: impl Fn() -> bool) {
    for _ in 0..1000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it did not come");
}

#[test]
fn a_change_costs_as_much_as_it_changes_however_long_the_list_is() {
    // Not a measure of time: what two lists share is not visited, so the differences are found by
    // counting what is.
    let image = |number: usize, size: u64| {
        Image::from_record(&format!(
            r#"{{"id":"{number:08x}-0000-4000-8000-000000000000","name":"image-{}","status":"active","size":{size},
            "created_at":"2026-11-20T10:00:00Z","updated_at":"2026-11-20T10:00:00Z"}}"#,
            number % 5000
        ))
        .unwrap()
    };
    let old = Snapshot::of((0..20_000).map(|number| image(number, 1)), None);
    assert_eq!((old.len(), old.names().iter().count(), old.bytes()), (20_000, 20_000, 20_000));
    let mut new = old.clone();
    new.apply([put(&Arc::new(image(7, 10))), Edit::Remove(image(5007, 0).id)]);
    assert_eq!((new.len(), new.names().iter().count(), new.bytes()), (19_999, 19_999, 20_008));
    assert_eq!(old.changed_in(&new).count(), 2);
    let lost: Vec<_> = old.names().lost_in(new.names()).map(|(name, _)| name.to_string()).collect();
    assert_eq!(lost, ["image-7~0000138f"]);
    assert_eq!(old.edits_to(&new).len(), 2);
    assert_eq!((old.len(), old.bytes()), (20_000, 20_000), "the old list is as it was");
}
