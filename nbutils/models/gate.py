"""How many calls to a server may be in flight."""

import asyncio
import time

from nbutils.models.refusals import Trouble
from nbutils.models.texts import Generation


class Gate:
    """How many calls may be in flight: `most` at first, half of them after a 429, one more after as many answers.

    A burst of 429s to calls that were already in flight halves once. After stop() nobody waits, and nothing is sent.
    """

    def __init__(self, most: int):
        self.most = self.limit = most
        self.in_flight = self.answers = 0
        self.halved, self.stopped = 0.0, False
        self.changed = asyncio.Condition()

    async def __aenter__(self):
        async with self.changed:
            await self.changed.wait_for(lambda: self.in_flight < self.limit or self.stopped)
            self.in_flight += 1

    async def __aexit__(self, *_):
        async with self.changed:
            self.in_flight -= 1
            self.changed.notify_all()

    def heed(self, heard: Generation | Trouble, began: float) -> None:
        """Adapt to what was heard from a call that began at this monotonic time."""
        if isinstance(heard, Generation):
            self.answers += 1
            if self.answers >= self.limit:
                self.limit, self.answers = min(self.most, self.limit + 1), 0
        elif heard.status == 429 and began > self.halved:
            self.limit, self.answers, self.halved = max(1, self.limit // 2), 0, time.monotonic()

    async def pause(self, seconds: float) -> None:
        """Sleep, or less if stopped."""
        try:
            async with asyncio.timeout(seconds), self.changed:
                await self.changed.wait_for(lambda: self.stopped)
        except TimeoutError:
            pass

    async def stop(self) -> None:
        async with self.changed:
            self.stopped = True
            self.changed.notify_all()
