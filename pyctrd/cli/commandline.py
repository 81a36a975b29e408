"""Commands printed in hints, quoted so that they can be pasted into a shell."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from pyctrd.cli.settings import RegistryArguments, Settings
from pyctrd.cli.text import is_visible
from pyctrd.errors import PyctrdError, Remedy

# Global options: option, attribute, variable, containerd's default. A default is not printed.
_SCOPE: Final = (
    ("-a", "address", "CONTAINERD_ADDRESS", "/run/containerd/containerd.sock"),
    ("-n", "namespace", "CONTAINERD_NAMESPACE", "default"),
)
# The library's messages name its arguments in backquotes.
_OPTIONS: Final = {
    "`address`": "--address",
    "`have`": "--have",
    "`compress`": "--compress",
    "`force`": "--force",
    "`format=dir`": "--format dir",
    "`format=docker`": "--format docker",
    "`format=oci`": "--format oci",
    "`hosts_dir`": "--hosts-dir",
    "`base_name`": "--base-name",
    "`digests`": "--digests",
    "`dangling`": "--dangling",
    "`expired`": "--expired",
    "`index=flatten`": "--index flatten",
    "`index=prune`": "--index prune",
    "`keep`": "--keep",
    "`keep_last`": "--keep-last",
    "`leftovers`": "--leftovers",
    "`name`": "--name",
    "`older_than`": "--older-than",
    "`output`": "-o",
    "`plain_http`": "--plain-http",
    "`platforms`": "--platform",
    "`platforms=local`": "--platform local",
    "`retry_budget`": "--retry-budget",
    "`since`": "--since",
    "`skip_verify`": "-k",
    "`snapshotter`": "--snapshotter",
    "`source`": "--from",
    "`sudo_user_config`": "--sudo-user-config",
    "`ttl`": "--ttl",
    "`unpack=False`": "--no-unpack",
    "`until_free`": "--until-free",
    "`unused`": "--unused",
    "`username`": "-u",
    "`username` and `password`": "-u USER",
}
# The commands of methods that are not named like them.
_COMMANDS: Final = {
    "content.list": "content ls",
    "content.save": "content get",
    "content.ingests": "ingests ls",
    "leases.list": "leases ls",
    "namespaces.list": "namespaces ls",
    "snapshots.list": "snapshots ls",
    "remove": "rm",
}
_WITH_REGISTRY: Final = frozenset({"pull", "ensure", "save", "push", "verify"})


def quote(word: str) -> str:
    """Quote a word for a shell, with invisible characters as escapes that bash, zsh and ksh understand."""
    if all(map(is_visible, word)):
        return shlex.quote(word)
    return f"$'{''.join(map(_escaped, word))}'"


def _escaped(char: str) -> str:
    if char in "\\'":
        return f"\\{char}"
    if is_visible(char):
        return char
    escape = "surrogateescape" if "\udc80" <= char <= "\udcff" else "surrogatepass"
    return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", escape))


def join(words: Iterator[str] | list[str] | tuple[str, ...]) -> str:
    """Join words to a command line."""
    return " ".join(map(quote, words))


def pyctrd(settings: Settings, *words: str) -> str:
    """Return a pyctrd command for the containerd and the namespace of this run."""
    return join(["pyctrd", *_scope(settings), *words])


def ctr(settings: Settings, *words: str) -> str:
    """Return a ctr command; its global options are the same as ours."""
    return join(["ctr", *_scope(settings), *words])


def complete(words: tuple[str, ...], settings: Settings) -> str:
    """Return a command line for the containerd of this run, if it is one of pyctrd's that names no other."""
    if words[0] != "pyctrd" or "--address" in words:
        return join(words)
    if words[1] != "-n":
        return pyctrd(settings, *words[1:])
    return pyctrd(replace(settings, namespace=words[2]), *words[3:])


def of(remedy: Remedy, settings: Settings) -> str:
    """Return the command of a remedy, or only the options to add if it repeats the same call."""
    if not remedy.method:
        scope = ["-n", remedy.namespace] if remedy.namespace else []
        return join([*scope, *_platforms(remedy), *(["--force"] if remedy.force else [])])
    if remedy.namespace:
        settings = replace(settings, namespace=remedy.namespace)
    words = [*_COMMANDS.get(remedy.method, remedy.method).split(), *_selection(remedy)]
    if remedy.repair:
        words.append("--repair")
    if remedy.force:
        words.append("--force")
    if remedy.method == "save" and settings.output:
        words += ["-o", settings.output]
    if remedy.method in _WITH_REGISTRY:
        words += _registry(settings.registry)
    # The code that finds damaged content does not know the images; the command line does.
    images = remedy.images or (settings.images if remedy.method == "verify" else ())
    if any(image.startswith("-") for image in images):
        words.append("--")
    return pyctrd(settings, *words, *images)


def for_all(remedy: Remedy, settings: Settings, *, all_namespaces: bool) -> str:
    """Return the command of a remedy for all images, instead of those that it names."""
    everywhere = ["-A"] if all_namespaces else []
    words = [remedy.method, "--all", *everywhere, *_selection(remedy), *_registry(settings.registry)]
    return pyctrd(settings, *words)


def with_options(text: str) -> str:
    """Return a message of the library with options in place of its arguments."""
    names = "|".join(map(re.escape, sorted(_OPTIONS, key=len, reverse=True)))
    return re.sub(names, lambda found: _OPTIONS[found[0]], text)


def hint(error: PyctrdError, settings: Settings) -> str | None:
    """Return an error's hint with the command of its remedy."""
    command = of(error.remedy, settings) if error.remedy else ""
    return ": ".join(filter(None, (with_options(error.hint or ""), command))) or None


def _scope(settings: Settings) -> Iterator[str]:
    for option, name, variable, default in _SCOPE:
        usual = os.environ.get(variable) or default
        chosen = getattr(settings, name) or usual
        if chosen != default or usual != default:
            yield from (option, chosen)


def _selection(remedy: Remedy) -> list[str]:
    return [*_platforms(remedy), *(["--all-platforms"] if remedy.all_platforms else [])]


def _platforms(remedy: Remedy) -> Iterator[str]:
    # A comma inside a platform (a list of features) would split it.
    if any("," in platform for platform in remedy.platforms):
        for platform in remedy.platforms:
            yield from ("--platform", platform)
    elif remedy.platforms:
        yield from ("--platform", ",".join(remedy.platforms))


def _registry(arguments: RegistryArguments) -> Iterator[str]:
    if arguments.plain_http:
        yield "--plain-http"
    if arguments.skip_verify:
        yield "--skip-verify"
    if arguments.hosts_dir:
        yield from ("--hosts-dir", arguments.hosts_dir)
    if arguments.user:
        yield from ("--user", arguments.user.partition(":")[0])
    if arguments.sudo_user_config is not None:
        yield "--sudo-user-config" if arguments.sudo_user_config else "--no-sudo-user-config"
