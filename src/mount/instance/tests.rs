//! Tests of the lock. A process does not conflict with its own POSIX locks, so the other side is a
//! process of its own: this test program, asked to run [`keeps_the_lock_until_its_input_ends`] only.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use super::*;

const PATH_VARIABLE: &str = "GLANCEFS_TEST_LOCK";

/// The other process of the tests below. Without [`PATH_VARIABLE`], as among the other tests, it does nothing.
#[test]
fn keeps_the_lock_until_its_input_ends() {
    let Some(path) = std::env::var_os(PATH_VARIABLE).map(PathBuf::from) else { return };
    let instance = Instance::try_acquire(&path, Path::new("/mnt"), Path::new("/spool")).unwrap();
    println!("\nheld {}", instance.is_ok());
    let _ = io::stdin().read(&mut [0]);
}

/// Another process that has the lock, and has said so.
fn other_process(path: &Path) -> Child {
    let me = std::env::current_exe().unwrap();
    let test = "mount::instance::tests::keeps_the_lock_until_its_input_ends";
    let mut command = Command::new(me);
    command.args([test, "--exact", "--nocapture"]).env(PATH_VARIABLE, path);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    assert!(said.any(|line| line.unwrap() == "held true"));
    child
}

fn pid_of(child: &Child) -> Option<Pid> {
    Pid::from_raw(i32::try_from(child.id()).unwrap())
}

#[test]
fn the_lock_names_its_holder_and_ends_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.lock");
    let mut child = other_process(&path);
    let holder = Instance::try_acquire(&path, Path::new("/mnt"), Path::new("/spool")).unwrap().err().unwrap();
    assert_eq!(holder.pid, pid_of(&child));
    assert!(holder.to_string().contains(&child.id().to_string()));
    assert_eq!(fs::read(&path).unwrap(), b"/mnt\0/spool\0");
    assert_eq!(spool_in(&fs::read(&path).unwrap()), Some("/spool".into()));

    // However it ends: nothing of the holder's code runs now.
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(Instance::try_acquire(&path, Path::new("/mnt"), Path::new("/spool")).unwrap().is_ok());
}

#[test]
fn a_clean_end_removes_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.lock");
    let instance = Instance::try_acquire(&path, Path::new("/mnt"), Path::new("/spool"))
        .unwrap()
        .unwrap_or_else(|_| panic!());
    assert!(path.exists());
    drop(instance);
    assert!(!path.exists());
}

#[test]
fn a_holder_is_found_in_any_of_the_users_places() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join(".cache/glancefs/run");
    fs::create_dir_all(&place).unwrap();
    let mountpoint = Path::new("/mnt/images");
    let mut child = other_process(&place.join(file_name(mountpoint)));
    let home = folder.path().to_str().unwrap();
    // A runtime folder that login would have used does not hide the lock made without one.
    let environment = Environment::new([("HOME", home), ("XDG_RUNTIME_DIR", "/nonexistent")], 4242, 4242);
    assert_eq!(holder(mountpoint, None, &environment), Some(Holder { pid: pid_of(&child) }));
    assert_eq!(holder(Path::new("/mnt/other"), None, &environment), None);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(holder(mountpoint, None, &environment), None);
}

#[test]
fn names_of_lock_files_stay_the_same_between_versions() {
    assert_eq!(file_name(Path::new("/mnt/images")), "6eb03f9b1b3ac56d.lock");
}

#[test]
fn a_place_of_another_user_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let uid = rustix::process::geteuid().as_raw();
    assert!(make_private(&folder.path().join("new"), uid).is_ok());
    assert!(make_private(&folder.path().join("new"), uid + 1).is_err());
    std::os::unix::fs::symlink(folder.path(), folder.path().join("link")).unwrap();
    assert!(make_private(&folder.path().join("link"), uid).is_err());
}

#[test]
fn an_entry_that_is_not_whole_names_no_spool() {
    let whole = entry(Path::new("/mnt"), Path::new("/a spool"));
    assert_eq!(spool_in(&whole), Some("/a spool".into()));
    for len in 0..whole.len() {
        assert_eq!(spool_in(&whole[..len]), None, "{len}");
    }
    assert_eq!(spool_in(b"/mnt\0\0"), None);
}
