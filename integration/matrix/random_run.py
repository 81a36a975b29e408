"""The random matrix: random images, missing content and names, and what the real tools do with each.

Everything is written directly into one containerd, in a namespace for each case, so that hundreds of
forecasts take minutes. The registry is the rig's proxy with a response for each blob of the case.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from types import TracebackType

from integration.matrix.archives import LAYOUT, Archive
from integration.matrix.predictions import Facts, Prediction, differences
from integration.matrix.random_cases import TAG, Case, make
from integration.matrix.random_images import documents
from integration.matrix.tools import TOOLS, Outcome, Tool, fetched_digests
from integration.rig import peers
from integration.rig.daemons import ISOLATED_CONTENT, Containerd, Fault, LoggingProxy
from pyctrd import Client, Diagnosis, ExportForecast, PyctrdError, RegistryOptions, SaveForecast
from pyctrd.containerd import Daemon
from pyctrd.errors import InvalidReference
from pyctrd.oci.model import Descriptor, Digest, ImageRecord
from pyctrd.oci.platforms import select
from pyctrd.oci.reference import Reference, parse
from pyctrd.operations.diagnose import diagnose

_KEEP = "containerd.io/gc.root"


@dataclass(frozen=True)
class Result:
    """One forecast and its result; `wrong` lists the differences."""

    case: Case
    tool: Tool
    forecast: ExportForecast | SaveForecast
    wrong: tuple[str, ...]


class RandomMatrix:
    """A containerd of one generation, and a registry with only the image of the current case."""

    def __init__(self, generation: str, folder: Path) -> None:
        self.generation = generation
        self._folder = folder
        self._open = ExitStack()
        self._proxy = LoggingProxy()
        self._cells = 0

    def __enter__(self) -> RandomMatrix:
        config = ISOLATED_CONTENT
        self._daemon = self._open.enter_context(
            Containerd(self.generation, self._folder / "containerd", config=config)
        )
        self._open.callback(self._proxy.close)
        self._proxy.serve(0)
        self._proxy.add_fault(Fault("", methods=("GET", "HEAD"), status=404))
        hosts = self._folder / "certs.d" / "_default"
        hosts.mkdir(parents=True)
        (hosts / "hosts.toml").write_text(f'server = "http://127.0.0.1:{self._proxy.port}"\n')
        self._environment = {
            **peers.tool_environment(self._daemon.peer.bin_dir),
            "DOCKER_CONFIG": str(self._folder / "no-docker-config"),
        }
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    @property
    def port(self) -> int:
        """The registry's."""
        return self._proxy.port

    def case(self, seed: str) -> Case:
        """The case of a seed."""
        return make(seed, self.port)

    def results(self, case: Case) -> Iterator[Result]:
        """Run a case with every tool; those that change nothing share a namespace."""
        self._publish(case)
        shared = self._lay_out(case)
        found = self._diagnose(case, shared)
        for tool in tools_for(self.generation):
            forecast: ExportForecast | SaveForecast = getattr(found.tools, tool.forecast)
            quiet = isinstance(forecast, ExportForecast) or not forecast.network
            namespace = shared if quiet and forecast.certain else self._lay_out(case)
            yield Result(case, tool, forecast, tuple(self._compare(case, tool, forecast, namespace)))

    # --- laying out

    def _publish(self, case: Case) -> None:
        """Publish the image in the repository of its content or, if that is unknown, by its name."""
        self._proxy.clear_routes()
        self._publish_in(case, case.repository, TAG)
        named = None if case.sources and case.graph.digest in case.have else _named(case.name)
        if named:
            self._publish_in(case, named.path, named.tag)

    def _publish_in(self, case: Case, repository: str, tag: str) -> None:
        graph = case.graph
        media_types = {graph.digest: graph.root["mediaType"]}
        place = f"/v2/{repository}"
        for digest, data in graph.blobs.items():
            self._route(f"{place}/blobs/{digest}", digest, data, "application/octet-stream")
        for digest in documents(graph):
            data = graph.blobs[digest]
            kind = media_types.get(digest) or _media_type(data)
            self._route(f"{place}/manifests/{digest}", digest, data, kind)
        root = graph.root
        self._route(f"{place}/manifests/{tag}", graph.digest, graph.blobs[graph.digest], root["mediaType"])

    def _route(self, path: str, digest: str, data: bytes, media_type: str) -> None:
        headers = {"Content-Type": media_type, "Docker-Content-Digest": digest}
        self._proxy.add_route(path, lambda _query, _headers, _body: (200, headers, data))

    def _lay_out(self, case: Case) -> str:
        """Write the content of the case into a new namespace, protected from garbage collection."""
        self._cells += 1
        namespace = f"random-{self._cells}"
        with self._store(namespace) as daemon:
            with daemon.lease("lay out") as leased:
                for digest in map(Digest, sorted(case.have)):
                    data = case.graph.blobs[digest]
                    with leased.content.open_ingest(digest, digest=digest, size=len(data)) as ingest:
                        ingest.write(data)
                        ingest.commit()
                    leased.content.set_labels(digest, {**case.sources, _KEEP: "always"})
            root = case.graph.root
            target = Descriptor(
                media_type=root["mediaType"], digest=Digest(case.graph.digest), size=root["size"]
            )
            daemon.images.create(ImageRecord(name=case.name, target=target))
        return namespace

    def _store(self, namespace: str) -> Daemon:
        return Daemon.connect(str(self._daemon.address), namespace)

    # --- predictions and results

    def _diagnose(self, case: Case, namespace: str) -> Diagnosis:
        self._proxy.clear_requests()
        with self._store(namespace) as daemon:
            image = daemon.images.get(case.name)
            found = diagnose(
                daemon,
                image,
                select(case.ask),
                transfer=daemon.introspection.has_transfer(),
                version=daemon.version().version,
            )
        assert not self._proxy.requests()
        return found

    def _compare(
        self, case: Case, tool: Tool, forecast: ExportForecast | SaveForecast, namespace: str
    ) -> Iterator[str]:
        before = self._have(namespace)
        outcome = self._run(case, tool, namespace)
        if not forecast.certain:
            return
        prediction = promised(forecast)
        every = frozenset(case.graph.blobs)
        facts = Facts(
            old=every,
            new=every,
            old_root=case.graph.digest,
            new_root=case.graph.digest,
            online=True,
            before=before,
        )
        yield from differences(prediction, outcome, facts)
        if not prediction.network and self._have(namespace) != before:
            yield "changed the store, and was not to"
        if prediction.ok and not outcome.exit_code and not tool.by_daemon and outcome.archive is None:
            yield "the archive is not whole"

    def _have(self, namespace: str) -> frozenset[str]:
        with self._store(namespace) as daemon:
            return frozenset(str(item.digest) for item in daemon.content.list())

    def _run(self, case: Case, tool: Tool, namespace: str) -> Outcome:
        output = self._folder / "out.tar"
        output.unlink(missing_ok=True)
        self._proxy.clear_requests()
        if tool.program == "pyctrd":
            exit_code, words = self._save(case, namespace, output)
        else:
            done = subprocess.run(
                self._command(case, tool, namespace, output),
                capture_output=True,
                env=self._environment,
                timeout=100,
                check=False,
            )
            exit_code, words = done.returncode, done.stderr.decode(errors="replace")
        requests = tuple(self._proxy.requests())
        fetched = frozenset(fetched_digests(requests))
        with self._store(namespace) as daemon:
            target = str(daemon.images.get(case.name).target.digest)
        return Outcome(
            exit_code=exit_code,
            words=words,
            requests=requests,
            fetched=fetched,
            size=sum(len(case.graph.blobs[digest]) for digest in fetched),
            archive=Archive.read(output, LAYOUT),
            target=target,
        )

    def _command(self, case: Case, tool: Tool, namespace: str, output: Path) -> list[str | Path]:
        where: list[str | Path] = ["--address", self._daemon.address, "--namespace", namespace]
        flags = ["--all-platforms"] if case.ask == ("all",) else [f"--platform={one}" for one in case.ask]
        if tool.program == "ctr":
            return [self._daemon.peer.ctr, *where, "images", "export", *tool.flags, *flags, output, case.name]
        own: list[str | Path] = ["--data-root", self._folder / "nerdctl", "--insecure-registry"]
        own += ["--hosts-dir", self._folder / "certs.d"]
        return [peers.nerdctl(tool.version), *where, *own, "save", "-o", output, *flags, case.name]

    def _save(self, case: Case, namespace: str, output: Path) -> tuple[int, str]:
        options = RegistryOptions(hosts_dir=self._folder / "certs.d", retry_budget=0)
        try:
            with Client(str(self._daemon.address), namespace, registry=options) as client:
                client.images.save([case.name], output, platforms=case.ask)
        except PyctrdError as error:
            return error.exit_code, error.message
        return 0, ""


