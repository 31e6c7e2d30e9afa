"""The ledger's answers, against the same questions asked of Python sets over generated histories."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import DiskFullError, SystemicError
from pipeline.storage import ObjectInfo
from pipeline.verification import ledger as module
from pipeline.verification.ledger import Ledger, open_ledger

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("source", "output")),
        ("output_bytes", pa.int64()),
        ("output_sha256", pa.string()),
        *((name, pa.int32()) for name in ("width", "height")),
        ("has_alpha", pa.bool_()),
        *((name, pa.string()) for name in ("source_sha256", "pixel_digest", "weights_sha256")),
        ("collected_at", pa.timestamp("us", tz="UTC")),
    ]
)


def row(source: str, output: str | None, *, size: int = 10, collected: bool = False) -> dict[str, Any]:
    values: dict[str, Any] = dict.fromkeys(SCHEMA.names) | {"source": source}
    if output is not None:
        values |= {"output": output, "output_bytes": size, "output_sha256": "s", "width": 3, "height": 2}
        values |= {"has_alpha": False, "source_sha256": "i", "pixel_digest": "p", "weights_sha256": "w"}
        values["collected_at"] = NOW if collected else None
    return values


def note(ledger: Ledger, plan: int, *rows: dict[str, Any], adopts_earlier: bool = True) -> None:
    table = pa.Table.from_pylist(list(rows), schema=SCHEMA)
    ledger.note(table, plan=plan, adopts_earlier=adopts_earlier, part=f"part {plan}")


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    with open_ledger() as opened:
        yield opened


Case = list[tuple[bool, list[tuple[int, int, int, bool]]]]
"""By plan: whether it adopts earlier outputs, and (source, output, size, collected) of its rows; output 0 is none."""

_ROW = st.tuples(st.integers(0, 2), st.integers(0, 4), st.integers(1, 2), st.booleans())
_PLAN = st.tuples(st.booleans(), st.lists(_ROW, max_size=4, unique_by=lambda row: row[0]))


def by_hand(case: Case, distrusted: set[str], listed: dict[str, int]) -> dict[str, Any]:
    """The same answers by dictionaries, row by row."""
    outputs: dict[str, tuple[int, str, int]] = {}
    repaired: dict[str, int] = {}
    last: dict[str, tuple[int, str]] = {}
    current: dict[str, tuple[str, bool]] = {}
    collected: set[str] = set()
    suspects: set[str] = set()
    contradicted = []
    for number, (adopts, rows) in enumerate(case, start=1):
        for source_number, output_number, size, is_collected in rows:
            source, key = f"{source_number}.jpg", f"images/{output_number}.exr"
            current[source] = (key, bool(output_number) and is_collected)
            if not output_number:
                continue
            if not adopts:
                repaired[source] = number
            last[source] = (number, key)
            if key in distrusted:
                suspects.add(source)
            if is_collected:
                collected.add(key)
                continue
            if key in outputs and outputs[key][0] != size:
                contradicted.append((key, source, f"part {number}"))
            outputs[key] = (size, source, number)
    replaced = set()
    for key, (_, source, plan) in outputs.items():
        trusted = last[source][0] if source in suspects and last[source][1] not in distrusted else 0
        if plan < repaired.get(source, 0) or (key in distrusted and plan < trusted):
            replaced.add(key)
    replaced -= {key for key, is_given_up in current.values() if not is_given_up}
    expected = {key: value for key, value in outputs.items() if key not in replaced}
    return {
        "outputs": {key: (size, source, plan) for key, (size, source, plan) in expected.items()},
        "contradicted": sorted(contradicted),
        "current": sorted((source, key) for source, (key, is_given_up) in current.items() if is_given_up),
        "sizes": sorted((k, listed[k], v[0], v[1]) for k, v in expected.items() if k in listed and listed[k] != v[0]),
        "unnamed": sorted((k, k in collected) for k in listed if k not in expected and k not in replaced),
        "unlisted": sorted((k, v[0], v[1]) for k, v in expected.items() if k not in listed),
    }


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    case=st.lists(_PLAN, max_size=5),
    distrusted=st.sets(st.integers(1, 4)),
    listed=st.dictionaries(st.integers(1, 5), st.integers(1, 2)),
)
def test_every_answer_is_that_of_dictionaries(
    case: Case, distrusted: set[int], listed: dict[int, int], ledger: Ledger
) -> None:
    keys, sizes = {f"images/{n}.exr" for n in distrusted}, {f"images/{n}.exr": size for n, size in listed.items()}
    ledger.forget()
    ledger._connection.execute("DELETE FROM listed")  # one database for all examples
    ledger.note_listing(ObjectInfo(key, size, "") for key, size in sizes.items())
    ledger.distrust(keys)
    for number, (adopts, rows) in enumerate(case, start=1):
        values = [
            row(f"{source}.jpg", f"images/{output}.exr" if output else None, size=size, collected=is_collected)
            for source, output, size, is_collected in rows
        ]
        note(ledger, number, *values, adopts_earlier=adopts)
    ledger.settle()
    found = {
        "outputs": {one.key: (one.num_bytes, one.source, one.plan) for one in ledger.sample(1.0)},
        "contradicted": sorted(ledger.contradicted()),
        "current": sorted(ledger.current_collected()),
        "sizes": list(ledger.other_sizes()),
        "unnamed": list(ledger.unnamed()),
        "unlisted": list(ledger.unlisted()),
    }
    assert found == by_hand(case, keys, sizes)
    assert ledger.num_outputs() == len(found["outputs"])


@pytest.mark.parametrize("adopts_earlier", [True, False])
def test_an_output_that_two_sources_share_counts_until_both_were_repaired(
    ledger: Ledger, *, adopts_earlier: bool
) -> None:
    """`/a.jpg` adopted what `a.jpg` was converted to, and it alone was made anew when that was found bad."""
    ledger.distrust(["images/a.jpg.exr"])
    note(ledger, 1, row("a.jpg", "images/a.jpg.exr"))
    note(ledger, 2, row("/a.jpg", "images/a.jpg.exr"))
    note(ledger, 3, row("/a.jpg", "images/a.jpg.v2.exr"), adopts_earlier=adopts_earlier)
    ledger.settle()
    assert [key for key, *_ in ledger.unlisted()] == ["images/a.jpg.exr", "images/a.jpg.v2.exr"]
    ledger.forget()
    ledger.distrust(["images/a.jpg.exr"])
    note(ledger, 1, row("a.jpg", "images/a.jpg.exr"))
    note(ledger, 2, row("/a.jpg", "images/a.jpg.exr"))
    note(ledger, 3, row("/a.jpg", "images/a.jpg.v2.exr"), adopts_earlier=adopts_earlier)
    note(ledger, 4, row("a.jpg", "images/a.jpg.v3.exr"), adopts_earlier=adopts_earlier)
    ledger.settle()
    assert [key for key, *_ in ledger.unlisted()] == ["images/a.jpg.v2.exr", "images/a.jpg.v3.exr"]


def test_what_was_noted_before_another_look_is_forgotten(ledger: Ledger) -> None:
    ledger.note_listing([ObjectInfo("images/a.exr", 10, "")])
    note(ledger, 1, row("a", "images/a.exr", size=9), row("b", "images/b.exr"))
    ledger.settle()
    assert len(list(ledger.other_sizes())) == len(list(ledger.unlisted())) == 1
    ledger.forget()
    note(ledger, 1, row("a", "images/a.exr", size=10))
    ledger.settle()
    assert [*ledger.other_sizes(), *ledger.unlisted(), *ledger.unnamed()] == []
    assert ledger.num_outputs() == 1


def test_batches_and_results_stream(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BATCH_ROWS", 7)
    monkeypatch.setattr(module, "_FETCH_ROWS", 5)
    keys = [f"images/{number:03d}.exr" for number in range(60)]
    ledger.note_listing(ObjectInfo(key, 10, "") for key in keys)
    for start in range(0, 60, 4):
        note(ledger, 1, *(row(key, key, size=10 + (key > keys[29])) for key in keys[start : start + 4]))
    ledger.settle()
    assert [key for key, *_ in ledger.other_sizes()] == keys[30:]
    sample = ledger.sample(1.0)
    assert next(sample).key == keys[0]
    assert ledger.num_outputs() == 60, "another question in between"
    assert [output.key for output in sample] == keys[1:]


def test_the_sample_is_fixed_and_of_the_share_that_was_asked_for(ledger: Ledger) -> None:
    keys = [f"images/{number}.jpg.exr" for number in range(4000)]
    note(ledger, 1, *(row(key, key) for key in keys))
    ledger.settle()

    def sampled(share: float) -> set[str]:
        found = {output.key for output in ledger.sample(share)}
        assert len(found) == ledger.num_outputs(share)
        return found

    for share in (0.0, 1e-9, 0.1, 0.3, 1.0):
        hashes = {key: int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") for key in keys}
        assert sampled(share) == {key for key, value in hashes.items() if value < share * 2**64} | (
            {min(hashes, key=lambda key: hashes[key])} if share else set()
        )
    assert len(sampled(0.1)) == pytest.approx(400, abs=80)
    assert sampled(0.1) < sampled(0.3)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (duckdb.IOException('Could not write file "x": No space left on device'), DiskFullError),
        (duckdb.OutOfMemoryException("failed to offload data block\n(out of disk space)"), DiskFullError),
        (duckdb.OutOfMemoryException("could not allocate block"), SystemicError),
    ],
)
def test_what_duckdb_cannot_do_stops_the_verification(error: Exception, kind: type[Exception]) -> None:
    with pytest.raises(kind) as caught, open_ledger():
        raise error
    assert type(caught.value) is kind


def test_nothing_is_left_in_the_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with open_ledger() as opened:
        note(opened, 1, row("a", "images/a.exr"))
        opened.settle()
        assert list(tmp_path.iterdir())
    assert list(tmp_path.iterdir()) == []
