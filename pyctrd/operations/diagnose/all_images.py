"""Diagnose all images of namespaces: whether each is complete, and what fixes it.

What the store has is listed once per namespace. Of a complete image only the indexes and the manifests of the
selected platforms are read, once for all records of the same target; only incomplete ones are surveyed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final, NamedTuple

from pyctrd.errors import ContentError, DaemonError, PyctrdError, Unsupported
from pyctrd.oci.image_names import aliases, has_tag
from pyctrd.oci.model import Digest, ImageRecord
from pyctrd.oci.platforms import Selection
from pyctrd.operations.diagnose.causes import causes
from pyctrd.operations.diagnose.listed import ListedInspection
from pyctrd.operations.diagnose.model import Cause, Content, DiagnosisSummary, missing_of
from pyctrd.operations.diagnose.survey import Survey, TargetSurvey
from pyctrd.operations.diagnose.verdict import Verdict, default_snapshotter, remedy_for, verdict
from pyctrd.ports import Store

# The documents of so many images are read at a time.
_BATCH: Final = 64


def diagnose_all(
    stores: Sequence[Store],
    selection: Selection,
    *,
    snapshotter: str = "",
    sharing: Callable[[Store], Sequence[Store]] = lambda _store: (),
    wanted: Callable[[Store, ImageRecord], bool] = lambda _store, _image: True,
) -> tuple[DiagnosisSummary, ...]:
    """Diagnose the wanted images of some namespaces, sorted by name in each.

    `snapshotter` is where to look for unpacked layers, as for `diagnose`. `sharing` returns the namespaces
    whose content another one can use; it is only called if content is missing. Raises Unsupported if the
    snapshotter is not loaded, DaemonError, DaemonUnreachable.
    """
    inspections: dict[str, ListedInspection] = {}

    def inspect(store: Store) -> ListedInspection:
        return inspections.setdefault(store.namespace, ListedInspection(store))

    return tuple(
        summary
        for store in stores
        for summary in _Namespace(
            inspect(store), selection, snapshotter, lambda store: tuple(map(inspect, sharing(store)))
        ).summaries(partial(wanted, store))
    )


class Incomplete(NamedTuple):
    """The incomplete images, with the records of one target together, and the number of complete records."""

    groups: tuple[tuple[ImageRecord, ...], ...]
    complete: int


def incomplete(store: Store, selection: Selection) -> Incomplete:
    """Return the incomplete images of a namespace; those with unreadable documents are, too.

    The first record of each target is the one with the best name: a tag rather than a digest or an id.
    """
    return _Namespace(ListedInspection(store), selection, "", lambda _store: ()).incomplete()


class _Namespace:
    """The images of one namespace."""

    def __init__(
        self,
        inspection: ListedInspection,
        selection: Selection,
        snapshotter: str,
        sharing: Callable[[Store], Sequence[ListedInspection]],
    ) -> None:
        self._inspection = inspection
        self._selection = selection
        self._snapshotter = snapshotter
        self._sharing = sharing
        self._others: Sequence[ListedInspection] | None = None

    def summaries(self, wanted: Callable[[ImageRecord], bool]) -> list[DiagnosisSummary]:
        """Return the summaries of the wanted images, sorted by name."""
        images = self._inspection.store.images.list()
        alias_of = aliases(images)
        groups = self._read(_groups(filter(wanted, images)))
        found = [summary for group in groups for summary in self._of_one_target(group, alias_of)]
        return sorted(found, key=lambda item: item.image)

    def incomplete(self) -> Incomplete:
        """Return the groups of incomplete records, sorted by name."""
        found: list[tuple[ImageRecord, ...]] = []
        complete = 0
        for group in self._read(_groups(self._inspection.store.images.list())):
            try:
                whole = self._is_complete(group[0])
            except (ContentError, DaemonError):
                whole = False
            self._inspection.shrink()
            if whole:
                complete += len(group)
            else:
                found.append(tuple(sorted(group, key=_preference)))
        return Incomplete(tuple(sorted(found, key=lambda group: group[0].name)), complete)

    def _read(self, groups: Iterable[Sequence[ImageRecord]]) -> Iterator[Sequence[ImageRecord]]:
        """Yield groups of records whose documents have been read."""
        matcher = None if self._selection.local else self._selection.resolve().matcher
        each = iter(groups)
        while batch := list(itertools.islice(each, _BATCH)):
            self._inspection.store.check_open()
            self._inspection.read_ahead((group[0].target for group in batch), matcher)
            yield from batch

    def _of_one_target(
        self, images: Sequence[ImageRecord], alias_of: Mapping[str, str]
    ) -> Iterator[DiagnosisSummary]:
        self._inspection.store.check_open()
        try:
            survey = None if self._is_complete(images[0]) else self._survey(images[0])
            found = survey and verdict(survey, self._selection, self._snapshotter)
        except Unsupported:  # the snapshotter that was asked for
            raise
        except (ContentError, DaemonError) as error:
            for image in images:
                yield self._unreadable(image, error, alias_of.get(image.name, ""))
            return
        finally:
            self._inspection.shrink()
        for image in images:
            alias = alias_of.get(image.name, "")
            if survey and found:
                yield self._incomplete(survey.for_image(image), found, alias)
            else:
                yield self._summary(image, alias, complete=True)

    def _is_complete(self, image: ImageRecord) -> bool:
        """Whether the target platforms are complete; `local` ones are known only from a survey."""
        if self._selection.local:
            return False
        survey = TargetSurvey(self._inspection, image, self._selection.resolve())
        return verdict(survey, self._selection, "").complete

    def _survey(self, image: ImageRecord) -> Survey:
        chosen = self._snapshotter or default_snapshotter(self._inspection.store)
        return Survey(self._inspection, image, chosen)

    def _incomplete(self, survey: Survey, found: Verdict, alias: str) -> DiagnosisSummary:
        if found.complete:
            return self._summary(survey.image, alias, complete=True)
        missing = missing_of(found.rows, tuple(map(Content.of, survey.unread)))
        if missing and self._others is None:
            self._others = self._sharing(self._inspection.store)
        cause = _main_cause(causes(survey, found.rows, found.absent, self._others or ()), found)
        return self._summary(
            survey.image,
            alias,
            complete=False,
            missing_blobs=len(missing),
            missing_bytes=sum(item.size for item in missing),
            missing_known=not survey.unread and all(row.missing_known for row in found.rows if row.target),
            cause=cause,
            remedy=remedy_for(survey.image.name, self._selection, found, missing),
        )

    def _unreadable(self, image: ImageRecord, error: PyctrdError, alias: str) -> DiagnosisSummary:
        remedy = error.remedy and replace(error.remedy, images=(image.name,))
        return self._summary(image, alias, complete=False, missing_known=False, error=error, remedy=remedy)

    def _summary(self, image: ImageRecord, alias: str, *, complete: bool, **fields: Any) -> DiagnosisSummary:
        return DiagnosisSummary(
            image=image.name,
            namespace=self._inspection.store.namespace,
            target=Content.of(image.target),
            complete=complete,
            alias_of=alias,
            **fields,
        )


def _groups(images: Iterable[ImageRecord]) -> Iterable[Sequence[ImageRecord]]:
    """Return the images with the records of one target together."""
    groups: dict[tuple[Digest, str], list[ImageRecord]] = {}
    for image in images:
        groups.setdefault((image.target.digest, image.target.media_type), []).append(image)
    return groups.values()


def _preference(image: ImageRecord) -> tuple[bool, str]:
    return not has_tag(image.name), image.name


def _main_cause(found: Sequence[Cause], judged: Verdict) -> Cause | None:
    """Return the first cause of what the target platforms lack."""
    targets = {row.digest for row in judged.rows if row.target}
    for cause in found:
        about = not targets or not cause.platform or not cause.digest or cause.digest in targets
        if about and (cause.missing or not cause.digest):
            return cause
    return None
