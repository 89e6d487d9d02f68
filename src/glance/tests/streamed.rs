//! Uploads of unknown length (`--upload stream`) that are refused in the middle.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};

use super::script::{Act, Script, client};
use super::{LONG, id};
use crate::config::AuthMethod;
use crate::error::Kind;
use crate::glance::{BodyStream, Placement};

/// Some data, and a writer who thinks about what comes next for ever.
fn unfinished() -> BodyStream {
    stream::iter([Ok(Bytes::from(vec![b'x'; 300_000]))]).chain(stream::pending()).boxed()
}

/// The last chunk, which says that this was all.
const END: &[u8] = b"0\r\n\r\n";

async fn refused(method: AuthMethod) -> (crate::error::Error, Script) {
    let refusal = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n".to_vec();
    let server = Script::serve(vec![Act::RefuseAndListen(refusal)]).await;
    let glance = client(&[&server.url], method, LONG).await;
    // A token that is younger than a second is not replaced.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let error = glance.upload_stream(&id(), &Placement::default(), unfinished()).await.unwrap_err();
    (error, server)
}

#[tokio::test]
async fn a_token_refused_in_the_middle_is_renewed_and_the_writer_told_to_begin_again() {
    let dir = tempfile::tempdir().unwrap();
    let count = dir.path().join("count");
    let command = format!("echo >> {0}; wc -l < {0}", count.display());
    let (error, server) = refused(AuthMethod::TokenCommand(command)).await;
    let told = error.to_string();
    assert_eq!(error.kind(), Kind::ServerError, "another try may succeed: {told}");
    assert!(told.contains("HTTP 401") && told.contains("from its beginning"), "{told}");
    assert_eq!(std::fs::read_to_string(&count).unwrap().lines().count(), 2, "there is a new token");
    let body = server.rest_of(0).await;
    assert!(body.len() > 100_000 && !body.ends_with(END), "{} bytes", body.len());
    assert_eq!(server.count(), 1, "what was sent is nowhere any more");
}

#[tokio::test]
async fn a_token_that_cannot_be_renewed_in_the_middle_is_told() {
    let (error, server) = refused(AuthMethod::AdminToken("the-token".into())).await;
    assert_eq!(error.kind(), Kind::NotAuthenticated);
    let told = error.to_string();
    assert!(told.contains("OS_TOKEN") && told.contains("from its beginning"), "{told}");
    assert!(!server.rest_of(0).await.ends_with(END));
}
