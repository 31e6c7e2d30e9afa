"""Object stores behind one small contract; the only code that knows fsspec."""

from pipeline.storage.base import ObjectInfo, ObjectStore, RemovesStrays
from pipeline.storage.open import open_store, redact_url

__all__ = ["ObjectInfo", "ObjectStore", "RemovesStrays", "open_store", "redact_url"]
