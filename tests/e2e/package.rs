//! The Debian package: made, installed in a copy of this machine, used, and removed.

use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use crate::harness::{Cloud, Folder, background, in_a_copy, leave_out, long, no_copy, run};

/// Whether `scripts/test` has made the tool of the package ready; it takes minutes to build.
fn no_tool() -> Option<String> {
    static WHY: LazyLock<Option<String>> = LazyLock::new(|| {
        let dpkg = Command::new("dpkg").arg("--version").output().is_ok_and(|output| output.status.success());
        if !dpkg {
            return Some("this is no Debian: dpkg is missing".to_owned());
        }
        let tool =
            run("ls ${GLANCEFS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/glancefs}/cargo-deb-*/bin/cargo-deb");
        (!tool.succeeded()).then(|| "cargo-deb is not installed: scripts/deb prepare".to_owned())
    });
    WHY.clone()
}

#[test]
fn the_package_is_installed_mounts_by_a_line_of_fstab_and_leaves_nothing_but_the_cache() {
    if let Some(why) = no_tool() {
        leave_out!("{why}");
    }
    if let Some(why) = no_copy() {
        leave_out!("{why}");
    }
    let cloud = Cloud::open();
    cloud.image("packaged.raw", b"packaged");
    let folder = Folder::new("package");
    let kind = if long() { "" } else { "--debug" };
    let root = env!("CARGO_MANIFEST_DIR");
    // The release build is whole, and the example may have to be linked.
    let made = background(&format!("{root}/scripts/deb {kind} --output {folder}/glancefs.deb"));
    let made = made.finish_within(Duration::from_secs(if long() { 3600 } else { 600 }));
    assert!(made.succeeded(), "{made}");
    let script = format!(
        r#"
unset GLANCEFS_CONFIG
fail() {{ echo "NOT SO: $*" >&2; exit 1; }}
list() {{ (cd /run/changed && find . \( -path ./var/lib/dpkg -o -path ./var/log -o -path ./var/cache/man -o -path ./var/cache/debconf \) -prune -o ! -type d -print | sort); }}
# What a service manager writes down anew is none of ours.
rm -f /usr/bin/glancefs
before=$(list)
dpkg -i {folder}/glancefs.deb
[ "$(stat -c %a /var/cache/glancefs)" = 700 ] || fail "the cache can be read"
glancefs --version
[ "$(readlink -f /sbin/mount.glancefs)" = /usr/bin/glancefs ] || fail "no helper"
for page in man1/glancefs.1 man1/glancefs-mount.1 man8/mount.glancefs.8; do
  zcat -f /usr/share/man/$page* | grep -q '^\.SH' || fail "$page"
done
bash -n /usr/share/bash-completion/completions/glancefs
[ "$(dpkg-query -W -f '${{Conffiles}}' glancefs | awk '{{print $1}}')" = /etc/glancefs/glancefs.toml ] || fail "no conffile"
if command -v systemd-analyze > /dev/null; then
  cp /usr/lib/systemd/system/glancefs@.service /run/glancefs@lab.service
  nova=var-lib-nova-instances-_base.mount
  cp /usr/share/doc/glancefs/examples/mnt-images.* /usr/share/doc/glancefs/examples/$nova /run/
  # Pages are looked for by man, which need not be here.
  sed -i /^Documentation/d /run/glancefs@lab.service /run/mnt-images.*
  said=$(systemd-analyze verify /run/glancefs@lab.service /run/mnt-images.mount /run/mnt-images.automount /run/$nova 2>&1) || fail "$said"
  if echo "$said" | grep -E 'glancefs|mnt-images|nova-instances'; then fail "$said"; fi
else
  echo 'systemd-analyze is not here'
fi

# As after `systemctl daemon-reload`: mount(8) reads the line.
mkdir -p /mnt/images
echo '{url} /mnt/images glancefs os_auth_type=none,_netdev,nofail 0 0' >> /etc/fstab
mount /mnt/images
[ "$(cat /mnt/images/packaged.raw)" = packaged ] || fail "not read"
umount /mnt/images
glancefs config | grep -q '^# /etc/glancefs/glancefs.toml: read' || fail "the file is not found"

dpkg --purge glancefs
for _ in $(seq 100); do [ "$(ls /run/glancefs)" ] || break; sleep 0.1; done
after=$(list | grep -v -e '^./var/cache/glancefs/' -e '^./etc/fstab$' || true)
before=$(echo "$before" | grep -v '^./etc/fstab$' || true)
[ "$after" = "$before" ] || fail "this is left: $(diff <(echo "$before") <(echo "$after"))"
[ ! -e /etc/glancefs ] || fail "/etc/glancefs is left"
[ -d /var/cache/glancefs/v1 ] || fail "the cache is gone"
"#,
        url = cloud.url
    );
    let outcome = in_a_copy(&script, &[]);
    if outcome.stdout.contains("systemd-analyze is not here") {
        crate::harness::left_out("package: the units", "systemd-analyze is missing");
    }
    outcome.expect_success();
}
