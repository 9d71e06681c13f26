"""Lines on standard error: a reader that hangs stops no worker, and the lines that are lost are counted."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import select
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from servers import ROOT

from mistral_filter.proxy.stderr import MAX_LINE, one_line, stderr_handler

SECONDS = 60
DROPPED = re.compile(r"WARNING (\d+) log lines were dropped: standard error was not read")

START = """
import logging, os, sys
from mistral_filter.proxy.logs import configure
from mistral_filter.proxy.stderr import dropped_lines
configure("INFO", "text")
log = logging.getLogger("mistral_filter")
def many(count):
    for number in range(count):
        log.warning("line %06d of a flood, as long as a line of the log is when a request is changed: %s", number, "x" * 60)
def say(word):
    os.write(1, word.encode() + b"\\n")
def wait():
    sys.stdin.readline()
"""


class Child:
    """A program whose standard error is *stderr*; it says words on its standard output and waits for a line of its input."""

    def __init__(self, code: str, stderr: int) -> None:
        command = [sys.executable, "-c", START + textwrap.dedent(code)]
        environ = {"PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, env=environ)

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def heard(self) -> str:
        """The next word, which has to come in time."""
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], SECONDS)[0], "it hangs"
        return self.process.stdout.readline().decode().strip()

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def end(self) -> None:
        assert self.process.wait(SECONDS) == 0


def drained(descriptor: int) -> str:
    """What lies in a pipe or socket; it does not wait for more."""
    read = b""
    while select.select([descriptor], [], [], 0.2)[0] and (piece := os.read(descriptor, 65536)):
        read += piece
    return read.decode()


FLOOD = """
many(20_000)
say("done")
wait()
log.warning("after")
say(str(dropped_lines()))
"""

GEVENT = """
from gevent import monkey
monkey.patch_all()
"""


def check_flood(code: str, reading: int, writing: int) -> None:
    with Child(code, writing) as child:
        assert child.heard() == "done"
        first = drained(reading)
        child.go_on()
        dropped = int(child.heard())
        child.end()
    notice, after = drained(reading).splitlines()
    written = first.splitlines()
    assert [int(line.split(" line ")[1][:6]) for line in written] == list(range(len(written)))
    found = DROPPED.search(notice)
    assert found is not None
    assert (int(found[1]), after.split(" ", 1)[1]) == (dropped, "WARNING after")
    assert len(written) + dropped == 20_000
    assert written
    assert dropped > 10_000


@pytest.mark.parametrize("before", ["", GEVENT], ids=["plain", "gevent"])
def test_a_pipe_that_nobody_reads_costs_lines_and_nothing_else(before: str) -> None:
    """20,000 lines do not block; those written are whole; when there is room again the next line says how many are missing."""
    reading, writing = os.pipe()
    try:
        flags = fcntl.fcntl(writing, fcntl.F_GETFL)
        check_flood(before + FLOOD, reading, writing)
        assert fcntl.fcntl(writing, fcntl.F_GETFL) == flags, "the open file is shared: its flags are not ours"
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize("before", ["", GEVENT], ids=["plain", "gevent"])
def test_a_socket_that_nobody_reads_costs_lines_too(before: str) -> None:
    """Where standard error cannot be opened once more, as under systemd, it is asked for room."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        check_flood(before + FLOOD, ours.fileno(), theirs.fileno())


def test_a_pipe_that_cannot_be_opened_again_costs_lines_too() -> None:
    """Without permission for /proc/self/fd, poll tells whether there is room."""
    refuse = """
    real = os.open
    def refuse(path, *args, **options):
        if str(path).startswith("/proc/self/fd/"):
            raise PermissionError
        return real(path, *args, **options)
    os.open = refuse
    """
    reading, writing = os.pipe()
    try:
        check_flood(textwrap.dedent(refuse) + FLOOD, reading, writing)
    finally:
        os.close(reading)
        os.close(writing)


