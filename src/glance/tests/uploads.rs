//! Uploads: lengths, refusals in the middle, lost answers, stalls.

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
    assert_eq!(kind(server.client(LONG).await.upload(&id(), 10, &data("0123456789")).await), Kind::NotFound);
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
    let broken =
        || -> Data { stream::iter([Ok(Bytes::from("012")), Err(io::Error::other("bad sector"))]).boxed() };
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
async fn an_upload_that_only_a_socket_has_taken_ends_with_the_deadline() {
    let queued = Box::new(ok(record("queued", "")));
    let server = Script::serve(vec![Act::IfPut(Box::new(Act::Hang), queued)]).await;
    let begun = Instant::now();
    let result = server.client(Duration::from_secs(1)).await.upload(&id(), 10, &data("0123456789")).await;
    assert_eq!(kind(result), Kind::TimedOut);
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn a_store_that_is_finishing_is_waited_for_beyond_the_deadline() {
    let saving = Box::new(ok(record("saving", "")));
    let server = Script::serve(vec![Act::IfPut(Box::new(Act::Hang), saving)]).await;
    let glance = server.client(Duration::from_secs(1)).await;
    let five_deadlines = Duration::from_secs(5);
    let waited = tokio::time::timeout(five_deadlines, glance.upload(&id(), 10, &data("0123456789"))).await;
    assert!(waited.is_err(), "{waited:?}");
}

#[tokio::test]
async fn an_upload_whose_connection_broke_waits_no_longer_than_the_deadline_for_its_record() {
    let server = Script::serve(vec![Act::Close, ok(record("saving", ""))]).await;
    let begun = Instant::now();
    let glance = server.client(Duration::from_secs(1)).await;
    assert_eq!(kind(glance.upload(&id(), 10, &data("0123456789")).await), Kind::ServerError);
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn a_record_that_stays_under_way_without_all_of_the_data_is_not_waited_for_as_long() {
    let server = Script::serve(vec![Act::Refuse(Vec::new()), ok(record("saving", ""))]).await;
    let block = Bytes::from(vec![0; 1 << 20]);
    let open = move || stream::repeat(block.clone()).map(Ok).take(64).boxed();
    let glance = server.client(Duration::from_secs(600)).await;
    let within = tokio::time::timeout(Duration::from_secs(60), glance.upload(&id(), 64 << 20, &open)).await;
    assert_eq!(kind(within.expect("no store can be finishing")), Kind::ServerError);
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
