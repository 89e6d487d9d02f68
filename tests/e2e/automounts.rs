//! What mounts by itself: the units of `packaging/systemd` and lines of fstab under a real systemd, and a map of a real autofs.

use std::path::Path;
use std::process::Command;

use crate::harness::{
    Cloud, Folder, PROGRAM, in_a_copy, leave_out, no_copy, no_systemd, pattern, under_systemd,
};

/// A program installed, clouds.yaml for root only with `my-cloud` in it, and words for the scripts.
fn preamble(cloud: &Cloud) -> String {
    format!(
        r#"
ln -s {PROGRAM} /usr/bin/glancefs
ln -sf {PROGRAM} /usr/sbin/mount.glancefs
# What this machine has.
rm -rf /etc/glancefs /etc/openstack /var/cache/glancefs
mkdir -p /etc/openstack /var/cache/glancefs
sed 's/^  alice:/  my-cloud:/' {clouds}/clouds.yaml > /tmp/clouds.yaml
install -m 600 /tmp/clouds.yaml /etc/openstack/clouds.yaml
away() {{ sed -i 's|auth_url: .*|auth_url: http://127.0.0.1:1/v3|' /etc/openstack/clouds.yaml; }}
back() {{ install -m 600 /tmp/clouds.yaml /etc/openstack/clouds.yaml; }}

fail() {{ echo "NOT SO: $*" >&2; exit 1; }}
soon() {{ # soon COMMAND...: it succeeds within 30 s
  for _ in $(seq 300); do ! "$@" > /dev/null 2>&1 || return 0; sleep 0.1; done
  fail "not within 30 s: $*"
}}
is_not() {{ ! "$@"; }}
mounted() {{ grep -q " $1 fuse.glancefs " /proc/mounts; }}
running() {{ [ "$(ls /run/glancefs 2> /dev/null)" ]; }}
alone() {{ # no mount, and no daemon: each has a file in this folder
  if grep fuse.glancefs /proc/mounts; then fail 'something is mounted'; fi
  soon is_not running
  if pgrep -a glancefs; then fail 'a daemon is left'; fi
}}
says() {{ # says UNIT WORDS: the journal has them from this unit, and once
  said() {{ journalctl -q --sync; journalctl -q -o cat --unit "$1" | grep -qF "$2"; }}
  soon said "$@"
  [ "$(journalctl -q -o cat | grep -cF "$2")" = 1 ] || fail "$(journalctl -q)"
}}
state() {{ [ "$(systemctl show -P ActiveState -P SubState -P Result "$1" | sort | xargs)" = "$2" ]; }}
"#,
        clouds = cloud.folder().display()
    )
}

