"""The programs of docs/library.md, unchanged, on a real containerd and a real registry."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from integration.killing import SECONDS, WRITTEN, all_received, comes_true
from integration.rig.daemons import Containerd, Fault, Registry
from integration.rig.peers import NEWEST
from integration.rig.process import limited
from integration.rig.publish import push
from integration.shell import REPOSITORY_ROOT, Shell, archived
from integration.spoiling import altered, spoil
from pyctrd import Client
from tests.support import images
from tests.support.images import Graph, Layer

PAGE: Final = REPOSITORY_ROOT / "docs" / "library.md"
# The placeholders of the page for a registry and a namespace.
REGISTRY, NAMESPACE = "registry.example.com", "k8s.io"
LAYER_BYTES: Final = 3 << 20

# Other tests run the library on every generation.
pytestmark = pytest.mark.parametrize("generation", [NEWEST], indirect=True)


def programs(page: str) -> dict[str, str]:
    """Read the programs, each by its heading in the form of a test's name."""
    found = {}
    for section in re.split(r"^## ", page, flags=re.MULTILINE)[1:]:
        title, _, text = section.partition("\n")
        (found[re.sub(r"[^a-z]+", "_", title.lower())],) = re.findall(
            r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL
        )
    return found


PROGRAMS: Final = programs(PAGE.read_text(encoding="utf-8"))


class Recipe:
    """A program of the page, with the names of a real namespace and a real registry."""

    def __init__(self, name: str, shell: Shell, registry: Registry, repository: str) -> None:
        self.shell = shell
        self.registry = registry
        self.folder = shell.folder
        self._repository = repository
        here = f"{registry.host}/{repository}"
        self.program = PROGRAMS[name].replace(REGISTRY, here).replace(NAMESPACE, shell.namespace)
        self.web, self.api, self.job = (f"{here}/team/{name}" for name in ("web:1.4", "api:2.1", "job:0.9"))
        self.client = Client(str(shell.containerd.address), shell.namespace)

    def layer(self, name: str) -> Layer:
        """Return a layer that no other test uses."""
        return images.random_layer(LAYER_BYTES, zlib.crc32(f"{self.shell.namespace} {name}".encode()))

    def publish(self, name: str, *, base: Layer | None = None) -> Graph:
        """Push an image of two platforms, each with a layer of its own; return that of this host."""
        made = []
        for on in ("linux/amd64", "linux/arm64"):
            layers = [base or self.layer(f"{name} base"), self.layer(f"{name} {on}")]
            config = images.config(layers, on, config={"Cmd": ["/bin/serve"]})
            made.append(images.manifest(config, layers, on=on))
        repository, _, tag = name.partition(":")
        push(images.index(made), self.registry, f"{self._repository}/team/{repository}", tag)
        return made[0]

    def start(self) -> subprocess.Popen[bytes]:
        path = self.folder / "recipe.py"
        path.write_text(self.program)
        pipe = subprocess.PIPE
        command = [sys.executable, str(path)]
        return limited(
            subprocess.Popen(
                command, cwd=self.folder, env=self.shell.env, stdin=pipe, stdout=pipe, stderr=pipe
            )
        )

    def run(self, *, code: int = 0) -> tuple[list[str], list[str]]:
        """Run the program; return the lines of stdout and of stderr."""
        with self.start() as process:
            return self.end(process, code=code)

    def end(
        self, process: subprocess.Popen[bytes], *, answer: bytes = b"", code: int = 0
    ) -> tuple[list[str], list[str]]:
        output, errors = (text.decode() for text in process.communicate(answer))
        assert process.returncode == code, errors
        assert "Traceback" not in errors, errors
        return output.splitlines(), errors.splitlines()


@pytest.fixture
def recipe(
    request: pytest.FixtureRequest,
    containerd: Containerd,
    registry: Registry,
    namespace: str,
    repository: str,
    tmp_path: Path,
) -> Iterator[Recipe]:
    """The recipe that the test is named after."""
    name = request.node.originalname.removeprefix("test_")
    recipe = Recipe(name, Shell(containerd, namespace, tmp_path), registry, repository)
    with recipe.client:
        yield recipe


def layers(graph: Graph) -> list[str]:
    return [layer["digest"] for layer in graph.document()["layers"]]