def promised(forecast: ExportForecast | SaveForecast) -> Prediction:
    """The prediction for a registry that has everything."""
    if isinstance(forecast, ExportForecast):
        return Prediction(ok=forecast.ok, error=forecast.error, exit_code=forecast.exit_code)
    return Prediction(
        ok=forecast.ok,
        error=forecast.error,
        exit_code=forecast.exit_code,
        fetch=frozenset(forecast.fetch),
        exact=forecast.fetch_known,
        network=forecast.network,
    )


def _named(name: str) -> Reference | None:
    try:
        return parse(name)
    except InvalidReference:
        return None


def tools_for(generation: str) -> list[Tool]:
    """The ctr of the daemon's own version, with and without --local; each nerdctl; and pyctrd."""
    ways: dict[str, tuple[str, ...]] = {"": ()}
    if not generation.startswith("1."):
        ways = {" --local": ("--local",), "": ()}
    own = [
        Tool(
            f"ctr {generation} export{way}",
            "ctr",
            generation,
            "ctr_export",
            by_daemon=not way and len(ways) > 1,
            flags=flags,
        )
        for way, flags in ways.items()
    ]
    return [*own, *(tool for tool in TOOLS if tool.program != "ctr")]


def _media_type(data: bytes) -> str:
    return str(json.loads(data)["mediaType"])


def run(count: int, seed: str, generations: Sequence[str], folder: Path) -> list[Result]:
    """Run cases of a seed, on each containerd in turn, until there are at least `count` forecasts."""
    results: list[Result] = []
    with ExitStack() as stack:
        matrices = [stack.enter_context(RandomMatrix(one, folder / one)) for one in generations]
        for number, matrix in enumerate(cycle(matrices)):
            if len(results) >= count:
                return results
            results += matrix.results(matrix.case(f"{seed}-{number}"))
    return results


def told(results: Sequence[Result]) -> str:
    """What was predicted wrongly, with all details; empty if nothing was."""
    lines: list[str] = []
    for result in results:
        if result.wrong:
            lines += [str(result.case), f"  {result.tool.name} {result.forecast}", *result.wrong]
    return "\n".join(lines)
