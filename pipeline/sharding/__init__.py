"""From a source to a plan: list the images, name their outputs, cut shards, store the plan."""

from pipeline.sharding.listing import ListingCounts, SourceListing
from pipeline.sharding.locations import SourceShape, source_shape
from pipeline.sharding.names import output_key, require_short_prefix
from pipeline.sharding.plan import (
    iter_shards,
    load_inventory,
    plan_folder,
    read_plan_summaries,
    read_plan_summary,
    write_plan,
)
from pipeline.sharding.plan_summary import PlanPart, PlanSummary
from pipeline.sharding.shards import changed_tasks, estimate_megapixels, plan_shards
from pipeline.sharding.sources import open_source, source_is_there, source_store
from pipeline.sharding.web_parameters import is_on_web

__all__ = [
    "ListingCounts",
    "PlanPart",
    "PlanSummary",
    "SourceListing",
    "SourceShape",
    "changed_tasks",
    "estimate_megapixels",
    "is_on_web",
    "iter_shards",
    "load_inventory",
    "open_source",
    "output_key",
    "plan_folder",
    "plan_shards",
    "read_plan_summaries",
    "read_plan_summary",
    "require_short_prefix",
    "source_is_there",
    "source_shape",
    "source_store",
    "write_plan",
]
