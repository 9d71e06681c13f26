"""The shipped files as the platforms use them, and faults that a person meets on a platform."""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from servers import Gunicorn, alive, ask, eventually, free_port
from upstream import ScriptedUpstream, chain, head_bytes, json_answer, raw, sse, stall

ROOT = Path(__file__).parent.parent
CHAT = "/v1/chat/completions"
KEY = [("Authorization", "Bearer k")]
BODY = {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": True}


def test_the_procfile_boots_as_heroku_boots_it(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    """K4: the Procfile's own command with Heroku's variables serves, on the port given, with the workers given."""
    command = (ROOT / "Procfile").read_text().removeprefix("web: ").strip()
    assert command == "gunicorn app:app"
    port = free_port()
    variables = {
        "PATH": os.environ["PATH"],
        "PORT": str(port),
        "WEB_CONCURRENCY": "3",
        "FORWARDED_ALLOW_IPS": "*",
        "DYNO": "web.1",
        "MISTRAL_FILTER_UPSTREAM": upstream.url,
    }
    with (tmp_path / "log").open("wb") as log:
        words = [sys.executable, "-m", *shlex.split(command)]
        process = subprocess.Popen(words, cwd=ROOT, env=variables, stdout=log, stderr=log, start_new_session=True)
    try:

        def serves() -> bool:
            try:
                return ask(port, "GET", "/health").status == 200
            except OSError:
                return False

        eventually(serves, "the server")
        upstream.script = json_answer({"id": "1"})
        answer = ask(
            port, "POST", CHAT, {**BODY, "logit_bias": {}}, [*KEY, ("X-Forwarded-For", "10.0.0.1"), ("SCRIPT_NAME", "/v1")]
        )
        assert (answer.status, "logit_bias" in upstream.requests[0].json()) == (200, False)
        eventually(lambda: (tmp_path / "log").read_text().count("Booting worker") == 3, "the workers")
    finally:
        process.terminate()
        process.wait(30)
    assert not alive(process.pid)


TEMPLATES = ("app.json", "render.yaml", "Dockerfile", "compose.yaml", "deploy/mistral-filter.service", "deploy/nginx.conf")


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_platform_files_name_what_is_there(template: str) -> None:
    """The templates name only settings that exist, and all but nginx's set the list, visibly, with what the other leaves out."""
    from mistral_filter.proxy.settings import SETTINGS

    text = (ROOT / template).read_text("utf-8")
    assert set(re.findall(r"MISTRAL_FILTER_\w+", text)) <= {setting.variable for setting in SETTINGS}
    if template != "deploy/nginx.conf":
        assert re.search(r"MISTRAL_FILTER_FIELDS\W+(value\W+|description.*\n\W*value\W+)?current", text)
        assert "thirteen" in text


def test_the_platforms_start_what_the_procfile_starts() -> None:
    """Render starts the Procfile's command and asks for a path that answers; both platforms get a supported Python."""
    render = (ROOT / "render.yaml").read_text()
    assert "startCommand: gunicorn app:app" in render
    assert "healthCheckPath: /health" in render
    assert re.fullmatch(r"3\.\d+\n", (ROOT / ".python-version").read_text())
    json.loads((ROOT / "app.json").read_text())


def test_the_image_runs_without_rights() -> None:
    """The Dockerfile leaves root, asks for /health and starts the command; the image gets no file but what it needs."""
    text = (ROOT / "Dockerfile").read_text()
    assert re.search(r"^USER (?!root|0)", text, re.MULTILINE)
    assert "/health" in text
    assert 'CMD ["python", "-m", "mistral_filter", "serve", "--host", "0.0.0.0"]' in text
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE)
    assert sorted(kept) == sorted(" ".join(copied).split())
    assert all((ROOT / name).exists() for name in kept)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed (apt-get install systemd)")
def test_systemd_understands_the_service(tmp_path: Path) -> None:
    """systemd-analyze has nothing to say but that the program is not there."""
    unit = tmp_path / "mistral-filter.service"
    unit.write_text(
        (ROOT / "deploy" / "mistral-filter.service").read_text().replace("/opt/mistral-filter/bin/mistral-filter", sys.executable)
    )
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_sees_that_a_stream_was_cut(gunicorn_server, upstream: ScriptedUpstream) -> None:
    """K3: curl prints what came, the error event after it, and exits with its code for an incomplete body."""
    server = gunicorn_server()
    upstream.script = sse([{"n": 1}, {"n": 2}], cut_at=len('data: {"n": 1}\n\n'))
    words = ["curl", "-sN", f"{server.url}{CHAT}", "-H", "Authorization: Bearer k", "-d", json.dumps(BODY)]
    done = subprocess.run(words, capture_output=True, timeout=20, check=False)
    assert done.returncode == 18, "CURLE_PARTIAL_FILE"
    assert done.stdout.startswith(b'data: {"n": 1}\n\ndata: {"error":')


def test_a_page_with_status_200_is_passed_on(gunicorn_server, upstream: ScriptedUpstream) -> None:
    """F17: a challenge page of a CDN keeps its status, type and bytes."""
    page = b"<html>Just a moment...</html>"
    upstream.script = raw(head_bytes(200, [("Content-Type", "text/html"), ("Content-Length", str(len(page)))]) + page)
    answer = ask(gunicorn_server().port, "POST", CHAT, BODY, KEY)
    assert (answer.status, answer.header("Content-Type"), answer.body) == (200, "text/html", page)


def test_an_answer_ends_when_it_is_complete(gunicorn_server, upstream: ScriptedUpstream) -> None:
    """F10: an upstream that keeps the connection open after its last byte does not hold the answer up."""
    upstream.script = chain(json_answer({"id": "1"}), stall(30))
    assert ask(gunicorn_server().port, "POST", CHAT, BODY, KEY).json() == {"id": "1"}
    upstream.drop()


def test_a_dripping_upstream_is_waited_for(gunicorn_server, upstream: ScriptedUpstream) -> None:
    """F9: 500 bytes at a time with pauses is slow, not broken."""
    text = "x" * 6000
    whole = json.dumps({"text": text}).encode()
    head = head_bytes(200, [("Content-Type", "application/json"), ("Content-Length", str(len(whole)))])
    upstream.script = raw(head + whole, size=500, gap=0.02)
    assert ask(gunicorn_server().port, "POST", CHAT, BODY, KEY).json() == {"text": text}


def resident(pid: int) -> int:
    """Kilobytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1])


def test_a_large_answer_to_a_slow_client_is_not_held(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    """F15: of 50 MB that a client takes slowly only a little is in memory at any time."""
    piece = b"x" * 1_000_000

    def fifty(exchange) -> None:
        exchange.send(head_bytes(200, [("Content-Type", "application/octet-stream"), ("Content-Length", str(50 * len(piece)))]))
        for _ in range(50):
            exchange.send(piece)

    upstream.script = fifty
    with Gunicorn(tmp_path, "-w", "1", MISTRAL_FILTER_UPSTREAM=upstream.url) as server:
        worker = server.workers()[0]
        before = resident(worker)
        from servers import Answer, build_request, connect

        with connect(server.port) as sock:
            sock.sendall(build_request("GET", "/v1/files/1/content", None, KEY))
            answer, size = Answer(sock), 0
            for count, (_, data) in enumerate(answer.pieces()):
                size += len(data)
                if count % 100 == 0:
                    time.sleep(0.01)
        assert (size, answer.complete) == (50 * len(piece), True)
        assert resident(worker) - before < 20_000


def test_a_vision_request_is_held_but_a_few_times(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    """A18: 20 MB of picture pass, and cost no more than four times their size."""
    url = "data:image/png;base64," + "A" * 20_000_000
    body = {
        "model": "m",
        "user": "u",
        "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}],
    }
    upstream.script = json_answer({"id": "1"})
    with Gunicorn(tmp_path, "-w", "1", MISTRAL_FILTER_UPSTREAM=upstream.url) as server:
        worker = server.workers()[0]
        before = resident(worker)
        assert ask(server.port, "POST", CHAT, body, KEY).status == 200
        assert len(upstream.requests[0].body) > 20_000_000
        assert (resident(worker) - before) * 1024 <= 4 * 20_000_000


def test_it_serves_on_the_sync_worker_too(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    """H12: one at a time, but right: an answer, a stream, a refusal."""
    with Gunicorn(tmp_path, "-k", "sync", "-w", "1", MISTRAL_FILTER_UPSTREAM=upstream.url) as server:
        upstream.script = json_answer({"id": "1"})
        assert ask(server.port, "POST", CHAT, BODY, KEY).json() == {"id": "1"}
        upstream.script = sse([{"n": 1}, "[DONE]"])
        streamed = ask(server.port, "POST", CHAT, BODY, KEY)
        assert (streamed.body, streamed.complete) == (b'data: {"n": 1}\n\ndata: [DONE]\n\n', True)
        assert ask(server.port, "POST", CHAT, b"[", KEY).status == 400


@pytest.fixture
def conf(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """gunicorn.conf.py as gunicorn reads it, with these variables."""
    from gunicorn import util

    def read(**variables: str) -> dict[str, Any]:
        monkeypatch.setattr(util, "write_error", util.write_error)  # the file replaces it
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return runpy.run_path(str(ROOT / "gunicorn.conf.py"))

    return read


def test_empty_variables_of_the_platform_are_not_set(conf: Callable[..., dict[str, Any]]) -> None:
    """As our own: the defaults stand."""
    read = conf(PORT="", WEB_CONCURRENCY="")
    assert (read["bind"], read["workers"]) == ("0.0.0.0:8000", 2)


def test_a_path_outside_of_the_mount_is_the_clients_mistake(conf: Callable[..., dict[str, Any]]) -> None:
    """With gunicorn's own SCRIPT_NAME a path that is not below it is refused as a bad request, not a failure of the server's."""
    from gunicorn.http.errors import InvalidRequestLine

    def request(path: str) -> Any:
        return SimpleNamespace(headers=[("HOST", "x")], version=(1, 1), uri=path, path=path, force_close=lambda: None)

    check = conf(SCRIPT_NAME="/ai")["pre_request"]
    check(None, request("/ai/v1/models"))
    with pytest.raises(InvalidRequestLine):
        check(None, request("/v1/models"))


def test_gunicorns_log_does_not_quote_exceptions(conf: Callable[..., dict[str, Any]], capfd: pytest.CaptureFixture[str]) -> None:
    """What went wrong and where, without the text, which may hold what somebody sent."""
    from gunicorn.config import Config

    log = conf()["Logger"](Config())
    for message, args in (("Error handling request %s", ("/?key=canary",)), ("Socket error in %s", ("x",))):
        try:
            int("canary")
        except ValueError:
            log.exception(message, *args)
    written = capfd.readouterr().err
    assert "canary" not in written
    place = "(ValueError in test_gunicorns_log_does_not_quote_exceptions:"
    assert written.count(place) == 2
    assert "Error handling request (" in written
    assert "Socket error in x (" in written


def test_the_proxy_starts_from_its_folder_alone(tmp_path: Path) -> None:
    """As platforms start it: the ``gunicorn`` command in a copy of the folder, which nothing has installed."""
    copy = tmp_path / "copy"
    shutil.copytree(ROOT / "mistral_filter", copy / "mistral_filter")
    for name in ("app.py", "gunicorn.conf.py"):
        shutil.copy(ROOT / name, copy)
    package = copy / "mistral_filter" / "__init__.py"
    package.write_text(re.sub(r'__version__ = ".*"', '__version__ = "0.0.0"', package.read_text("utf-8")), "utf-8")
    port = free_port()
    command = [Path(sys.executable).parent / "gunicorn", "app:app", "-b", f"127.0.0.1:{port}"]
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "WEB_CONCURRENCY": "1"}
    process = subprocess.Popen(command, cwd=copy, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:

        def version() -> str | None:
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            with suppress(OSError):
                return str(ask(port, "GET", "/v1").json()["version"])
            return None

        assert eventually(version, "the server", 30) == "0.0.0"
    finally:
        process.terminate()
        process.communicate(timeout=30)
