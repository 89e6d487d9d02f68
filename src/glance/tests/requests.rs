//! One exchange: who asks, fail-over, retries, deadlines, tokens, redirects.

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
async fn a_try_that_could_only_run_into_the_deadline_is_not_begun() {
    let busy = Act::Answer(answer("503 Service Unavailable", &["Retry-After: 1"], ""));
    let server = Script::serve(vec![busy]).await;
    // After the pause 50 ms would be left at most.
    let client = server.client(Duration::from_millis(1050)).await;
    assert_eq!(kind(client.list(10, None).await), Kind::ServerError);
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
    assert_eq!(std::fs::read_to_string(&count).unwrap().lines().count(), 3, "one login for a request");
}

#[tokio::test]
async fn a_glance_that_refuses_a_new_token_for_a_moment_is_asked_again() {
    let refused = status("401 Unauthorized");
    let server = Script::serve(vec![refused.clone(), refused, page(&[])]).await;
    let glance = client(&[&server.url], AuthMethod::TokenCommand("echo token".into()), LONG).await;
    glance.list(10, None).await.unwrap();
    assert_eq!(server.count(), 3);
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

#[tokio::test]
async fn a_pause_beyond_any_clock_is_not_waited_for() {
    for line in ["429 Too Many Requests", "503 Service Unavailable"] {
        let later = answer(line, &["Retry-After: 18446744073709551615"], "");
        let server = Script::serve(vec![Act::Answer(later)]).await;
        assert_eq!(kind(server.client(LONG).await.show(&id()).await), Kind::ServerError, "{line}");
        assert_eq!(server.count(), 1);
    }
}
