"""Groups of options: each command that takes one shows all of it, and what a user gives reaches the configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import pytest
import typer
from job_records import job_record
from typer.main import get_command
from typer.testing import CliRunner

from jobs.cli import app
from jobs.conversion_options import ConversionOptions
from jobs.option_groups import CostOptions, DestinationStorage, RecordedOptions, SourceStorage, arguments_of, grouped
from jobs.options import parse_bytes
from jobs.retry import recorded_config
from pipeline.config import build_config
from pipeline.errors import ConfigError
from pipeline.job import JobRecord


@dataclass(frozen=True)
class Pair:
    left: Annotated[int, typer.Option("--left")] = 1
    is_right: Annotated[bool | None, typer.Option("--right/--wrong")] = None


def flags(command: str) -> set[str]:
    commands: Any = get_command(app)
    return {flag for parameter in commands.commands[command].params for flag in parameter.opts if flag[:2] == "--"}


@pytest.mark.parametrize("command", ["retry", "repair"])
def test_a_source_is_reached_by_every_command_as_convert_reaches_it(command: str) -> None:
    of_the_source = {flag for flag in flags("convert") if flag.startswith("--src-")}
    assert len(of_the_source) == 7
    assert of_the_source <= flags(command)


def test_a_group_is_its_options_to_the_user_and_one_value_to_the_command() -> None:
    seen: list[object] = []
    program = typer.Typer()

    @program.command()
    @grouped
    def command(name: str, loud: bool = False, *, pair: Pair) -> None:
        """Say it."""
        seen.append((name, pair, loud))

    run = CliRunner()
    assert run.invoke(program, ["x"]).exit_code == 0
    assert run.invoke(program, ["y", "--left", "5", "--wrong", "--loud"]).exit_code == 0
    assert run.invoke(program, ["y", "--pair", "5"]).exit_code == 2
    assert seen == [("x", Pair(1, None), False), ("y", Pair(5, False), True)]
    assert "Say it." in run.invoke(program, ["--help"]).output


def record(**storage: object) -> JobRecord:
    config = build_config(source={"url": "s3://b/in", "storage": storage}, destination={"url": "/out"})
    return job_record(config)


def test_source_options_replace_recorded_ones_and_leave_the_others() -> None:
    known = record(endpoint_url="http://old", anonymous=True, requester_pays=True, max_attempts=3)
    given = SourceStorage(src_endpoint_url="http://new", src_anonymous=False, src_profile="me", src_timeout=5.0)
    found = recorded_config(known, "/out", {}, given.as_fields(), **RecordedOptions().changes()).source.storage
    assert (found.endpoint_url, found.anonymous, found.profile) == ("http://new", False, "me")
    assert (found.requester_pays, found.max_attempts) == (True, 3)
    assert (found.read_timeout_s, found.connect_timeout_s) == (5.0, 5.0)
    unchanged = recorded_config(known, "/out", {}, SourceStorage().as_fields(), **RecordedOptions().changes())
    assert unchanged.source == known.config.source


def test_what_contradicts_a_recorded_option_is_refused_by_the_name_of_the_option() -> None:
    given = SourceStorage(src_profile="me").as_fields()
    with pytest.raises(ConfigError, match="--src-…: an anonymous store takes no profile"):
        recorded_config(record(anonymous=True), "/out", {}, given)
    with pytest.raises(ConfigError, match="--src-attempts"):
        recorded_config(record(), "/out", {}, SourceStorage(src_attempts=0).as_fields())


def test_only_what_was_given_replaces_a_recorded_option() -> None:
    assert RecordedOptions().changes() == {"model": {}, "inference": {}, "decode": {}, "execution": {}}
    changes = RecordedOptions(memory_budget="1G", isolate_decode=False, executor="local", image_timeout=9.0).changes()
    assert changes == {
        "model": {},
        "inference": {"memory_budget_bytes": parse_bytes("1G", "")},
        "decode": {"isolate": False},
        "execution": {
            "executor": "local",
            "num_workers": None,
            "address": None,
            "scaling": None,
            "placement": {},
            "image_timeout_s": 9.0,
        },
    }


def fixed(config: Any, num_workers: int) -> Any:
    return config.execution.model_copy(update={"scaling": None, "num_workers": num_workers})


def test_what_replaces_recorded_workers_does_not_contradict_their_scaling_or_place() -> None:
    elastic = ConversionOptions(
        max_workers=4,
        deadline="90m",
        workers_per_gpu=2,
        label=["zone=a", "kind=any"],
        fallback_label=["market=on-demand"],
    )
    config = elastic.config("s3://b/in", "/out", SourceStorage(), DestinationStorage())
    execution = config.execution
    assert execution.scaling is not None
    assert (execution.scaling.min_workers, execution.scaling.max_workers, execution.scaling.deadline_s) == (0, 4, 5400)
    assert execution.placement.labels == {"zone": "a", "kind": "any"}
    assert execution.placement.fallback_labels == {"market": "on-demand"}
    known = record().model_copy(update={"config": config})

    def changed(**given: Any) -> Any:
        return recorded_config(known, "/out", {}, {}, **RecordedOptions(**given).changes()).execution

    assert changed() == execution.model_copy(update={"max_failure_rate": 1.0})
    assert (changed(workers="2").scaling, changed(workers="2").num_workers) == (None, 2)
    assert changed(executor="local").scaling is None
    more = changed(max_workers=9).scaling
    assert (more.max_workers, more.deadline_s) == (9, 5400), "what else was recorded still brakes"
    known = known.model_copy(update={"config": config.model_copy(update={"execution": fixed(config, 3)})})
    assert (changed(max_workers=9).scaling.max_workers, changed(max_workers=9).num_workers) == (9, None)
    for contradiction in ({"workers": "2"}, {"workers": "auto"}, {"executor": "local"}):
        with pytest.raises(ConfigError, match="--max-workers"):
            changed(max_workers=9, **contradiction)
    with pytest.raises(ConfigError, match="--max-workers"):
        changed(max_workers=0)
    assert not changed(device="cpu").placement.asks_for_gpu


def test_a_filled_group_is_written_as_its_user_would() -> None:
    options = ConversionOptions(include=["*.jpg", "a b"], isolate_decode=True, limit=3, max_failure_rate="10%")
    storage = SourceStorage(src_endpoint_url="http://127.0.0.1:1", src_anonymous=False, src_attempts=2)
    written = [*arguments_of(options), *arguments_of(storage)]
    assert written == [
        *("--include=*.jpg", "--include=a b", "--limit=3", "--isolate-decode", "--max-failure-rate=10%"),
        *("--src-endpoint-url=http://127.0.0.1:1", "--no-src-anonymous", "--src-attempts=2"),
    ]
    assert arguments_of(ConversionOptions()) == []


def test_a_budget_becomes_worker_seconds_at_the_price_that_was_given_or_that_of_the_machine() -> None:
    bought = ConversionOptions(max_workers=4, budget=3.0, price_per_worker_hour=1.5)
    scaling = bought.config("s3://b/in", "/out", SourceStorage(), DestinationStorage()).execution.scaling
    assert scaling is not None
    assert scaling.budget_worker_s == 7200
    assert CostOptions(node_type="g4dn.xlarge").price_per_worker_hour(None) == pytest.approx(0.526)
    assert CostOptions(node_type="g4dn.xlarge", spot=True).price_per_worker_hour(2) == pytest.approx(0.1)
    assert CostOptions().price_per_worker_hour(2) is None
    CostOptions(node_type="g4dn.xlarge", spot=True).require_limit(has_budget=True)
    with pytest.raises(ConfigError, match="--throughput-from"):
        CostOptions(throughput_from="/x").require_limit(has_budget=True)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"budget": 3.0, "price_per_worker_hour": 1.0}, "--budget needs --max-workers"),
        ({"budget": 3.0, "max_workers": 2}, "--budget needs a price; give --price-per-worker-hour"),
        ({"price_per_worker_hour": 3.0, "max_workers": 2}, "--price-per-worker-hour says what --budget buys"),
        ({"budget": 0.0, "price_per_worker_hour": 1.0, "max_workers": 2}, "--budget 0 at 1 per worker-hour"),
        ({"budget": 1.0, "price_per_worker_hour": 0.0, "max_workers": 2}, "give amounts above 0"),
        ({"budget": float("nan"), "price_per_worker_hour": 1.0, "max_workers": 2}, "give amounts above 0"),
    ],
)
def test_a_budget_that_cannot_be_meant_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        ConversionOptions(**options).config("s3://b/in", "/out", SourceStorage(), DestinationStorage())
