"""Turns errors into messages and exit codes: the only place that catches them all.

0 ok   1 error   2 usage   3 not found   4 content incomplete   5 registry or authentication
6 daemon unreachable   129 hung up   130 interrupted   143 terminated
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Final, NoReturn

import click

from pyctrd.cli import commandline, logs, signals
from pyctrd.cli.settings import Settings
from pyctrd.cli.text import sanitize
from pyctrd.errors import PyctrdError, shortened

INTERRUPTED: Final = 130
_USAGE: Final = 2
_ERROR: Final = 1


def run(body: Callable[[], object], settings: Settings) -> int:
    """Run a command line, print errors to stderr, and return the exit code."""

    def work() -> object:
        code = body()
        sys.stdout.flush()
        return code

    try:
        with logs.shown():
            code = signals.run(work, settings.cancel)
    except signals.Signalled as end:
        if end.number == signal.SIGINT:
            _say("interrupted", settings.interrupted)
        return 128 + end.number
    except BrokenPipeError:
        close_stdout()
        return _ERROR
    except (click.Abort, KeyboardInterrupt):
        _say("interrupted", settings.interrupted)
        return INTERRUPTED
    except click.ClickException as error:
        return _usage(error)
    except PyctrdError as error:
        _say(commandline.with_options(error.message), commandline.hint(error, settings))
        code = error.exit_code
        _traceback(settings)
    except OSError as error:
        _say(str(error))
        _traceback(settings)
        return _ERROR
    except Exception as error:  # noqa: BLE001 - any other exception is a bug of ours
        _say(
            f"internal error, please report it: {type(error).__name__}: {error}",
            None if settings.debug else "run again with --debug for a traceback",
        )
        _traceback(settings)
        return _ERROR
    return code if isinstance(code, int) else 0


def end_process(leaving: SystemExit) -> NoReturn:
    """End the process at once.

    By now every context manager has exited and all output is written. A normal exit would tear down modules
    (a tenth of a short command's time) and wait for threads that read from a stalled registry until they time
    out.
    """
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    code = leaving.code
    os._exit(code if isinstance(code, int) else _ERROR if code else 0)


def _usage(error: click.ClickException) -> int:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "pyctrd"
    hint = f"see `{command} --help`" if isinstance(error, click.UsageError) else None
    _say(error.format_message(), hint)
    return _USAGE if isinstance(error, click.UsageError) else error.exit_code


def _say(message: str, hint: str | None = None) -> None:
    with contextlib.suppress(OSError):  # stderr may be closed, too
        click.echo(f"pyctrd: {shortened(_printable(message))}", err=True)
        if hint:
            click.echo(f"hint: {shortened(_printable(hint))}", err=True)


def _traceback(settings: Settings) -> None:
    if settings.debug:
        click.echo(_printable(traceback.format_exc(), keep="\n"), err=True)


def _printable(text: str, *, keep: str = "") -> str:
    """Remove secrets, which errors of other libraries may contain, and escape control characters."""
    from pyctrd import redact

    return sanitize(redact.strike(text), keep=keep)


def close_stdout() -> None:
    """Redirect stdout to /dev/null: flushing it again at exit would fail with an error message."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
