"""Demo: what `ctr pull` stores, what old nerdctl then downloads, and what pyctrd does instead."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from pyctrd.amounts import size

if TYPE_CHECKING:
    from integration.rig.daemons import Registry
    from tests.support.images import Graph

console = Console(highlight=False, soft_wrap=True)
PYCTRD = [sys.executable, "-m", "pyctrd"]


def main() -> int:
    """Run the demo that the arguments select; the exit code is 0 if every step had the expected result."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("--address", help="socket of a containerd to use instead of an own one")
    parser.add_argument("--namespace", default=os.environ.get("CONTAINERD_NAMESPACE", "default"))
    parser.add_argument("reference", nargs="?", help="image, with --address")
    arguments = parser.parse_args()
    if bool(arguments.address) != bool(arguments.reference):
        parser.error("--address and a reference go together")
    if arguments.address:
        return on_host(arguments.address, arguments.namespace, arguments.reference)
    return embedded()


def heading(text: str) -> None:
    """Print a heading."""
    console.print(f"\n[bold cyan]{text}[/]")


def pyctrd(address: str, *arguments: str, namespace: str = "default") -> None:
    """Show a command line and run it against a socket, on this terminal."""
    console.print(f"[bold]$ {shlex.join(['pyctrd', *arguments])}[/]")
    sys.stdout.flush()
    code = subprocess.run([*PYCTRD, "-a", address, "-n", namespace, *arguments], check=False).returncode
    if code:
        console.print(f"[red]exit {code}[/]")
        raise SystemExit(1)


def embedded() -> int:
    """Run the demo on a temporary containerd and registry."""
    from integration.rig import publish
    from integration.rig.daemons import Containerd, Registry
    from integration.rig.peers import NEWEST
    from tests.support import shapes

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pyctrd-demo-")))
        registry = stack.enter_context(Registry(folder / "registry"))
        source = stack.enter_context(Containerd(NEWEST, folder / "source"))
        empty = stack.enter_context(Containerd(NEWEST, folder / "empty"))
        console.print("Making an image of five platforms, each with layers of 1 and 6 MiB ...")
        graph = image(shapes.PAUSE_PLATFORMS)
        reference = publish.push(graph, registry, "team/app", "1.0")
        heading(f"{reference} is in a registry of our own; containerd {source.version}")

        heading("1. Real ctr pulls it, as it does by default")
        console.print(f"[bold]$ ctr images pull --plain-http {reference}[/]")
        source.ctr("images", "pull", "--plain-http", reference)

        heading("2. What is here now, and what would each tool do?")
        pyctrd(str(source.address), "diagnose", "--all-tools", reference)

        heading("3. What nerdctl save 2.0.0-2.0.3 did: ensure every platform that it sees")
        registry.clear_requests()
        replayed = folder / "replayed.tar"
        # The replay runs in a separate namespace, so that step 4 starts from what ctr left.
        source.ctr("images", "pull", "--plain-http", reference, namespace="replay")
        registry.clear_requests()
        save = ("save", "--progress", "none", "--plain-http")
        pyctrd(
            str(source.address), *save, "--ensure", "all", "-o", str(replayed), reference, namespace="replay"
        )
        asked, asked_bytes = show_requests(registry, graph)

        heading("4. What pyctrd save does: ensure and export only the target platform")
        registry.clear_requests()
        archive = folder / "app.tar"
        pyctrd(str(source.address), *save, "-o", str(archive), reference)
        unasked, _ = show_requests(registry, graph)

        heading("5. Real ctr loads the archive into an empty containerd")
        command = ("images", "import", "--platform", "linux/amd64", "--no-unpack", str(archive))
        console.print(f"[bold]$ ctr {shlex.join(command)}[/]")
        empty.ctr(*command)
        here = complete_platforms(str(empty.address), reference)
        console.print(f"complete in the empty containerd: {', '.join(here)}")

        good = asked > 0 and unasked == 0 and bool(here)
        heading(f"Old rule: {asked} requests, {size(asked_bytes)} not requested. pyctrd: {unasked}.")
    console.print("Everything that was started has been stopped.")
    return 0 if good else 1


def complete_platforms(address: str, reference: str) -> list[str]:
    """Return the complete platforms, as a script would read them from a diagnosis."""
    command = [*PYCTRD, "-a", address, "diagnose", "--format", "json", reference]
    verdict = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return [row["platform"] for row in verdict["platforms"] if row["complete"]]


def image(platforms: Sequence[str]) -> Graph:
    """Return an image with large layers."""
    from tests.support import images

    children = []
    for number, on in enumerate(platforms):
        layers = [images.random_layer(mib << 20, seed=10 * number + mib) for mib in (1, 6)]
        children.append(images.manifest(images.config(layers, on), layers, on=on))
    return images.index(children)


def show_requests(registry: Registry, graph: Graph) -> tuple[int, int]:
    """Print the registry's log since it was cleared; return the number of requests, and the bytes."""
    requests = registry.requests()
    sizes = [len(graph.blobs.get(request.path.rpartition("/")[2], b"")) for request in requests]
    console.print(f"[yellow]the registry's log: {len(requests)} requests, {size(sum(sizes))}[/]")
    for request, length in zip(requests, sizes, strict=True):
        folder, _, digest = request.path.rpartition("/")
        path = f"{folder}/{digest[:19]}…"
        console.print(f"    {request.method} {path} {request.status}  {size(length)}", markup=False)
    return len(requests), sum(sizes)


def on_host(address: str, namespace: str, reference: str) -> int:
    """Run the demo with an image of the host's containerd."""
    heading(f"1. Pull {reference}, as ctr does")
    pyctrd(address, "pull", "--progress", "plain", reference, namespace=namespace)
    heading("2. What is here now, and what would each tool do?")
    pyctrd(address, "diagnose", "--all-tools", reference, namespace=namespace)
    heading("3. What nerdctl save 2.0.0-2.0.3 would fetch (nothing is fetched now)")
    plan = ("save", "--dry-run", "-o", "-")
    pyctrd(address, *plan, "--ensure", "all", reference, namespace=namespace)
    heading("4. Save the host's platform")
    with tempfile.TemporaryDirectory(prefix="pyctrd-demo-") as folder:
        archive = str(Path(folder) / "image.tar")
        pyctrd(address, "save", "--progress", "none", "-o", archive, reference, namespace=namespace)
        console.print(f"{Path(archive).stat().st_size} bytes, end of archive checked")
    return 0


if __name__ == "__main__":
    sys.exit(main())
