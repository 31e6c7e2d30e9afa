"""A job server of Ray's, as far as hdrfleet speaks to one: it keeps what it is sent, and answers as it is told."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Mapping

from aiohttp import web

VERSION = json.dumps({"ray_version": "2.60.0"})


class Server:
    """Answers with a status and a text by path; below `/logs/tail` it says one word and then nothing."""

    def __init__(self, answers: Mapping[str, tuple[int, str]]) -> None:
        self.answers = dict(answers)
        self.asked: list[str] = []
        self.got: dict[str, bytes] = {}
        self.when_posted: dict[str, str] = {}
        # By path what the first POST is refused with, and what is answered elsewhere from then on.
        self.refusals: dict[str, tuple[int, str, dict[str, tuple[int, str]]]] = {}
        self.loop = asyncio.new_event_loop()
        self.url = ""
        self._is_up = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Server:
        self._thread.start()
        assert self._is_up.wait(30)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(30)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        if request.method in {"POST", "PUT"}:
            self.got[request.path] = await request.read()
        if request.method == "PUT":
            return web.Response()
        if request.path.endswith("/logs/tail"):
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            await socket.send_str("one word\n")
            await asyncio.sleep(3600)
        if request.method == "POST" and request.path in self.refusals:
            status, text, changed = self.refusals.pop(request.path)
            self.answers.update(changed)
            return web.Response(status=status, text=text)
        if request.method == "POST" and request.path in self.when_posted:
            return web.Response(text=self.when_posted[request.path])
        status, text = self.answers.get(request.path, (404, "nothing here"))
        return web.Response(status=status, text=text)

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        application = web.Application(client_max_size=2**30)
        application.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(application, shutdown_timeout=0.1)
        self.loop.run_until_complete(runner.setup())
        site = web.TCPSite(runner, "127.0.0.1", 0)
        self.loop.run_until_complete(site.start())
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self._is_up.set()
        self.loop.run_forever()
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.run_until_complete(runner.cleanup())
        self.loop.close()
