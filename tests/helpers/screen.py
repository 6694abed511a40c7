"""A terminal of the test's own: what is printed to it, as a person would see it on the screen."""

import contextlib
import fcntl
import os
import pty
import select
import struct
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator

import pyte


class Screen:
    """The screen of a pseudo-terminal, with all that has scrolled off its top."""

    def __init__(self, columns: int, rows: int) -> None:
        self.screen = pyte.HistoryScreen(columns, rows, history=100_000, ratio=0.001)
        self.stream = pyte.ByteStream(self.screen)
        self.parent, self.child = pty.openpty()
        fcntl.ioctl(self.child, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.lock, self.closed = threading.Lock(), threading.Event()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        while not self.closed.is_set():
            if select.select([self.parent], [], [], 0.02)[0]:
                with self.lock:
                    self.stream.feed(os.read(self.parent, 65536))

    def lines(self) -> list[str]:
        """Return all lines, those first that have scrolled off, without empty lines at the end."""
        with self.lock:
            width = self.screen.columns
            above = ["".join(line[i].data for i in range(width)).rstrip() for line in self.screen.history.top]
            shown = [line.rstrip() for line in self.screen.display]
        while shown and not shown[-1]:
            shown.pop()
        return above + shown

    def waits_for(self, seen: Callable[[list[str]], object], seconds: float = 60) -> list[str]:
        """Return the lines as soon as ``seen`` is true of them."""
        end = time.monotonic() + seconds
        while not seen(lines := self.lines()):
            assert time.monotonic() < end, "\n".join(lines)
            time.sleep(0.01)
        return lines

    def close(self) -> None:
        self.closed.set()
        self.reader.join()  # before another file gets the number of its descriptor
        os.close(self.parent)
        os.close(self.child)


@contextlib.contextmanager
def terminal(columns: int = 100, rows: int = 30) -> Iterator[Screen]:
    """Let this process, and those that it starts, print to a terminal of this size."""
    screen = Screen(columns, rows)
    streams, kept = (sys.stdout, sys.stderr), {descriptor: os.dup(descriptor) for descriptor in (1, 2)}
    with contextlib.ExitStack() as undo:
        undo.callback(screen.close)
        for descriptor, before in kept.items():
            os.dup2(screen.child, descriptor)
            undo.callback(os.close, before)
            undo.callback(os.dup2, before, descriptor)
        sys.stdout, sys.stderr = (open(each, "w", buffering=1, closefd=False) for each in kept)  # noqa: SIM115
        try:
            yield screen
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            sys.stdout, sys.stderr = streams
