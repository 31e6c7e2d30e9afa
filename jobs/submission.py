"""Conversions as jobs of a Ray cluster: submitted once, found again by DST, followed and stopped.

Ray's job server is spoken to through its own client (`ray.job_submission`), whose requests get time limits here. What
is sent is a command line, and the project's code unless the image's copy is to be used; never a credential: workers
take theirs from the machines they run on.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pipeline
from pipeline.errors import JobServerError, first_line
from pipeline.execution.token_file import warn_of_loose_token

POLL_S = 2.0
# After so long without a word of a job that is followed its server is asked whether it is still there.
SILENCE_S = 60.0
_TIMEOUT_S = (10.0, 60.0)  # to connect, and of silence
_CLUSTER_START_S = 120.0
_URL = re.compile(r"https?://[^/@\s]+/?")
_ID = re.compile(r"hdrfleet-[0-9a-f]{12}-\d+")
_ACTIVE = frozenset({"PENDING", "RUNNING"})
_CODE = ("pipeline", "jobs")
_ADVICE = " Ensure that the token"  # from here on Ray says what we say more shortly
_TRACE = "Traceback (most recent call last)"


@dataclass(frozen=True, slots=True)
class SubmittedJob:
    """One run of a conversion on a cluster, as its job server tells. Times are Unix seconds; None where not yet."""

    id: str
    src: str
    dst: str
    status: str
    started_at: float | None
    ended_at: float | None
    exit_code: int | None
    message: str | None
    command_sha256: str
    version: str

    @property
    def is_active(self) -> bool:
        """Whether it waits or runs."""
        return self.status in _ACTIVE

    @property
    def run(self) -> int:
        """Its number among the jobs of its destination, from 1."""
        return int(self.id.rpartition("-")[2])


def job_id(dst: str, run: int) -> str:
    """The id of the `run`-th job (1, 2, ...) for a destination: the same from every machine."""
    return f"hdrfleet-{hashlib.sha256(dst.rstrip('/').encode()).hexdigest()[:12]}-{run}"


def is_job_id(text: str) -> bool:
    """Whether this is an id that `job_id` makes, and not a DST."""
    return _ID.fullmatch(text) is not None


def destination_of(id_or_dst: str, address: str | None) -> str:
    """The DST that is meant. Raises JobServerError for an id without an `address`, and for one not known there."""
    if not is_job_id(id_or_dst):
        return id_or_dst
    if address is None:
        raise JobServerError(f"{id_or_dst} is a job's id; give --address of its cluster, or the job's DST")
    try:
        return JobServer(address).find(id_or_dst).dst
    except JobServerError as error:
        raise JobServerError(
            f"{str(error).rstrip('.')}; given the job's DST instead of its id, this needs no cluster"
        ) from error


class JobServer:
    """The job server of the cluster whose dashboard is at `address`, http://HOST:8265.

    Every method raises JobServerError where the server does not answer, refuses the token, or knows no such job.
    """

    def __init__(self, address: str) -> None:
        if "@" in address:
            raise JobServerError("an address must not hold credentials; the token belongs into RAY_AUTH_TOKEN_PATH")
        if not _URL.fullmatch(address):
            raise JobServerError(f"{address!r} is no address of a job server; give http://HOST:8265 of its dashboard")
        self.address = address.rstrip("/")
        warn_of_loose_token()
        with self._errors():
            self._client = _bounded_client(self.address)

    def submit(
        self,
        src: str,
        dst: str,
        arguments: Sequence[str],
        *,
        files: Mapping[str, Path],
        use_image: bool = False,
        reporting: Sequence[str] = (),
    ) -> tuple[SubmittedJob, bool]:
        """Start `hdrfleet convert` with these arguments on the cluster, unless such a job waits or runs already.

        Returns the job, and whether it is a new one. `files` are local ones that are sent along, by the relative paths
        that `arguments` have for them. `reporting` are options of what its driver says, which make no other conversion
        of it. Raises JobServerError as well where a job with other arguments, or other contents of such a file, is at
        work on that DST.
        """
        digest = _digest(arguments, files)
        for _ in range(3):  # somebody else may submit between the look and the submission
            runs = self._runs(dst)
            last = runs[-1] if runs else None
            if last and last.is_active:
                if last.command_sha256 != digest:
                    raise JobServerError(
                        f"{last.id} is at work on {dst} with other options; stop it first (`hdrfleet stop {last.id}`)"
                    )
                return last, False
            new = job_id(dst, last.run + 1 if last else 1)
            metadata = {
                "hdrfleet_src": src,
                "hdrfleet_dst": dst,
                "hdrfleet_version": pipeline.__version__,
                "hdrfleet_command_sha256": digest,
            }
            command = ["python", "-m", "jobs.supervise", "convert", *arguments, *reporting]
            with self._errors(), _package(files, use_image=use_image) as environment:
                try:
                    self._send(
                        entrypoint=shlex.join(command), submission_id=new, runtime_env=environment, metadata=metadata
                    )
                except RuntimeError:
                    if any(run.id == new for run in self._runs(dst)):
                        continue
                    raise
            return self.find(new), True
        raise JobServerError(f"others submit jobs for {dst} at the same time; look with `hdrfleet jobs`")

    def all_jobs(self) -> list[SubmittedJob]:
        """Every conversion that the server remembers, the latest first."""
        with self._errors():
            details = self._client.list_jobs()
        jobs = [_job(entry) for entry in details if entry.submission_id and is_job_id(entry.submission_id)]
        return sorted(jobs, key=lambda job: job.started_at or 0.0, reverse=True)

    def find(self, id_or_dst: str) -> SubmittedJob:
        """The job of this id, or the latest of this DST."""
        if is_job_id(id_or_dst):
            with self._errors():
                return _job(self._client.get_job_info(id_or_dst))
        runs = self._runs(id_or_dst)
        if not runs:
            raise JobServerError(f"no job for {id_or_dst} on this cluster; `hdrfleet jobs` lists those there are")
        return runs[-1]

    def logs(self, job: SubmittedJob) -> str:
        """What the job's driver has written so far."""
        with self._errors():
            text: str = self._client.get_job_logs(job.id)
        return text

    def follow(self, job: SubmittedJob, write: Callable[[str], object]) -> SubmittedJob:
        """Hand on what the job's driver writes, from its beginning, until the job has ended; return it as it ended.

        Ray's client waits without end for a head that vanished, so this asks after it whenever nothing comes.
        """

        async def hand_on() -> None:
            texts = self._client.tail_job_logs(job.id)
            while True:
                following = asyncio.ensure_future(anext(texts, None))
                while not (await asyncio.wait({following}, timeout=SILENCE_S))[0]:
                    if not (await asyncio.to_thread(self.find, job.id)).is_active:
                        following.cancel()
                        return
                if (text := following.result()) is None:
                    return
                write(text)

        with self._errors():
            asyncio.run(hand_on())
        while (now := self.find(job.id)).is_active:  # the log's end and the job's are not one moment
            time.sleep(POLL_S)
        return now

    def stop(self, job: SubmittedJob, timeout_s: float = 60.0) -> SubmittedJob:
        """End a job and wait for its end; what it has committed stays. One that has ended is returned as it is."""
        if job.is_active:
            with self._errors():
                self._client.stop_job(job.id)
        deadline = time.monotonic() + timeout_s
        while (now := self.find(job.id)).is_active:
            if time.monotonic() > deadline:
                raise JobServerError(f"{job.id} has not ended within {timeout_s:g} s; try again")
            time.sleep(min(POLL_S, 0.5))
        return now

    def _send(self, **request: Any) -> None:
        """Submit, and wait for the part of a cluster that starts jobs where that has not started itself."""
        deadline = time.monotonic() + _CLUSTER_START_S
        while True:
            try:
                self._client.submit_job(**request)
            except RuntimeError as error:
                if "No available agent" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(POLL_S)
            else:
                return

    def _runs(self, dst: str) -> list[SubmittedJob]:
        first = job_id(dst, 1).rpartition("-")[0]
        runs = [job for job in self.all_jobs() if job.id.rpartition("-")[0] == first]
        return sorted(runs, key=lambda job: job.run)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        import aiohttp
        import requests
        from packaging.version import InvalidVersion
        from pydantic import ValidationError
        from ray.exceptions import AuthenticationError

        # What Ray's client makes of an answer that is not that of a job server.
        unlike = (LookupError, TypeError, AttributeError, requests.JSONDecodeError, ValidationError, InvalidVersion)
        try:
            yield
        except AuthenticationError as error:
            said = first_line(error).partition(_ADVICE)[0].rstrip(". ")
            raise JobServerError(
                f"{self.address} refused us: {said}; set RAY_AUTH_MODE=token and the cluster's token in "
                "RAY_AUTH_TOKEN, or its file in RAY_AUTH_TOKEN_PATH"
            ) from error
        except unlike as error:
            raise JobServerError(
                f"{self.address} does not answer as Ray's job server does; give the address of the cluster's dashboard"
            ) from error
        except (RuntimeError, ValueError, OSError, requests.RequestException, aiohttp.ClientError) as error:
            raise JobServerError(f"{self.address}: {_told(error)}") from error


