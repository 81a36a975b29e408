"""The real podman, which needs no daemon: Debian's, with its own libraries and a storage of its own."""

from __future__ import annotations

import subprocess
from pathlib import Path

from integration.rig.debs import bound, closure

SUITE = "trixie"
PODMAN_SECONDS = 120.0


def program() -> Path:
    """The podman binary, downloaded if missing; raises PeerUnavailable with the reason."""
    # Not through a script that starts the loader: podman starts itself again to unpack layers.
    return bound(closure(SUITE, "podman"), "usr/bin/podman", "--version")


class Podman:
    """Runs podman; its images are below `folder`, as plain copies of files (vfs). Needs root.

    `program` is a script that runs it with these settings.
    """

    def __init__(self, folder: Path) -> None:
        root = closure(SUITE, "podman")
        policy = folder / "home/.config/containers/policy.json"
        policy.parent.mkdir(parents=True)
        policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        settings = folder / "containers.conf"
        settings.write_text(
            f'[engine]\nconmon_path = ["{root}/usr/bin/conmon"]\n'
            f'helper_binaries_dir = ["{root}/usr/lib/podman"]\n'
            'events_logger = "none"\nlock_type = "file"\ncgroup_manager = "cgroupfs"\nruntime = "crun"\n'
            f'[engine.runtimes]\ncrun = ["{root}/usr/bin/crun"]\n'
        )
        storage = folder / "storage.conf"
        storage.write_text(
            f'[storage]\ndriver = "vfs"\ngraphroot = "{folder}/images"\nrunroot = "{folder}/run"\n'
        )
        self.program = folder / "podman"
        self.program.write_text(
            f"#!/bin/sh\nHOME={folder}/home CONTAINERS_CONF={settings} CONTAINERS_STORAGE_CONF={storage} "
            "CONTAINERS_REGISTRIES_CONF=/dev/null PODMAN_IGNORE_CGROUPSV1_WARNING=1 "
            f'exec {program()} --tmpdir={folder}/tmp "$@"\n'
        )
        self.program.chmod(0o755)

    def __call__(
        self, *arguments: str | Path, check: bool = True, stdin: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        """Run `podman ARGUMENTS`; if it fails and `check` is set, raises AssertionError with its output."""
        command = [self.program, *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, timeout=PODMAN_SECONDS, check=False)
        words = done.stderr.decode(errors="replace")
        assert not check or done.returncode == 0, f"podman {' '.join(map(str, arguments))}: {words}"
        return done
