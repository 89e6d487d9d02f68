//! A copy of this machine to install and configure things in: what a script changes there is kept in memory, seen by nobody
//! else, and gone with the script, as are the processes and mounts that it leaves.

use std::path::Path;
use std::sync::LazyLock;

use super::is_root;
use super::run::{PROGRAM, run_folder};
use super::shell::{Background, Outcome, background_with};

/// Run by `unshare`, as the first process of its own. `$1` a folder for the copy, `$2` the script, the others are folders that are the
/// machine's own in the copy, too.
const COPY: &str = r#"
set -euo pipefail
at=$1 script=$2
shift 2
mount -t tmpfs none "$at"
mkdir "$at/changed" "$at/work" "$at/root"
mount -t overlay -o "lowerdir=/,upperdir=$at/changed,workdir=$at/work" none "$at/root"
mount -t proc none "$at/root/proc"
mount --rbind /sys "$at/root/sys"
# As udev has it; in a container it is often root's.
mount -t tmpfs none "$at/root/dev"
for device in null zero full random urandom tty; do
  touch "$at/root/dev/$device" && mount --bind "/dev/$device" "$at/root/dev/$device"
done
mknod -m 666 "$at/root/dev/fuse" c 10 229
ln -s /proc/self/fd "$at/root/dev/fd"
mount -t tmpfs none "$at/root/run"
for folder; do mkdir -p "$at/root$folder" && mount --bind "$folder" "$at/root$folder"; done
# What was changed is there to be looked at.
mkdir -p "$at/root/run/changed" && mount --bind "$at/changed" "$at/root/run/changed"
exec chroot "$at/root" bash -c "cd /; trap 'echo \"failed in line \$LINENO: \$BASH_COMMAND\" >&2' ERR; $script"
"#;

/// Starts a script in a copy, with these variables.
pub(super) fn started_with(script: &str, variables: &[(String, String)]) -> Background {
    let folder = super::Folder::new("machine");
    let target = Path::new(PROGRAM).parent().unwrap();
    let mut variables = variables.to_vec();
    let given = [("COPY", COPY), ("SCRIPT", &format!("set -euo pipefail\nset -E\n{script}"))];
    variables.extend(given.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let line = format!(
        "unshare --mount --pid --fork --kill-child --propagation private \
         bash -c \"$COPY\" copy {folder} \"$SCRIPT\" {} {}",
        run_folder().display(),
        target.display()
    );
    let started = background_with(&line, &variables);
    // Inside the folder of the run, which goes at its end.
    let mut folder = folder;
    folder.leave();
    started
}

/// Why there can be no copy here, if so.
pub fn no_copy() -> Option<&'static str> {
    static WHY: LazyLock<Option<String>> = LazyLock::new(|| {
        if !is_root() {
            return Some("a copy of this machine needs root".to_owned());
        }
        let outcome = started_with("test -w /etc", &[]).finish();
        (!outcome.succeeded()).then(|| format!("no copy of this machine can be made: {outcome}"))
    });
    WHY.as_deref()
}

/// Runs a script of bash as root of a copy, with `-e`.
#[track_caller]
pub fn in_a_copy(script: &str, variables: &[(String, String)]) -> Outcome {
    started_with(script, variables).finish()
}
