"""Removal of what nothing needs any more: covered parts, superseded generations, outputs of old revisions."""

from pipeline.collection.collect import Collection, collect

__all__ = ["Collection", "collect"]
