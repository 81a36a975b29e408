"""Tests of a program that works with containerd, with images of their own and without a registry.

Run as root: pytest --containerd "$(command -v containerd)" examples/pytest
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pyctrd import Client, ImageNotFound
from pyctrd.pytest_plugin import ImageFactory


def newest(client: Client, repository: str) -> str:
    """The program under test: the newest tag of a repository in containerd."""
    names = [image.name for image in client.images.list() if image.name.startswith(f"{repository}:")]
    return max(names, default="")


def test_the_newest_tag_is_found(pyctrd_client: Client, pyctrd_image: ImageFactory) -> None:
    for tag in ("1.0", "1.2", "1.1"):
        pyctrd_image(f"registry.example/team/app:{tag}", {"etc/version": tag.encode()})
    assert newest(pyctrd_client, "registry.example/team/app") == "registry.example/team/app:1.2"


def test_every_test_has_a_namespace_of_its_own(pyctrd_client: Client) -> None:
    assert newest(pyctrd_client, "registry.example/team/app") == ""
    with pytest.raises(ImageNotFound):
        pyctrd_client.images.get("registry.example/team/app:1.0")


def test_an_image_can_be_saved(pyctrd_client: Client, pyctrd_image: ImageFactory, tmp_path: Path) -> None:
    image = pyctrd_image("registry.example/team/app:1.0", {"bin/app": b"#!/bin/sh"}, platform="linux/arm64")
    saved = pyctrd_client.images.save(image.name, tmp_path / "app.tar", platforms=["linux/arm64"])
    assert image.target.digest in saved.blobs


def test_the_same_files_are_the_same_image(pyctrd_image: ImageFactory) -> None:
    first, second = (pyctrd_image(f"registry.example/app:{tag}", {"a": b"1"}) for tag in ("1", "2"))
    assert first.target.digest == second.target.digest
