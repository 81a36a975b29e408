"""Predict what each tool that can write an archive would do, without asking a registry."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from pyctrd.errors import NotFound, PyctrdError
from pyctrd.oci import platforms
from pyctrd.oci.model import Descriptor, ImageRecord
from pyctrd.oci.platforms import Matcher, Targets
from pyctrd.oci.reference import Reference
from pyctrd.operations import nerdctl, save
from pyctrd.operations.diagnose import names
from pyctrd.operations.diagnose.engine import Engine
from pyctrd.operations.diagnose.export import Export
from pyctrd.operations.diagnose.model import ExportForecast, SaveForecast, Tools
from pyctrd.operations.diagnose.names import Named
from pyctrd.operations.diagnose.survey import Survey
from pyctrd.operations.diagnose.targets import lacks
from pyctrd.operations.nerdctl import Ensured, Release
from pyctrd.ports import Fetcher
from pyctrd.steps.local import LocalImage
from pyctrd.steps.sources import sources_of

_NERDCTL_NETWORK = (
    "resolves the tag again; if it has moved in the registry, the local image is replaced by the new one"
)
_NO_TRANSFER = "unknown service containerd.services.streaming.v1.Streaming"
_NEEDS_TRANSFER = (
    "since 2.3, nerdctl exports through the daemon's transfer service, which needs containerd 1.7"
)
_HIDDEN = "a manifest or index is absent: its content is fetched too, but the size is not known yet"
_HIDDEN_INDEX = "an index is absent: it has to be fetched to find out whether the image has the platform"
_FOREIGN = "asks the registry for {name}, but the content came from elsewhere, so it may not be there"
_FEATURES = "some builds of this containerd compare the os.features of platforms, others do not"
_BY_CHANCE = "what is fetched may differ between runs: nerdctl fetches the platforms in random order"
_ANOTHER = "resolves the name to {name}, which is another image"
_NO_SOURCE = "no repository is known to have the missing content"
_NO_PORT = "asks {name}, where the content came from, but the port of that registry is unknown"


def forecast(survey: Survey, targets: Targets, engine: Engine) -> Tools:
    """Return a forecast for each tool, for the same target platforms."""
    legacy = platforms.ignoring_features(targets.matcher)
    old = names.found_before_2_3(survey.inspection, survey.image)
    return Tools(
        ctr_export=_by_the_daemon(survey, targets, engine, survey.inspection.is_present),
        nerdctl_save_2_0_3=_Nerdctl(survey, old, nerdctl.RELEASE_2_0_3, legacy).forecast(),
        nerdctl_save_2_0_4=_Nerdctl(survey, old, nerdctl.RELEASE_2_0_4, legacy).forecast(),
        nerdctl_save_2_1_4=_Nerdctl(survey, old, nerdctl.RELEASE_2_1_4, legacy).forecast(),
        nerdctl_save_2_3_0=_Nerdctl(
            survey,
            names.found_from_2_3(survey.inspection, survey.image),
            nerdctl.RELEASE_2_3_0,
            targets.matcher,
            export=lambda present: _by_transfer(survey, targets, engine, present),
        ).forecast(),
        pyctrd_save=_pyctrd(survey, targets),
    )


def _by_the_daemon(
    survey: Survey,
    targets: Targets,
    engine: Engine,
    present: Callable[[Descriptor], bool],
) -> ExportForecast:
    """Predict an export by ctr or the transfer service; --all-platforms needs the host's manifest, too."""
    selection = targets.selection
    export = Export(
        inspection=survey.inspection,
        matcher=platforms.ordered(selection.host) if selection.all else targets.matcher,
        all_platforms=selection.all,
        present=present,
        skips_absent=engine.skips_absent,
    )
    newer = export.forecast(survey.image)
    if engine.features:
        return newer
    export = msgspec.structs.replace(export, matcher=platforms.ignoring_features(export.matcher))
    older = export.forecast(survey.image)
    if engine.features is False or older == newer:
        return older
    return msgspec.structs.replace(older, certain=False, note=_FEATURES)


def _by_transfer(
    survey: Survey,
    targets: Targets,
    engine: Engine,
    present: Callable[[Descriptor], bool],
) -> ExportForecast:
    """Predict an export by the transfer service; containerd 1.6 has none, and fails first."""
    if not engine.transfer:
        return ExportForecast(ok=False, error=_NO_TRANSFER, exit_code=1, note=_NEEDS_TRANSFER)
    return _by_the_daemon(survey, targets, engine, present)


