#!/usr/bin/env python3
"""Check that the images of a node are complete, for the log and for Prometheus.

Runs `pyctrd diagnose --format jsonl` in all namespaces, prints its lines (one JSON object for each image),
and writes the numbers to a file that node-exporter reads (`--collector.textfile.directory`). Once, or every N
seconds:

    pyctrd_textfile.py /var/lib/node_exporter/textfile_collector/pyctrd.prom
    pyctrd_textfile.py --every 3600 /var/lib/node_exporter/textfile_collector/pyctrd.prom

No registry is contacted. The exit code is that of `pyctrd diagnose`: 0, or 4 if an image is incomplete. With
--every it runs until SIGTERM. Needs the command `pyctrd`, and nothing else that Python does not have.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

COMMAND = ("pyctrd", "diagnose", "--all-namespaces", "--format", "jsonl")
COMPLETE, INCOMPLETE = 0, 4


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the completeness of all images for node-exporter.")
    parser.add_argument("file", type=Path, help="the file to write; its name must end in .prom")
    parser.add_argument("--every", type=float, default=0, metavar="SECONDS", help="repeat until SIGTERM")
    options = parser.parse_args()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    while True:
        code = check(options.file)
        if not options.every:
            return code
        if stop.wait(options.every):
            return 0


def check(file: Path) -> int:
    """Run diagnose once; its errors stay on stderr."""
    done = subprocess.run(COMMAND, stdout=subprocess.PIPE, text=True, check=False)
    sys.stdout.write(done.stdout)
    sys.stdout.flush()
    # After another exit code the lines are not those of all images.
    known = done.returncode in (COMPLETE, INCOMPLETE)
    images = [json.loads(line) for line in done.stdout.splitlines()] if known else []
    replace(file, metrics(images, done.returncode))
    return done.returncode


def metrics(images: list[dict[str, Any]], code: int) -> str:
    """Return the metrics; only incomplete images have a series of their own, so that there are few."""
    lines = [
        *head(
            "pyctrd_diagnose_exit_code",
            "Exit code of pyctrd diagnose: 0, 4 if an image is incomplete, else an error.",
        ),
        f"pyctrd_diagnose_exit_code {code}",
        *head("pyctrd_diagnose_timestamp_seconds", "When pyctrd diagnose has ended."),
        f"pyctrd_diagnose_timestamp_seconds {time.time():.0f}",
    ]
    if images:
        lines += head("pyctrd_images", "Image records, complete or not for the node's platform.")
    for namespace in sorted({image["namespace"] for image in images}):
        found = [image["complete"] for image in images if image["namespace"] == namespace]
        lines += [
            f"pyctrd_images{labels(namespace=namespace, complete=str(state).lower())} {found.count(state)}"
            for state in (True, False)
        ]
    incomplete = [image for image in images if not image["complete"]]
    if incomplete:
        lines += head("pyctrd_image_missing_bytes", "Bytes known to be missing of an incomplete image.")
    for image in incomplete:
        of = labels(namespace=image["namespace"], image=image["image"], cause=image["cause"] or "")
        lines.append(f"pyctrd_image_missing_bytes{of} {image['missing_bytes']}")
    return "\n".join(lines) + "\n"


def head(name: str, text: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} gauge"]


def labels(**values: str) -> str:
    """Return `{name="value",...}`; names of images may have any characters."""
    escaped = {
        name: value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
        for name, value in values.items()
    }
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped.items()) + "}"


def replace(file: Path, text: str) -> None:
    """Replace the file by a rename, since node-exporter may read it at any time."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(file)


if __name__ == "__main__":
    sys.exit(main())
