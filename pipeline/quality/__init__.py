"""No-reference quality statistics of one conversion."""

from pipeline.quality.stats import measure

__all__ = ["measure"]