def stored(recipe: Recipe) -> int:
    """Return the bytes of all content of the namespace."""
    return sum(blob.size for blob in recipe.client.content.list())


def short(digest: str) -> str:
    return digest[: len("sha256:") + 12]


def gone(recipe: Recipe) -> str:
    return f'image "{recipe.job}": not found'


# --- the page ---------------------------------------------------------------------------------------------


def test_the_page_has_ten_short_programs_and_each_has_a_test(generation: str) -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page.count("```") == 2 * len(PROGRAMS) == 20, "every block is a program, and there are ten"
    for name, program in PROGRAMS.items():
        assert callable(globals().get(f"test_{name}")), f"no test runs {name}"
        assert 5 <= len(list(filter(None, program.splitlines()))) <= 20, name


# --- the programs, in the page's order --------------------------------------------------------------------


def test_list_images(recipe: Recipe) -> None:
    assert recipe.run() == ([], [])
    recipe.publish("web:1.4")
    recipe.publish("api:2.1")
    record = recipe.client.images.pull(recipe.web).image
    recipe.client.images.pull(recipe.api, metadata_only=True)
    output, _ = recipe.run()
    one, other = (line.split() for line in output)
    assert (one[0], one[3]) == (recipe.api, "-")
    assert (other[:2], other[3]) == ([recipe.web, short(record.target.digest)], "linux/amd64")
    assert int(other[2]) > 2 * LAYER_BYTES > int(one[2])


def test_pull_with_progress(recipe: Recipe) -> None:
    web = recipe.publish("web:1.4")
    recipe.publish("api:2.1", base=recipe.layer("web:1.4 base"))
    recipe.client.images.pull(recipe.api)
    here = {blob.digest for blob in recipe.client.content.list()}
    output, _ = recipe.run()
    base, own = layers(web)
    assert f"{short(base)} exists" in output
    assert f"{short(own)} downloaded" in output
    assert f"{short(own)} unpacked" in output
    size = len(web.blobs[own])
    assert any(re.fullmatch(f"{short(own)} [1-9][0-9]* of {size} bytes", line) for line in output), output
    fetched = re.fullmatch(rf"{recipe.web}: ([0-9]+) blobs, ([0-9]+) bytes fetched", output[-1])
    assert fetched
    new = [blob.size for blob in recipe.client.content.list() if blob.digest not in here]
    assert (int(fetched[1]), int(fetched[2])) == (len(new), sum(new))


def test_diagnose_all_images_of_a_namespace(recipe: Recipe) -> None:
    recipe.publish("web:1.4")
    api = recipe.publish("api:2.1")
    recipe.publish("job:0.9")
    recipe.client.images.pull(recipe.web)
    recipe.client.images.pull(recipe.api, metadata_only=True)
    recipe.client.images.pull(recipe.job)
    spoil(recipe.shell.containerd, recipe.client.images.get(recipe.job).target.digest, altered)
    output, _ = recipe.run()
    missing = sum(len(api.blobs[digest]) for digest in layers(api))
    assert output[0] == f"{recipe.api}: {missing} bytes missing"
    assert "linux/amd64" in output[1]
    assert output[1].endswith(": ensure platforms=('linux/amd64',)")
    assert output[2].startswith(f"{recipe.job}: unexpected digest ")
    assert output[3:] == [f"{recipe.web}: complete"]


def test_save_to_a_pipe(recipe: Recipe) -> None:
    web = recipe.publish("web:1.4")
    recipe.client.images.pull(recipe.web)
    output, _ = recipe.run()
    packed = recipe.folder / "web.tar.zst"
    archive = subprocess.run(["zstd", "-dqc", packed], capture_output=True, check=True).stdout
    assert output == [f"web.tar.zst: {len(archive)} bytes before compression"]
    assert {*layers(web), web.digest} <= archived(archive)

    packed.unlink()
    program = recipe.program
    recipe.program = program.replace('"zstd", "-q"', '"false"')
    _, errors = recipe.run(code=1)
    assert errors[0].startswith(
        "save: cannot write the archive: Broken pipe: the reader closed the pipe after "
    )
    assert errors[1:] == ["zstd: exit status 1"]
    recipe.program = program.replace(recipe.web, recipe.job)
    assert recipe.run(code=1)[1] == [f"save: {gone(recipe)}"]
    assert sorted(path.name for path in recipe.folder.iterdir()) == ["recipe.py"]


