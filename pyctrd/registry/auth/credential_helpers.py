"""Run credential helpers: programs that store passwords for Docker and podman.

Source: the docker-credential-helpers protocol: `docker-credential-NAME get` reads the server name on stdin
and writes JSON to stdout.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any, Final

from pyctrd.registry.auth.sudo import Invoker

TIMEOUT_SECONDS: Final = 60.0

_MAX_ANSWER_BYTES: Final = 1 << 20
_NOT_FOUND: Final = "credentials not found in native keychain"


# The exit status of shells for a command that does not exist; also that of _LAUNCHER.
_NO_COMMAND: Final = 127
# Changes the user, then executes the helper. Popen(user=...) would use fork instead of vfork, and a fork runs
# gRPC's handlers, which sometimes abort the child while gRPC's threads are busy. Nothing may be imported
# after the change of user, not even by execvp, since that user may not be able to read the interpreter's
# modules.
_LAUNCHER: Final = """
import os, sys
uid, gid, groups, *command = sys.argv[1:]
os.setgroups([int(group) for group in groups.split(",")])
os.setresgid(int(gid), int(gid), int(gid))
os.setresuid(int(uid), int(uid), int(uid))
os.umask(0o077)
for folder in os.environ["PATH"].split(":"):
    try:
        os.execv(f"{folder}/{command[0]}", command)
    except OSError:
        pass
os._exit(127)
"""


class HelperFailed(Exception):
    """A helper cannot be used. The message never quotes its output, which may be the secret."""


def ask(
    helper: str, server: str, *, environ: Mapping[str, str], user: Invoker | None = None
) -> Mapping[str, Any] | None:
    """Get the login for a server from a helper; None if it has none.

    The helper runs as `user`, by default as the current user with `environ`. Raises HelperFailed.
    """
    name = program(helper)
    if "/" in helper or "\0" in helper or not helper:
        raise HelperFailed(f"{helper!r} is not the name of a credential helper")
    try:
        with _start(name, environ, user) as process:
            try:
                answer = _converse(process, server)
            except BaseException:
                process.kill()
                raise
    except FileNotFoundError as error:
        raise HelperFailed(_not_found(name, environ)) from error
    except TimeoutError as error:
        raise HelperFailed(f"{name} did not answer within {TIMEOUT_SECONDS:.0f} s") from error
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise HelperFailed(f"{name} did not run: {type(error).__name__}") from error
    if process.returncode != 0:
        if _NOT_FOUND in answer.decode("utf-8", "replace"):
            return None
        if process.returncode == _NO_COMMAND:
            raise HelperFailed(_not_found(name, environ))
        raise HelperFailed(
            f"{name} failed with status {process.returncode} (try: echo {server} | {name} get)"
        )
    return _read(name, answer)


def program(helper: str) -> str:
    """Return the name of the program of a helper."""
    return f"docker-credential-{helper}"


def _start(name: str, environ: Mapping[str, str], user: Invoker | None) -> subprocess.Popen[bytes]:
    pipes: dict[str, Any] = {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.DEVNULL,
        "bufsize": 0,
    }
    path = _absolute(environ)
    if user is None:
        found = shutil.which(name, path=path)
        if found is None:
            raise FileNotFoundError(name)
        return subprocess.Popen([found, "get"], env={**environ, "PATH": path}, **pipes)
    if not sys.executable:
        raise HelperFailed(f"{name} did not run: there is no Python interpreter to run it as {user.name}")
    groups = ",".join(map(str, os.getgrouplist(user.name, user.gid)))
    become = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(user.uid), str(user.gid), groups]
    return subprocess.Popen([*become, name, "get"], env=user.environment(path), cwd="/", **pipes)


def _absolute(environ: Mapping[str, str]) -> str:
    """Return PATH without relative and empty entries, which mean the working directory.

    Other users may have put a program there; Go's os/exec does not run it, either.
    """
    folders = environ.get("PATH", os.defpath).split(os.pathsep)
    return os.pathsep.join(folder for folder in folders if folder.startswith("/"))


def _not_found(name: str, environ: Mapping[str, str]) -> str:
    left_out = _absolute(environ) != environ.get("PATH", os.defpath)
    return f"{name} is not in PATH{' (its relative entries are not searched)' if left_out else ''}"


def _converse(process: subprocess.Popen[bytes], server: str) -> bytes:
    """Send the server name and read the response, with limits for size and time."""
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(f"{server}\n".encode())
    process.stdin.close()
    deadline = time.monotonic() + TIMEOUT_SECONDS
    descriptor = process.stdout.fileno()
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    answer = b""
    while len(answer) <= _MAX_ANSWER_BYTES:
        left = deadline - time.monotonic()
        if left <= 0 or not waiting.poll(left * 1000):
            raise TimeoutError
        piece = os.read(descriptor, 1 << 16)
        if not piece:
            process.wait(max(left, 0.1))
            return answer
        answer += piece
    raise ValueError("the answer is too long")


def _read(name: str, answer: bytes) -> Mapping[str, Any]:
    try:
        document = json.loads(answer)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise HelperFailed(f"{name} did not answer with a JSON object")
    return document
