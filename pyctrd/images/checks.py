"""What checks content: diagnose and verify."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Literal

from pyctrd import arguments, namespaces
from pyctrd.images.part import Part, fetchers, listed
from pyctrd.oci.platforms import Platforms, select
from pyctrd.progress import ProgressSink, no_progress, one_at_a_time

if TYPE_CHECKING:
    import threading

    from pyctrd.operations.diagnose import Diagnosis, DiagnosisSummary
    from pyctrd.operations.verify import VerifyResult

Metadata = Literal["all", "selected"]


class Checks(Part):
    """The methods of Images that check content."""

    def diagnose(self, ref: str, *, platforms: Platforms | None = None) -> Diagnosis:
        """Find out what the store has of an image, what each tool would do, and why content is missing.

        Does not use the network, and changes nothing. Raises ImageNotFound, AmbiguousReference, and
        ContentError for a document that does not match its media type.
        """
        from pyctrd.operations.diagnose import diagnose

        selection = select(platforms)
        with self._working() as (daemon, _):
            return diagnose(
                daemon,
                namespaces.find_image(daemon, ref),
                selection,
                snapshotter=daemon.snapshotter,
                others=namespaces.sharing(daemon),
                transfer=daemon.introspection.has_transfer(),
                version=daemon.version().version,
            )

    def diagnose_all(
        self,
        filters: str | Iterable[str] = (),
        *,
        platforms: Platforms | None = None,
        all_namespaces: bool = False,
    ) -> tuple[DiagnosisSummary, ...]:
        """Find out which images of the namespace are incomplete, why, and what fetches what they lack.

        `filters` are those of `overview`. `all_namespaces` also looks at the other namespaces. An image that
        does not have a selected platform is not complete, either: its cause is `no_such_platform`, and there
        is no remedy. Does not use the network, and changes nothing. Raises InvalidInput for an invalid
        filter, DaemonError.
        """
        from pyctrd.operations.diagnose import diagnose_all
        from pyctrd.operations.images import overview
        from pyctrd.operations.images.filters import ImageFilters

        selection = select(platforms)
        chosen = ImageFilters(arguments.texts("filters", filters))
        with self._working() as (daemon, _):
            places = namespaces.all_of(daemon) if all_namespaces else [daemon]
            matching = overview(places, chosen) if chosen else ()
            names = {(item.namespace, item.image.name) for item in matching}
            return diagnose_all(
                places,
                selection,
                wanted=lambda store, image: not chosen or (store.namespace, image.name) in names,
                snapshotter=daemon.snapshotter,
                sharing=lambda store: namespaces.sharing(daemon.in_namespace(store.namespace)),
            )

    def verify(
        self,
        refs: str | Iterable[str] = (),
        *,
        platforms: Platforms | None = None,
        repair: bool = False,
        progress: ProgressSink = no_progress,
        cancel: threading.Event | None = None,
    ) -> VerifyResult:
        """Hash the content of images and report damaged or missing content.

        Without `refs`, check everything in the namespace. `repair` fetches good copies by digest and replaces
        damaged content in every namespace that has it. Raises ImageNotFound, AmbiguousReference.
        """
        from pyctrd.operations.verify import Repair, verify

        selection = select(platforms)
        names = arguments.texts("refs", refs)
        with self._working(cancel) as (daemon, registries):
            return verify(
                daemon,
                namespaces.find_images(daemon, names) if names else listed(daemon),
                selection,
                orphans=not names,
                repairing=Repair(
                    fetchers=partial(fetchers, daemon, registries), others=namespaces.others(daemon)
                )
                if repair
                else None,
                progress=one_at_a_time(progress),
            )
