//! The fault proxy does what its faults say: each of them, by curl, before anything is concluded from them.

use crate::harness::{Cloud, Fault, Proxy, Rule, pattern, run, sh};

/// Status, `Content-Range` and bytes of a download through the proxy, and how curl ended.
fn download(proxy: &Proxy, id: &str, range: &str) -> (String, Vec<u8>, Option<i32>) {
    let folder = crate::harness::Folder::new("curl");
    let file = folder.path("body");
    let range = if range.is_empty() { String::new() } else { format!("-r {range}") };
    let outcome = run(&format!(
        "curl -sS -m 2 --noproxy '*' {range} -o {file} -w '%{{http_code}} %header{{content-range}}' {}/v2/images/{id}/file",
        proxy.url()
    ));
    (outcome.stdout.trim().to_owned(), std::fs::read(&file).unwrap_or_default(), outcome.code())
}

#[test]
fn the_proxy_spoils_what_it_is_told_to_and_nothing_else() {
    let cloud = Cloud::open();
    let content = pattern(700, 100_000);
    let id = cloud.image("proxied.raw", &content);
    let proxy = Proxy::to(&cloud.url);
    let plain = || download(&proxy, &id, "1000-1999");
    let good = ("206 bytes 1000-1999/100000".to_owned(), content[1000..2000].to_vec(), Some(0));
    assert_eq!(plain(), good);
    let spoiled = |fault: Fault| {
        proxy.heal();
        proxy.add(Rule::new("GET", format!("/v2/images/{id}/file"), fault).after(1).times(1));
        assert_eq!(plain(), good, "the first passes");
        let spoiled = plain();
        assert_eq!(plain(), good, "and the third");
        spoiled
    };
    // 52: an empty reply, 56: a reset, 18: a part, 28: too late.
    assert_eq!(spoiled(Fault::Status(503, Some(7))).0, "503");
    assert_eq!(spoiled(Fault::Empty204).0, "204");
    assert_eq!(spoiled(Fault::BlackHole).2, Some(28));
    assert_eq!(spoiled(Fault::Reset).2, Some(56));
    assert_eq!(spoiled(Fault::LostAnswer).2, Some(56));
    let (_, body, code) = spoiled(Fault::Cut(500));
    assert_eq!((body, code), (content[1000..1500].to_vec(), Some(18)));
    let (_, body, code) = spoiled(Fault::Stall(500));
    assert_eq!((body, code), (content[1000..1500].to_vec(), Some(28)));
    let (_, body, code) = spoiled(Fault::Slow(200));
    assert!(body.len() < 1000 && code == Some(28), "{} {code:?}", body.len());
    assert_eq!(spoiled(Fault::WrongRange).0, "206 bytes 1001-2000/100000");
    let (said, body, _) = spoiled(Fault::WholeAs206);
    assert_eq!((said.as_str(), body.len()), ("206 bytes 1000-1999/100000", 100_000));
    let (said, body, _) = spoiled(Fault::Short200);
    assert_eq!((said.as_str(), body.len()), ("200", 50_000));
    assert_eq!(spoiled(Fault::Long).1.len(), 1000 + 4096);
    assert_eq!(spoiled(Fault::Garbage).1[0], b'<');
}

#[test]
fn the_proxy_cuts_uploads_on_their_way_to_the_server() {
    let cloud = Cloud::open();
    let proxy = Proxy::to(&cloud.url);
    let id = cloud.reserve(serde_json::json!({"name": "proxied-upload.raw"}));
    let put = || {
        let outcome = run(&format!(
            "head -c 300000 /dev/zero | curl -sS -m 3 --noproxy '*' -o /dev/null -w '%{{http_code}}' -H Expect: \
             -H 'Content-Type: application/octet-stream' -T - {}/v2/images/{id}/file",
            proxy.url()
        ));
        (outcome.stdout.clone(), outcome.code())
    };
    for fault in [Fault::Cut(100_000), Fault::Stall(100_000), Fault::Status(503, None), Fault::Empty204] {
        proxy.heal();
        proxy.add(Rule::new("PUT", "/v2/images/*/file", fault.clone()));
        let (status, code) = put();
        assert!(status != "204" || fault == Fault::Empty204, "{fault:?}: {status} {code:?}");
        // The end of a client that stalls can be behind what nobody reads: then healing brings it to the server.
        proxy.heal();
        crate::harness::eventually(&format!("after {fault:?} it is as before"), || {
            cloud.record(&id)["status"] == "queued"
        });
    }
    proxy.heal();
    assert_eq!(put(), ("204".to_owned(), Some(0)));
    let seen = proxy.take_seen();
    assert_eq!((seen.len(), seen.iter().filter(|seen| seen.spoiled).count()), (5, 4), "{seen:?}");
    assert!(
        seen.iter().all(|seen| seen.method == "PUT" && !seen.has_token && seen.target.ends_with("/file"))
    );
    assert_eq!(sh!("stat -c %s {}", cloud.blob(&id).display()), "300000");
}

#[test]
fn the_proxy_continues_lists_without_end_and_elsewhere() {
    let cloud = Cloud::open();
    cloud.image("proxied-list.raw", b"listed");
    let proxy = Proxy::to(&cloud.url);
    let next = || sh!("curl -sS -m 5 --noproxy '*' '{}/v2/images?limit=1' | jq -r .next", proxy.url());
    proxy.add(Rule::new("GET", "/v2/images?*", Fault::EndlessPages));
    let first = next();
    assert!(first.starts_with("/v2/images?marker=") && next() != first, "{first}");
    proxy.heal();
    proxy.add(Rule::new("GET", "/v2/images?*", Fault::NextElsewhere("http://elsewhere.example".into())));
    assert!(next().starts_with("http://elsewhere.example/v2/images?marker="));
}
