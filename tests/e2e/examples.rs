//! The examples of the README and of docs/: what is typed there, in that order, on one machine, and what it says.
//!
//! An example is a block marked `console`: lines that begin with `$ ` are typed, the others are what was said. Sizes, dates
//! and ids may differ, `...` is any text. What says something that no example shows, or fails, is wrong.

use std::path::Path;

use serde_json::{Value, json};

use crate::harness::{Cloud, Folder, PROGRAM, in_a_copy, leave_out, no_copy, pattern, sh};

/// A command and what the document says that it says.
#[derive(Debug, PartialEq)]
struct Example {
    command: String,
    said: String,
}

fn examples(document: &str) -> Vec<Example> {
    let mut found: Vec<Example> = Vec::new();
    let mut inside = false;
    for line in document.lines() {
        match (inside, line, line.strip_prefix("$ ")) {
            (false, "```console", _) => inside = true,
            (true, "```", _) => inside = false,
            (true, _, Some(command)) => found.push(Example { command: command.into(), said: String::new() }),
            (true, _, None) => {
                let example = found.last_mut().expect("a block begins with a command");
                example.said += &format!("{line}\n");
            }
            _ => {}
        }
    }
    found
}

/// The text without what differs from cloud to cloud: long numbers and ids (`N`), dates (`DATE`), widths of columns.
fn in_general(text: &str) -> String {
    const MONTHS: &str = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec";
    let line = |line: &str| {
        let mut words = line.split_whitespace().peekable();
        let mut general = Vec::new();
        while let Some(word) = words.next() {
            if MONTHS.split(' ').any(|month| month == word) && words.peek().is_some() {
                // Day, and time or year.
                words.by_ref().take(2).for_each(drop);
                general.push("DATE".to_owned());
            } else {
                general.push(without_numbers(word));
            }
        }
        general.join(" ") + "\n"
    };
    text.lines().map(line).collect()
}

fn without_numbers(word: &str) -> String {
    let id = |c: char| c.is_ascii_hexdigit() || c == '-';
    if word.len() == 36 && word.chars().all(id) {
        return "N".into();
    }
    let (mut general, mut digits) = (String::new(), String::new());
    for c in word.chars().chain(['\n']) {
        if c.is_ascii_digit() {
            digits.push(c);
            continue;
        }
        general += if digits.len() < 4 { &digits } else { "N" };
        digits.clear();
        general.push(c);
    }
    general.trim_end().to_owned()
}

/// Whether `said` is what the document has, where `...` is any text.
fn is_as_written(said: &str, written: &str) -> bool {
    let (said, written) = (in_general(said.trim_end()), in_general(written.trim_end()));
    let mut parts = written.split("...");
    let Some(mut rest) = parts.next().and_then(|first| said.strip_prefix(first)) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        let at = if parts.peek().is_none() {
            rest.len().checked_sub(part.len()).filter(|at| rest[*at..] == *part)
        } else {
            rest.find(part)
        };
        let Some(at) = at else { return false };
        rest = &rest[at + part.len()..];
    }
    true
}

