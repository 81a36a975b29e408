"""What containerd's configuration says about the kubelet's images.

Sources: containerd docs/cri/config.md; internal/cri/config/config.go, pkg/cri/config/config.go in 1.x.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

# The sections of version 3, 2 and 1, in which a plugin has its settings.
_IMAGES: Final = "io.containerd.cri.v1.images"
_CRI: Final = "io.containerd.grpc.v1.cri"
_FIRST: Final = "cri"


class CriConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of the CRI plugin; "" and False are what the file does not say.

    `section` is the table that `discard_unpacked_layers` belongs to.
    """

    section: str
    discard_unpacked_layers: bool = False
    sandbox_image: str = ""


def read(settings: Mapping[str, Any]) -> CriConfig:
    """Return the settings of a configuration, of whatever version."""
    plugins = _table(settings, "plugins")
    if settings.get("version") == 3 or _IMAGES in plugins:
        images = _table(plugins, _IMAGES)
        return CriConfig(
            section=f"[plugins.'{_IMAGES}']",
            discard_unpacked_layers=images.get("discard_unpacked_layers") is True,
            sandbox_image=_text(_table(images, "pinned_images"), "sandbox"),
        )
    name = _CRI if _CRI in plugins or settings.get("version") == 2 else _FIRST
    cri = _table(plugins, name)
    return CriConfig(
        section=f'[plugins."{name}".containerd]',
        discard_unpacked_layers=_table(cri, "containerd").get("discard_unpacked_layers") is True,
        sandbox_image=_text(cri, "sandbox_image"),
    )


def _table(settings: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = settings.get(name)
    return found if isinstance(found, Mapping) else {}


def _text(settings: Mapping[str, Any], name: str) -> str:
    found = settings.get(name)
    return found if isinstance(found, str) else ""
