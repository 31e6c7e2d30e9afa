"""Object stores behind one small contract; the only code that knows fsspec."""

from pipeline.storage.base import ObjectInfo, ObjectStore
from pipeline.storage.open import open_store, redact_url

__all__ = ["ObjectInfo", "ObjectStore", "open_store", "redact_url"]