def _told(error: Exception) -> str:
    """The first line of an error, or what a stack trace that the server sent ends with."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if len(lines) > 1 and _TRACE in lines[0] else first_line(error)


def _digest(arguments: Sequence[str], files: Mapping[str, Path]) -> str:
    """What tells one conversion from another: the release, the command, and what is in the files that go along."""
    parts = [pipeline.__version__, *arguments]
    parts += [f"{name}={hashlib.sha256(path.read_bytes()).hexdigest()}" for name, path in sorted(files.items())]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _bounded_client(address: str) -> Any:
    """Ray's client, whose requests would otherwise wait for ever."""
    import logging

    from ray.job_submission import JobSubmissionClient

    for name in ("ray", "ray.dashboard.modules.job.sdk", "ray.dashboard.modules.dashboard_sdk"):
        logging.getLogger(name).setLevel(logging.ERROR)  # they set their own when they are imported

    class BoundedClient(JobSubmissionClient):  # type: ignore[misc]  # untyped
        def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
            return super()._do_request(method, endpoint, **{"timeout": _TIMEOUT_S, **options})

    with _without_variables("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        return BoundedClient(address)


@contextlib.contextmanager
def _without_variables(*names: str) -> Iterator[None]:
    """Take these out of the environment meanwhile: Ray's client prefers them to the address that it is given."""
    taken = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(taken)


@contextlib.contextmanager
def _package(files: Mapping[str, Path], *, use_image: bool) -> Iterator[dict[str, Any]]:
    """The job's runtime environment: this package's code and `files`, copied together; none where the image has all.

    Ray names what is sent by its content, so that a second submission sends nothing.
    """
    if use_image and not files:
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="hdrfleet-submit-") as name:
        folder = Path(name)
        if not use_image:
            for package in _CODE:
                source = Path(pipeline.__file__).resolve().parents[1] / package
                shutil.copytree(source, folder / package, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        for relative, path in files.items():
            (folder / relative).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / relative)
        yield {"working_dir": name}


def _job(details: Any) -> SubmittedJob:
    metadata = details.metadata or {}
    return SubmittedJob(
        id=details.submission_id,
        src=metadata.get("hdrfleet_src", ""),
        dst=metadata.get("hdrfleet_dst", ""),
        status=str(getattr(details.status, "value", details.status)),
        started_at=details.start_time / 1000 if details.start_time else None,
        ended_at=details.end_time / 1000 if details.end_time else None,
        exit_code=details.driver_exit_code,
        message=details.message,
        command_sha256=metadata.get("hdrfleet_command_sha256", ""),
        version=metadata.get("hdrfleet_version", ""),
    )
