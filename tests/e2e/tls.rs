//! Servers behind HTTPS with a certificate of a private CA: trusted when the CA is named, and refused in
//! one message that says what to do when it is not.

use crate::harness::{Authority, Cloud, Folder, Front, Mount, fails, pattern, sh};

type Variables = Vec<(String, String)>;

fn with(variables: &[(String, String)], more: &[(&str, &str)]) -> Variables {
    let more = more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    variables.iter().cloned().chain(more).collect()
}

/// Without Keystone.
fn no_login() -> Variables {
    with(&[], &[("OS_AUTH_TYPE", "none")])
}

/// A mount is made, lists, reads and uploads.
#[track_caller]
fn works(cloud: &Cloud, how: &str, variables: Variables, options: &str) {
    let content = pattern(90, 9_000_000);
    let name = format!("tls-{how}.raw");
    cloud.image(&name, &content);
    let mount = Mount::new(variables, options);
    mount.up();
    assert!(mount.read(&name) == content, "{how}");
    sh!("cp {mount}/{name} {mount}/uploaded-{name}");
    assert_eq!(cloud.only(&format!("uploaded-{name}"))["size"], content.len(), "{how}");
}

/// It is not made, for a reason told in one message with these words.
#[track_caller]
fn refused(variables: Variables, options: &str, words: &[&str]) {
    let outcome = Mount::new(variables, &format!("--timeout 5s {options}")).try_up();
    let message = outcome.expect_failure();
    let message = message.trim();
    assert!(message.starts_with("glancefs: ") && message.lines().count() == 1, "{message}");
    for word in words {
        assert!(message.contains(word), "no {word:?} in: {message}");
    }
    // It is not that nobody answers.
    assert!(!message.contains("is Glance running"), "{message}");
}

const UNKNOWN: [&str; 3] = ["signed by an authority unknown here", "OS_CACERT", "UnknownIssuer"];

fn host(front: &Front) -> String {
    front.url().strip_prefix("https://").unwrap().to_owned()
}

#[test]
fn a_private_ca_is_trusted_where_it_is_named() {
    let cloud = Cloud::open();
    let authority = Authority::new();
    let front = authority.front(&cloud.url, "127.0.0.1");
    let folder = Folder::new("tls");
    let ca = folder.file("ca.pem", authority.pem());
    let endpoint = format!("--endpoint {}", front.url());
    works(cloud, "option", no_login(), &format!("{endpoint} --os-cacert {ca}"));
    works(cloud, "variable", with(&no_login(), &[("OS_CACERT", &ca)]), &endpoint);
    refused(no_login(), &endpoint, &[&UNKNOWN[..], &[&host(&front)]].concat());
    let other = folder.file("other.pem", Authority::new().pem());
    refused(
        no_login(),
        &format!("{endpoint} --os-cacert {other}"),
        &["authority unknown here", &host(&front)],
    );
}

#[test]
fn a_certificate_for_another_host_is_refused() {
    let cloud = Cloud::open();
    let authority = Authority::new();
    let front = authority.front(&cloud.url, "glance.example.org");
    let folder = Folder::new("tls");
    let ca = folder.file("ca.pem", authority.pem());
    let options = format!("--endpoint {} --os-cacert {ca}", front.url());
    refused(no_login(), &options, &["for another host name", "glance.example.org", &host(&front)]);
    works(cloud, "other-name", no_login(), &format!("{options} --insecure"));
}

#[test]
fn certificates_need_not_be_checked_on_request() {
    let cloud = Cloud::open();
    let front = Authority::new().front(&cloud.url, "127.0.0.1");
    let endpoint = format!("--endpoint {}", front.url());
    works(cloud, "insecure", no_login(), &format!("{endpoint} --insecure"));
    works(cloud, "os-insecure", with(&no_login(), &[("OS_INSECURE", "true")]), &endpoint);
    refused(with(&no_login(), &[("OS_INSECURE", "false")]), &endpoint, &UNKNOWN);
}

