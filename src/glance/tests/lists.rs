//! The list of images: bad records, pages, what is no list.

use super::*;

#[tokio::test]
async fn a_record_that_is_garbage_does_not_hide_the_others() {
    let good = record("active", r#","size":5"#);
    let bad = [
        "7".to_owned(),
        "{}".into(),
        record("active", r#","size":-1"#),
        // 2^63: no file has so many bytes.
        record("active", r#","size":9223372036854775808"#),
        record("active", "").replace(r#""n""#, r#""\ud800""#),
    ];
    let mut records = vec![good.clone()];
    records.extend(bad);
    records.push(good);
    let server = Script::serve(vec![page(&records)]).await;
    let page = server.client(LONG).await.list(10, None).await.unwrap();
    assert_eq!(page.images.len(), 2);
    assert_eq!(page.next, None);
}

#[tokio::test]
async fn a_name_that_is_no_utf8_does_not_hide_the_list() {
    let mut body = format!(r#"{{"images":[{}]}}"#, record("active", "")).into_bytes();
    let at = body.windows(3).position(|window| window == br#""n""#).unwrap() + 1;
    body[at] = 0xff;
    let server = Script::serve(vec![ok(body)]).await;
    let page = server.client(LONG).await.list(10, None).await.unwrap();
    assert_eq!(page.images[0].name.as_deref(), Some("\u{fffd}"));
}

#[tokio::test]
async fn the_next_page_is_asked_of_our_server_whatever_it_says() {
    let first = r#"{"images":[],"next":"http://elsewhere:1/v2/images?marker=m&limit=2"}"#;
    let server = Script::serve(vec![
        ok(first),
        status("400 Bad Request"),
        ok(r#"{"images":[],"next":"/v2/tasks?x=y"}"#),
    ])
    .await;
    let glance = server.client(LONG).await;
    let next = glance.list(2, None).await.unwrap().next.unwrap();
    assert_eq!(kind(glance.list(2, Some(&next)).await), Kind::Invalid);
    assert!(server.head(1).starts_with("get /v2/images?marker=m&limit=2 "));
    assert_eq!(kind(glance.list(2, None).await), Kind::ServerError);
}

#[tokio::test]
async fn a_vanished_marker_is_not_found() {
    let gone = answer("400 Bad Request", &[], r#"{"message":"No image found with ID m"}"#);
    let first = r#"{"images":[],"next":"/v2/images?marker=m"}"#;
    let server = Script::serve(vec![ok(first), Act::Answer(gone), status("403 Forbidden")]).await;
    let glance = server.client(LONG).await;
    let next = glance.list(2, None).await.unwrap().next.unwrap();
    assert_eq!(kind(glance.list(2, Some(&next)).await), Kind::NotFound);
    assert_eq!(kind(glance.list(2, Some(&next)).await), Kind::NotFound);
}

#[tokio::test]
async fn something_else_than_glance_is_said_to_be_that() {
    let server = Script::serve(vec![ok("<html>hello</html>"), status("404 Not Found")]).await;
    let glance = server.client(LONG).await;
    assert_eq!(kind(glance.list(2, None).await), Kind::ServerError);
    assert_eq!(kind(glance.list(2, None).await), Kind::NotSupported);
}