def test_a_reader_that_is_gone_stops_nothing() -> None:
    """A pipe without a reader takes no line and raises nothing."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        with Child("many(10)\nsay(str(dropped_lines()))", writing) as child:
            assert child.heard() == "10"
            child.end()
    finally:
        os.close(writing)


def test_another_file_in_its_place_is_followed(tmp_path: Path) -> None:
    """After dup2, as gunicorn does it, and after sys.stderr is replaced, lines go to the new place, and none to the old one."""
    code = """
    log.warning("one")
    read, write = os.pipe()
    os.dup2(write, 2)
    log.warning("two")
    os.dup2(os.open("/dev/null", os.O_WRONLY), 2)
    log.warning("three")
    import io
    sys.stderr = io.StringIO()
    log.warning("four")
    say(os.read(read, 9999).decode().split()[-1])
    say(sys.stderr.getvalue().split()[-1])
    sys.stderr = None
    log.warning("five")
    say(str(dropped_lines()))
    """
    target = tmp_path / "stderr"
    with target.open("wb") as stderr, Child(code, stderr.fileno()) as child:
        assert [child.heard(), child.heard(), child.heard()] == ["two", "four", "1"]
        child.end()
    assert target.read_text().split()[-1] == "one"


def test_a_descriptor_that_other_code_took_over_is_not_written_to(tmp_path: Path) -> None:
    """A daemon closes every descriptor: where its number is then that of another file, no log line gets into it."""
    code = f"""
    log.warning("one")
    os.closerange(3, 100)
    files = [os.open({str(tmp_path / "data")!r}, os.O_CREAT | os.O_WRONLY) for _ in range(20)]
    log.warning("two")
    os.dup2(os.open("/dev/null", os.O_WRONLY), 2)
    log.warning("three")
    for file in files:
        os.fstat(file)
    say("done")
    """
    reading, writing = os.pipe()
    try:
        with Child(code, writing) as child:
            assert child.heard() == "done"
            child.end()
        assert [line.split()[-1] for line in drained(reading).splitlines()] == ["one", "two"]
    finally:
        os.close(reading)
        os.close(writing)
    assert (tmp_path / "data").read_bytes() == b""


def test_it_works_after_a_fork() -> None:
    """Parent and children write to one pipe, each line whole; a child does not tell of its parent's lost lines."""
    code = """
    many(1000)
    say("full")
    wait()
    children = []
    for number in range(4):
        child = os.fork()
        if not child:
            for _ in range(50):
                log.warning("child %d", number)
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    log.warning("parent")
    say("done")
    """
    reading, writing = os.pipe()
    try:
        with Child(code, writing) as child:
            assert child.heard() == "full"
            drained(reading)
            child.go_on()
            assert child.heard() == "done"
            child.end()
        lines = [line.split("WARNING ")[1] for line in drained(reading).splitlines()]
    finally:
        os.close(reading)
        os.close(writing)
    assert sorted(lines[:-2]) == sorted(f"child {number}" for number in range(4) for _ in range(50))
    assert "lines were dropped" in lines[-2]
    assert lines[-1] == "parent"


def test_a_file_gets_every_line(tmp_path: Path) -> None:
    """A regular file is written to as usual, behind what others have written to it."""
    target = tmp_path / "stderr"
    with (
        target.open("wb") as stderr,
        Child("os.write(2, b'first\\n')\nmany(5000)\nsay(str(dropped_lines()))", stderr.fileno()) as child,
    ):
        assert child.heard() == "0"
        child.end()
    assert len(target.read_text().splitlines()) == 5001


def test_pytest_sees_the_lines(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    """Tests of a host read lines as those of any handler: they are looked for where standard error is at that moment."""
    logger, handler = logging.getLogger("a_test_of_stderr"), stderr_handler()
    logger.addHandler(handler)
    try:
        logger.error("seen %d", 1)
    finally:
        logger.removeHandler(handler)
    assert capfd.readouterr().err == "seen 1\n"
    assert caplog.messages == ["seen 1"]


def test_a_text_becomes_one_line() -> None:
    """Everything but printable ASCII is escaped, and a long text is cut where the line would not fit into a pipe at once."""
    assert one_line("a\nb\u2028c\x85d\te\x00f\ud800g\u00e9h\U0001f600") == (
        "a\\nb\\u2028c\\x85d\\te\\x00f\\ud800g\\xe9h\\U0001f600"
    )
    assert one_line("plain text") == "plain text"
    assert len(one_line("\n" * 10_000_000)) == MAX_LINE - 1
    assert one_line("x" * 5000, 10) == "xxxxxxx..."


def test_a_record_that_cannot_be_formatted_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    """A mistake in a log call is one line, without the arguments, and no traceback."""
    record = logging.LogRecord("mistral_filter", logging.WARNING, __file__, 1, "%d lines", ("a prompt",), None)
    stderr_handler().handle(record)
    assert capfd.readouterr().err == "a line of mistral_filter could not be formatted: TypeError\n"
