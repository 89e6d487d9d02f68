//! Sources against a scripted Glance: what they ask for, and what they make of its faults.

use futures_util::StreamExt;

use crate::error::Kind;

use super::fake::{FakeDownloads, Fault, http, image_of, pattern};
use super::*;

const SIZE: u64 = 300_000;

fn image(stores: Option<&str>) -> Image {
    image_of(SIZE, stores)
}

fn sources(downloads: &FakeDownloads) -> Sources {
    Sources::new(Arc::new(downloads.clone()), &http())
}

async fn collect(source: &dyn Source, range: ByteRange) -> Result<(ByteRange, Vec<u8>)> {
    let mut transfer = source.fetch(range, Urgency::Demand).await?;
    let mut bytes = Vec::new();
    while let Some(chunk) = transfer.chunks.next().await {
        bytes.extend_from_slice(&chunk?);
    }
    Ok((transfer.range, bytes))
}

fn asked(downloads: &FakeDownloads) -> Vec<Option<ByteRange>> {
    downloads.asked.lock().unwrap().clone()
}

#[tokio::test]
async fn a_range_comes_as_asked() {
    let downloads = FakeDownloads::new([]);
    let source = sources(&downloads).of(&image(None));
    assert_eq!(source.kind(), SourceKind::Unknown);
    let range = ByteRange::new(1234, 99_999);
    let (got, bytes) = collect(&*source, range).await.unwrap();
    assert_eq!((got, bytes), (range, pattern(7, range)));
    assert_eq!(source.kind(), SourceKind::Ranged);
    assert_eq!(asked(&downloads), [Some(range)]);
}

#[tokio::test]
async fn a_cut_or_short_body_resumes_at_the_next_byte() {
    for fault in [Fault::Cut(2500, Kind::Unreachable), Fault::Short(2500), Fault::Stall(2500)] {
        let downloads = FakeDownloads::new([Some(fault)]);
        let source = sources(&downloads).of(&image(None));
        let range = ByteRange::new(1000, 9000);
        let (_, bytes) = collect(&*source, range).await.unwrap();
        assert_eq!(bytes, pattern(7, range), "{fault:?}");
        assert_eq!(asked(&downloads), [Some(range), Some(ByteRange::new(3500, 9000))], "{fault:?}");
    }
}

#[tokio::test]
async fn surplus_bytes_are_not_believed() {
    let downloads = FakeDownloads::new([Some(Fault::Surplus(10))]);
    let source = sources(&downloads).of(&image(None));
    let range = ByteRange::new(0, 4500);
    let (_, bytes) = collect(&*source, range).await.unwrap();
    assert_eq!(bytes, pattern(7, range));
    assert_eq!(asked(&downloads), [Some(range), Some(ByteRange::new(4000, 4500))]);
}

#[tokio::test]
async fn another_range_than_asked_is_asked_for_again_and_then_an_integrity_error() {
    let range = ByteRange::new(0, 4500);
    let downloads = FakeDownloads::new([Some(Fault::WrongRange)]);
    let (sources, image) = downloads.sources_and_image(SIZE);
    assert_eq!(collect(&*sources.of(&image), range).await.unwrap().1, pattern(7, range));
    assert_eq!(asked(&downloads).len(), 2);
    let downloads = FakeDownloads::new([Some(Fault::WrongRange); 40]);
    let (sources, image) = downloads.sources_and_image(SIZE);
    let error = collect(&*sources.of(&image), range).await.unwrap_err();
    assert_eq!((error.kind(), asked(&downloads).len()), (Kind::Integrity, 4));
}

#[tokio::test]
async fn bodies_that_always_come_wrong_are_asked_for_as_often_as_retries_say() {
    for (retries, requests) in [(0, 1), (3, 4), (5, 6)] {
        let downloads = FakeDownloads::new([Some(Fault::Short(0)); 40]);
        let patient = HttpConfig { retries, timeout: Duration::from_secs(60), ..http() };
        let source = Sources::new(Arc::new(downloads.clone()), &patient).of(&image(None));
        let error = collect(&*source, ByteRange::new(0, 4500)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Integrity);
        assert_eq!(asked(&downloads).len(), requests);
    }
}

#[tokio::test]
async fn connections_that_break_at_once_are_followed_by_others_until_the_timeout_whatever_retries_say() {
    // The pauses before them are 0, 0.2, 0.4, 0.8, 1.6 s.
    let breaks = |many: usize| FakeDownloads::new(vec![Some(Fault::Cut(0, Kind::Unreachable)); many]);
    let within = |seconds| HttpConfig { retries: 0, timeout: Duration::from_secs(seconds), ..http() };
    let range = ByteRange::new(0, 4500);
    let downloads = breaks(5);
    let source = Sources::new(Arc::new(downloads.clone()), &within(60)).of(&image(None));
    assert_eq!(collect(&*source, range).await.unwrap().1, pattern(7, range));
    assert_eq!(asked(&downloads).len(), 6);

    let downloads = breaks(100);
    let source = Sources::new(Arc::new(downloads.clone()), &within(2)).of(&image(None));
    assert_eq!(collect(&*source, range).await.unwrap_err().kind(), Kind::Unreachable);
    assert!((2..=5).contains(&asked(&downloads).len()), "{:?}", asked(&downloads));
}

