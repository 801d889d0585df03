"""A make-believe CUDA device: it works behind the program's back, in simulated time, and copies late.

`FakeTorch` stands where a module has imported torch. What is enqueued on a stream happens when somebody waits for it;
until then a copy has not read its source, so that a buffer filled again too early shows up as wrong ids.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch


class Clock:
    """Simulated seconds: `monotonic` stands where time.monotonic stood."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        self.now += 1e-6
        return self.now


class Stream:
    """A queue of work: what is not done yet, and when all of it will be."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.waiting: list[tuple[float, Callable[[], None]]] = []
        self.end = 0.0

    def enqueue(self, seconds: float, work: Callable[[], None], not_before: float = 0.0) -> None:
        self.end = max(self.end, self.clock.now, not_before) + seconds
        self.waiting.append((self.end, work))

    def run_until(self, end: float) -> None:
        while self.waiting and self.waiting[0][0] <= end:
            self.waiting.pop(0)[1]()

    def wait_event(self, event: Event) -> None:
        stream, end = event.stream, event.end
        if stream is not None:
            self.enqueue(0.0, lambda: stream.run_until(end), not_before=end)


class Event:
    def __init__(self) -> None:
        self.stream: Stream | None = None
        self.end = 0.0

    def record(self, stream: Stream) -> None:
        self.stream, self.end = stream, stream.end

    def synchronize(self) -> None:
        if self.stream is not None:
            self.stream.clock.now = max(self.stream.clock.now, self.end)
            self.stream.run_until(self.end)


class DeviceIds:
    """A tensor on the device. Its memory belongs to the stream that made it until it is recorded on another."""

    def __init__(self, ids: torch.Tensor) -> None:
        self.ids = ids
        self.recorded: list[Stream] = []

    def record_stream(self, stream: Stream) -> None:
        self.recorded.append(stream)

    def __getitem__(self, place: Any) -> torch.Tensor:
        assert self.recorded, "memory of the copying stream is used by another without a word to the allocator"
        return self.ids[place]


class Pinned:
    def __init__(self, gpu: FakeTorch, shape: tuple[int, ...]) -> None:
        self.gpu, self.host = gpu, torch.zeros(shape, dtype=torch.int64)

    def numpy(self) -> Any:
        return self.host.numpy()

    def to(self, device: torch.device, non_blocking: bool) -> DeviceIds:
        assert device.type == "cuda" and non_blocking
        sent = DeviceIds(torch.full_like(self.host, -1))
        self.gpu.current.enqueue(self.gpu.copy_seconds, lambda: sent.ids.copy_(self.host))
        return sent


class FakeTorch:
    """The names of torch that the data path uses, and `cuda` among them."""

    int64 = torch.int64
    Tensor = torch.Tensor
    from_numpy = staticmethod(torch.from_numpy)

    def __init__(self, copy_seconds: float = 1e-4) -> None:
        self.clock = Clock()
        self.copy_seconds = copy_seconds
        self.computing = self.current = Stream(self.clock)
        self.streams = [self.computing]
        self.cuda = self
        self.pinned = 0

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype, pin_memory: bool) -> Pinned:
        assert pin_memory
        self.pinned += 1
        return Pinned(self, shape)

    def Stream(self, device: torch.device) -> Stream:
        self.streams.append(Stream(self.clock))
        return self.streams[-1]

    def Event(self, blocking: bool) -> Event:
        return Event()

    def current_stream(self, device: torch.device) -> Stream:
        return self.current

    @contextlib.contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before

    def synchronize(self) -> None:
        for stream in self.streams:
            self.clock.now = max(self.clock.now, stream.end)
            stream.run_until(stream.end)
