//! mount(8) and fstab: the program as `mount.glancefs`, called by the real mount(8) in a copy of this machine.

use serde_json::json;

use crate::harness::{Cloud, Folder, PROGRAM, in_a_copy, leave_out, no_copy, pattern};

/// Links, mount points, and words for the scripts. A script stops at what fails, and at what is not so.
fn preamble(cloud: &Cloud) -> String {
    format!(
        r#"
[ -d /run/changed ] # this is the copy
url={url}
ln -s {PROGRAM} /usr/sbin/mount.glancefs
ln -s {PROGRAM} /usr/sbin/mount.fuse.glancefs
mkdir -p '/mnt/with space' /mnt/one /mnt/two
fail() {{ echo "NOT SO: $*" >&2; exit 1; }}
refused() {{ # refused CODE WORDS COMMAND...: the command fails with this code and says these words
  local code=0 said want=$1 words=$2
  shift 2
  said=$("$@" 2>&1) || code=$?
  [ "$code" = "$want" ] || fail "$* gave $code: $said"
  case $said in *"$words"*) ;; *) fail "$* said: $said" ;; esac
}}
none() {{ if grep fuse.glancefs /proc/mounts; then fail "something is mounted"; fi; }}
ended() {{
  for _ in $(seq 300); do
    [ "$(ls /run/glancefs 2>/dev/null)" ] || return 0
    sleep 0.1
  done
  fail "a daemon is left"
}}
"#,
        url = cloud.url
    )
}

#[test]
fn lines_of_fstab_mount_with_all_that_fstab_may_hold() {
    if let Some(why) = no_copy() {
        leave_out!("{why}");
    }
    let (open, keystone) = (Cloud::open(), Cloud::keystone());
    let content = pattern(610, 3_000_000);
    open.image("by-fstab.raw", &content);
    keystone.image_of(json!({"name": "fstab image.raw"}), b"of one image");
    let folder = Folder::new("fstab");
    let expected = folder.file("by-fstab.raw", content);
    folder.file(
        "fstab",
        format!(
            r#"
none /mnt/with\040space glancefs os_auth_type=none,endpoint={url},cache_dir=/var/tmp/a\040cache,prefer_store="file,http",_netdev,nofail,noauto,user,x-systemd.automount,comment=x,ro,noexec 0 0
{url} /mnt/two glancefs os-auth-type=none,log_file=/var/tmp/two,_netdev 0 0
alice:fstab\040image.raw /mnt/one fuse.glancefs defaults,allow_other,log_file=/var/tmp/one 0 0
"#,
            url = open.url
        ),
    );
    let script = format!(
        r#"
cp {folder}/fstab /etc/fstab
mount '/mnt/with space'
# No waiting: mount(8) returns when the images are there.
cmp '/mnt/with space/by-fstab.raw' {expected}
line=$(grep '/mnt/with' /proc/mounts)
case $line in *' fuse.glancefs ro,'*noexec*) ;; *) fail "$line" ;; esac
[ -d '/var/tmp/a cache/v1' ] || fail "no cache at the escaped path"
refused 32 'already mounted' mount '/mnt/with space'
refused 1 'cannot be remounted' mount -o remount,rw '/mnt/with space'
umount '/mnt/with space'
ended

# All that are not noauto, and each once: a line is known by its source in the mount table.
mount -a
grep -q "^$url /mnt/two fuse.glancefs " /proc/mounts || fail "$(grep fuse.glancefs /proc/mounts)"
grep -qF 'alice:fstab\040image.raw /mnt/one fuse.glancefs ' /proc/mounts || fail "$(grep fuse.glancefs /proc/mounts)"
[ "$(ls /mnt/one)" = 'fstab image.raw' ] || fail "$(ls /mnt/one)"
[ "$(cat '/mnt/one/fstab image.raw')" = 'of one image' ]
mount -a
[ "$(grep -c fuse.glancefs /proc/mounts)" = 2 ] || fail "$(grep fuse.glancefs /proc/mounts)"

# A file that is open stops umount, and not umount -l, behind which it can be read on.
exec 3< '/mnt/one/fstab image.raw'
refused 32 busy umount /mnt/one
umount -l /mnt/one
[ "$(cat <&3)" = 'of one image' ]
exec 3<&-
umount /mnt/two
ended
"#
    );
    let clouds = keystone.folder().join("clouds.yaml").display().to_string();
    let variables = [("OS_CLIENT_CONFIG_FILE".to_owned(), clouds)];
    in_a_copy(&(preamble(open) + &script), &variables).expect_success();
}

#[test]
fn mount_tells_wrong_options_at_once_and_lets_users_mount_their_own() {
    if let Some(why) = no_copy() {
        leave_out!("{why}");
    }
    let cloud = Cloud::open();
    cloud.image("by-user.raw", b"of the user");
    let script = r#"
try() { mount -t glancefs "$@"; }
refused 1 'unknown mount option "alow_other": did you mean allow_other?' try $url /mnt/two -o ro,alow_other
refused 1 "invalid value '10XB'" try $url /mnt/two -o cache_size=10XB
refused 1 'no way to log in' try $url /mnt/two
refused 32 'is Glance running there' try http://127.0.0.1:1 /mnt/two -o os_auth_type=none,timeout=1s
none
# Nothing is mounted with -f, and unknown options pass with -s.
try -f $url /mnt/two -o os_auth_type=none
none
said=$(try -v -s $url /mnt/two -o os_auth_type=none,from_the_future=1)
case $said in *'mounted on /mnt/two'*) ;; *) fail "$said" ;; esac
umount /mnt/two
ended

# A line with `user`: mount(8) hands down who asks, and he may end it.
echo "$url /mnt/two glancefs os_auth_type=none,log_file=/var/tmp/user/log,noauto,user 0 0" > /etc/fstab
mkdir /var/tmp/user
chown 65534:65534 /var/tmp/user /mnt/two
# mount(8) tells no HOME to what it runs.
sed -i 's|^\(nobody:.*:\)/[^:]*\(:[^:]*\)$|\1/var/tmp/user\2|' /etc/passwd
as_user() { setpriv --reuid 65534 --regid 65534 --clear-groups "$@"; }
as_user mount /mnt/two
[ "$(as_user cat /mnt/two/by-user.raw)" = 'of the user' ]
grep -q "^$url /mnt/two fuse.glancefs .*noexec.*user_id=65534" /proc/mounts || fail "$(grep fuse.glancefs /proc/mounts)"
as_user umount /mnt/two
none
"#;
    in_a_copy(&(preamble(cloud) + script), &[]).expect_success();
}
