//! How the client behaves when a server does not: refused, cut, silent, lying.

mod downloads;
mod lists;
mod records;
mod redirects;
mod requests;
mod script;
mod streamed;
mod uploads;
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

fn new_image() -> NewImage {
    NewImage {
        id: id(),
        name: "n".into(),
        disk_format: Some("raw".into()),
        container_format: Some("bare".into()),
        properties: vec![("a".into(), "b".into())],
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
