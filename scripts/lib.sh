# shellcheck shell=bash
# Helpers shared by the scripts in this folder: messages, needed tools, the cache folder, ports, Python, environments.
# To be sourced by bash under `set -euo pipefail`.

say() { printf '%s\n' "$*" >&2; }
die() {
  printf '%s: error: %s\n' "${0##*/}" "$*" >&2
  exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

# need TOOL PACKAGE: dies with the cure when a tool is missing.
need() {
  have "$1" || die "$1 is missing. On Debian and Ubuntu: apt-get install $2 (scripts/setup does it)."
}

# Seconds since START (a value of $EPOCHREALTIME), one decimal.
since() { awk -v a="${1/,/.}" -v b="${EPOCHREALTIME/,/.}" 'BEGIN { printf "%.1f", b - a }'; }

# Where everything that can be made again is kept: Python environments and default data folders.
GLANCEFS_CACHE=${GLANCEFS_CACHE:-${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/glancefs}

# lock FILE: waits for an exclusive lock and keeps it until the shell exits; its descriptor is $LOCK_FD.
# A server started while it is held must be started with `{LOCK_FD}>&-`, or the server would keep the lock.
lock() {
  mkdir -p "$(dirname "$1")"
  exec {LOCK_FD}>>"$1"
  flock "$LOCK_FD"
}
unlock() { exec {LOCK_FD}>&-; }

# The first Python that is new enough, in $PYTHON. Whether it can make environments is asked only when one must be made.
find_python() {
  local p
  for p in "${GLANCEFS_PYTHON:-python3}" /usr/bin/python3 python3.13 python3.12 python3.11; do
    if have "$p" && "$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      PYTHON=$(command -v "$p")
      return
    fi
  done
  die "Python 3.11 or newer is needed. On Debian and Ubuntu: apt-get install python3 python3-venv (scripts/setup does it)."
}

# need_venv NAME: makes sure that the Python environment of devcloud.d/constraints-NAME.txt exists; its folder is $VENV.
# It is shared by all dev clouds of this user, keyed by its pins and its Python (another pin makes another folder), and
# counts only once it is marked as complete: an interrupted installation starts again.
need_venv() {
  local name=$1 pins key start
  pins=$(dirname "${BASH_SOURCE[0]}")/devcloud.d/constraints-$name.txt
  find_python
  key=$({ cat "$pins"; "$PYTHON" -c 'import sys; print(sys.version, sys.base_prefix)'; } | sha256sum | cut -c1-12)
  VENV=$GLANCEFS_CACHE/venvs/$name-$key
  [ -e "$VENV/.complete" ] && return
  # A subshell, so that the lock ends with it whatever happens.
  (
    lock "$GLANCEFS_CACHE/venvs/$name-$key.lock"
    [ -e "$VENV/.complete" ] && exit 0
    "$PYTHON" -c 'import venv, ensurepip' 2>/dev/null ||
      die "$PYTHON cannot make environments (no venv module). On Debian and Ubuntu: apt-get install python3-venv (scripts/setup does it). Another Python: GLANCEFS_PYTHON."
    start=$EPOCHREALTIME
    say "installing $name into $VENV (once; about a minute)"
    rm -rf "$VENV"
    "$PYTHON" -m venv "$VENV" >"$VENV.log" 2>&1 || {
      tail -n 20 "$VENV.log" >&2
      die "could not make the environment $VENV"
    }
    # --no-deps: the list is complete, so no resolver run is needed and nothing unpinned can come in.
    "$VENV/bin/python" -m pip install --disable-pip-version-check --no-input --retries 3 --no-deps -r "$pins" \
      >>"$VENV.log" 2>&1 </dev/null || {
      tail -n 8 "$VENV.log" >&2
      rm -rf "$VENV"
      die "could not install $name from the Python package index (log: $VENV.log). Is there a network? For a mirror, set PIP_INDEX_URL."
    }
    touch "$VENV/.complete"
    say "installed $name in $(since "$start") s"
  )
}

# port_free PORT: can a server listen on 127.0.0.1:PORT? Asked by binding: connecting would miss a port that is bound only.
port_free() {
  "${PYTHON:-python3}" - "$1" <<'PY' 2>/dev/null
import socket, sys
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("127.0.0.1", int(sys.argv[1])))
s.listen()
PY
}

# port_owner PORT: who listens there, for a message; empty when that cannot be told.
port_owner() {
  have ss && ss -Hltnp "sport = :$1" 2>/dev/null | sed -n 's/.*users:(("\([^"]*\)",pid=\([0-9]*\).*/\1, pid \2/p' | head -n 1
  return 0
}

# claim_ports N: N ports for this caller alone, in $PORTS. Taken in turn from a range below the ephemeral ports, so that
# neither a dev cloud that starts at the same moment nor an outgoing connection gets the same one.
claim_ports() {
  local next n=$1 tried=0
  PORTS=()
  exec {PORT_FD}>>"$GLANCEFS_CACHE/next-port"
  flock "$PORT_FD"
  next=$(cat "$GLANCEFS_CACHE/next-port")
  [[ $next =~ ^[0-9]+$ ]] || next=20000
  while [ "${#PORTS[@]}" -lt "$n" ]; do
    [ $((tried++)) -lt 2000 ] || die "no free port between 20000 and 31999"
    next=$((next >= 31999 ? 20000 : next + 1))
    if port_free "$next"; then PORTS+=("$next"); fi
  done
  echo "$next" >"$GLANCEFS_CACHE/next-port"
  exec {PORT_FD}>&-
}

# The next three find and end what a run has left below a folder of its own; each prints a line for what it found.

# unmount_below FOLDER. The deepest first, as mounts may be nested; \040 is a space.
unmount_below() {
  local at
  while read -r at; do
    echo "mount $at"
    umount -l "$at" 2>/dev/null || fusermount3 -uz "$at" 2>/dev/null || say "could not unmount $at"
  done < <(awk -v root="$1/" 'index($2, root) == 1 { gsub(/\\040/, " ", $2); print $2 }' /proc/self/mounts | sort -r)
}

# stop_clouds_below FOLDER: dev clouds.
stop_clouds_below() {
  local settings devcloud
  devcloud=$(dirname "${BASH_SOURCE[0]}")/devcloud
  while read -r settings; do
    if "$devcloud" status --dir "${settings%/settings}" >/dev/null; then echo "dev cloud ${settings%/settings}"; fi
    "$devcloud" down --dir "${settings%/settings}" 2>/dev/null || say "could not stop ${settings%/settings}"
  done < <(find "$1" -maxdepth 5 -name settings -type f 2>/dev/null)
}

# kill_marked NAME=VALUE: processes that have this in their environment. Daemons whose mount has just gone get a moment.
marked() { grep -lzxF "$1" /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3 || true; }
kill_marked() {
  local pid
  for _ in 1 2 3 4 5 6; do
    [ -n "$(marked "$1")" ] || break
    sleep 0.5
  done
  for pid in $(marked "$1"); do
    echo "process $pid: $({ tr '\0' ' ' <"/proc/$pid/cmdline" | cut -c1-100; } 2>/dev/null || true)"
    kill -KILL "$pid" 2>/dev/null || true
  done
}

# bench_folders FREE: the folders of a benchmark, and their removal with all that is in them when the script ends. Caches and
# plain files are on a disk ($GLANCEFS_BENCH_DISK); what the servers send is in memory, which dropping the page cache does not
# touch ($GLANCEFS_BENCH_MEMORY), where so many bytes are free. Within the tests all is in their folder, who clean it up.
bench_folders() {
  GLANCEFS_BENCH_DISK=$(realpath "$(mktemp -d "${GLANCEFS_BENCH_DIR:-/var/tmp}/glancefs-bench.XXXXXX")")
  local memory=${GLANCEFS_TEST_ROOT:-/dev/shm}
  [ "$(df --output=avail -B1 "$memory" 2>/dev/null | tail -n 1)" -gt "$1" ] || memory=$GLANCEFS_BENCH_DISK
  GLANCEFS_BENCH_MEMORY=$(mktemp -d "$memory/glancefs-bench.XXXXXX")
  export GLANCEFS_BENCH_DISK GLANCEFS_BENCH_MEMORY
  bench_job=''
  trap bench_clean_up EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
}
bench_clean_up() {
  trap '' INT TERM HUP
  export -n GLANCEFS_BENCH_DISK
  if [ -n "$bench_job" ]; then
    kill -KILL -- "-$bench_job" 2>/dev/null || true
    wait "$bench_job" 2>/dev/null || true
  fi
  unmount_below "$GLANCEFS_BENCH_DISK" >&2
  stop_clouds_below "$GLANCEFS_BENCH_MEMORY" >&2
  kill_marked "GLANCEFS_BENCH_DISK=$GLANCEFS_BENCH_DISK" >&2
  rm -rf --one-file-system "$GLANCEFS_BENCH_DISK" "$GLANCEFS_BENCH_MEMORY"
}

# bench_run PROGRAM...: runs the benchmark in these folders, without a cloud of the caller's own.
bench_run() {
  local name code=0
  for name in "${!OS_@}"; do unset "$name"; done
  set -m # a process group of its own, to be ended as one
  "$@" &
  bench_job=$!
  set +m
  wait "$bench_job" || code=$?
  bench_job=''
  return "$code"
}
