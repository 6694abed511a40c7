"""The terminal of a sweep. The live view alone writes to it, and passes on what anything else prints meanwhile."""

import os
import sys
import tempfile
import threading
from typing import IO

from rich.console import Console, ConsoleDimensions
from rich.text import Text

STDOUT, STDERR = 1, 2  # file descriptors


def on_terminal() -> bool:
    """Return whether standard output is a terminal that can move its cursor."""
    try:
        output = sys.stdout.fileno()
    except OSError:  # replaced by a stream without a descriptor, as in a notebook
        return False
    return output == STDOUT and os.isatty(STDOUT) and os.environ.get("TERM") not in (None, "dumb", "unknown")


class Terminal(Console):
    """A console on the terminal of standard output. It has the size that the terminal has now.

    While it is held, what this process, its libraries and the processes that they start print is kept in memory, if it
    would go to a terminal. So no warning of a worker is printed into the live view, and libraries find no terminal for
    progress bars of their own. ``pass_on`` prints what was kept.

    Attributes:
        held: by descriptor, a duplicate that leads to the terminal while the descriptor itself leads to memory.
        drawing: lock to hold while something is drawn; rich mixes up what two threads draw at once.
    """

    def __init__(self) -> None:
        terminal = open(os.dup(STDOUT), "w", encoding="utf-8", errors="replace")  # noqa: PTH123, SIM115 # closed below
        super().__init__(file=terminal, highlight=False, markup=False, emoji=False)
        self.held: dict[int, int] = {}
        self._kept = _file_in_memory()
        self._passed = 0
        self.drawing = threading.RLock()

    @property  # type: ignore[misc] # the one that it replaces has a setter
    def size(self) -> ConsoleDimensions:  # rich would look at this process's own streams
        """Width and height of the terminal in characters."""
        return ConsoleDimensions(*os.get_terminal_size(self.file.fileno()))

    def hold(self) -> None:
        """Begin to keep what is printed."""
        _flush()
        for descriptor in (STDOUT, STDERR):
            if os.isatty(descriptor):
                self.held[descriptor] = os.dup(descriptor)
                os.dup2(self._kept.fileno(), descriptor)

    def say(self, text: Text) -> None:
        """Print ``text`` above the live view, unwrapped, so that it can be copied."""
        with self.drawing:
            self.print(text, soft_wrap=True)

    def pass_on(self, *, unfinished: bool = False) -> None:
        """Print the lines that were kept since the last call; if ``unfinished``, also a line without its end."""
        with self.drawing:
            _flush()
            text = os.pread(self._kept.fileno(), os.fstat(self._kept.fileno()).st_size - self._passed, self._passed)
            whole = text if unfinished else text[: text.rfind(b"\n") + 1]
            self._passed += len(whole)
            if whole:
                # Colours stay. What moves the cursor does not, and of a bar drawn again and again the last is left.
                self.say(Text.from_ansi(whole.decode("utf-8", "replace").replace("\r\n", "\n").rstrip("\n")))

    def release(self) -> None:
        """Print the rest of what was kept, and let everything print to the terminal again."""
        self.pass_on(unfinished=True)
        for descriptor, terminal in self.held.items():
            os.dup2(terminal, descriptor)
            os.close(terminal)
        self.held.clear()
        self._kept.close()
        self.file.close()


def _file_in_memory() -> IO[bytes]:
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("metrad"), "w+b")
    return tempfile.TemporaryFile()  # macOS has no files in memory


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