class _Nerdctl:
    """Predicts `nerdctl save` of one release: find the record, ensure, export."""

    def __init__(
        self,
        survey: Survey,
        named: Named,
        release: Release,
        matcher: Matcher,
        *,
        export: Callable[[Callable[[Descriptor], bool]], ExportForecast] | None = None,
    ) -> None:
        self._survey = survey
        self._image = survey.image
        self._named = named
        self._release = release
        self._matcher = matcher
        self._export = export or self._own_export

    def forecast(self) -> SaveForecast:
        """Return the forecast; it may fail at the name, the fetch or the export."""
        if self._named.error:
            return _ends(self._named.error)
        if self._named.other:
            note = _ANOTHER.format(name=self._named.other.name)
            return _ends(f"image {self._named.other.name}", note=note, certain=False)
        ensured = nerdctl.ensure(self._survey.inspection, self._image.target, self._release, self._matcher)
        return self._before_the_export(ensured) or self._after(ensured)

    def _before_the_export(self, ensured: Ensured) -> SaveForecast | None:
        """Return the forecast if it fails before the export, else None."""
        if ensured.readable and (error := names.parse_error(self._image.name)):
            return _ends(error)
        if ensured.error:
            return _ends(ensured.error, certain=ensured.certain)
        if ensured.platforms and (error := names.resolve_error(self._image.name)):
            return _ends(error)
        if ensured.platforms and names.is_unlikely(self._survey.inspection, self._image):
            return _ends(
                "failed to resolve reference",
                note=_FOREIGN.format(name=self._image.name),
                network=True,
                certain=False,
            )
        return None

    def _after(self, ensured: Ensured) -> SaveForecast:
        """Return the forecast of the fetches and the export."""
        outcome = self._export(_present_after(self._survey, ensured.fetch))
        asks = bool(ensured.platforms)
        notes = [
            outcome.note,
            _NERDCTL_NETWORK if asks else "",
            _HIDDEN if ensured.hidden else "",
            "" if ensured.certain else _BY_CHANCE,
        ]
        downloads = _downloads(ensured.fetch)
        return SaveForecast(
            fetch=tuple(str(item.digest) for item in downloads),
            bytes=sum(item.size for item in downloads),
            network=asks,
            fetch_known=not ensured.hidden,
            ok=outcome.ok,
            error=outcome.error,
            exit_code=outcome.exit_code,
            note="; ".join(filter(None, notes)),
            certain=ensured.certain and outcome.certain,
        )

    def _own_export(self, present: Callable[[Descriptor], bool]) -> ExportForecast:
        """Predict the export of nerdctl before 2.3, which selects all platforms by its matcher."""
        return Export(
            inspection=self._survey.inspection, matcher=self._matcher, all_platforms=False, present=present
        ).forecast(self._image)


def _ends(
    error: str, *, note: str = "", network: bool = False, exit_code: int = 1, certain: bool = True
) -> SaveForecast:
    """Return the forecast of a tool that fails before it has fetched anything."""
    return SaveForecast(
        fetch=(),
        bytes=0,
        network=network,
        ok=False,
        error=error,
        exit_code=exit_code,
        note=note,
        certain=certain,
    )


def _downloads(fetch: Sequence[Descriptor]) -> list[Descriptor]:
    """Leave out what is in the descriptors themselves, and so is not downloaded."""
    return [item for item in fetch if not (item.data and len(item.data) == item.size)]


def _present_after(survey: Survey, fetch: Sequence[Descriptor]) -> Callable[[Descriptor], bool]:
    fetched = {item.digest for item in fetch}
    return lambda descriptor: descriptor.digest in fetched or survey.inspection.is_present(descriptor)


# --- pyctrd -----------------------------------------------------------------------------------------------


def _pyctrd(survey: Survey, targets: Targets) -> SaveForecast:
    """Predict `pyctrd save` of the same platforms by a dry run, as far as possible without a registry."""
    image, store = survey.image, survey.inspection.remembered
    options = save.SaveOptions(platforms=targets.selection)
    try:
        fetch = save.plan(store, [image], options, fetchers=_unread).fetched
        known = certain = True
    except _UnreadError:
        fetch = LocalImage(store, image.target).missing(targets)
        # The plan has passed the indexes in the store; an absent one may have any platform.
        known, certain = False, not lacks(targets, survey.branches)
    except PyctrdError as error:
        return _ends(error.message, exit_code=error.exit_code)
    downloads = _downloads(fetch)
    sources = sources_of(store, image) if downloads else []
    if downloads and not sources:
        return _ends("not found", note=_NO_SOURCE, exit_code=NotFound.exit_code)
    port = _lost_port(survey, sources[0]) if sources else ""
    notes = ["" if known else _HIDDEN if certain else _HIDDEN_INDEX, port]
    return SaveForecast(
        fetch=tuple(str(item.digest) for item in downloads),
        bytes=sum(item.size for item in downloads),
        network=bool(downloads),
        fetch_known=known,
        ok=True,
        note="; ".join(filter(None, notes)),
        certain=certain and not port,
    )


def _lost_port(survey: Survey, source: Reference) -> str:
    """Return a note if the port of the registry is unknown: for a local tag, if no other record has it."""
    if not names.is_foreign(survey.inspection, survey.image):
        return ""
    known = {names.repository(record.name) for record in survey.inspection.store.images.list()}
    return "" if source.name in known else _NO_PORT.format(name=source.name)


class _UnreadError(Exception):
    """The plan needs a document that only a registry has."""


def _unread(_image: ImageRecord) -> Sequence[Fetcher]:
    raise _UnreadError
