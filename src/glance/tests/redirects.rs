//! Redirects: none is followed, whatever is asked, so neither a token nor data go to where a server points.

use super::*;

const CODES: [&str; 5] = [
    "301 Moved Permanently",
    "302 Found",
    "303 See Other",
    "307 Temporary Redirect",
    "308 Permanent Redirect",
];

/// A server that answers everything with `code` and the address of another one.
async fn redirecting(code: &str, elsewhere: &Script) -> Script {
    let location = format!("Location: {}v2/images", elsewhere.url);
    Script::serve(vec![Act::Answer(answer(code, &[&location], ""))]).await
}

fn body() -> BoxStream<'static, io::Result<Bytes>> {
    stream::iter([Ok(Bytes::from_static(b"0123456789"))]).boxed()
}

#[tokio::test]
async fn no_request_follows_a_redirect_and_the_token_stays_here() {
    for code in CODES {
        let elsewhere = Script::serve(vec![ok(record("active", r#","size":10"#))]).await;
        let server = redirecting(code, &elsewhere).await;
        let glance = server.client(LONG).await;
        let part = Some(ByteRange::new(2, 5));
        let change = [Change::Set { key: "a".into(), value: "b".into() }];
        for (what, kind) in [
            ("list", kind(glance.list(10, None).await)),
            ("changes", kind(glance.changed_since(std::time::SystemTime::UNIX_EPOCH, 10).await)),
            ("by name", kind(glance.find_by_name("n").await)),
            ("record", kind(glance.show(&id()).await)),
            ("locations", kind(glance.locations(&id()).await)),
            ("data", kind(glance.download(&id(), 10, None).await)),
            ("range", kind(glance.download(&id(), 10, part).await)),
            ("create", kind(glance.create(&new_image()).await)),
            ("change", kind(glance.update(&id(), &change).await)),
            ("upload", kind(glance.upload(&id(), 10, &body).await)),
            ("delete", kind(glance.delete(&id()).await)),
        ] {
            assert_eq!(kind, Kind::NotSupported, "{what}: {code}");
        }
        assert_eq!(elsewhere.count(), 0, "{code}");
        assert!(server.count() >= 11 && server.head(0).contains("x-auth-token: the-token\r\n"));
    }
}

#[tokio::test]
async fn version_1_follows_none_either() {
    for code in CODES {
        let elsewhere = Script::serve(vec![ok("")]).await;
        let server = redirecting(code, &elsewhere).await;
        let glance = GlanceV1::new(server.client(LONG).await);
        let part = Some(ByteRange::new(2, 5));
        assert!(glance.list(10, None).await.is_err(), "{code}");
        assert!(glance.show(&id()).await.is_err(), "{code}");
        assert!(glance.download(&id(), 10, None).await.is_err(), "{code}");
        assert!(glance.download(&id(), 10, part).await.is_err(), "{code}");
        assert!(glance.upload(&id(), 10, &body).await.is_err(), "{code}");
        assert_eq!(elsewhere.count(), 0, "{code}");
    }
}

#[tokio::test]
async fn a_location_gets_no_token_and_leads_nowhere_else() {
    for code in CODES {
        let elsewhere = Script::serve(vec![ok("0123456789")]).await;
        let server = redirecting(code, &elsewhere).await;
        let asked = ByteRange::new(0, 10);
        let download = server.client(LONG).await.download_at(&server.url, &id(), 10, asked).await;
        assert_eq!(kind(download), Kind::Integrity, "{code}");
        assert_eq!(elsewhere.count(), 0, "{code}");
        assert!(!server.head(0).contains("x-auth-token"), "{}", server.head(0));
    }
}