/// Types the examples of a document on a copy of this machine with `cloud` as `mycloud`, after `before`.
fn type_all(cloud: &Cloud, document: &str, before: &str) {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(document)).unwrap();
    let examples = examples(&text);
    assert!(!examples.is_empty(), "{document} has no examples");

    let folder = Folder::new("typed");
    sh!(
        "qemu-img create -q -f qcow2 {folder}/debian.qcow2 2G && qemu-io -c 'write -q 0 1M' {folder}/debian.qcow2"
    );
    let debian = std::fs::read(folder.path("debian.qcow2")).unwrap();
    cloud.image_of(json!({"name": "debian-12.qcow2", "disk_format": "qcow2"}), &debian);
    cloud.image("fedora-41.raw", &pattern(41, 16 << 20));
    folder.file("clouds.yaml", clouds_yaml(cloud));
    let own = format!(
        "cache_dir = \"{folder}/cache\"\nspool_dir = \"{folder}/spool\"\nlog_file = \"{folder}/log\"\n"
    );
    folder.file("glancefs.toml", own);
    // Each command is typed into one shell, between two marks.
    let typed = |example: &Example| format!("echo '<<'\n{}\nprintf '\\n>>%s\\n' $?\n", example.command);
    folder.file("typed", examples.iter().map(typed).collect::<String>());
    let script = format!(
        r#"
export GLANCEFS_CONFIG={folder}/glancefs.toml HOME=/var/tmp/home
ln -s {PROGRAM} /usr/local/bin/glancefs
mkdir -p /etc/openstack /mnt/images $HOME
cp {folder}/clouds.yaml /etc/openstack/
cd $HOME
qemu-img create -q -f qcow2 new-image.qcow2 1G
{before}
bash {folder}/typed > {folder}/said 2>&1
if mountpoint -q /mnt/images; then glancefs umount /mnt/images; fi
"#
    );
    let outcome = in_a_copy(&script, &[]);
    let said = std::fs::read_to_string(folder.path("said")).unwrap_or_default();
    assert!(outcome.succeeded(), "{outcome}\n{said}");

    let mut said = said.split("<<\n").skip(1);
    let mut wrong = Vec::new();
    for Example { command, said: written } in &examples {
        let (said, code) = said.next().and_then(|said| said.split_once(">>")).expect("each was typed");
        // What fails does so as it is written there.
        let fails = code.trim() != "0" && written.is_empty();
        if fails || !is_as_written(said, written) {
            wrong.push(format!("$ {command}\n{said}exit code {code}written is:\n{written}"));
        }
    }
    assert!(wrong.is_empty(), "{document}:\n{}", wrong.join("\n"));
    // The next begins with the same two.
    let answer = cloud.api("GET", "/v2/images", &Value::Null);
    answer["images"].as_array().unwrap().iter().for_each(|image| cloud.delete(image["id"].as_str().unwrap()));
}

/// What describes the cloud, with its user alice as `mycloud`.
fn clouds_yaml(cloud: &Cloud) -> String {
    let variables = cloud.variables(None);
    let value = |name: &str| &variables.iter().find(|(key, _)| key == name).unwrap().1;
    let text = std::fs::read_to_string(value("OS_CLIENT_CONFIG_FILE")).unwrap();
    text.replace(&format!("  {}:\n", value("OS_CLOUD")), "  mycloud:\n")
}

#[test]
fn what_the_documents_show_is_what_happens() {
    if let Some(why) = no_copy() {
        leave_out!("{why}");
    }
    let cloud = Cloud::new("keystone", "");
    type_all(&cloud, "README.md", "");
    type_all(&cloud, "docs/semantics.md", "");
    type_all(&cloud, "docs/troubleshooting.md", "glancefs mount mycloud /mnt/images");
}

#[test]
fn what_is_written_is_compared_but_for_what_differs_from_cloud_to_cloud() {
    let ls = "-rw-r--r-- 1 root root   497942528 Nov 20 10:02 debian-12.qcow2\n";
    assert!(is_as_written("-rw-r--r-- 1 root root 1179648 Jan  3  2025 debian-12.qcow2\n", ls));
    assert!(!is_as_written("-rw-r--r-- 1 root root 1179648 Jan  3 10:02 debian-13.qcow2\n", ls));
    assert!(is_as_written("a\nb\nc\n", "a\n...\nc\n") && is_as_written("b\n", "...\n"));
    assert!(!is_as_written("a\nb\n", "a\n") && !is_as_written("", "...\n") && !is_as_written("a\n", ""));
    assert!(!is_as_written("a c\nd\n", "a ... c\n"));
    let document = "```console\n$ ls\na\n$ true\n```\n$ no\n";
    let example = |command: &str, said: &str| Example { command: command.into(), said: said.into() };
    assert_eq!(examples(document), [example("ls", "a\n"), example("true", "")]);
}
