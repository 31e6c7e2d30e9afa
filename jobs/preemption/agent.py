"""The agent's loop: ask for notices, and see to it that what they announce is carried out."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from dataclasses import replace

from jobs.json_log import JsonReporter
from jobs.preemption.metadata import MetadataError, NoticeSource
from jobs.preemption.notices import Notice, StrangeAnswerError
from jobs.preemption.order import UNBOUNDED_S, DrainOrder

_RESTART_AFTER_S = 1.0
_KILL_AFTER_S = 5.0
_WORKING_LOOK_S = 0.5
# Ray's client in the drainer: give up soon, and let another process try.
_RAY_ENV = {
    "RAY_gcs_rpc_server_connect_timeout_s": "2",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "10",
    "RAY_py_gcs_connect_timeout_s": "3",
}


class Drain:
    """One order, in a child process that is started again until the order is carried out or its time is over."""

    def __init__(self, order: DrainOrder, log: JsonReporter) -> None:
        self.order = order
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._next_start_at = 0.0
        self._is_done = False

    def tend(self) -> bool:
        """Start it, or start it again, as is needed; whether there is still something to do."""
        if self._is_done:
            return False
        now = time.time()
        if self._process is not None:
            code = self._process.poll()
            if code is None and now > self.order.stop_at + _KILL_AFTER_S:
                self.stop()
                return False
            if code is not None:
                self._process = None
                self._is_done = code == 0
                self._next_start_at = now + _RESTART_AFTER_S
                if code not in {0, 1}:  # 1 has said why
                    self._log.event("warning", "drainer_ended", {"exit_code": code})
        if not self._is_done and self._process is None and now >= self._next_start_at:
            if now >= self.order.stop_at:
                self._is_done = True
                self._log.event("warning", "time_is_over", {"reason": self.order.message})
            else:
                self._start()
        return not self._is_done

    def stop(self) -> None:
        """End it; what the cluster was told stays told."""
        self._is_done = True
        if self._process is not None:
            self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_KILL_AFTER_S)
            self._process = None

    def _start(self) -> None:
        command = [sys.executable, "-m", "jobs.preemption.drainer", self.order.to_text()]
        try:
            self._process = subprocess.Popen(command, env={**_RAY_ENV, **os.environ}, stdin=subprocess.DEVNULL)  # noqa: S603
        except OSError as error:  # no process or no memory to be had at the moment
            self._log.event("warning", "drainer_ended", {"message": str(error)})
            self._next_start_at = time.time() + _RESTART_AFTER_S


class NodeAgent:
    """Turns the notices of `source` into drains of the Ray nodes of this machine.

    `address` and `node_ip` are those of a `DrainOrder`. Without a source it only waits to be told to leave.
    """

    def __init__(
        self,
        source: NoticeSource | None,
        log: JsonReporter,
        *,
        address: str | None,
        node_ip: str | None,
        interval_s: float,
    ) -> None:
        self._source = source
        self._log = log
        self._interval_s = interval_s
        self._order = DrainOrder(0.0, address=address, node_ip=node_ip)
        self._notice: Notice | None = None
        self._drain: Drain | None = None
        self._trouble = ""

    def watch(self) -> None:
        """Ask for ever; ends by what a signal's handler raises."""
        self._drain = Drain(replace(self._order, stop_at=time.time() + UNBOUNDED_S, only_look=True), self._log)
        while True:
            is_working = self._drain is not None and self._drain.tend()
            wait_s = min(self._interval_s, _WORKING_LOOK_S) if is_working else self._interval_s
            next_at = time.monotonic() + wait_s
            notice, is_known = self._ask(wait_s)
            if is_known:
                self._heed(notice)
            if self._drain is not None:
                self._drain.tend()
            time.sleep(max(0.0, next_at - time.monotonic()))

    def leave(self, grace_s: float, kind: str) -> None:
        """Drain, wait until the nodes have finished and are gone or `grace_s` is over, and return."""
        ends_at = time.time() + grace_s
        if self._notice is not None and self._notice.ends_at is not None:
            ends_at = min(ends_at, self._notice.ends_at)
        self._carry_out(Notice("signal", kind, ends_at), until_gone=True)
        while self._drain is not None and self._drain.tend():
            time.sleep(_WORKING_LOOK_S / 5)

    def close(self) -> None:
        """Let the child go."""
        if self._drain is not None:
            self._drain.stop()

    def _ask(self, wait_s: float) -> tuple[Notice | None, bool]:
        """The notice that stands, and whether that is known; trouble is said when it begins and when it ends."""
        if self._source is None:
            return None, False
        try:
            notice = self._source.poll(wait_s)
        except (MetadataError, StrangeAnswerError) as error:
            if self._trouble != error.code:
                self._log.event("warning", error.code, {"message": str(error)})
            self._trouble = error.code
            return None, False
        if self._trouble:
            self._log.event("info", "metadata_answers")
        self._trouble = ""
        return notice, True

    def _heed(self, notice: Notice | None) -> None:
        if notice is None:
            if self._notice is not None:  # a machine that was stopped or only recommended to go, and stayed
                self._log.event("info", "notice_withdrawn", {"source": self._notice.source, "kind": self._notice.kind})
            self._notice = None
        elif notice.replaces(self._notice):
            self._notice = notice
            self._carry_out(notice, until_gone=False)

    def _carry_out(self, notice: Notice, *, until_gone: bool) -> None:
        now = time.time()
        left_s = None if notice.ends_at is None else round(notice.ends_at - now, 1)
        self._log.event("warning", "notice", {"source": notice.source, "kind": notice.kind, "left_s": left_s})
        self.close()
        # A notice that comes late is heeded still: its machine is there.
        stop_at = now + UNBOUNDED_S if notice.ends_at is None else max(notice.ends_at, now + _KILL_AFTER_S)
        order = replace(
            self._order,
            stop_at=stop_at,
            ends_at=notice.ends_at,
            message=f"{notice.source}: {notice.kind}",
            until_gone=until_gone,
        )
        self._drain = Drain(order, self._log)
        self._drain.tend()
