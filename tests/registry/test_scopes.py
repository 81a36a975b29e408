"""Scopes of tokens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyctrd.registry.auth import scopes


@pytest.mark.parametrize(
    ("given_scopes", "merged"),
    [
        ((), ()),
        (("repository:a:pull", "repository:a:pull,push"), ("repository:a:pull,push",)),
        (("repository:b:pull repository:a:push",), ("repository:a:push", "repository:b:pull")),
        (
            ("repository:host:5000/a:pull", "repository:host:5000/a:push"),
            ("repository:host:5000/a:pull,push",),
        ),
        (
            ("repository(plugin):a:pull", "repository:a:pull"),
            ("repository(plugin):a:pull", "repository:a:pull"),
        ),
        (("registry:catalog:*", "aws"), ("aws", "registry:catalog:*")),
        (("repository:a:",), ("repository:a:",)),
        ((f"repository:{'a' * 600}:pull",), ()),
    ],
)
def test_merging(given_scopes: tuple[str, ...], merged: tuple[str, ...]) -> None:
    assert scopes.merge(*given_scopes) == merged


def test_limits_for_scopes_of_a_challenge() -> None:
    many = " ".join(f"repository:r{number}:pull" for number in range(1000))
    own = scopes.pull("team/app")
    assert own in scopes.merge(own, many)
    assert len(scopes.merge(own, many)) == 32


def test_a_mount_needs_two() -> None:
    both = scopes.merge(scopes.push("target"), scopes.pull("source"))
    assert both == ("repository:source:pull", "repository:target:pull,push")


@given(st.lists(st.text(alphabet="abc:, /", max_size=12), max_size=6))
def test_merging_twice_changes_nothing(texts: list[str]) -> None:
    once = scopes.merge(*texts)
    assert scopes.merge(*once) == once
    assert scopes.merge(*reversed(texts)) == once


@pytest.mark.parametrize(
    ("given_scopes", "repository"),
    [
        (["repository:a/b:pull", "repository:c:pull"], "a/b"),
        (["registry:catalog:*", "repository:c:pull"], ""),
        (["aws"], ""),
        ([], ""),
    ],
)
def test_the_repository_that_a_request_is_for(given_scopes: list[str], repository: str) -> None:
    assert scopes.repository_of(given_scopes) == repository
