# Sourced by the other scripts: a Python new enough, and a virtual environment with what a task needs.
# shellcheck shell=bash

export PYCTRD_CACHE="${PYCTRD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/pyctrd}"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
mkdir -p "$PYCTRD_CACHE"

say() { printf '\n=== %s\n' "$*" >&2; }

# apt_install PACKAGE...: from the system's own release, and only what is not there yet.
apt_install() {
    local missing=() package
    for package in "$@"; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return 0
    say "installing ${missing[*]}"
    apt-get update -qq >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
}

# find_python: prints a Python of 3.11 or later that can make virtual environments.
find_python() {
    local candidate
    for candidate in python3 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    apt_install python3 python3-venv
    /usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        { echo "pyctrd needs Python 3.11 or later; /usr/bin/python3 is older" >&2; return 1; }
    echo /usr/bin/python3
}

# make_venv FOLDER KEY PIP-ARGUMENT...: a virtual environment, made anew when KEY (a text) has changed.
make_venv() {
    local folder=$1 key=$2 python
    shift 2
    [ "$(cat "$folder/.key" 2>/dev/null)" = "$key" ] && return 0
    python=$(find_python)
    say "making $folder with $("$python" --version)"
    rm -rf "$folder"
    "$python" -m venv "$folder"
    "$folder/bin/pip" install -q "$@" >&2
    printf '%s' "$key" >"$folder/.key"
}

# newest_venv / floor_venv: the package from this tree with the newest, or the oldest allowed, dependencies.
newest_venv() { make_venv .venv "$(cat pyproject.toml)" -e '.[test,check]'; }

floor_venv() {
    newest_venv
    .venv/bin/python scripts/floor-requirements >"$PYCTRD_CACHE/floor.txt"
    make_venv .venv-floor "$(cat pyproject.toml)" -c "$PYCTRD_CACHE/floor.txt" -e '.[test]'
}
