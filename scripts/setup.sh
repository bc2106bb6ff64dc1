# Sourced by the other scripts. Sets $root and $venv, and defines what they need:
#   setup_python run|dev   make .venv as requirements.lock says
#   setup_node             bring the PDS and the PLC directory of the end-to-end tests
# Both do nothing, at once and without network, when what is there is up to date; both are safe
# to run twice at the same time and to interrupt. Needs bash 3.2 or newer, and Python.
# shellcheck shell=bash

set -euo pipefail

root=$(CDPATH='' cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv

say() {
  printf 'rescind: %s\n' "$*" >&2
}

# Run a command; show what it printed only if it fails.
quietly() {
  local output status=0
  output=$("$@" 2>&1) || status=$?
  if [ "$status" -ne 0 ]; then
    printf '%s\n' "$output" >&2
    say "this failed with status $status: $*"
    return "$status"
  fi
}

# Print the path of an interpreter that can make the environment.
find_python() {
  local candidate python without_venv=''
  # The system's own first: distributions build Python with the profile of a run, which version
  # managers mostly don't, and with it the daemon proves and indexes commits a tenth faster.
  for candidate in /usr/bin/python3 python3.13 python3.12 python3.11 python3.14 python3; do
    # Asked and not just looked up: the shim of a version manager may be there and not run. The
    # base interpreter, because the one on the PATH may be in the .venv that is to be replaced.
    python=$("$candidate" -c 'import sys; sys.version_info < (3, 11) or print(sys._base_executable)' \
      2>/dev/null) || continue
    [ -n "$python" ] || continue
    if "$python" -c 'import ensurepip, venv' 2>/dev/null; then
      printf '%s\n' "$python"
      return
    fi
    without_venv=$python
  done
  if [ -n "$without_venv" ]; then
    say "$without_venv lacks its venv module (on Debian and Ubuntu: apt install python3-venv)"
  else
    say 'Python 3.11 or newer is needed, and none was found on the PATH'
  fi
  return 1
}

# Let one process at a time go on. The lock belongs to the open file, so it ends with the last
# process that has it open, however that ends; nothing can go stale.
lock() {
  local python=$1
  exec 9<"$root/scripts/setup.sh"
  "$python" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)'
}

unlock() {
  exec 9<&-
}

checksum() {
  (CDPATH='' cd -- "$root" && cat -- "$@" | cksum)
}

# What the stamp of a complete environment says. The path is in it, since an environment that
# was moved along with its checkout has scripts that name the old place.
python_stamp() {
  printf '%s %s %s\n' "$1" "$(checksum pyproject.toml requirements.lock)" "$root"
}

python_is_ready() {
  local stamp
  [ -x "$venv/bin/python" ] && [ -f "$venv/.stamp" ] || return 1
  stamp=$(cat "$venv/.stamp")
  # The development environment has all that the daemon needs.
  [ "$stamp" = "$(python_stamp dev)" ] || [ "$stamp" = "$(python_stamp "$1")" ]
}

python_is_usable() {
  [ ! -e "$venv/.unfinished" ] || return 1
  "$venv/bin/python" -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || return 1
  case $(cat "$venv/.stamp" 2>/dev/null) in
    '' | *" $root") ;;
    *) return 1 ;;
  esac
}

setup_python() {
  local kind=$1 python requirement=.
  [ "$kind" = run ] || requirement=".[$kind]"
  python_is_ready "$kind" && return
  python=$(find_python)
  lock "$python"
  if ! python_is_ready "$kind"; then
    say "installing Python packages into $venv"
    python_is_usable || rm -rf -- "$venv"
    mkdir -p -- "$venv"
    # An interrupted installation can leave half a package that pip takes for a whole one.
    : >"$venv/.unfinished"
    rm -f -- "$venv/.stamp"
    [ -x "$venv/bin/python" ] || quietly "$python" -m venv "$venv"
    (
      CDPATH='' cd -- "$root"
      quietly "$venv/bin/python" -m pip --disable-pip-version-check --no-input \
        install --constraint requirements.lock --editable "$requirement"
    )
    python_stamp "$kind" >"$venv/.stamp"
    rm -f -- "$venv/.unfinished"
  fi
  unlock
}

node_is_ready() {
  [ "$(cat "$root/tests/localnet/node_modules/.stamp" 2>/dev/null)" = "$(node_stamp)" ]
}

node_stamp() {
  checksum tests/localnet/package.json tests/localnet/package-lock.json
}

# After `setup_python dev`, which brings Node.
setup_node() {
  node_is_ready && return
  lock "$venv/bin/python"
  if ! node_is_ready; then
    say 'installing the PDS and the PLC directory for the end-to-end tests (140 MB, 390 MB unpacked)'
    (
      CDPATH='' cd -- "$root/tests/localnet"
      # Clears node_modules first, and the stamp in it.
      quietly "$venv/bin/npm" ci --ignore-scripts --no-audit --no-fund --no-update-notifier
    )
    node_stamp >"$root/tests/localnet/node_modules/.stamp"
  fi
  unlock
}
