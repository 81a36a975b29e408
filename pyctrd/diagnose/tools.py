"""What each tool that can write an archive would do now. No registry is asked: fetches are planned."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pyctrd import ensure, nerdctl, walk
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
_NERDCTL_ALL = "nerdctl 2.3 and later also need the host's platform in the image, as ctr does"
_HIDDEN = "a manifest is absent: what it names is fetched, too, but its size is not known before"


def forecast(survey: Survey, targets: Targets, host: Platform) -> Tools:
    """Make the forecast of every tool for the same target platforms."""
    return Tools(
        ctr_export=_ctr(survey, targets, host),
        nerdctl_save_2_0_3=_nerdctl(
            survey,
            targets,
            fetch=nerdctl.fetched_by_2_0_3(survey.inspection.store, survey.image),
            asks=bool(nerdctl.ensured_by_2_0_3(survey.inspection.store, survey.image)),
        ),
        nerdctl_save_2_0_4=_nerdctl(
            survey,
            targets,
            fetch=nerdctl.fetched_by_2_0_4(survey.inspection.store, survey.image, targets.matcher),
            asks=any(
                targets.matcher.match(item)
                for item in nerdctl.ensured_by_2_0_3(survey.inspection.store, survey.image)
            ),
        ),
        pyctrd_save=_pyctrd(survey, targets),
    )


def _ctr(survey: Survey, targets: Targets, host: Platform) -> ExportForecast:
    """`ctr images export`: even --all-platforms wants one manifest of the host's platform."""
    return Export(
        inspection=survey.inspection,
        matcher=ordered(host) if targets.all else targets.matcher,
        all_platforms=targets.all,
        present=survey.inspection.present,
    ).forecast(survey.image)


def _nerdctl(survey: Survey, targets: Targets, *, fetch: Sequence[Descriptor], asks: bool) -> SaveForecast:
    """`nerdctl save`: the exporter runs after the fetch; all platforms are its matcher, not its flag."""
    outcome = Export(
        inspection=survey.inspection,
        matcher=targets.matcher,
        all_platforms=False,
        present=_present_after(survey, fetch),
    ).forecast(survey.image)
    notes = [outcome.note, _NERDCTL_NETWORK if asks else "", _NERDCTL_ALL if targets.all else ""]
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
        return SaveForecast(fetch=(), bytes=0, network=False, ok=False, error=error.message)
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
