"""Where decisions about the number of workers go: to the user, and to the job's destination."""

from __future__ import annotations

from jobs.progress import Reporter
from pipeline.errors import StorageError
from pipeline.scaling_record import ScalingEvent, append_event
from pipeline.storage import ObjectStore


class ScalingLog:
    """Call it with each event. A store that does not take one costs the record of it, not the job."""

    def __init__(self, store: ObjectStore, reporter: Reporter) -> None:
        self._store = store
        self._reporter = reporter
        self._has_warned = False

    def __call__(self, event: ScalingEvent) -> None:
        """Tell the reporter and append to the job."""
        say = self._reporter.warn if event.is_warning else self._reporter.note
        say(f"workers {event.delta:+d}, now {event.num_workers}: {event.reason}")
        try:
            append_event(self._store, event)
        except StorageError as error:
            if not self._has_warned:
                self._reporter.warn(f"decisions about workers are not recorded, hdrfleet status lacks them: {error}")
            self._has_warned = True