#[test]
fn of_two_servers_the_one_that_is_trusted_is_used() {
    let cloud = Cloud::open();
    let (trusted, foreign) = (Authority::new(), Authority::new());
    let (one, other) = (trusted.front(&cloud.url, "127.0.0.1"), foreign.front(&cloud.url, "127.0.0.1"));
    let ca = Folder::new("tls");
    let ca_file = ca.file("ca.pem", trusted.pem());
    // Their order is shuffled.
    for round in 0..3 {
        let options = format!("--endpoint {} --endpoint {} --os-cacert {ca_file}", one.url(), other.url());
        works(cloud, &format!("two-{round}"), no_login(), &options);
    }
}

#[test]
fn keystone_behind_https_logs_in() {
    let cloud = Cloud::keystone();
    let clouds = std::fs::read_to_string(cloud.folder().join("clouds.yaml")).unwrap();
    let keystone = clouds.lines().find_map(|line| line.trim().strip_prefix("auth_url: ")).unwrap();
    let authority = Authority::new();
    let folder = Folder::new("tls");
    let ca = folder.file("ca.pem", authority.pem());
    let keystone_front = authority.front(keystone, "127.0.0.1");
    let misnamed = authority.front(keystone, "keystone.example.org");
    let glance = authority.front(&cloud.url, "127.0.0.1");
    let login = |front: &Front| {
        with(
            &[],
            &[
                ("OS_AUTH_URL", &format!("{}/v3", front.url())),
                ("OS_USERNAME", "alice"),
                ("OS_PASSWORD", "alicepw"),
                ("OS_PROJECT_NAME", "alpha"),
                ("OS_USER_DOMAIN_ID", "default"),
                ("OS_PROJECT_DOMAIN_ID", "default"),
            ],
        )
    };
    let both = format!("--endpoint {}", glance.url());
    works(cloud, "keystone", with(&login(&keystone_front), &[("OS_CACERT", &ca)]), &both);
    works(cloud, "keystone-option", login(&keystone_front), &format!("--os-cacert {ca}"));
    works(cloud, "keystone-insecure", login(&keystone_front), &format!("{both} --insecure"));
    refused(
        login(&keystone_front),
        &both,
        &[&UNKNOWN[..], &["Keystone at", &host(&keystone_front)]].concat(),
    );
    let words = ["Keystone at", "for another host name", "keystone.example.org"];
    refused(login(&misnamed), &format!("--os-cacert {ca}"), &words);
    // As clouds.yaml has it.
    let public: String = clouds
        .lines()
        .map(|line| match line.trim_start().strip_prefix("auth_url: ") {
            Some(_) => {
                let indent = &line[..line.len() - line.trim_start().len()];
                format!("{indent}auth_url: {}/v3\n", keystone_front.url())
            }
            // The settings of a cloud are those beside its `auth`.
            None if line.trim() == "auth:" => {
                let indent = &line[..line.len() - line.trim_start().len()];
                format!("{indent}cacert: {ca}\n{line}\n")
            }
            None => format!("{line}\n"),
        })
        .collect();
    let file = with(&[], &[("OS_CLIENT_CONFIG_FILE", &folder.file("clouds.yaml", public))]);
    works(cloud, "clouds-yaml", file, "--os-cloud alice");
}

#[test]
fn a_server_that_demands_a_certificate_of_its_clients_is_shown_one() {
    let cloud = Cloud::open();
    let (authority, clients) = (Authority::new(), Authority::new());
    let front = authority.front_for_clients_of(&cloud.url, "127.0.0.1", &clients);
    let folder = Folder::new("tls");
    let ca = folder.file("ca.pem", authority.pem());
    let (certificate, key) = clients.client();
    let both = folder.file("both.pem", format!("{key}{certificate}"));
    let (cert, key) = (folder.file("cert.pem", certificate), folder.file("key.pem", key));
    let options = format!("--endpoint {} --os-cacert {ca}", front.url());
    works(cloud, "client", no_login(), &format!("{options} --os-cert {cert} --os-key {key}"));
    works(cloud, "client-one-file", no_login(), &format!("{options} --os-cert {both}"));
    let variables = with(&no_login(), &[("OS_CERT", &cert), ("OS_KEY", &key)]);
    works(cloud, "client-variables", variables, &options);

    refused(no_login(), &options, &["does not trust us", "wants a certificate", "OS_CERT", &host(&front)]);
    let (foreign, foreign_key) = Authority::new().client();
    let foreign = folder.file("foreign.pem", foreign + &foreign_key);
    let words = ["does not trust us", "does not accept the certificate of the client", &host(&front)];
    refused(no_login(), &format!("{options} --os-cert {foreign}"), &words);
    refused(no_login(), &format!("{options} --os-cert {cert}"), &["cert.pem", "with its key", "OS_KEY"]);
    refused(no_login(), &format!("{options} --os-key {key}"), &["--os-key", "--os-cert"]);
}