def test_read_an_image_s_manifest_and_config(recipe: Recipe) -> None:
    web = recipe.publish("web:1.4")
    recipe.client.images.pull(recipe.web)
    config = json.loads(web.blobs[web.document()["config"]["digest"]])
    expected = [
        f"{layer['digest']} {layer['size']} bytes, uncompressed {diff_id}"
        for layer, diff_id in zip(web.document()["layers"], config["rootfs"]["diff_ids"], strict=True)
    ]
    assert recipe.run() == ([*expected, "command: ['/bin/serve']"], [])


def test_errors(recipe: Recipe) -> None:
    assert recipe.run(code=1)[1] == [f"{recipe.api}: pull it first"]

    api = recipe.publish("api:2.1")
    with Client(recipe.client.address, f"{recipe.shell.namespace}-other") as other:
        other.images.pull(recipe.api, metadata_only=True)
    assert recipe.run(code=1)[1] == [f"{recipe.api}: try the namespace {other.namespace}"]

    recipe.client.images.pull(recipe.api, metadata_only=True)
    missing = sum(len(api.blobs[digest]) for digest in layers(api))
    assert recipe.run(code=1)[1] == [f"2 blobs missing, {missing} bytes"]

    recipe.client.images.ensure(recipe.api)
    assert recipe.run() == ([], [])
    assert set(layers(api)) <= archived(recipe.folder / "api.tar")

    recipe.shell.env["CONTAINERD_ADDRESS"] = f"{recipe.folder}/none.sock"
    _, errors = recipe.run(code=6)
    assert errors[0].startswith("DaemonUnreachable (daemon): cannot reach containerd at ")
    assert errors[1].startswith("hint: ")


def test_threads(recipe: Recipe) -> None:
    base = recipe.layer("of both")
    recipe.publish("web:1.4", base=base)
    recipe.publish("api:2.1", base=base)
    output, _ = recipe.run()
    lines = dict(line.split(": ", 1) for line in output)
    assert lines.keys() == {"team/web:1.4", "team/api:2.1", "team/job:0.9"}
    assert "not found" in lines["team/job:0.9"]
    fetched = [int(lines[name].removesuffix(" bytes fetched")) for name in ("team/web:1.4", "team/api:2.1")]
    assert sum(fetched) == stored(recipe)
    asked = [
        one for one in recipe.registry.requests() if one.path.endswith(base.digest) and one.method == "GET"
    ]
    assert len(asked) == 1
    assert [image.name for image in recipe.client.images.list()] == sorted([recipe.web, recipe.api])


def test_async(recipe: Recipe) -> None:
    web = recipe.publish("web:1.4")
    output, _ = recipe.run()
    assert {f"{short(digest)}: {len(web.blobs[digest])} bytes" for digest in layers(web)} <= set(output)
    assert output[-1] == f"{stored(recipe)} bytes fetched"
    assert recipe.client.images.diagnose(recipe.web).complete


def test_cancel(recipe: Recipe) -> None:
    web = recipe.publish("web:1.4")
    last = layers(web)[-1]
    fault = recipe.registry.add_fault(Fault(f"blobs/{last}", stall_after=WRITTEN + 1000, times=1))

    def written() -> bool:
        return any(last in one.ref and one.offset == WRITTEN for one in recipe.client.content.ingests())

    with recipe.start() as process:
        try:
            assert fault.stalled.wait(SECONDS)
            assert comes_true(written)
            assert comes_true(lambda: all_received(recipe.registry.proxy.port))
            output, _ = recipe.end(process, answer=b"\n")
        finally:
            fault.release.set()
    assert re.search(rf"^cancelled; then [0-9]+ bytes fetched, {WRITTEN + 1000} were here$", output[-1])
    assert recipe.client.images.diagnose(recipe.web).complete


def test_process_pool(recipe: Recipe) -> None:
    recipe.publish("web:1.4")
    api = recipe.publish("api:2.1")
    recipe.client.images.pull(recipe.web)
    recipe.client.images.pull(recipe.api)
    spoil(recipe.shell.containerd, layers(api)[1], altered)
    assert recipe.run()[0] == [f"{recipe.web} is good", f"{recipe.api} is damaged", gone(recipe)]
