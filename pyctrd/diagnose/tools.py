"""What each tool that can write an archive would do now. No registry is asked: fetches are planned."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pyctrd import ensure, nerdctl, walk
from pyctrd.coverage import nothing_to_save
from pyctrd.diagnose.export import Export
from pyctrd.diagnose.model import ExportForecast, SaveForecast, Tools
from pyctrd.diagnose.survey import Survey
from pyctrd.diagnose.targets import Targets
from pyctrd.errors import NoMatchingPlatform
from pyctrd.model import Descriptor, Platform
from pyctrd.platforms import ordered

_NERDCTL_NETWORK = (
    "asks the registry for the tag again; if the tag has moved, the local image is replaced by the new one"
)
_NO_TRANSFER = "unknown service containerd.services.streaming.v1.Streaming"
_NEEDS_TRANSFER = (
    "from 2.3 on nerdctl exports through the daemon's transfer service, which came with containerd 1.7"
)
_HIDDEN = "a manifest is absent: what it names is fetched, too, but its size is not known before"


def forecast(survey: Survey, targets: Targets, host: Platform, *, transfer: bool) -> Tools:
    """Forecast every tool for the same target platforms; `transfer`: the daemon has that service."""
    store, image, matcher = survey.inspection.store, survey.image, targets.matcher
    fetch = nerdctl.fetched_by_2_1_4(store, image, matcher)
    asks = bool(nerdctl.ensured_by_2_1_4(store, image, matcher))
    through_transfer = _exporter(survey, targets, host, _present_after(survey, fetch)).forecast(image)
    return Tools(
        ctr_export=_exporter(survey, targets, host, survey.inspection.present).forecast(image),
        nerdctl_save_2_0_3=_nerdctl(
            survey,
            targets,
            fetch=nerdctl.fetched_by_2_0_3(store, image),
            asks=bool(nerdctl.ensured_by_2_0_3(store, image)),
        ),
        nerdctl_save_2_0_4=_nerdctl(
            survey,
            targets,
            fetch=nerdctl.fetched_by_2_0_4(store, image, matcher),
            asks=bool(nerdctl.ensured_by_2_0_4(store, image, matcher)),
        ),
        nerdctl_save_2_1_4=_nerdctl(survey, targets, fetch=fetch, asks=asks),
        nerdctl_save_2_3_0=_save(fetch, asks, _by_the_daemon(through_transfer, transfer=transfer)),
        pyctrd_save=_pyctrd(survey, targets),
    )


def _exporter(
    survey: Survey, targets: Targets, host: Platform, present: Callable[[Descriptor], bool]
) -> Export:
    """`ctr images export` and the transfer service: even --all-platforms wants one manifest of the host's."""
    return Export(
        inspection=survey.inspection,
        matcher=ordered(host) if targets.all else targets.matcher,
        all_platforms=targets.all,
        present=present,
    )


def _by_the_daemon(outcome: ExportForecast, *, transfer: bool) -> ExportForecast:
    """Let the daemon export; containerd 1.6 has no transfer service, and says so before anything else."""
    if not transfer:
        return ExportForecast(ok=False, error=_NO_TRANSFER, exit_code=1, note=_NEEDS_TRANSFER)
    return outcome


def _nerdctl(survey: Survey, targets: Targets, *, fetch: Sequence[Descriptor], asks: bool) -> SaveForecast:
    """`nerdctl save` before 2.3 exports by itself; all platforms are its matcher, not the exporter's flag."""
    outcome = Export(
        inspection=survey.inspection,
        matcher=targets.matcher,
        all_platforms=False,
        present=_present_after(survey, fetch),
    ).forecast(survey.image)
    return _save(fetch, asks, outcome)


def _save(fetch: Sequence[Descriptor], asks: bool, outcome: ExportForecast) -> SaveForecast:
    """Join a fetch and the export after it."""
    notes = [outcome.note, _NERDCTL_NETWORK if asks else ""]
    return SaveForecast(
        fetch=tuple(str(item.digest) for item in fetch),
        bytes=sum(item.size for item in fetch),
        network=asks,
        ok=outcome.ok,
        error=outcome.error,
        note="; ".join(filter(None, notes)),
    )


def _pyctrd(survey: Survey, targets: Targets) -> SaveForecast:
    """`pyctrd save`: fetches what is missing for the targets, absent manifests included, by digest."""
    wanted = () if survey.unread else targets.wanted  # behind an absent index there may be any platform
    try:
        fetch = ensure.plan(survey.inspection.store, survey.image, targets.matcher, wanted=wanted)
    except NoMatchingPlatform as error:
        told = nothing_to_save(survey.image.name, error.name or "")
        return SaveForecast(fetch=(), bytes=0, network=False, ok=False, error=told)
    hidden = any(walk.has_children(item) for item in fetch)
    return SaveForecast(
        fetch=tuple(str(item.digest) for item in fetch),
        bytes=sum(item.size for item in fetch),
        network=bool(fetch),
        fetch_known=not hidden,
        ok=True,
        note=_HIDDEN if hidden else "",
    )


def _present_after(survey: Survey, fetch: Sequence[Descriptor]) -> Callable[[Descriptor], bool]:
    fetched = {item.digest for item in fetch}
    return lambda descriptor: descriptor.digest in fetched or survey.inspection.present(descriptor)
