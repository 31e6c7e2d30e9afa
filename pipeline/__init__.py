"""hdrfleet's library: LDR to HDR conversion that loses nothing. Importing it loads neither Ray nor torch."""

__version__ = "0.1.0"