#[tokio::test]
async fn a_request_that_the_client_below_gave_up_is_not_made_again() {
    for kind in [Kind::Unreachable, Kind::TimedOut, Kind::ServerError] {
        let downloads =
            FakeDownloads::new([Some(Fault::Cut(10, Kind::Unreachable)), Some(Fault::Refused(kind))]);
        let source = sources(&downloads).of(&image(None));
        let error = collect(&*source, ByteRange::new(0, 4500)).await.unwrap_err();
        assert_eq!((error.kind(), asked(&downloads).len()), (kind, 2));
    }
}

#[tokio::test]
async fn a_body_cut_after_every_byte_does_not_go_on_for_ever() {
    let downloads = FakeDownloads::new([Some(Fault::Short(1)); 100]);
    let source = sources(&downloads).of(&image(None));
    assert!(collect(&*source, ByteRange::new(0, 4500)).await.is_err());
    assert_eq!(asked(&downloads).len(), 32);
}

#[tokio::test]
async fn a_final_refusal_is_not_retried() {
    let downloads =
        FakeDownloads::new([Some(Fault::Cut(10, Kind::Unreachable)), Some(Fault::Refused(Kind::Forbidden))]);
    let source = sources(&downloads).of(&image(None));
    let error = collect(&*source, ByteRange::new(0, 4500)).await.unwrap_err();
    assert_eq!((error.kind(), asked(&downloads).len()), (Kind::Forbidden, 2));
}

#[tokio::test]
async fn an_image_that_is_gone_is_stale() {
    for script in [
        vec![Some(Fault::Refused(Kind::NotFound))],
        vec![Some(Fault::Short(5)), Some(Fault::Refused(Kind::NotFound))],
    ] {
        let downloads = FakeDownloads::new(script);
        let source = sources(&downloads).of(&image(None));
        let error = collect(&*source, ByteRange::new(0, 4500)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Stale);
    }
}

#[tokio::test]
async fn a_store_without_ranges_is_streamed_and_remembered() {
    let mut downloads = FakeDownloads::new([]);
    downloads.ranges = false;
    let sources = sources(&downloads);
    let source = sources.of(&image(Some("rbd")));
    let error = collect(&*source, ByteRange::new(5000, 6000)).await.unwrap_err();
    assert_eq!((error.kind(), source.kind()), (Kind::RangeUnsupported, SourceKind::Streamed));
    let again = collect(&*source, ByteRange::new(5000, 6000)).await.unwrap_err();
    assert_eq!(again.kind(), Kind::RangeUnsupported);
    assert_eq!(asked(&downloads).len(), 1, "without a request for it");
    let (range, bytes) = collect(&*source, ByteRange::new(0, SIZE)).await.unwrap();
    assert_eq!((range, bytes), (ByteRange::new(0, SIZE), pattern(7, ByteRange::new(0, SIZE))));

    let neighbour = sources.of(&image(Some("rbd")));
    assert_eq!(neighbour.kind(), SourceKind::Streamed, "the store is known");
    assert_eq!(sources.of(&image(Some("file"))).kind(), SourceKind::Unknown);
}

#[tokio::test]
async fn a_cut_stream_begins_again_and_skips_what_was_delivered() {
    let mut downloads = FakeDownloads::new([Some(Fault::Cut(123_456, Kind::Unreachable))]);
    downloads.ranges = false;
    let source = sources(&downloads).of(&image(None));
    let _ = collect(&*source, ByteRange::new(0, 1)).await;
    let (_, bytes) = collect(&*source, ByteRange::new(0, SIZE)).await.unwrap();
    assert_eq!(bytes, pattern(7, ByteRange::new(0, SIZE)));
    assert_eq!(asked(&downloads)[1..], [None, None]);
}

#[tokio::test]
async fn a_prefetch_without_a_free_connection_is_busy() {
    let downloads = FakeDownloads::new([]);
    let source = sources(&downloads).of(&image(None));
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(source.fetch(ByteRange::new(0, 10), Urgency::Demand).await.unwrap());
    }
    let refused = source.fetch(ByteRange::new(0, 10), Urgency::Prefetch).await;
    assert_eq!(refused.err().map(|error| error.kind()), Some(Kind::Busy));
    open.clear();
    assert!(source.fetch(ByteRange::new(0, 10), Urgency::Prefetch).await.is_ok());
}
