"""Options of `hdrfleet plan`, and the same reckoning for `hdrfleet convert --max-cost`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import options as opt
from jobs.destination import open_destination
from jobs.option_groups import CostOptions, DestinationStorage, SourceStorage, grouped
from jobs.units import money, money_apart
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from jobs.plan import PlanRequest
    from pipeline.config import ConversionConfig

_EXIT_ABOVE_COST = 3
_NUM_HEADERS, _MAX_HEADERS = 200, 100_000
# Nothing is written by a plan; a configuration has a destination.
_NOWHERE = "memory://plan"


@grouped
def plan(
    src: Annotated[
        str,
        typer.Argument(metavar="SRC", help="Folder, s3:// prefix, glob, list (.txt .csv .parquet) or S3 Inventory."),
    ],
    include: Annotated[
        list[str] | None, typer.Option(help="Take only names that match this pattern; repeatable.")
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Leave out names that match; repeatable.")] = None,
    limit: Annotated[int | None, typer.Option(help="Consider only the first this many images of SRC.")] = None,
    weights: Annotated[str, typer.Option(help="As for convert: their width decides the network's work.")] = "default",
    sample_headers: Annotated[
        int, typer.Option(help="Headers to read for the pixels, 256 KiB of each at most; 0 guesses from bytes.")
    ] = _NUM_HEADERS,
    seed: Annotated[
        int | None, typer.Option(help="Of the sample: the same seed draws the same images (by default 0).")
    ] = None,
    workers: Annotated[str, typer.Option(help="Numbers of workers to reckon for.")] = "1,4,16,64",
    workers_per_gpu: Annotated[
        int | None, typer.Option(help="As for convert: so many workers part a card, its speed and its node's cores.")
    ] = None,
    pixel_type: Annotated[str, typer.Option(help="half or float.")] = "half",
    compression: Annotated[str, typer.Option(help="none, zip, piz, dwaa:LEVEL or htj2k256.")] = "zip",
    shard_images: Annotated[int, typer.Option(help="Images per shard, the unit of commit.")] = 64,
    shard_megapixels: Annotated[float, typer.Option(help="Close a shard at this many estimated megapixels.")] = 256.0,
    json: opt.Json = False,
    *,
    cost: CostOptions,
    source_storage: SourceStorage,
    destination_storage: DestinationStorage,
) -> None:
    """Say what a conversion of SRC would take: images, pixels, output, time and cost by machine. Changes nothing.

    Prices and speeds come from a table (jobs/data/node_types.toml in the package) that --prices replaces; no GPU has
    been measured yet, so convert a small part first and give its DST to --throughput-from. Exit codes: 0, 3 when every
    machine costs more than --max-cost, 2 bad usage.
    """
    from jobs.store_options import require_heeded_by_source

    counts = _worker_counts(workers)
    cost.require_sensible()
    if not 0 <= sample_headers <= _MAX_HEADERS:
        raise ConfigError(f"--sample-headers: give a number from 0 to {_MAX_HEADERS:,}")
    if seed is not None and not sample_headers:
        raise ConfigError("--seed: without headers nothing is drawn; drop it, or --sample-headers 0")
    if cost.spot and cost.max_cost is None:
        raise ConfigError("--spot says by which price --max-cost is reckoned; give that, too")
    storage = destination_storage.as_fields()
    if storage and cost.throughput_from is None:
        raise ConfigError("--dst-…: of plan they reach the DST of --throughput-from; give that, or drop them")
    require_heeded_by_source(src, source_storage.as_fields())
    config = opt.build(
        source={
            "url": src,
            "include": include or (),
            "exclude": exclude or (),
            "limit": limit,
            "storage": source_storage.as_fields(),
        },
        destination={"url": _NOWHERE},
        model={"weights": weights},
        encode={"pixel_type": pixel_type, "compression": compression},
        sharding={"max_images": shard_images, "max_megapixels": shard_megapixels},
        execution={"placement": opt.given(workers_per_gpu=workers_per_gpu)},
    )
    from jobs.plan import cost_of, make_plan
    from jobs.plan_print import print_plan
    from jobs.tables import print_json

    found = make_plan(config, _request(cost, storage, counts, num_headers=sample_headers, seed=seed or 0))
    cheapest = found.cheapest(on_spot=cost.spot)
    above = False
    if cost.max_cost is not None:
        if cheapest is None:
            raise ConfigError("--max-cost: nothing has such a price; give one with --prices")
        above = (cost_of(cheapest, on_spot=cost.spot) or 0.0) > cost.max_cost
    if json:
        print_json(found.to_json() | {"max_cost": cost.max_cost, "is_above_max_cost": above})
    else:
        print_plan(found)
    if above and cheapest is not None and cost.max_cost is not None:
        amount, allowed = money_apart(cost_of(cheapest, on_spot=cost.spot) or 0.0, cost.max_cost)
        typer.echo(
            f"hdrfleet: the cheapest, {cheapest.node_type}, costs about {amount} {cheapest.currency}, "
            f"more than --max-cost {allowed}",
            err=True,
        )
        raise typer.Exit(_EXIT_ABOVE_COST)


def require_within_cost(
    config: ConversionConfig, cost: CostOptions, max_cost: float, destination_storage: DestinationStorage
) -> str:
    """One line that says what the conversion is reckoned to cost. Raises ConfigError when that is above `max_cost`."""
    from jobs.plan import cost_of, require_affordable
    from jobs.plan_prices import choose, load_node_types
    from jobs.store_options import heeded

    execution = config.execution
    (node,) = choose(load_node_types(cost.prices), cost.node_type)[:1]
    default = node.shared(execution.placement.workers_per_gpu).num_workers
    most = execution.scaling.max_workers if execution.scaling else execution.num_workers
    counts = (1 if execution.executor == "local" else most or default,)
    # They were given for DST; the earlier job's may be another kind of store.
    storage = heeded(cost.throughput_from or "", destination_storage.as_fields())
    prediction = require_affordable(config, _request(cost, storage, counts), max_cost, on_spot=cost.spot)
    amount = money(cost_of(prediction, on_spot=cost.spot) or 0.0)
    return f"about {amount} {prediction.currency} on {prediction.node_type}, of {money(max_cost)} allowed"


def _request(
    cost: CostOptions,
    storage: Mapping[str, object],
    counts: tuple[int, ...],
    *,
    num_headers: int = _NUM_HEADERS,
    seed: int = 0,
) -> PlanRequest:
    from jobs.plan import PlanRequest
    from jobs.plan_measured import measure_job

    measured = None
    if cost.throughput_from is not None:
        store, record = open_destination(cost.throughput_from, storage, prefix="--dst-")
        measured = measure_job(store, record)
    return PlanRequest(num_headers, seed, cost.prices, cost.node_type, measured, counts)


def _worker_counts(text: str) -> tuple[int, ...]:
    try:
        counts = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        counts = ()
    if not counts or not 1 <= counts[0] <= counts[-1] <= 100_000:
        raise ConfigError(f"--workers: {text!r} are no numbers of workers; give for example 1,8,64")
    return counts
