//! Tests of what goes before what.

use super::*;
use crate::cli::args::MountArguments;

/// The arguments of `glancefs LINE` beside a file with this text and these variables.
fn read(file: &str, variables: &[(&str, &str)], line: &[&str]) -> Result<Arguments, Unreadable> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("glancefs.toml");
    std::fs::write(&path, file).unwrap();
    let own = [("GLANCEFS_CONFIG", path.to_str().unwrap())];
    let environment = Environment::new(own.iter().chain(variables).copied(), 1000, 1000);
    let line: Vec<OsString> = ["glancefs"].iter().chain(line).map(OsString::from).collect();
    arguments(&line, &environment)
}

fn mount(file: &str, variables: &[(&str, &str)], line: &[&str]) -> MountArguments {
    let line = [&["mount"][..], line, &["/m"]].concat();
    match read(file, variables, &line).unwrap().command {
        Command::Mount(mount) => *mount,
        _ => unreachable!("a mount"),
    }
}

/// How this mount logs in: cloud, type, endpoints and the cloud of the file.
fn login(file: &str, variables: &[(&str, &str)], line: &[&str]) -> String {
    let mount = mount(file, variables, line);
    let login = mount.cloud.login;
    let text = |text: Option<String>| text.filter(|text| !text.is_empty()).unwrap_or("-".into());
    format!(
        "{} {} {} {}",
        text(login.os_cloud),
        text(login.os_auth_type),
        text(Some(login.endpoint.join("+"))),
        text(mount.own_cloud)
    )
}

#[test]
fn an_option_goes_before_the_file_and_that_before_the_default() {
    let file = "timeout = 7\nretries = 9\nread_only = true\n[cloud.lab]\ntimeout = 8\nretries = 1";
    let given = mount(file, &[], &["--retries", "5"]);
    assert_eq!(given.cloud.login.timeout.as_secs(), 7);
    assert_eq!(given.cloud.login.retries, 5);
    assert!(given.access.read_only);
    assert_eq!(given.cloud.max_connections, 8);
    let given = mount(file, &[], &["lab"]);
    assert_eq!((given.cloud.login.timeout.as_secs(), given.cloud.login.retries), (8, 1));
}

#[test]
fn the_doctor_looks_with_the_settings_of_the_mount() {
    let file =
        "timeout = 7\n[cloud.lab]\ntimeout = 8\nendpoint = \"http://glance:9292\"\nos_auth_type = \"none\"";
    let doctor = |places: &[&str]| match read(file, &[], &[&["doctor"][..], places].concat()).unwrap().command
    {
        Command::Doctor(doctor) => doctor,
        _ => unreachable!("the line begins with doctor"),
    };
    assert_eq!(doctor(&["/m"]).cloud.login.timeout.as_secs(), 7);
    let lab = doctor(&["lab", "/m"]);
    assert_eq!((lab.cloud.login.timeout.as_secs(), lab.own_cloud.as_deref()), (8, Some("lab")));
}

#[test]
fn a_variable_goes_before_the_file() {
    let file = "os_region_name = \"file\"\nos_cacert = \"/file\"\ninsecure = true\nos_key = \"/key\"";
    let given = mount(file, &[], &[]).cloud.login;
    assert_eq!(given.os_region_name.as_deref(), Some("file"));
    assert!(given.insecure && given.os_key.is_some());
    let variables = [("OS_REGION_NAME", "v"), ("OS_CACERT", "/v"), ("OS_INSECURE", "no"), ("OS_CERT", "/c")];
    let given = mount(file, &variables, &[]).cloud.login;
    // What is not given here is taken from the variable later on; the key belongs to another certificate.
    assert!(given.os_region_name.is_none() && given.os_cacert.is_none() && given.os_key.is_none());
    assert!(!given.insecure);
}

#[test]
fn a_switch_of_the_file_can_be_turned_off() {
    let file = "read_only = true\nhard = true";
    assert!(!mount(file, &[], &["--read-only=false"]).access.read_only);
    assert!(mount(file, &[], &["--read-only=false", "--read-only"]).access.read_only);
    assert!(!mount("", &[], &["--hard", "--hard=false"]).cloud.hard);
    assert!(mount("hard = false", &[], &["--hard=true"]).cloud.hard);
    assert!(read("", &[], &["mount", "--hard=maybe", "/m"]).is_err());
    assert!(read("", &[], &["mount", "--", "--hard=false"]).is_ok(), "a place");
}

#[test]
fn what_the_command_line_contradicts_does_not_count() {
    let file = "allow_delete = true\nallow_overwrite = true\nverify = \"signature\"\ntrusted_certs = \"/c\"";
    let given = mount(file, &[], &["--read-only", "--verify=hash"]);
    assert!(
        !given.access.allow_delete && !given.access.allow_overwrite && given.trust.trusted_certs.is_none()
    );
    assert!(mount(file, &[], &[]).access.allow_overwrite);
    assert!(!mount(file, &[], &["c:image"]).access.allow_overwrite);
}

