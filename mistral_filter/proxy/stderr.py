"""Log lines on standard error that never wait for their reader.

A pipe holds 64 KB. Where the reading process hangs, an ordinary write blocks, and with it the worker and all its requests.
Here a line that does not fit is dropped and counted, and the next line that fits is preceded by one that says how many.

The flag O_NONBLOCK belongs to an open file, which standard error shares with the parent process and the terminal, so it may
not be set there. On Linux a pipe is opened once more through ``/proc/self/fd``, which makes an open file of its own. Where that
fails (a socket, missing permission, another system) ``poll`` is asked first whether there is room. Lines have at most PIPE_BUF
bytes (4096): a pipe takes them whole or not at all. Regular files and terminals are written to as usual.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import select
import stat
import sys
from typing import Any

from mistral_filter.proxy.sockets import brief_lock

__all__ = ["MAX_LINE", "dropped_lines", "one_line", "stderr_handler"]

MAX_LINE = 4096
"""Bytes, with the newline: PIPE_BUF on Linux."""

_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")
_LONGEST = 16 * MAX_LINE
"""Characters of a text that are looked at."""
_LOCK_SECONDS = 1.0


def one_line(text: str, limit: int = MAX_LINE - 1) -> str:
    """*text* as at most *limit* characters of printable ASCII: everything else is escaped, so it stays one line."""
    if len(text) <= limit and text.isascii() and text.isprintable():
        return text
    line = _UNPRINTABLE.sub(_escaped, text[:_LONGEST])
    return line if len(line) <= limit else line[: limit - 3] + "..."


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


class _Writer:
    """Standard error, as it is at each moment: other code may replace it, close it or fork."""

    def __init__(self) -> None:
        self.dropped = 0
        """Lines, in the life of this process."""
        self.untold = 0
        """Those of them that no line has told of yet."""
        self.lock = brief_lock()
        self._own: int | None = None
        """The file descriptor of the open file of our own; None: there is none."""
        self._known: tuple[int, int] | None = None
        """Which file standard error was when that was looked for: device and inode."""

    def after_fork(self) -> None:
        """In the child: a thread of the parent may have held the lock, and the parent tells of its own lines."""
        self.lock = brief_lock()
        self.untold = 0

    def has_room(self) -> bool:
        """Whether standard error seems to take a line. In a pipe this means a whole free page."""
        try:
            return _has_room(sys.stderr.fileno())
        except (AttributeError, OSError, ValueError):
            return True

    def write(self, line: str) -> bool:
        """Writes *line*, which has no newline, unless that would block or fails; whether it was written."""
        stream = sys.stderr
        try:
            descriptor = stream.fileno()
        except (AttributeError, OSError, ValueError):  # no file: a test's or a host's own object, or None
            return _to_object(stream, line)
        data = line.encode("ascii", "backslashreplace") + b"\n"
        try:
            status = os.fstat(descriptor)
            place = descriptor
            if not (stat.S_ISREG(status.st_mode) or stat.S_ISCHR(status.st_mode)):
                own = self._opened(descriptor, status)
                if own is None and not _has_room(descriptor):
                    return False
                place = descriptor if own is None else own
            return os.write(place, data) == len(data)
        except OSError:  # no room, no reader, no space left
            return False

    def _opened(self, descriptor: int, status: os.stat_result) -> int | None:
        """Our own non-blocking open file of what *descriptor* is; None: there can be none."""
        identity = (status.st_dev, status.st_ino)
        still_ours = self._own is not None and _identity(self._own) == self._known
        if identity == self._known and (still_ours or self._own is None):
            return self._own
        if self._own is not None and still_ours:  # else other code has closed it, and may use the number
            os.close(self._own)
        self._own, self._known = None, identity
        if stat.S_ISFIFO(status.st_mode):
            with contextlib.suppress(OSError):
                self._own = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_APPEND | os.O_CLOEXEC)
        return self._own


def _identity(descriptor: int) -> tuple[int, int] | None:
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _has_room(descriptor: int) -> bool:
    # gevent's poll would let other requests run in the middle of a line
    monkey = sys.modules.get("gevent.monkey")
    poll: Any = monkey.get_original("select", "poll")() if monkey is not None else select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(0))


def _to_object(stream: Any, line: str) -> bool:
    try:
        stream.write(line + "\n")
        stream.flush()
    except Exception:  # whatever a host has put there
        return False
    return True


_writer = _Writer()
"""One for the process, so that lines of different handlers are counted together."""
os.register_at_fork(after_in_child=_writer.after_fork)


def dropped_lines() -> int:
    """How many lines this process, or the one it was forked from, could not write so far."""
    return _writer.dropped


class _StderrHandler(logging.Handler):
    """Formats a record, makes one line of it and writes it without blocking. It raises nothing and prints no traceback."""

    def handle(self, record: logging.LogRecord) -> bool:
        """Writes *record* if no filter is against it. The writer has a lock of its own, so the handler's is not taken."""
        wanted = self.filter(record) if self.filters else record
        if wanted:
            self.emit(wanted if isinstance(wanted, logging.LogRecord) else record)
        return bool(wanted)

    def emit(self, record: logging.LogRecord) -> None:
        """Writes *record*; before it, the number of lines that were dropped since the last one."""
        lock = _writer.lock
        # a signal's handler that interrupted a line waits for itself
        if not (lock.acquire(blocking=False) or lock.acquire(timeout=_LOCK_SECONDS)):
            _writer.dropped += 1
            _writer.untold += 1
            return
        try:
            # while the reader hangs, a line costs one system call and is not even formatted
            if _writer.untold and _writer.has_room() and _writer.write(self._line(_notice(_writer.untold))):
                _writer.untold = 0
            if _writer.untold or not _writer.write(self._line(record)):
                _writer.dropped += 1
                _writer.untold += 1
        finally:
            lock.release()

    def _line(self, record: logging.LogRecord) -> str:
        try:
            return one_line(self.format(record))
        except Exception as error:  # arguments that do not fit the message: the text is lost, its place is not
            return one_line(f"a line of {record.name} could not be formatted: {type(error).__name__}")


def _notice(count: int) -> logging.LogRecord:
    text = "%d log lines were dropped: standard error was not read"
    return logging.LogRecord("mistral_filter", logging.WARNING, __file__, 0, text, (count,), None)


def stderr_handler() -> logging.Handler:
    """A handler for any logger: lines on standard error that are dropped and counted rather than waited for.

    It follows ``sys.stderr`` when that is replaced or its file descriptor is made another file, and works after a fork. Set a
    formatter on it as on any other.
    """
    return _StderrHandler()
