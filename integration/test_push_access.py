"""Push to registries that require a login, and to hosts whose capabilities do not include push."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.bench import Bench
from integration.rig.daemons import Registry
from integration.rig.registry import HTPASSWD, PASSWORD, USER
from integration.rig.tokens import TokenService
from integration.shell import Shell
from integration.uploads import newest, running, stored
from tests.support import shapes


@pytest.fixture(params=["basic", "token", "token without POST"])
def guarded(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registry]:
    """A registry that lets only USER push."""
    if request.param == "basic":
        registry = Registry(tmp_path / "guarded", auth=HTPASSWD)
    else:
        tokens = TokenService(tmp_path / "tokens", post=request.param == "token")
        registry = Registry(tmp_path / "guarded", config=tokens)
    with running(registry):
        yield registry


@newest
def test_with_and_without_credentials(bench: Bench, shell: Shell, guarded: Registry) -> None:
    graph = shapes.five_platform(salt="guarded")
    name = bench.pull_all(graph)
    first, second = f"{guarded.host}/team/one:1", f"{guarded.host}/team/two:1"
    done = shell("push", name, first, code=5)
    assert b"hint: Pass -u USER" in done.stderr
    assert stored(guarded, "team/one").tags == {}
    user = f"{USER}:{PASSWORD}"
    shell("push", "-u", user, name, first)
    assert stored(guarded, "team/one").tags == {"1": graph.digest}
    told = shell.json("push", "-u", user, name, second)
    assert len(told["mounted"]) == len(stored(guarded, "team/two").blobs) == 10
    done = shell("push", "-u", f"{USER}:wrong horse", name, f"{guarded.host}/team/three:1", code=5)
    assert b"wrong horse" not in done.stderr + done.stdout


@newest
def test_the_scopes_of_a_mount(bench: Bench, shell: Shell, tmp_path: Path) -> None:
    name = bench.pull_all(shapes.single(salt="scopes"))
    with running(
        Registry(tmp_path / "scoped", config=TokenService(tmp_path / "tokens", post=False))
    ) as registry:
        for repository in ("team/one", "team/two"):
            registry.clear_requests()
            shell("push", "-u", f"{USER}:{PASSWORD}", name, f"{registry.host}/{repository}:1")
    asked = [one.query for one in registry.requests() if one.path == "/token" and one.query]
    assert "scope=repository%3Ateam%2Ftwo%3Apull%2Cpush" in asked[0]
    assert any("repository%3Ateam%2Fone%3Apull" in query for query in asked)


@newest
def test_only_hosts_with_the_push_capability_are_used(
    bench: Bench, shell: Shell, target: str, tmp_path: Path
) -> None:
    graph = shapes.single(salt="hosts")
    name = bench.pull(graph)
    folder = tmp_path / "certs.d" / "registry.invalid"
    folder.mkdir(parents=True)
    mirror = '[host."http://127.0.0.1:1"]\ncapabilities = ["pull", "resolve"]\n'
    (folder / "hosts.toml").write_text(f'server = "{bench.registry.url}"\n{mirror}')
    arguments = ("push", "--hosts-dir", str(tmp_path / "certs.d"), name, f"registry.invalid/{target}:1")
    shell(*arguments)
    assert stored(bench.registry, target).tags == {"1": graph.digest}
    (folder / "hosts.toml").write_text(
        f'[host."{bench.registry.url}"]\ncapabilities = ["pull"]\n{mirror}'
        f'[host."https://registry.invalid"]\ncapabilities = ["pull"]\n'
    )
    assert shell(*arguments, code=5).stderr
