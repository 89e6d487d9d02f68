//! How the client behaves when a server does not: refused, cut, silent, lying.

mod script;
mod streamed;
mod v1;

use std::io;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};

use super::*;
use crate::config::AuthMethod;
use crate::error::{Error, Kind, Result};
use crate::units::{ByteRange, ImageId};
use script::{Act, Script, answer, client, client_with};

const ID: &str = "1f3c9a2b-0000-4000-8000-000000000001";

/// Longer than any of these tests takes; no test waits for it to pass.
const LONG: Duration = Duration::from_secs(30);

fn id() -> ImageId {
    ID.parse().unwrap()
}

fn record(status: &str, rest: &str) -> String {
    format!(
        r#"{{"id":"{ID}","name":"n","status":"{status}","created_at":"2026-11-20T10:00:00Z","updated_at":"2026-11-20T10:00:00Z"{rest}}}"#
    )
}

fn ok(body: impl AsRef<[u8]>) -> Act {
    Act::Answer(answer("200 OK", &[], body))
}

fn status(line: &str) -> Act {
    Act::Answer(answer(line, &[], ""))
}

fn page(records: &[String]) -> Act {
    ok(format!(r#"{{"images":[{}]}}"#, records.join(",")))
}

fn kind<T>(result: Result<T>) -> Kind {
    result.err().expect("an error").kind()
}

async fn read(download: Download) -> Result<Vec<u8>> {
    let chunks: Vec<Bytes> = download.chunks.try_collect().await?;
    Ok(chunks.concat())
}

mod requests {
    use super::*;

    #[tokio::test]
    async fn each_request_says_who_asks_and_asks_for_no_compression() {
        let server = Script::serve(vec![page(&[])]).await;
        server.client(LONG).await.list(500, None).await.unwrap();
        let head = server.head(0);
        assert!(head.starts_with("get /v2/images?limit=500 http/1.1\r\n"), "{head}");
        for header in ["x-auth-token: the-token", "x-openstack-request-id: req-", "user-agent: glancefs/"] {
            assert!(head.contains(header), "{header} in {head}");
        }
        assert!(!head.contains("gzip") && !head.contains("deflate"), "{head}");
    }

    #[tokio::test]
    async fn a_server_that_refuses_connections_is_passed_over() {
        let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", gone.local_addr().unwrap()).parse().unwrap();
        drop(gone);
        let server = Script::serve(vec![page(&[record("active", "")])]).await;
        for _ in 0..4 {
            // Shuffled each time: some begin with the dead one.
            let glance = client(&[&url, &server.url], AuthMethod::None, LONG).await;
            assert_eq!(glance.list(10, None).await.unwrap().images.len(), 1);
        }
        let glance = client(&[&url], AuthMethod::None, Duration::from_secs(1)).await;
        assert_eq!(kind(glance.list(10, None).await), Kind::Unreachable);
    }

    #[tokio::test]
    async fn a_busy_server_is_asked_again_after_the_time_it_says() {
        let busy = Act::Answer(answer("503 Service Unavailable", &["Retry-After: 1"], ""));
        let server = Script::serve(vec![busy, page(&[])]).await;
        let begun = Instant::now();
        server.client(LONG).await.list(10, None).await.unwrap();
        assert!(begun.elapsed() >= Duration::from_secs(1));
        assert_eq!(server.count(), 2);
    }

    #[tokio::test]
    async fn a_time_beyond_the_deadline_is_not_waited_for() {
        let busy = Act::Answer(answer("429 Too Many Requests", &["Retry-After: 3600"], ""));
        let server = Script::serve(vec![busy]).await;
        let begun = Instant::now();
        assert_eq!(kind(server.client(LONG).await.list(10, None).await), Kind::ServerError);
        assert!(begun.elapsed() < LONG / 2);
        assert_eq!(server.count(), 1);
    }

    #[tokio::test]
    async fn a_failing_read_is_tried_four_times_and_a_failing_post_once() {
        let server = Script::serve(vec![status("500 Internal Server Error")]).await;
        let glance = server.client(LONG).await;
        assert_eq!(kind(glance.show(&id()).await), Kind::ServerError);
        assert_eq!(server.count(), 4);
        assert_eq!(kind(glance.create(&new_image()).await), Kind::ServerError);
        assert_eq!(server.count(), 5);
    }

    #[tokio::test]
    async fn retries_bound_what_fails_at_servers_that_answer_and_go_from_server_to_server() {
        for failure in ["500 Internal Server Error", "429 Too Many Requests"] {
            let (one, other) =
                (Script::serve(vec![status(failure)]).await, Script::serve(vec![status(failure)]).await);
            for (retries, requests) in [(0, 1), (1, 2), (5, 6)] {
                let before = (one.count(), other.count());
                let glance = client_with(&[&one.url, &other.url], AuthMethod::None, LONG, retries).await;
                assert_eq!(kind(glance.show(&id()).await), Kind::ServerError);
                let sent = (one.count() - before.0, other.count() - before.1);
                assert_eq!(sent.0 + sent.1, requests, "{failure}");
                assert!(sent.0.abs_diff(sent.1) <= 1, "{failure}: {sent:?}");
            }
        }
    }

    #[tokio::test]
    async fn an_outage_is_waited_for_until_the_deadline_whatever_the_retries() {
        for fault in [
            Act::Close,
            status("502 Bad Gateway"),
            status("503 Service Unavailable"),
            status("504 Gateway Timeout"),
            Act::Answer(answer("429 Too Many Requests", &["Retry-After: 0"], "")),
        ] {
            let server = Script::serve(vec![fault.clone(), fault.clone(), fault, page(&[])]).await;
            let glance = client_with(&[&server.url], AuthMethod::None, LONG, 0).await;
            glance.list(10, None).await.unwrap();
            assert_eq!(server.count(), 4);
        }
    }

    #[tokio::test]
    async fn a_server_that_is_restarted_is_found_again_by_the_same_request() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let url: url::Url = format!("http://{address}/").parse().unwrap();
        let glance = client_with(&[&url], AuthMethod::None, LONG, 0).await;
        let request = tokio::spawn(async move { glance.list(10, None).await });
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!request.is_finished(), "refused connections are tried again");
        let _server = Script::serve_at(address, vec![page(&[])]).await;
        request.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn an_error_says_whether_any_server_can_have_seen_the_request() {
        let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", gone.local_addr().unwrap()).parse().unwrap();
        drop(gone);
        let short = Duration::from_secs(1);
        let refused = client(&[&url], AuthMethod::None, short).await.create(&new_image()).await.unwrap_err();
        assert!(refused.is_unasked() && refused.duplicate().context("x").is_unasked(), "{refused}");
        let server = Script::serve(vec![Act::Close]).await;
        let cut = server.client(short).await.create(&new_image()).await.unwrap_err();
        assert_eq!(cut.kind(), Kind::Unreachable);
        assert!(!cut.is_unasked(), "{cut}");
    }

    #[tokio::test]
    async fn a_silent_server_costs_no_more_than_the_deadline() {
        let server = Script::serve(vec![Act::Hang]).await;
        let begun = Instant::now();
        assert_eq!(kind(server.client(Duration::from_secs(2)).await.show(&id()).await), Kind::TimedOut);
        assert!(begun.elapsed() < Duration::from_secs(10));
        assert!(server.count() >= 2, "half of the time was left for another try");
    }

    #[tokio::test]
    async fn a_refused_token_is_renewed_once_and_the_request_repeated() {
        let dir = tempfile::tempdir().unwrap();
        let count = dir.path().join("count");
        let command = format!("echo >> {0}; wc -l < {0}", count.display());
        let refused = status("401 Unauthorized");
        let server = Script::serve(vec![refused.clone(), page(&[]), refused]).await;
        let glance = client(&[&server.url], AuthMethod::TokenCommand(command), LONG).await;
        // A token that is younger than a second is not replaced.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        glance.list(10, None).await.unwrap();
        assert!(server.head(0).contains("x-auth-token: 1\r\n"));
        assert!(server.head(1).contains("x-auth-token: 2\r\n"));
        tokio::time::sleep(Duration::from_millis(1100)).await;
        assert_eq!(kind(glance.list(10, None).await), Kind::NotAuthenticated);
        assert_eq!(server.count(), 4);
    }

    #[tokio::test]
    async fn a_redirect_is_not_followed_and_the_token_stays_here() {
        let elsewhere = Script::serve(vec![page(&[])]).await;
        let redirect = format!("Location: {}v2/images", elsewhere.url);
        let server = Script::serve(vec![Act::Answer(answer("302 Found", &[&redirect], ""))]).await;
        assert_eq!(kind(server.client(LONG).await.list(10, None).await), Kind::NotSupported);
        assert_eq!(elsewhere.count(), 0);
    }

    #[tokio::test]
    async fn an_answer_that_is_cut_is_asked_for_again() {
        let mut cut = answer("200 OK", &[], record("active", ""));
        cut.truncate(cut.len() - 10);
        let server = Script::serve(vec![Act::Answer(cut), ok(record("active", ""))]).await;
        assert!(server.client(LONG).await.show(&id()).await.is_ok());
        assert_eq!(server.count(), 2);
    }
}

mod lists {
    use super::*;

    #[tokio::test]
    async fn a_record_that_is_garbage_does_not_hide_the_others() {
        let good = record("active", r#","size":5"#);
        let bad = [
            "7".to_owned(),
            "{}".into(),
            record("active", r#","size":-1"#),
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
}

fn new_image() -> NewImage {
    NewImage {
        id: id(),
        name: "n".into(),
        disk_format: Some("raw".into()),
        container_format: Some("bare".into()),
        properties: vec![("a".into(), "b".into())],
    }
}

mod records {
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
        let changes =
            [Change::Remove { key: "b".into() }, Change::Set { key: "a/~".into(), value: "1".into() }];
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
        let schema = r#"{"properties":{"id":{"type":"string"},"os_distro":{"is_base":false},"name":{"is_base":true}}}"#;
        let server = Script::serve(vec![ok(schema)]).await;
        let attributes = server.client(LONG).await.schema().await.unwrap().attributes;
        assert_eq!(attributes, ["id", "name"].into_iter().map(Into::into).collect());
    }
}

mod downloads {
    use super::*;

    fn part(status: &str, range: &str, body: &str) -> Act {
        Act::Answer(answer(status, &[&format!("Content-Range: {range}")], body))
    }

    async fn fetch(acts: Vec<Act>, range: Option<ByteRange>) -> (Result<Vec<u8>>, Script) {
        let server = Script::serve(acts).await;
        let result = match server.client(LONG).await.download(&id(), 10, range).await {
            Ok(download) => read(download).await,
            Err(error) => Err(error),
        };
        (result, server)
    }

    #[tokio::test]
    async fn a_range_is_asked_for_exactly_and_uncompressed() {
        let asked = ByteRange::new(2, 5);
        let (result, server) =
            fetch(vec![part("206 Partial Content", "bytes 2-4/10", "cde")], Some(asked)).await;
        assert_eq!(result.unwrap(), b"cde");
        let head = server.head(0);
        assert!(head.starts_with(&format!("get /v2/images/{ID}/file http/1.1\r\n")), "{head}");
        assert!(
            head.contains("range: bytes=2-4\r\n") && head.contains("accept-encoding: identity\r\n"),
            "{head}"
        );
    }

    #[tokio::test]
    async fn a_connection_that_breaks_before_the_first_byte_is_tried_again() {
        let (result, server) = fetch(vec![Act::Close, Act::Close, ok("0123456789")], None).await;
        assert_eq!(result.unwrap(), b"0123456789");
        assert!(!server.head(2).contains("\r\nrange:"));
    }

    #[tokio::test]
    async fn a_body_that_ends_early_is_an_error_after_the_bytes_it_had() {
        let mut cut = answer("200 OK", &[], "0123456789");
        cut.truncate(cut.len() - 4);
        let server = Script::serve(vec![Act::Answer(cut)]).await;
        let mut download = server.client(LONG).await.download(&id(), 10, None).await.unwrap();
        let (mut got, mut end) = (Vec::new(), None);
        while let Some(chunk) = download.chunks.next().await {
            match chunk {
                Ok(bytes) => got.extend_from_slice(&bytes),
                Err(error) => end = Some(error.kind()),
            }
        }
        assert_eq!((got.as_slice(), end), (&b"012345"[..], Some(Kind::Unreachable)));
        assert_eq!(server.count(), 1, "once bytes have come, the source resumes, not the client");
    }

    #[tokio::test]
    async fn a_chunked_body_must_have_the_length_of_the_image() {
        let chunked = |body: &str| {
            let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
            Act::Answer(format!("{head}{body}").into_bytes())
        };
        let (result, _) = fetch(vec![chunked("a\r\n0123456789\r\n0\r\n\r\n")], None).await;
        assert_eq!(result.unwrap(), b"0123456789");
        for wrong in [
            "5\r\n01234\r\n0\r\n\r\n",
            "b\r\n0123456789x\r\n0\r\n\r\n",
            "a\r\n0123456789\r\n1\r\nx\r\n0\r\n\r\n",
        ] {
            let (result, _) = fetch(vec![chunked(wrong)], None).await;
            assert_eq!(kind(result), Kind::Integrity, "{wrong:?}");
        }
    }

    #[tokio::test]
    async fn what_is_not_what_was_asked_for_is_an_error() {
        let asked = Some(ByteRange::new(2, 5));
        let unsupported = answer(
            "400 Bad Request",
            &[],
            r#"{"message":"Getting images randomly from this store is not supported. Offset: 2, length: 3"}"#,
        );
        for (act, range, expected) in [
            (part("206 Partial Content", "bytes 0-2/10", "abc"), asked, Kind::Integrity),
            (part("206 Partial Content", "bytes 2-4/11", "cde"), asked, Kind::Integrity),
            (ok("0123456789"), asked, Kind::RangeUnsupported),
            (Act::Answer(unsupported), asked, Kind::RangeUnsupported),
            (
                Act::Answer(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n".to_vec()),
                None,
                Kind::Integrity,
            ),
            (ok("012345678"), None, Kind::Integrity),
            (status("416 Range Not Satisfiable"), asked, Kind::Integrity),
            (status("403 Forbidden"), None, Kind::Forbidden),
            (status("404 Not Found"), None, Kind::NotFound),
        ] {
            let (result, server) = fetch(vec![act], range).await;
            assert_eq!(kind(result), expected);
            assert_eq!(server.count(), 1);
        }
    }

    #[tokio::test]
    async fn a_stream_that_stalls_ends_with_an_error() {
        let mut half = answer("200 OK", &[], "0123456789");
        half.truncate(half.len() - 5);
        let server = Script::serve(vec![Act::AnswerAndHang(half)]).await;
        let begun = Instant::now();
        let download = server.client(Duration::from_secs(1)).await.download(&id(), 10, None).await.unwrap();
        assert_eq!(kind(read(download).await), Kind::TimedOut);
        assert!(begun.elapsed() < Duration::from_secs(10));
    }

    #[tokio::test]
    async fn no_byte_needs_no_request_and_too_many_are_refused() {
        let server = Script::serve(vec![Act::Hang]).await;
        let glance = server.client(LONG).await;
        let empty = glance.download(&id(), 10, Some(ByteRange::new(4, 4))).await.unwrap();
        assert_eq!(read(empty).await.unwrap(), b"");
        assert_eq!(kind(glance.download(&id(), 10, Some(ByteRange::new(4, 11))).await), Kind::Invalid);
        assert_eq!(server.count(), 0);
    }
}

mod uploads {
    use super::*;

    type Data = BoxStream<'static, io::Result<Bytes>>;

    fn data(text: &'static str) -> impl Fn() -> Data {
        move || stream::iter(text.as_bytes().chunks(3)).map(|chunk| Ok(Bytes::from_static(chunk))).boxed()
    }

    fn done() -> Act {
        Act::Answer(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n".to_vec())
    }

    #[tokio::test]
    async fn the_length_is_always_announced() {
        let server = Script::serve(vec![done()]).await;
        server.client(LONG).await.upload(&id(), 10, &data("0123456789")).await.unwrap();
        let head = server.head(0);
        for header in [
            "content-length: 10\r\n",
            "x-openstack-image-size: 10\r\n",
            "content-type: application/octet-stream\r\n",
        ] {
            assert!(head.contains(header), "{head}");
        }
        assert!(!head.contains("chunked"), "{head}");
        assert_eq!(server.body(0), b"0123456789");
        let server = Script::serve(vec![done()]).await;
        server.client(LONG).await.upload(&id(), 0, &data("")).await.unwrap();
        assert!(server.head(0).contains("content-length: 0\r\n"));
    }

    #[tokio::test]
    async fn a_refusal_in_the_middle_of_the_body_is_read() {
        // What is tested for is a race: the answer, and the reset of a connection with unread data.
        for _ in 0..30 {
            let refusal = answer("413 Too Large", &[], r#"{"message":"Image exceeds the storage quota: x"}"#);
            let act = Act::IfPut(Box::new(Act::Refuse(refusal)), Box::new(ok(record("queued", ""))));
            let server = Script::serve(vec![act]).await;
            let block = Bytes::from(vec![0; 1 << 20]);
            let open = move || stream::repeat(block.clone()).map(Ok).take(64).boxed();
            let error = server.client(LONG).await.upload(&id(), 64 << 20, &open).await.unwrap_err();
            assert_eq!(error.kind(), Kind::QuotaExceeded, "{error}");
        }
    }

    #[tokio::test]
    async fn an_upload_whose_answer_was_lost_is_done_when_the_record_says_so() {
        let server =
            Script::serve(vec![Act::Close, ok(record("saving", "")), ok(record("active", r#","size":10"#))])
                .await;
        server.client(LONG).await.upload(&id(), 10, &data("0123456789")).await.unwrap();
        assert_eq!(server.count(), 3);
    }

    #[tokio::test]
    async fn an_upload_that_was_lost_is_sent_again_from_the_start() {
        let queued = ok(record("queued", r#","size":null"#));
        let server = Script::serve(vec![Act::Close, queued, done()]).await;
        server.client(LONG).await.upload(&id(), 10, &data("0123456789")).await.unwrap();
        assert_eq!(server.body(2), b"0123456789");
        let server = Script::serve(vec![Act::Close, status("404 Not Found")]).await;
        assert_eq!(
            kind(server.client(LONG).await.upload(&id(), 10, &data("0123456789")).await),
            Kind::NotFound
        );
    }

    #[tokio::test]
    async fn a_conflict_is_an_error_unless_it_is_with_ourselves() {
        let conflict = status("409 Conflict");
        let server = Script::serve(vec![conflict.clone()]).await;
        assert_eq!(kind(server.client(LONG).await.upload(&id(), 10, &data("0123456789")).await), Kind::Busy);
        assert_eq!(server.count(), 1);
        let active = ok(record("active", r#","size":10"#));
        let server = Script::serve(vec![Act::Close, ok(record("queued", "")), conflict, active]).await;
        server.client(LONG).await.upload(&id(), 10, &data("0123456789")).await.unwrap();
    }

    #[tokio::test]
    async fn data_of_another_length_or_that_cannot_be_read_are_our_error() {
        let broken = || -> Data {
            stream::iter([Ok(Bytes::from("012")), Err(io::Error::other("bad sector"))]).boxed()
        };
        let server = Script::serve(vec![done()]).await;
        let glance = server.client(LONG).await;
        let error = glance.upload(&id(), 10, &broken).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Io);
        assert!(error.to_string().contains("bad sector"), "{error}");
        assert_eq!(kind(glance.upload(&id(), 10, &data("012345678")).await), Kind::Io);
        assert_eq!(kind(glance.upload(&id(), 10, &data("0123456789x")).await), Kind::Io);
    }

    #[tokio::test]
    async fn an_upload_that_stalls_ends_with_an_error() {
        let server = Script::serve(vec![Act::Hang]).await;
        let block = Bytes::from(vec![0; 1 << 20]);
        let open = move || stream::repeat(block.clone()).map(Ok).take(64).boxed();
        let begun = Instant::now();
        let result = server.client(Duration::from_secs(1)).await.upload(&id(), 64 << 20, &open).await;
        assert_eq!(kind(result), Kind::TimedOut);
        assert!(begun.elapsed() < Duration::from_secs(20));
        assert_eq!(server.count(), 1, "it is not tried again");
    }

    #[tokio::test]
    async fn an_upload_whose_connection_broke_waits_no_longer_than_the_deadline_for_its_record() {
        let server = Script::serve(vec![Act::Close, ok(record("saving", ""))]).await;
        let begun = Instant::now();
        let glance = server.client(Duration::from_secs(1)).await;
        assert_eq!(kind(glance.upload(&id(), 10, &data("0123456789")).await), Kind::Busy);
        assert!(begun.elapsed() < Duration::from_secs(20));
    }

    #[tokio::test]
    async fn an_upload_to_a_server_that_refuses_connections_ends_with_the_deadline() {
        let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", gone.local_addr().unwrap()).parse().unwrap();
        drop(gone);
        let glance = client(&[&url], AuthMethod::None, Duration::from_millis(100)).await;
        let tries = std::sync::atomic::AtomicUsize::new(0);
        let counted = || {
            tries.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            data("0123456789")()
        };
        assert_eq!(kind(glance.upload(&id(), 10, &counted).await), Kind::Unreachable);
        // The first pause, at least 125 ms, would pass it.
        assert_eq!(tries.into_inner(), 1);
    }

    #[tokio::test]
    async fn an_upload_longer_than_the_deadline_is_fine_while_bytes_move() {
        let server = Script::serve(vec![done()]).await;
        let open = || -> Data {
            let slowly = |n: u64| async move {
                tokio::time::sleep(Duration::from_millis(300)).await;
                Ok(Bytes::from(n.to_string()))
            };
            stream::iter(0..10).then(slowly).boxed()
        };
        server.client(Duration::from_secs(1)).await.upload(&id(), 10, &open).await.unwrap();
        assert_eq!(server.body(0), b"0123456789");
    }
}

#[tokio::test]
async fn debug_of_the_client_shows_no_token() {
    let server = Script::serve(vec![page(&[])]).await;
    let text = format!("{:?}", server.client(LONG).await);
    assert!(!text.contains("the-token"), "{text}");
    let error: Error = server.client(LONG).await.show(&id()).await.unwrap_err();
    assert!(!format!("{error} {error:?}").contains("the-token"));
}
