#!/usr/bin/python
"""Ansible module: images of containerd, complete or absent."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

DOCUMENTATION = """
module: pyctrd_image
short_description: Have an image in containerd with all of its content, or not at all
description:
  - C(present) pulls an image that is not there, and fetches by digest what an incomplete one lacks.
    It does not look for a newer image under the same tag.
  - C(absent) removes the image, unless a container uses it or it is pinned.
options:
  name: {description: The image., type: str, required: true}
  state: {description: What is wanted., type: str, choices: [present, absent], default: present}
  platforms: {description: "Platforms (default: the host's).", type: list, elements: str}
  all_names:
    description: With C(absent), remove all names of the image (default in k8s.io, where CRI has several).
    type: bool
  namespace: {description: Namespace of containerd., type: str, default: k8s.io}
  address: {description: Socket of containerd., type: str}
requirements: [pyctrd]
"""

EXAMPLES = """
- name: The agent's image is complete on every node
  pyctrd_image:
    name: registry.example.com/team/agent:1.4
"""

RETURN = """
image: {description: The full name., type: str, returned: if the image is there}
digest: {description: The digest of its target., type: str, returned: if the image is there}
bytes: {description: Bytes that were fetched or freed., type: int, returned: if something was changed}
missing_bytes: {description: Bytes that it lacked before., type: int, returned: if the image was there}
causes: {description: Why it lacked them., type: list, returned: if the image was incomplete}
"""


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        {
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "platforms": {"type": "list", "elements": "str"},
            "all_names": {"type": "bool"},
            "namespace": {"type": "str", "default": "k8s.io"},
            "address": {"type": "str"},
        },
        supports_check_mode=True,
    )
    try:
        from pyctrd import Client, PyctrdError
    except ImportError as error:
        module.fail_json(msg=missing_required_lib("pyctrd"), exception=str(error))
    try:
        with Client(module.params["address"], module.params["namespace"]) as client:
            change = present if module.params["state"] == "present" else absent
            module.exit_json(**change(client, module.params, check=module.check_mode))
    except PyctrdError as error:
        # With a remedy, the hint is about a call of the library.
        module.fail_json(msg=error.message, hint=None if error.remedy else error.hint)


def present(client: Any, wanted: dict[str, Any], *, check: bool) -> dict[str, Any]:
    """Pull or complete the image."""
    from pyctrd import ImageNotFound

    name, platforms = wanted["name"], wanted["platforms"]
    found = None
    with suppress(ImageNotFound):
        found = client.images.diagnose(name, platforms=platforms)
    if found is not None and found.complete:
        return {"changed": False, "image": found.image, "digest": found.target.digest, "missing_bytes": 0}
    if found is not None and found.absent_platforms:
        return {"failed": True, "msg": f"{found.image} has no {', '.join(found.absent_platforms)}"}
    before: dict[str, Any] = {}
    if found is not None:
        causes = [cause.text for cause in found.causes]
        before = {"missing_bytes": found.missing_bytes, "causes": causes}
    if check:
        return {"changed": True, **before}
    # An image that is there is completed by digest: its tag may have moved.
    act = client.images.pull if found is None else client.images.ensure
    result = act(name, platforms=platforms)
    target = result.image.target.digest
    return {
        "changed": True,
        "image": result.image.name,
        "digest": target,
        "bytes": result.bytes_fetched,
        **before,
    }


def absent(client: Any, wanted: dict[str, Any], *, check: bool) -> dict[str, Any]:
    """Remove the image."""
    from pyctrd import ImageNotFound

    all_names = wanted["namespace"] == "k8s.io" if wanted["all_names"] is None else wanted["all_names"]
    try:
        result = client.images.remove(wanted["name"], all_names=all_names, dry_run=check)
    except ImageNotFound:
        return {"changed": False}
    return {"changed": True, "bytes": result.bytes}


if __name__ == "__main__":
    main()
