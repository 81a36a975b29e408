"""Random series of tag, pin, unpin and label: what none of them may ever do to a record."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from pyctrd.errors import PyctrdError
from pyctrd.oci import reference
from pyctrd.oci.expiry import EXPIRE_LABEL
from pyctrd.oci.model import PINNED_LABEL, ImageRecord
from pyctrd.operations.label import check, label
from pyctrd.operations.pin import pin, unpin
from pyctrd.operations.tag import tag
from tests.support import shapes
from tests.support.memory import MemoryStore

GRAPHS = [shapes.single(salt=salt) for salt in "ab"]
FIRST = [f"registry.example/{salt}:0" for salt in "ab"]
NAMES = [*FIRST, "registry.example/app:1"]
RECORDS = (PINNED_LABEL, EXPIRE_LABEL)


class Step(NamedTuple):
    """One command; each uses what it needs."""

    verb: str
    source: str
    names: Sequence[str]
    labels: Mapping[str, str]
    force: bool
    expires: bool


STEPS = st.builds(
    Step,
    verb=st.sampled_from(["tag", "tag", "tag", "pin", "unpin", "label"]),
    source=st.sampled_from(NAMES),
    names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=3),
    labels=st.dictionaries(
        st.sampled_from(["a", "b", *RECORDS]), st.sampled_from(["", "1", "pinned", "2099-01-01T00:00:00Z"])
    ),
    force=st.booleans(),
    expires=st.booleans(),
)


def run(store: MemoryStore, step: Step) -> bool:
    """Run a command; return whether it succeeded."""
    image = store.state.images.get(step.source)
    if image is None:
        return False
    try:
        match step.verb:
            case "tag":
                names = [reference.parse(name) for name in step.names]
                tag(store, image, names, force=step.force, ttl=dt.timedelta(1) if step.expires else None)
            case "label":
                check(image.name, step.labels, force=step.force)
                label(store, image, step.labels)
            case _:
                (pin if step.verb == "pin" else unpin)(store, [image])
    except PyctrdError:
        return False
    return True


def others(record: ImageRecord) -> dict[str, str]:
    """Return the labels that neither pin a record nor let it expire."""
    return {key: value for key, value in record.labels.items() if key not in RECORDS}


def check_record(step: Step, old: ImageRecord, new: ImageRecord) -> None:
    """Check what a command did to a record that existed."""
    forced = step.verb == "label" and step.force
    if step.verb != "label":
        assert others(old).keys() <= others(new).keys()
        assert step.force or others(old).items() <= others(new).items()
    if new.target != old.target:
        assert (step.verb, step.force, old.name in step.names, old.is_pinned) == ("tag", True, True, False)
    if old.is_pinned and not new.is_pinned:
        assert forced or step.verb == "unpin"
    if new.labels.get(EXPIRE_LABEL) and not old.labels.get(EXPIRE_LABEL):
        assert forced or (step.verb, step.expires, old.is_pinned) == ("tag", True, False)


def check_result(step: Step, before: Mapping[str, ImageRecord], after: Mapping[str, ImageRecord]) -> None:
    """Check that a command did what it was to do."""
    target = before[step.source].target
    if step.verb == "tag":
        tagged = [after[name] for name in step.names]
        assert {record.target.digest for record in tagged} == {target.digest}
        assert {record.expires_at is not None for record in tagged} == {step.expires}
    if step.verb in ("pin", "unpin"):
        same = [record for record in after.values() if record.target.digest == target.digest]
        assert {record.is_pinned for record in same} == {step.verb == "pin"}
        assert step.verb == "unpin" or {record.expires_at for record in same} == {None}


@given(st.lists(STEPS, min_size=8, max_size=24))
def test_no_command_loses_a_name_or_a_label_or_a_pinned_image(steps: Sequence[Step]) -> None:
    store = MemoryStore()
    for name, graph in zip(FIRST, GRAPHS, strict=True):
        store.put(graph.blobs)
        store.tag(name, graph.root)
    for step in steps:
        before = dict(store.state.images)
        done = run(store, step)
        after = store.state.images
        assert before.keys() <= after.keys()
        assert done or after == before, "a refused command changes nothing"
        assert store.state.leases == {}
        for name, old in before.items():
            check_record(step, old, after[name])
        if done:
            check_result(step, before, after)
