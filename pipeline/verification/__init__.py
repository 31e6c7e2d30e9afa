"""Proof that a destination is what its plans and manifest say: every row, every object, nothing beside them."""

from pipeline.verification.findings import Finding, VerifyReport
from pipeline.verification.verify import verify_destination

__all__ = ["Finding", "VerifyReport", "verify_destination"]