const CLOUDS: &str = r#"
os_cloud = "usual"
endpoint = "http://usual"
[cloud.usual]
timeout = 5
[cloud.other]
timeout = 6
[cloud.lab]
os_auth_type = "none"
endpoint = ["http://lab1", "http://lab2"]
[cloud.alias]
os_cloud = "real"
read_only = true
"#;

#[test]
fn who_logs_in_where_is_one_decision() {
    for (variables, line, expected) in [
        (&[][..], &[][..], "usual - http://usual -"),
        // Another cloud than the file's is not asked at the file's endpoint.
        (&[], &["other"], "- - - -"),
        (&[], &["--os-cloud=other"], "other - - -"),
        (&[("OS_CLOUD", "other")], &[], "- - - -"),
        (&[("OS_AUTH_URL", "http://k")], &[], "- - - -"),
        (&[("OS_TOKEN", "t")], &[], "- - - -"),
        (&[], &["--token-command=x"], "- - - -"),
        (&[], &["--os-auth-type=none"], "- none - -"),
        // An endpoint alone says where, and not who.
        (&[], &["--endpoint=http://x"], "usual - http://x -"),
        (&[], &["http://x"], "usual - - -"),
        (&[("OS_ENDPOINT", "http://v")], &[], "usual - - -"),
        // A section that says how to log in is a cloud by itself, whoever names it.
        (&[], &["lab"], "- none http://lab1+http://lab2 lab"),
        (&[], &["lab:image"], "- none http://lab1+http://lab2 lab"),
        (&[], &["--os-cloud=lab"], "- none http://lab1+http://lab2 lab"),
        (&[("OS_CLOUD", "lab")], &[], "- none http://lab1+http://lab2 -"),
        (&[("OS_AUTH_TYPE", "password")], &["lab"], "- none http://lab1+http://lab2 lab"),
        (&[], &["--endpoint=http://x", "lab"], "- none http://x lab"),
        (&[], &["alias"], "real - - alias"),
        (&[], &["--os-cloud", "alias"], "real - - alias"),
        (&[("OS_CLOUD", "alias")], &[], "real - - -"),
        // Two names are refused later on.
        (&[], &["--os-cloud=other", "lab"], "other none http://lab1+http://lab2 -"),
    ] {
        assert_eq!(login(CLOUDS, variables, line), expected, "{variables:?} {line:?}");
    }
    assert!(mount(CLOUDS, &[], &["alias"]).access.read_only);
    assert_eq!(mount(CLOUDS, &[("OS_CLOUD", "other")], &[]).cloud.login.timeout.as_secs(), 6);
    assert_eq!(mount(CLOUDS, &[], &[]).cloud.login.timeout.as_secs(), 5);
}

#[test]
fn the_users_file_goes_before_that_of_the_machine_as_a_whole() {
    use crate::cli::file::Files;
    let text = |text: &str| {
        Files::of_texts(&[("/system", "timeout = 1\nretries = 1\n[cloud.c]\ntimeout = 2"), ("/user", text)])
    };
    let given = Given { source_cloud: Some("c".into()), ..Given::default() };
    let environment = Environment::new([], 7, 7);
    let values = |files: Files| {
        let in_force = files.in_force(&given, &environment).unwrap();
        ["timeout", "retries"].map(|name| in_force.settings[name].values[0].clone())
    };
    assert_eq!(values(text("")), ["2", "1"]);
    assert_eq!(values(text("timeout = 3")), ["3", "1"]);
    assert_eq!(values(text("timeout = 3\n[cloud.c]\ntimeout = 4")), ["4", "1"]);
}

#[test]
fn other_commands_take_the_login_and_nothing_that_means_something_else() {
    let file = "os_cloud = \"c\"\nstore = \"fast\"\nvisibility = \"public\"\ncache_dir = \"/c\"\ntimeout = 7";
    let Command::Order(super::super::orders::OrderCommand::Import(given)) =
        read(file, &[], &["import", "x", "http://h/x"]).unwrap().command
    else {
        unreachable!("an import")
    };
    assert_eq!(given.login.os_cloud.as_deref(), Some("c"));
    assert_eq!(given.login.timeout.as_secs(), 7);
    assert!(given.stores.store.is_empty() && given.image.visibility.is_none());
    let Command::Uploads(given) = read(file, &[], &["uploads"]).unwrap().command else {
        unreachable!("uploads")
    };
    assert_eq!(given.cache_dir.unwrap().to_str(), Some("/c"));
    assert!(read(file, &[], &["uploads", "discard", "1f3c"]).is_ok());
    // A mount is taken down whatever a file says.
    assert!(read("no TOML", &[], &["umount", "/m"]).is_ok());
    assert!(matches!(read("no TOML", &[], &["mount", "/m"]), Err(Unreadable::File(_))));
}
