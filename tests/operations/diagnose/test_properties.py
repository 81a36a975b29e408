"""Whatever is missing, the parts of a diagnosis are consistent."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pyctrd.oci.model import Descriptor
from pyctrd.operations.diagnose import diagnose
from tests.operations.diagnose.world import World, record
from tests.support.selections import selected


def lay_out() -> tuple[World, Descriptor]:
    world = World()
    native = world.manifest("linux/amd64", ["common", "a"])
    foreign = world.manifest("linux/arm64", ["common", "b"])
    world.unpack("common", "a")
    return world, world.index(native, foreign, world.attestation(native))


@given(
    removed=st.sets(st.integers(0, 10)),
    unlabelled=st.sets(st.sampled_from(["m.", "l.", "config", "m.1", "l.0"])),
    values=st.sampled_from([[], ["linux/arm64"], ["all"], ["linux/amd64,linux/arm64"], ["linux/s390x"]]),
)
def test_the_parts_of_a_diagnosis_are_consistent(
    removed: set[int], unlabelled: set[str], values: list[str]
) -> None:
    world, target = lay_out()
    blobs = sorted(world.content.blobs)
    assert len(blobs) == 11
    for parent in list(world.content.labels):
        if unlabelled:
            world.unlabel(Descriptor(media_type="", digest=parent, size=0), *unlabelled)
    for number in removed:
        del world.content.blobs[blobs[number]]
    found = diagnose(world.store, record(target), selected(*values))

    # Every missing blob of every row is explained by exactly one cause.
    for row in found.platforms:
        about = [cause for cause in found.causes if cause.digest == row.digest]
        explained = [digest for cause in about for digest in cause.missing]
        assert sorted(explained) == sorted(item.digest for item in row.missing)
        assert row.complete == (row.missing_known and not row.missing)
    # Completeness follows from the rows, and the forecasts from completeness.
    chosen = [row for row in found.platforms if row.target]
    assert found.complete == (bool(chosen) and all(row.complete for row in chosen))
    assert found.tools.ctr_export.ok == found.complete
    assert found.complete == (found.tools.pyctrd_save.ok and not found.tools.pyctrd_save.network)
    fetched = set(found.tools.pyctrd_save.fetch)
    assert not fetched & set(world.content.blobs)
    assert set(found.tools.nerdctl_save_2_0_4.fetch) <= set(found.tools.nerdctl_save_2_0_3.fetch)