/// The units below `packaging`, and `glancefs@my-cloud` with a shorter pause.
fn units() -> String {
    format!(
        r#"
cp {}/packaging/systemd/* /etc/systemd/system/
drop_in() {{ # drop_in LINE...: as `systemctl edit glancefs@my-cloud`
  mkdir -p /etc/systemd/system/glancefs@my-cloud.service.d
  printf '%s\n' '[Service]' RestartSec=1s "$@" > /etc/systemd/system/glancefs@my-cloud.service.d/override.conf
  systemctl daemon-reload
}}
systemctl daemon-reload
"#,
        env!("CARGO_MANIFEST_DIR")
    )
}

#[test]
fn the_service_is_up_when_its_images_are_there_and_leaves_nothing_behind() {
    if let Some(why) = no_systemd() {
        leave_out!("{why}");
    }
    let cloud = Cloud::keystone();
    let content = pattern(611, 3_000_000);
    cloud.image("by-service.raw", &content);
    let folder = Folder::new("service");
    let expected = folder.file("by-service.raw", content);
    let script = format!(
        r#"
service=glancefs@my-cloud
systemctl enable --now $service
# No waiting.
cmp /mnt/my-cloud/by-service.raw {expected}
mounted /mnt/my-cloud
process=$(systemctl show -P MainPID $service)
tr '\0' '\n' < /proc/$process/environ | grep -qx "OS_CLIENT_CONFIG_FILE=/run/credentials/$service.service/clouds.yaml"
[ "$(systemctl show -P StatusText $service)" = 'mounted at /mnt/my-cloud' ] || fail "$(systemctl status $service)"
[ "$(stat -c %a /var/cache/glancefs)" = 700 ] || fail "$(stat /var/cache/glancefs)"
# What it does has fields in the journal.
cp {expected} /mnt/my-cloud/uploaded-under-systemd.raw
id=$(getfattr --only-values -n user.glance.id /mnt/my-cloud/uploaded-under-systemd.raw)
logged() {{ journalctl -q --sync; journalctl -q -o cat --unit $service GLANCEFS_IMAGE="$id" | grep uploaded; }}
soon logged
systemctl stop $service
state $service 'dead inactive success' || fail "$(systemctl status $service)"
alone
[ -z "$(ls /run/credentials 2> /dev/null)" ] || fail 'the credentials are left'

# Unmounted by hand is no failure; stopped by SIGTERM neither.
systemctl start $service
umount /mnt/my-cloud
soon state $service 'dead inactive success'
alone

drop_in Environment='MOUNTPOINT=/srv/images "GLANCEFS_OPTIONS=--read-only --allow-other"'
systemctl start $service
grep -q '/srv/images fuse.glancefs ro,.*allow_other' /proc/mounts || fail "$(grep glancefs /proc/mounts)"
setpriv --reuid 65534 --regid 65534 --clear-groups cmp /srv/images/by-service.raw {expected}
# What died is mounted again by itself, and its dead mount is gone.
first=$(systemctl show -P MainPID $service)
kill -KILL $first
another() {{
  case $(systemctl show -P MainPID $service) in 0 | $first) return 1 ;; esac
  state $service 'active running success'
}}
soon another
cmp /srv/images/by-service.raw {expected}
[ "$(grep -c ' /srv/images ' /proc/mounts)" = 1 ] || fail "$(grep glancefs /proc/mounts)"

# What is open is read on, for TimeoutStopSec. Nobody finds the mount meanwhile, and what is mounted there is left alone.
exec 3< /srv/images/by-service.raw
systemctl stop --no-block $service
soon is_not mounted /srv/images
mount -t tmpfs none /srv/images
stopping() {{ journalctl -q --sync; journalctl -q -o cat --unit $service | grep -q SIGTERM; }}
soon stopping
cmp /dev/fd/3 {expected}
exec 3<&-
soon state $service 'dead inactive success'
grep -q '^none /srv/images tmpfs' /proc/mounts || fail 'it unmounted what is not its own'
umount /srv/images
alone
"#
    );
    under_systemd(&(preamble(cloud) + &units() + &script)).expect_success();
}

#[test]
fn a_service_without_its_cloud_fails_with_the_reason_and_comes_up_when_the_cloud_does() {
    if let Some(why) = no_systemd() {
        leave_out!("{why}");
    }
    let (cloud, open) = (Cloud::keystone(), Cloud::open());
    cloud.image("after-outage.raw", b"after the outage");
    open.image("of-no-clouds-yaml.raw", b"of no clouds.yaml");
    let script = r#"
service=glancefs@my-cloud
drop_in Environment='"GLANCEFS_OPTIONS=--timeout 1s"'
away
if systemctl start $service 2> /dev/null; then fail 'it is up without a cloud'; fi
reason='Keystone at http://127.0.0.1:1/v3: no answer'
case $(systemctl show -P StatusText $service) in "$reason"*) ;; *) fail "$(systemctl status $service)" ;; esac
told() { journalctl -q --sync; journalctl -q -o cat --unit $service | grep -qF "glancefs: $reason"; }
soon told
alone
back
# The next start has all the time that it needs.
drop_in
soon state $service 'active running success'
[ "$(cat /mnt/my-cloud/after-outage.raw)" = 'after the outage' ] || fail 'not read'
systemctl stop $service
alone

# A cloud that there is not, by a name that systemd-escape would write otherwise.
if systemctl start glancefs@no-such 2> /dev/null; then fail 'it is up without a cloud'; fi
case $(systemctl show -P StatusText glancefs@no-such) in
  *'there is no cloud "no-such"'*) ;;
  *) fail "$(systemctl status glancefs@no-such)" ;;
esac

# A Glance that is in no clouds.yaml.
rm /etc/openstack/clouds.yaml
drop_in LoadCredential= Environment=OS_CLIENT_CONFIG_FILE= Environment=CLOUD=$open Environment=GLANCEFS_OPTIONS=--os-auth-type=none
systemctl start $service
[ "$(cat /mnt/my-cloud/of-no-clouds-yaml.raw)" = 'of no clouds.yaml' ] || fail 'not read'
"#;
    let open = format!("open={}\n", open.url);
    under_systemd(&(preamble(cloud) + &units() + &open + script)).expect_success();
}

#[test]
fn systemd_mounts_lines_of_fstab_and_mount_units_at_the_first_look() {
    if let Some(why) = no_systemd() {
        leave_out!("{why}");
    }
    let cloud = Cloud::keystone();
    let content = pattern(612, 3_000_000);
    cloud.image("by-unit.raw", &content);
    let folder = Folder::new("units");
    let expected = folder.file("by-unit.raw", content);
    let script = format!(
        r#"
sed -i 's/mycloud/my-cloud/' /etc/systemd/system/mnt-images.*
cat > /etc/fstab <<END
my-cloud  /mnt/wanted  glancefs  _netdev,nofail,x-systemd.automount  0 0
my-cloud  /mnt/start   glancefs  _netdev,nofail                      0 0
my-cloud  /mnt/away    glancefs  _netdev,nofail,timeout=1s,x-systemd.automount  0 0
END
systemctl daemon-reload
systemctl enable mnt-images.automount
# As at the start of a machine.
systemctl start remote-fs.target
# nofail: nothing waits for it.
soon mounted /mnt/start
[ "$(grep -c fuse.glancefs /proc/mounts)" = 1 ] || fail "mounted too early: $(grep fuse.glancefs /proc/mounts)"
for at in wanted images; do
  cmp /mnt/$at/by-unit.raw {expected}
  state mnt-$at.mount 'active mounted success' || fail "$(systemctl status mnt-$at.mount)"
  says mnt-$at.mount "mounted at /mnt/$at"
  systemctl stop mnt-$at.mount 2> /dev/null
  state mnt-$at.mount 'dead inactive success' || fail "$(systemctl status mnt-$at.mount)"
  if mounted /mnt/$at; then fail "/mnt/$at is mounted"; fi
  # The next look waits for the daemon of the last.
  cmp /mnt/$at/by-unit.raw {expected}
done

# An open file keeps it mounted.
exec 3< /mnt/wanted/by-unit.raw
if systemctl stop mnt-wanted.mount 2> /dev/null; then fail 'stopped while it was in use'; fi
cmp /dev/fd/3 {expected}
exec 3<&-

# A mount that fails: whoever looks is told at once, the unit says why, and once; the next look tries again.
away
said=$(ls /mnt/away 2>&1) && fail 'mounted without a cloud'
case $said in *'No such device'*) ;; *) fail "$said" ;; esac
state mnt-away.mount 'exit-code failed failed' || fail "$(systemctl status mnt-away.mount)"
says mnt-away.mount 'Keystone at http://127.0.0.1:1/v3: no answer'
back
cmp /mnt/away/by-unit.raw {expected}

systemctl stop mnt-{{wanted,away,images}}.automount mnt-start.mount
alone
if grep ' autofs ' /proc/mounts; then fail 'a trigger is left'; fi
"#
    );
    under_systemd(&(preamble(cloud) + &units() + &script)).expect_success();
}

#[test]
fn autofs_mounts_a_cloud_at_the_first_look_and_unmounts_what_nobody_uses() {
    if let Some(why) = no_copy() {
        leave_out!("{why}");
    }
    if !Command::new("automount").arg("--version").output().is_ok_and(|output| output.status.success()) {
        leave_out!("automount is missing: install autofs");
    }
    if !Path::new("/dev/autofs").exists() {
        leave_out!("this kernel has no autofs");
    }
    let cloud = Cloud::keystone();
    let content = pattern(613, 3_000_000);
    cloud.image("by-autofs.raw", &content);
    let folder = Folder::new("autofs");
    let expected = folder.file("by-autofs.raw", content);
    let script = format!(
        r#"
mknod -m 600 /dev/autofs c 10 235
echo '+dir:/etc/auto.master.d' > /etc/auto.master
rm -rf /etc/auto.master.d
mkdir /etc/auto.master.d
# As docs/mounting.md has it, but for the time.
sed -n '/# \/etc\/auto.master.d/,/printf/s/^    //p' {root}/docs/mounting.md > /tmp/example
sed '/#!/,$d; s/timeout=600/timeout=1/' /tmp/example > /etc/auto.master.d/glancefs.autofs
sed -n '/#!/,$p' /tmp/example > /etc/auto.glancefs
chmod +x /etc/auto.glancefs
# A process group that this PID namespace knows: the kernel leaves the daemon's alone.
setsid automount --foreground --verbose > /tmp/log 2>&1 & automount=$!
soon grep -q ' /images autofs ' /proc/mounts || {{ cat /tmp/log >&2; exit 1; }}

# No waiting: whoever looks is let on when the images are there. What is open keeps them.
exec 3< /images/my-cloud/by-autofs.raw
mounted /images/my-cloud
cmp /dev/fd/3 {expected}
sleep 3
mounted /images/my-cloud || fail 'unmounted while it was in use'
exec 3<&-
soon is_not mounted /images/my-cloud
soon is_not running
cmp /images/my-cloud/by-autofs.raw {expected}
soon is_not mounted /images/my-cloud

said=$(ls /images/no-such 2>&1) && fail 'a cloud that there is not'
case $said in *'No such file or directory'*) ;; *) fail "$said" ;; esac
[ "$(grep -cF 'glancefs: there is no cloud "no-such" in clouds.yaml; it has: ' /tmp/log)" = 1 ] || fail "$(cat /tmp/log)"
kill $automount
wait $automount
soon is_not grep -q ' autofs ' /proc/mounts
alone
"#,
        root = env!("CARGO_MANIFEST_DIR")
    );
    in_a_copy(&(preamble(cloud) + &script), &[]).expect_success();
}
