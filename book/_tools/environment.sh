#!/bin/sh
# Make a virtual environment that holds a lock file, or say in one sentence what is missing.
#
#   environment.sh FOLDER LOCK STAMP [VERSION]
#
# STAMP is written last: an installation that was killed has none, and the next call redoes it.
#   environment.sh --check          only say whether a fitting Python is here
#
# VERSION (for instance 3.13) asks for one Python; without it any of 3.11 to 3.13 will do.
set -eu

folder=$1 lock=${2:-} stamp=${3:-} version=${4:-}
in_range="import sys; v = '%d.%d' % sys.version_info[:2]; sys.exit(v not in sys.argv[1].split())"
versions=${version:-3.13 3.12 3.11}

say() { printf '%s\n' "$*" >&2; }

# A Python that runs (a pyenv shim may not), has the right version and can make environments.
usable() {
    "$1" -c "$in_range" "$versions" 2>/dev/null || return 1
    "$1" -c 'import venv, ensurepip' 2>/dev/null && return 0
    without_venv=$1
    return 1
}

find_python() {
    for v in $versions; do
        for candidate in "${PYTHON:-}" "python$v" python3 python \
            "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$v"*/bin/python; do
            [ -n "$candidate" ] && usable "$candidate" && python=$candidate && return 0
        done
    done
    return 1
}

without_venv=
if [ "$folder" = --check ]; then
    find_python
    exit
fi
if ! [ -x "$folder/bin/python" ] || ! "$folder/bin/python" -c "$in_range" "$versions" 2>/dev/null ||
    ! "$folder/bin/python" -m pip --version >/dev/null 2>&1; then
    if ! find_python; then
        if [ -n "$without_venv" ]; then
            say "$without_venv lacks its venv module: install it (Debian, Ubuntu: apt install python3-venv) and call make again."
        else
            say "Python ${version:-3.11, 3.12 or 3.13} is needed and none was found on the PATH or under pyenv: install one, or name it with PYTHON=/path/to/python."
        fi
        exit 1
    fi
    if [ -e "$folder" ] && ! [ -f "$folder/pyvenv.cfg" ]; then
        say "$folder exists and is no virtual environment: move it away and call make again."
        exit 1
    fi
    say "Making $folder with $("$python" --version) ..."
    rm -rf "$folder"
    "$python" -m venv "$folder"
fi

rm -f "$folder"/.installed-*
say "Installing $(grep -c '^[A-Za-z0-9].*==' "$lock") packages from $lock into $folder ..."
hashes=
grep -q -- '--hash=' "$lock" && hashes='--require-hashes --no-deps'
# shellcheck disable=SC2086 # two words
if ! "$folder/bin/python" -m pip install --disable-pip-version-check $hashes -r "$lock"; then
    say "pip could not install $lock; its message is above. Calling make again goes on from here."
    exit 1
fi
touch "$stamp"