#[test]
fn keystone_behind_https_that_demands_a_certificate_logs_in() {
    let cloud = Cloud::keystone();
    let clouds = std::fs::read_to_string(cloud.folder().join("clouds.yaml")).unwrap();
    let keystone = clouds.lines().find_map(|line| line.trim().strip_prefix("auth_url: ")).unwrap();
    let (authority, clients) = (Authority::new(), Authority::new());
    let folder = Folder::new("tls");
    let ca = folder.file("ca.pem", authority.pem());
    let (certificate, key) = clients.client();
    let (cert, key) = (folder.file("cert.pem", certificate), folder.file("key.pem", key));
    let front = authority.front_for_clients_of(keystone, "127.0.0.1", &clients);
    let glance = authority.front_for_clients_of(&cloud.url, "127.0.0.1", &clients);
    let endpoint = format!("--endpoint {}", glance.url());
    let at_keystone = |variables: &[(&str, &str)]| {
        let url = format!("{}/v3", front.url());
        with(&with(&[], &[("OS_AUTH_URL", &url), ("OS_CACERT", &ca)]), variables)
    };
    let password = [
        ("OS_USERNAME", "alice"),
        ("OS_PASSWORD", "alicepw"),
        ("OS_PROJECT_NAME", "alpha"),
        ("OS_USER_DOMAIN_ID", "default"),
        ("OS_PROJECT_DOMAIN_ID", "default"),
    ];
    let ours = [("OS_CERT", &*cert), ("OS_KEY", &*key)];
    let words = ["Keystone at", "wants a certificate of the client", &host(&front)];
    refused(at_keystone(&password), &endpoint, &words);
    let with_password = with(&at_keystone(&password), &ours);
    works(cloud, "client-password", with_password.clone(), &endpoint);
    let wrong = with(&with_password, &[("OS_PASSWORD", "wrong")]);
    refused(wrong, &endpoint, &["Keystone at", "refused", "OS_PASSWORD"]);
    let token = cloud.token("alice");
    let by_token =
        at_keystone(&[("OS_AUTH_TYPE", "v3token"), ("OS_TOKEN", &token), ("OS_PROJECT_NAME", "alpha")]);
    works(cloud, "client-token", with(&by_token, &ours), &endpoint);
    // As clouds.yaml has it.
    let yaml = format!(
        "clouds:\n  mutual:\n    cacert: {ca}\n    cert: {cert}\n    key: {key}\n    image_endpoint_override: {}\n    auth:\n      \
         auth_url: {}/v3\n      username: alice\n      password: alicepw\n      project_name: alpha\n",
        glance.url(),
        front.url()
    );
    let file = with(&[], &[("OS_CLIENT_CONFIG_FILE", &folder.file("clouds.yaml", yaml))]);
    works(cloud, "client-clouds-yaml", file, "--os-cloud mutual");
}

#[test]
fn a_certificate_that_is_no_longer_trusted_is_told_while_mounted() {
    let cloud = Cloud::open();
    let authority = Authority::new();
    let front = authority.front(&cloud.url, "127.0.0.1");
    let folder = Folder::new("tls");
    let ca = folder.file("ca.pem", authority.pem());
    let id = cloud.image("tls-replaced.raw", &pattern(91, 500_000));
    let gate = crate::harness::Gate::to(&format!("http://{}", host(&front)));
    let endpoint = gate.url().replace("http:", "https:");
    let mount = Mount::new(no_login(), &format!("--endpoint {endpoint} --os-cacert {ca} --timeout 5s"));
    mount.up();
    // Another server answers at the same address from now on, as on a hijacked network.
    let foreign = Authority::new().front(&cloud.url, "127.0.0.1");
    gate.lead_to(&host(&foreign));
    assert!(fails!("cat {mount}/tls-replaced.raw").contains("Input/output error"));
    assert!(cloud.downloads(&id).is_empty(), "nothing was asked of it, so no token was shown to it");
    assert!(mount.errors().contains("not trusted"), "{}", mount.errors());
}
