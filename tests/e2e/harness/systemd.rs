//! A real systemd, as the first process of a copy of this machine, that starts nothing but what a test gives it.
//!
//! It has its own cgroups, host name and units: targets and slices of the machine's systemd, its journal, and its reader of
//! /etc/fstab. The network is the machine's. Nothing of the kernel's settings can be changed from there.

use std::sync::LazyLock;

use super::machine::{no_copy, started_with};
use super::run::{Folder, run_folder};
use super::shell::{Background, Outcome};
use super::{PATIENCE, within};

/// `$test_script` is a file; `$group` is the name of a cgroup, which `run` removes.
const BOOT: &str = r#"
export test_script inner
for program in /lib/systemd/systemd systemctl journalctl; do
  command -v "$program" > /dev/null || { echo "$program is missing" >&2; exit 1; }
done
cgroups=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
[ "$cgroups" ] || { echo 'cgroup2 is not mounted' >&2; exit 1; }
# Its cgroups are below one of its own: systemd takes what it finds at the root of what it sees.
mkdir -p "$cgroups/$group"
echo 0 > "$cgroups/$group/cgroup.procs"
exec unshare --cgroup --uts --ipc bash -c "$inner"
"#;

const INNER: &str = r#"
set -euo pipefail
umount -l /sys/fs/cgroup 2> /dev/null || true
mount -t cgroup2 none /sys/fs/cgroup
# systemd raises limits of the kernel.
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
mknod -m 600 /dev/autofs c 10 235
ln -s pts/ptmx /dev/ptmx

# Of the machine's units only those that start nothing.
: > /etc/fstab
rm -rf /etc/systemd /run/systemd
mkdir -p /etc/systemd/system /run/stock/sysinit.target.wants /run/generators
cp -L /lib/systemd/system/*.target /lib/systemd/system/*.slice /run/stock/
for unit in systemd-journald.service systemd-journald.socket systemd-journald-dev-log.socket; do
  cp "/lib/systemd/system/$unit" /run/stock/
done
ln -s ../systemd-journald.service /run/stock/sysinit.target.wants/
ln -s /lib/systemd/system-generators/systemd-fstab-generator /run/generators/
printf '[Journal]\nStorage=volatile\nAudit=no\nReadKMsg=no\nRateLimitBurst=0\n' > /etc/systemd/journald.conf
rm /run/stock/default.target
# What the test says goes to files that are unlinked; systemd closes them, so another process keeps the way to them.
sleep infinity & keeper=$!
cat > /run/stock/default.target <<END
[Unit]
Requires=multi-user.target test.service
After=multi-user.target
END
cat > /run/stock/test.service <<END
[Unit]
SuccessAction=exit-force
FailureAction=exit-force
[Service]
Type=oneshot
StandardOutput=append:/proc/$keeper/fd/1
StandardError=append:/proc/$keeper/fd/2
ExecStart=/bin/bash $test_script
END

# As on a machine, where systemd itself sees to it: what a service mounts is seen by all.
mount --make-rshared /
exec env -i container=other LC_ALL=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
  SYSTEMD_UNIT_PATH=/etc/systemd/system:/run/systemd/generator:/run/stock SYSTEMD_GENERATOR_PATH=/run/generators \
  /lib/systemd/systemd --system --log-target=journal --show-status=no
"#;

/// The first version with `%d`, the folder of a service's credentials.
const OLDEST: u32 = 250;

fn booted(script: &str) -> Background {
    let mut folder = Folder::new("systemd");
    let script = folder.file(
        "script",
        format!(
            "set -Eeuo pipefail\ntrap 'echo \"failed in line $LINENO: $BASH_COMMAND\" >&2' ERR\n{script}"
        ),
    );
    let name = |path: &std::path::Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    let variables = [
        ("test_script", script),
        ("group", format!("{}/{}", name(run_folder()), name(folder.root()))),
        ("inner", INNER.to_owned()),
    ];
    // What is in use may outlive this function; it goes with the run.
    folder.leave();
    started_with(BOOT, &variables.map(|(name, value)| (name.to_owned(), value)))
}

/// Why systemd cannot run in a copy of this machine, if so.
pub fn no_systemd() -> Option<&'static str> {
    static WHY: LazyLock<Option<String>> = LazyLock::new(|| {
        if let Some(why) = no_copy() {
            return Some(why.to_owned());
        }
        let mut probe = booted(&format!(
            r#"
version=$(systemctl --version | awk 'NR == 1 {{ print $2 }}')
[ "$version" -ge {OLDEST} ] || {{ echo "systemd $version is older than {OLDEST}" >&2; exit 1; }}
for _ in $(seq 100); do ! journalctl -q --unit=test.service | grep -q Starting || exit 0; sleep 0.1; done
echo 'the journal has no lines' >&2
exit 1
"#
        ));
        // One that cannot go on stops where it is, with all of its processes.
        if !within(PATIENCE, || !probe.is_running()) {
            return Some(format!("systemd did not start within {PATIENCE:?}"));
        }
        let outcome = probe.finish();
        (!outcome.succeeded()).then(|| format!("systemd does not run in a copy of this machine: {outcome}"))
    });
    WHY.as_deref()
}

/// Runs a script of bash as a service of a systemd of its own, with `-e`.
#[track_caller]
pub fn under_systemd(script: &str) -> Outcome {
    booted(script).finish()
}
