# Sourced by the other scripts: finds Python, and creates virtual environments for the tasks.
# shellcheck shell=bash

export PYCTRD_CACHE="${PYCTRD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/pyctrd}"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
mkdir -p "$PYCTRD_CACHE"

say() { printf '\n=== %s\n' "$*" >&2; }

# apt_install PACKAGE...: from the system's own release, only missing packages.
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

# find_python: prints the path of a Python 3.11 or later that can create virtual environments.
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

# make_venv FOLDER PYTHON KEY PIP-ARGUMENT...: a virtual environment, created again if KEY (a text) has changed.
make_venv() {
    local folder=$1 python=$2 key=$3
    shift 3
    [ "$(cat "$folder/.key" 2>/dev/null)" = "$key" ] && return 0
    say "making $folder with $("$python" --version)"
    rm -rf "$folder"
    if [ "$python" = "$(find_python)" ]; then
        "$python" -m venv "$folder"
    else
        # Debian's unpacked Pythons have no ensurepip; today's pip works with all of them.
        "$python" -m venv --without-pip "$folder"
        .venv/bin/pip install -q --target "$("$folder/bin/python" -c 'import site; print(site.getsitepackages()[0])')" pip >&2
    fi
    # On a terminal, show what takes so long.
    "$folder/bin/python" -m pip install $([ -t 2 ] || echo -q) "$@" >&2
    printf '%s' "$key" >"$folder/.key"
}

# newest_venv: the package from this tree with the newest dependencies, on the machine's own Python.
newest_venv() { make_venv .venv "$(find_python)" "$(cat pyproject.toml pyctrd/version.py)" -e '.[test,check]'; }

# docs_venv: the package with Sphinx.
docs_venv() { make_venv .venv-docs "$(find_python)" "$(cat pyproject.toml pyctrd/version.py)" -e '.[docs]'; }

# build_venv: what scripts/build needs; nothing of it is in the packages.
build_venv() { make_venv .venv-build "$(find_python)" "$(cat pyproject.toml pyctrd/version.py)" -e '.[build]'; }

# python_venv VERSION: the same on another Python (integration/rig/pythons.py).
python_venv() {
    newest_venv
    make_venv ".venv-$1" "$(.venv/bin/python -m integration.rig.pythons "$1")" "$(cat pyproject.toml pyctrd/version.py)" -e '.[test]'
}

# floor_venv: the oldest allowed dependencies, on the oldest Python, since they lack wheels for later ones.
floor_venv() {
    local python
    newest_venv
    python=$(find_python)
    "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' ||
        python=$(.venv/bin/python -m integration.rig.pythons 3.11)
    .venv/bin/python scripts/floor-requirements >"$PYCTRD_CACHE/floor.txt"
    make_venv .venv-floor "$python" "$(cat pyproject.toml pyctrd/version.py)" -c "$PYCTRD_CACHE/floor.txt" -e '.[test]'
}
