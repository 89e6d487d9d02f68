//! Version 1 of the API where a server does not do what Glance does, or its answer is lost.

use serde_json::json;

use super::*;

const SHORT: Duration = Duration::from_secs(2);

/// The answer to HEAD.
fn head(status: &str, name: &str) -> Act {
    let id = format!("x-image-meta-id: {ID}");
    let status = format!("x-image-meta-status: {status}");
    let name = format!("x-image-meta-name: {name}");
    Act::Answer(answer("200 OK", &[&id, &status, &name, "x-image-meta-size: 10"], ""))
}

/// The answer to POST and PUT.
fn wrapped(line: &str, name: &str, properties: serde_json::Value) -> Act {
    let image = json!({"image": {"id": ID, "status": "queued", "name": name, "properties": properties}});
    Act::Answer(answer(line, &[], image.to_string()))
}

async fn v1(server: &Script, timeout: Duration) -> GlanceV1 {
    GlanceV1::new(server.client(timeout).await)
}

fn image() -> NewImage {
    let (id, disk_format, container_format) = (id(), None, None);
    NewImage { id, name: "größer".into(), disk_format, container_format, properties: Vec::new() }
}

fn data() -> BoxStream<'static, io::Result<Bytes>> {
    stream::iter([Ok(Bytes::from_static(b"0123456789"))]).boxed()
}

#[tokio::test]
async fn a_reservation_whose_answer_was_lost_is_recognised() {
    let server = Script::serve(vec![Act::Close, status("409 Conflict"), head("queued", "größer")]).await;
    let created = v1(&server, LONG).await.create(&image()).await.unwrap();
    assert_eq!(created.name.as_deref(), Some("größer"));
    assert!(server.head(0).starts_with("post /v1/images http/1.1\r\n"));
    assert!(server.head(0).contains("x-image-meta-name: größer\r\n"));
    let server = Script::serve(vec![Act::Close, status("409 Conflict"), head("queued", "another")]).await;
    assert_eq!(kind(v1(&server, LONG).await.create(&image()).await), Kind::Exists);
}

#[tokio::test]
async fn a_server_that_reads_headers_as_latin_1_gets_no_images_with_wrong_names() {
    let mangled = wrapped("201 Created", "grÃ¶Ã\u{9f}er", json!({}));
    let server = Script::serve(vec![mangled, status("200 OK")]).await;
    assert_eq!(kind(v1(&server, LONG).await.create(&image()).await), Kind::IllegalName);
    assert!(server.head(1).starts_with("delete /v1/images/"), "{}", server.head(1));
}

#[tokio::test]
async fn a_property_that_the_server_drops_is_told() {
    let server = Script::serve(vec![wrapped("200 OK", "n", json!({"other": "kept"}))]).await;
    let change = Change::Set { key: "os_type".into(), value: "linux".into() };
    assert_eq!(kind(v1(&server, LONG).await.update(&id(), &[change]).await), Kind::Invalid);
    assert!(server.head(0).contains("x-glance-registry-purge-props: false\r\n"));
    assert!(server.head(0).contains("x-image-meta-property-os-type: linux\r\n"));
}

#[tokio::test]
async fn an_upload_that_was_cut_off_ends_with_the_image() {
    let server = Script::serve(vec![Act::Close, head("saving", "n"), head("killed", "n")]).await;
    let error = v1(&server, LONG).await.upload(&id(), 10, &data).await.unwrap_err();
    // So whoever made the record makes another.
    assert_eq!(error.kind(), Kind::Unreachable, "{error}");
    assert!(error.to_string().contains("killed"), "{error}");
    assert_eq!(server.count(), 3);
    assert_eq!(server.body(0), b"0123456789");
    let head = server.head(0);
    assert!(head.starts_with(&format!("put /v1/images/{ID} ")), "{head}");
    assert!(head.contains("content-length: 10\r\n") && head.contains("x-image-meta-size: 10\r\n"), "{head}");
}

#[tokio::test]
async fn an_upload_whose_answer_was_lost_is_done_when_the_record_says_so() {
    let server = Script::serve(vec![Act::Close, head("active", "n")]).await;
    v1(&server, LONG).await.upload(&id(), 10, &data).await.unwrap();
}

#[tokio::test]
async fn no_request_is_made_for_a_part_of_an_image() {
    let server = Script::serve(vec![ok("0123456789")]).await;
    let glance = v1(&server, LONG).await;
    assert_eq!(kind(glance.download(&id(), 10, Some(ByteRange::new(0, 5))).await), Kind::RangeUnsupported);
    assert_eq!(server.count(), 0);
    let whole = glance.download(&id(), 10, Some(ByteRange::new(0, 10))).await.unwrap();
    assert_eq!(read(whole).await.unwrap(), b"0123456789");
    assert!(!server.head(0).contains("range"));
}

#[tokio::test]
async fn another_image_than_asked_for_is_refused() {
    let other = Act::Answer(answer(
        "200 OK",
        &["x-image-meta-id: 1f3c9a2b-0000-4000-8000-000000000002", "x-image-meta-status: active"],
        "",
    ));
    let server = Script::serve(vec![other]).await;
    assert_eq!(kind(v1(&server, LONG).await.show(&id()).await), Kind::ServerError);
}

mod negotiation {
    use super::*;
    use crate::config::ApiVersion;

    async fn negotiated(server: &Script) -> Negotiated {
        Negotiated::new(server.client(SHORT).await, ApiVersion::Auto)
    }

    #[tokio::test]
    async fn what_is_no_list_of_versions_is_taken_for_v2() {
        for root in [ok("<html>"), status("404 Not Found"), status("403 Forbidden"), status("302 Found")] {
            let server = Script::serve(vec![root, page(&[])]).await;
            negotiated(&server).await.list(10, None).await.unwrap();
            assert!(server.head(server.count() - 1).starts_with("get /v2/images?"));
        }
    }

    #[tokio::test]
    async fn a_server_of_neither_version_is_told() {
        let server = Script::serve(vec![ok(r#"{"versions": [{"id": "v3.0"}]}"#)]).await;
        assert_eq!(kind(negotiated(&server).await.list(10, None).await), Kind::NotSupported);
    }

    #[tokio::test]
    async fn it_is_asked_again_after_an_outage() {
        let server = Script::serve(vec![
            status("500 Internal Server Error"),
            ok(r#"{"versions": [{"id": "v1.1"}, {"id": "v1.0"}]}"#),
            page(&[]),
        ])
        .await;
        let glance = client_with(&[&server.url], AuthMethod::None, SHORT, 0).await;
        let glance = Negotiated::new(glance, ApiVersion::Auto);
        assert_eq!(kind(glance.list(10, None).await), Kind::ServerError);
        glance.list(10, None).await.unwrap();
        assert!(
            server.head(2).starts_with("get /v1/images/detail?is_public=none&limit=10 "),
            "{}",
            server.head(2)
        );
    }
}
