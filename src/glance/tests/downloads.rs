//! Downloads: ranges asked for exactly, and answers that are something else.

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
    let (result, server) = fetch(vec![part("206 Partial Content", "bytes 2-4/10", "cde")], Some(asked)).await;
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
    for wrong in
        ["5\r\n01234\r\n0\r\n\r\n", "b\r\n0123456789x\r\n0\r\n\r\n", "a\r\n0123456789\r\n1\r\nx\r\n0\r\n\r\n"]
    {
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
async fn a_range_is_asked_for_twice_before_it_is_believed_that_the_server_ignores_ranges() {
    let asked = Some(ByteRange::new(2, 5));
    let (result, server) =
        fetch(vec![ok("0123456789"), part("206 Partial Content", "bytes 2-4/10", "cde")], asked).await;
    assert_eq!((result.unwrap(), server.count()), (b"cde".to_vec(), 2));
    let (result, server) = fetch(vec![ok("0123456789")], asked).await;
    assert_eq!((kind(result), server.count()), (Kind::RangeUnsupported, 2));
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
