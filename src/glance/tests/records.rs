//! Records: made, changed and deleted, also when the answer is lost.

use super::*;

fn taken() -> Act {
    status("409 Conflict")
}

#[tokio::test]
async fn a_create_whose_answer_was_lost_is_recognised() {
    let server = Script::serve(vec![Act::Close, taken(), ok(record("queued", ""))]).await;
    let image = server.client(LONG).await.create(&new_image()).await.unwrap();
    assert_eq!(image.status, Status::Queued);
    let body: serde_json::Value = serde_json::from_slice(&server.body(0)).unwrap();
    assert_eq!(
        body,
        serde_json::json!({"id": ID, "name": "n", "disk_format": "raw", "container_format": "bare", "a": "b"})
    );
    assert_eq!(server.body(1), server.body(0));
}

#[tokio::test]
async fn a_taken_id_is_an_error() {
    let server = Script::serve(vec![taken()]).await;
    assert_eq!(kind(server.client(LONG).await.create(&new_image()).await), Kind::Exists);
    assert_eq!(server.count(), 1);
    let other = record("queued", "").replace(r#""n""#, r#""other""#);
    let server = Script::serve(vec![Act::Close, taken(), ok(other)]).await;
    assert_eq!(kind(server.client(LONG).await.create(&new_image()).await), Kind::Exists);
}

#[tokio::test]
async fn a_refused_name_is_told_from_other_refusals() {
    let server = Script::serve(vec![status("400 Bad Request")]).await;
    let glance = server.client(LONG).await;
    for (name, expected) in [
        ("plain".to_owned(), Kind::Invalid),
        ("x".repeat(256), Kind::NameTooLong),
        ("\u{1f600}".into(), Kind::IllegalName),
    ] {
        let image = NewImage { name: name.clone(), ..new_image() };
        assert_eq!(kind(glance.create(&image).await), expected);
        let change = Change::Set { key: "name".into(), value: name.into() };
        assert_eq!(kind(glance.update(&id(), &[change]).await), expected);
    }
}

#[tokio::test]
async fn a_delete_whose_answer_was_lost_succeeds_and_another_does_not() {
    let gone = status("404 Not Found");
    let server = Script::serve(vec![Act::Close, gone.clone()]).await;
    server.client(LONG).await.delete(&id()).await.unwrap();
    let server = Script::serve(vec![gone]).await;
    assert_eq!(kind(server.client(LONG).await.delete(&id()).await), Kind::NotFound);
}

#[tokio::test]
async fn a_removal_whose_answer_was_lost_succeeds_and_another_does_not() {
    let changes = [Change::Remove { key: "b".into() }, Change::Set { key: "a/~".into(), value: "1".into() }];
    let missing = Act::Answer(answer("409 Conflict", &[], r#"{"message":"Property b does not exist."}"#));
    let done = ok(record("active", r#","a/~":"1""#));
    let server = Script::serve(vec![Act::Close, missing.clone(), done]).await;
    server.client(LONG).await.update(&id(), &changes).await.unwrap();
    let head = server.head(0);
    assert!(head.contains("content-type: application/openstack-images-v2.1-json-patch\r\n"), "{head}");
    assert_eq!(
        String::from_utf8(server.body(0)).unwrap(),
        r#"[{"op":"remove","path":"/b"},{"op":"add","path":"/a~1~0","value":"1"}]"#
    );
    let other = ok(record("active", ""));
    let server = Script::serve(vec![Act::Close, missing.clone(), other]).await;
    assert_eq!(kind(server.client(LONG).await.update(&id(), &changes).await), Kind::NoData);
    let server = Script::serve(vec![missing]).await;
    assert_eq!(kind(server.client(LONG).await.update(&id(), &changes).await), Kind::NoData);
}

#[tokio::test]
async fn another_image_than_asked_for_is_refused() {
    let server = Script::serve(vec![ok(record("active", "").replace("1f3c", "2f3c"))]).await;
    assert_eq!(kind(server.client(LONG).await.show(&id()).await), Kind::ServerError);
}

#[tokio::test]
async fn properties_that_the_schema_describes_are_no_attributes() {
    let schema =
        r#"{"properties":{"id":{"type":"string"},"os_distro":{"is_base":false},"name":{"is_base":true}}}"#;
    let server = Script::serve(vec![ok(schema)]).await;
    let attributes = server.client(LONG).await.schema().await.unwrap().attributes;
    assert_eq!(attributes, ["id", "name"].into_iter().map(Into::into).collect());
}
