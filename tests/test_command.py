"""The command ``mistral-filter``, as a program: ``explain``, ``serve`` and ``check``."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import ExitStack, suppress
from email.parser import Parser
from pathlib import Path

import pytest
from click.testing import CliRunner
from servers import Serve, ask, eventually, free_port
from test_explain import BAD, GOOD, as_json
from upstream import ScriptedUpstream, chain, json_answer, raw, stall

from mistral_filter import __version__
from mistral_filter.command import mistral_filter
from mistral_filter.proxy.settings import SETTINGS

ROOT = Path(__file__).resolve().parent.parent


# -------------------------------------------------------------------------------------------------------------- explain


def run(body: bytes, *arguments: str) -> tuple[int, str, str]:
    """Exit status, stdout and stderr."""
    ended = subprocess.run(
        [sys.executable, "-m", "mistral_filter", "explain", *arguments], cwd=ROOT, input=body, capture_output=True, timeout=60
    )
    return ended.returncode, ended.stdout.decode("utf-8"), ended.stderr.decode("utf-8")


def test_a_clean_body_is_status_0() -> None:
    """Nothing to change: one sentence, status 0."""
    status, out, err = run(GOOD)
    assert (status, err) == (0, "")
    assert out.count("\n") == 1
    assert out.startswith("Nothing to change")


def test_a_changed_body_is_status_1() -> None:
    """A line for each change with its cost and reason, then both bodies line by line; status 1."""
    status, out, err = run(BAD)
    assert (status, err) == (1, "")
    lines = out.splitlines()
    assert [line.split()[:4] for line in lines[:1]] == [["rename", "seed", "->", "random_seed"]]
    assert lines[1].split()[:3] == ["drop", "logit_bias", "lost"]
    assert lines[2:5] == ["", "--- your body", "+++ what Mistral gets"]
    assert [line for line in lines[5:] if line.startswith("+")] == ['+  "random_seed": 1']
    assert "\x1b" not in out  # no colour where nobody sees it


def test_names_of_models_are_resolved_as_in_the_setting() -> None:
    """The option takes what MISTRAL_FILTER_MODELS takes; one that cannot be used is refused with the reason."""
    status, out, _ = run(b'{"model":"gpt-4o"}', "--models", "gpt-*=mistral-small-latest gpt-4o=mistral-large-latest")
    assert status == 1
    assert out.splitlines()[0].split()[:5] == ["set", "model", "->", "mistral-large-latest", "none"]
    status, out, err = run(GOOD, "--models", "gpt-4o")
    assert (status, out) == (2, "")
    assert "--models" in err
    assert "write NAME=MODEL" in err


@pytest.mark.parametrize("body", [b"{", b"", b"[]", b"\xff"])
def test_a_refused_body_is_status_2(body: bytes) -> None:
    """Refused: the status and the sentence of the error; status 2."""
    status, out, err = run(body)
    assert (status, err) == (2, "")
    assert out.startswith("refused (400): ")
    assert out.count("\n") == 1


def test_invalid_json_has_a_line_and_a_column() -> None:
    """Where the body breaks is said as an editor says it."""
    assert run(b'{"model": "m",\n "messages": [,]}')[1].endswith(" Line 2, column 15.\n")


def test_a_long_line_is_cut() -> None:
    """An image beside a change is not written to the terminal; ``--json`` has it."""
    body = json.dumps({"model": "m", "user": "u", "prompt": "A" * 3000}).encode()
    out = run(body, "--endpoint", "fim")[1]
    assert [line for line in out.splitlines() if len(line) > 600] == []
    assert f"{'A' * 100}… (" in out
    assert "A" * 3000 in run(body, "--endpoint", "fim", "--json")[1]


def test_json_for_programs() -> None:
    """``--json`` writes the explanation as the view answers it, with the same exit statuses."""
    for body, expected in ((GOOD, 0), (BAD, 1), (b"{", 2)):
        status, out, _ = run(body, "--json")
        assert status == expected
        assert json.loads(out) == as_json(body)


def test_the_options_of_the_filter() -> None:
    """Endpoint, list, strict mode and translation can be chosen."""
    assert run(b'{"model":"m","n":2}', "--fields", "current")[0] == 0
    assert run(b'{"model":"m","n":2}')[0] == 1
    assert run(BAD, "--strict")[0] == 2
    assert "random_seed" not in run(BAD, "--no-translate")[1]
    assert run(b'{"model":"m","prompt":"p"}', "--endpoint", "fim")[0] == 0
    assert run(b'{"model":"m","input":[1]}', "--endpoint", "embeddings")[0] == 2


def test_a_wrong_argument_is_explained() -> None:
    """An endpoint that there is not is an error of usage, on stderr, and no traceback."""
    status, out, err = run(GOOD, "--endpoint", "nowhere")
    assert (status, out) == (2, "")
    assert "Usage:" in err
    assert "Traceback" not in err


CONTROL = json.dumps({"model": "m", "\x1b[31mred\x07\r\n\x9b2J\x7f": 1, "\u202egnp.exe": 2}).encode()


@pytest.mark.parametrize(
    "body",
    [
        CONTROL,
        json.dumps(json.loads(CONTROL), ensure_ascii=False).encode(),
    ],
)
@pytest.mark.parametrize("arguments", [(), ("--strict",)])
def test_control_characters_do_not_reach_the_terminal(body: bytes, arguments: tuple[str, ...]) -> None:
    """A name that holds escape sequences or line breaks is shown escaped: a body cannot write to a terminal."""
    status, out, err = run(body, *arguments)
    assert status == (2 if arguments else 1)
    assert [character for character in out + err if not character.isprintable() and character != "\n"] == []
    assert "red" in out


def test_control_characters_in_the_body_do_not_reach_the_terminal() -> None:
    """Neither do those that JSON allows unescaped inside a string that stays (C1 controls, DEL, direction marks)."""
    body = '{"model":"\x9b31m\x7f\u202e","user":1}'.encode()
    status, out, _ = run(body)
    assert status == 1
    assert [character for character in out if not character.isprintable() and character != "\n"] == []


def test_a_name_with_odd_characters_needs_no_special_terminal() -> None:
    """Under a locale that is not UTF-8 the program does not end in a traceback."""
    ended = subprocess.run(
        [sys.executable, "-X", "utf8=0", "-m", "mistral_filter", "explain"],
        cwd=ROOT,
        input='{"é😀":1}'.encode(),
        capture_output=True,
        env={"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"},
        timeout=60,
    )
    assert (ended.returncode, ended.stderr) == (1, b"")


def test_colours_on_a_terminal() -> None:
    """On a terminal the cost of each change and the lines of the diff have colours, unless NO_COLOR is set (no-color.org)."""
    shown = on_a_terminal(TERM="xterm")
    assert "\x1b[31mlost" in shown
    assert '\x1b[32m+  "random_seed": 1' in shown
    assert "\x1b[31mlost" in on_a_terminal(NO_COLOR="")
    assert "\x1b" not in on_a_terminal(NO_COLOR="yes")


def on_a_terminal(**environ: str) -> str:
    """What ``explain`` shows on one, of a body from a pipe."""
    leader, follower = os.openpty()
    try:
        words = [sys.executable, "-m", "mistral_filter", "explain"]
        subprocess.run(words, cwd=ROOT, input=BAD, stdout=follower, timeout=60, check=False, env=environ)
        return os.read(leader, 65536).decode()
    finally:
        os.close(leader)
        os.close(follower)


def test_a_body_from_a_terminal_is_asked_for() -> None:
    """A command that waits for a body that is to be typed says so, apart from its output."""
    leader, follower = os.openpty()
    try:
        os.write(leader, b'{"model":"m","user":"u"}\n\x04')
        words = [sys.executable, "-m", "mistral_filter", "explain"]
        done = subprocess.run(words, cwd=ROOT, stdin=follower, capture_output=True, timeout=60, check=False)
    finally:
        os.close(leader)
        os.close(follower)
    assert done.stderr == b"Paste a request body, then press Enter and Ctrl-D.\n"
    assert done.stdout.startswith(b"drop  user")


def test_a_file_is_read(tmp_path: Path) -> None:
    """A name in place of standard input; one that is not there is an error of usage."""
    (tmp_path / "body.json").write_bytes(BAD)
    assert run(b"", str(tmp_path / "body.json"))[0] == 1
    status, out, err = run(b"", str(tmp_path / "none.json"))
    assert (status, out) == (2, "")
    assert "none.json" in err


# -------------------------------------------------------------------------------------------------------------------- serve


def test_serve_is_the_proxy_as_shipped(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    """The command serves with gunicorn's settings of the project, its own worker and the options given."""
    upstream.script = json_answer({"id": "1"})
    body = {"model": "m", "messages": [], "presence_penalty": 1, "user": "u"}
    options = ("--workers", "1", "--fields", "current")
    with Serve(tmp_path, *options, MISTRAL_FILTER_UPSTREAM=upstream.url, MISTRAL_FILTER_FEILDS="x") as server:
        answer = ask(server.port, "POST", "/v1/chat/completions", body, [("Authorization", "Bearer k")])
        assert answer.json() == {"id": "1"}
        assert upstream.requests[0].json() == {"model": "m", "messages": [], "presence_penalty": 1}
        said = server.log()
    assert f"The page: http://127.0.0.1:{server.port}/" in said
    assert "Using worker: mistral_filter.proxy.gunicorn.Worker" in said
    assert said.count("did you mean MISTRAL_FILTER_FIELDS?") == 1
    assert said.count("Booting worker") == 1
    assert "Warning" not in said


def test_serve_with_the_stand_in(tmp_path: Path) -> None:
    """``--sandbox`` answers below /sandbox/v1 without an account, and ends with the server."""
    with Serve(tmp_path, "--sandbox", "--workers", "1") as server:
        body = {"model": "mistral-small-latest", "messages": [{"role": "user", "content": "hello"}], "user": "u"}
        answer = ask(server.port, "POST", "/sandbox/v1/chat/completions", body, [("Authorization", "Bearer k")])
        assert answer.status == 200
        assert answer.header("Mistral-Filter-Changes") is not None
    # Server fails where a process of the session is left


def test_the_stand_in_takes_the_tokens_of_a_server_that_holds_a_key(tmp_path: Path) -> None:
    """Where callers send tokens they do so for the stand-in too, and the held key does not go there."""
    held = {"MISTRAL_FILTER_API_KEY": "canary-held-key", "MISTRAL_FILTER_TOKENS": "canary-token"}
    with Serve(tmp_path, "--sandbox", "--workers", "1", MISTRAL_FILTER_CORS_ORIGINS="none", **held) as server:
        for token, status in (("canary-token", 200), ("another-token", 401)):
            answer = ask(server.port, "GET", "/sandbox/v1/models", None, [("Authorization", f"Bearer {token}")])
            assert answer.status == status
        said = server.log()
    assert "/sandbox/v1 (your tokens)\n" in said
    assert "canary" not in said


def test_ctrl_c_ends_quietly(tmp_path: Path) -> None:
    """Ctrl-C reaches the command and its workers at once; all end, and nothing is printed but gunicorn's own lines."""
    with Serve(tmp_path, "--workers", "1") as server:
        os.killpg(server.pid, signal.SIGINT)
        server.process.wait(30)
        assert "Traceback" not in server.log()
        assert "Shutting down: Master" in server.log()


def ended(*arguments: str, **settings: str) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of the command."""
    environ = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **settings}
    words = [sys.executable, "-m", "mistral_filter", *arguments]
    done = subprocess.run(words, cwd=ROOT, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


def test_a_port_in_use_is_one_sentence() -> None:
    """The sentence names the option that helps."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        status, out, err = ended("serve", "--port", str(port))
    assert (status, out) == (1, "")
    assert err == f"Error: Port {port} is in use: choose another, such as --port {port + 1} (make run PORT={port + 1}).\n"


def test_the_highest_port_in_use_suggests_one_that_exists() -> None:
    """There is no port 65536."""
    with ExitStack() as stack:
        with suppress(OSError):  # it may be in use already
            stack.enter_context(socket.create_server(("127.0.0.1", 65535)))
        assert "such as --port 8000 (make run PORT=8000)." in ended("serve", "--port", "65535")[2]


def group_is_gone(group: int) -> bool:
    """Whether no process of this process group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("arguments", [("--sandbox",), ()])
def test_a_closed_terminal_ends_the_server(arguments: tuple[str, ...]) -> None:
    """SIGHUP, a reload for gunicorn, is the end of the terminal that the server was started on."""
    leader, follower = os.openpty()
    words = [sys.executable, "-m", "mistral_filter", "serve", "--workers", "1", "--port", str(port := free_port()), *arguments]
    process = subprocess.Popen(words, cwd=ROOT, stdin=follower, stdout=follower, stderr=follower, start_new_session=True)
    os.close(follower)

    def serves() -> bool:
        with suppress(OSError):
            return ask(port, "GET", "/health").status == 200
        return False

    try:
        eventually(serves, "the server to start")
        os.killpg(process.pid, signal.SIGHUP)  # as the shell does
        os.close(leader)
        assert process.wait(30) == 0
        eventually(lambda: group_is_gone(process.pid), "the workers and the stand-in to end")
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def test_the_stand_in_ends_with_a_command_that_is_stopped_early(tmp_path: Path) -> None:
    """SIGTERM before gunicorn has its handlers: the stand-in does not stay behind."""
    code = (
        "import os, signal, mistral_filter.proxy.serve as serve\n"
        "def early(*_, **__):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    signal.pause()\n"
        "serve.serve = early\n"
        "from mistral_filter.__main__ import main; main()"
    )
    words = [sys.executable, "-c", code, "serve", "--sandbox", "--port", str(free_port())]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        process.wait(60)
        eventually(lambda: group_is_gone(process.pid), "the stand-in to end")
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def test_a_stand_in_that_does_not_start_stops_the_command() -> None:
    """Nothing is served, and no address is printed, where the stand-in cannot bind."""
    code = "import sys; sys.executable = '/bin/false'; from mistral_filter.__main__ import main; main()"
    words = [sys.executable, "-c", code, "serve", "--sandbox", "--port", str(free_port())]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "Error: The stand-in did not start: see above.\n")


@pytest.mark.parametrize(
    ("arguments", "settings", "said"),
    [
        (("serve", "--host", "192.0.2.1"), {}, "Error: 192.0.2.1 is not an address of this machine: check --host."),
        (("serve",), {"MISTRAL_FILTER_FIELDS": "old"}, "Error: MISTRAL_FILTER_FIELDS: write one of: classic, current"),
        (("serve", "--workers", "0"), {}, "Usage: mistral-filter serve"),
    ],
)
def test_what_cannot_be_served_is_said(arguments: tuple[str, ...], settings: dict[str, str], said: str) -> None:
    """A wrong setting or option stops the start with one sentence, without a traceback."""
    status, _, err = ended(*arguments, **settings)
    assert status != 0
    assert err.startswith(said)
    assert "Traceback" not in err


# -------------------------------------------------------------------------------------------------------------------- check


MODELS = {"object": "list", "data": [{"id": "a"}, {"id": "b"}]}


def test_check_goes_through_every_step(upstream: ScriptedUpstream) -> None:
    """Settings, name, connection, TLS, models: each with a mark."""
    upstream.script = json_answer(MODELS)
    status, out, err = ended("check", MISTRAL_FILTER_UPSTREAM=upstream.url, MISTRAL_API_KEY="canary-key")
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        "✓ Settings: read; the list for chat is classic",
        "✓ Name: 127.0.0.1",
        f"✓ Connection: port {upstream.port} accepts connections",
        "· TLS: plain http, to this machine only",
        "✓ Models: 2 models are offered to your key",
    ]
    assert upstream.requests[0].path == "/v1/models"
    assert upstream.requests[0].header("Authorization") == "Bearer canary-key"


def test_check_says_what_to_do(
    upstream: ScriptedUpstream, new_upstream: Callable[..., ScriptedUpstream], certificate: tuple[Path, Path]
) -> None:
    """Each failure is told at its step, and the steps behind it are not claimed."""
    upstream.script = json_answer({"detail": "Unauthorized"}, 401)
    status, out, _ = ended("check", MISTRAL_FILTER_UPSTREAM=upstream.url, MISTRAL_API_KEY="canary-key")
    assert (status, out.splitlines()[-1]) == (1, "✗ Models: Mistral refuses the key (401): check your key")
    status, out, _ = ended("check", MISTRAL_FILTER_UPSTREAM=upstream.url)
    assert (status, out.splitlines()[-1][:28]) == (0, "· Models: the API asks for a")
    status, out, _ = ended("check", MISTRAL_FILTER_UPSTREAM=f"http://127.0.0.1:{free_port()}")
    assert status == 1
    assert [line[0] for line in out.splitlines()] == ["✓", "✓", "✗", "·", "·"]
    status, out, _ = ended("check", MISTRAL_FILTER_UPSTREAM="https://nowhere.invalid")
    assert [line[0] for line in out.splitlines()] == ["✓", "✗", "·", "·", "·"]
    assert out.splitlines()[1].endswith("set MISTRAL_FILTER_PROXY.")
    status, out, _ = ended("check", MISTRAL_FILTER_UPSTREAM=new_upstream(tls=certificate).url)  # self-signed
    assert [line[0] for line in out.splitlines()] == ["✓", "✓", "✓", "✗", "·"]
    status, out, _ = ended("check", MISTRAL_FILTER_MAX_BODY="none")
    assert (status, out.splitlines()) == (
        1,
        ["✗ Settings: MISTRAL_FILTER_MAX_BODY: write a number of bytes such as 33554432 or 32m"],
    )
    status, out, _ = ended("check", MISTRAL_FILTER_UPSTREAM=upstream.url, MISTRAL_FILTER_CROS_ORIGINS="*")
    assert (status, "did you mean MISTRAL_FILTER_CORS_ORIGINS?" in out) == (1, True)


@pytest.mark.parametrize("key", ["canary key", "canary-kéy", "Bearer canary-key", "canary\nkey"])
def test_check_knows_what_cannot_be_a_key(upstream: ScriptedUpstream, key: str) -> None:
    """A key that no header can hold is said, neither sent nor printed; white space around a key does not matter."""
    upstream.script = json_answer(MODELS)
    status, out, err = ended("check", MISTRAL_FILTER_UPSTREAM=upstream.url, MISTRAL_API_KEY=key)
    assert (status, err, "canary" in out) == (1, "", False)
    assert out.splitlines()[-1].startswith("✗ Models: your key holds a space or a character")
    assert [request.header("Authorization") for request in upstream.requests] == [None]
    assert ended("check", MISTRAL_FILTER_UPSTREAM=upstream.url, MISTRAL_API_KEY=" canary-key\n")[0] == 0
    assert upstream.requests[1].header("Authorization") == "Bearer canary-key"


@pytest.mark.parametrize(("status", "said"), [(403, "answered 403 with a page"), (200, "is not a list of models")])
def test_check_tells_a_page_from_an_answer_of_the_api(upstream: ScriptedUpstream, status: int, said: str) -> None:
    """A firewall's page is not Mistral's refusal of a key: the sentence asks who answers there."""
    upstream.script = raw(b"HTTP/1.1 %d X\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nno" % status)
    code, out, _ = ended("check", MISTRAL_FILTER_UPSTREAM=upstream.url, MISTRAL_API_KEY="canary-key")
    assert code == 1
    last = out.splitlines()[-1]
    assert last.startswith("✗ Models: ")
    assert said in last
    assert last.endswith(f"Does Mistral's API answer at 127.0.0.1:{upstream.port}? Check MISTRAL_FILTER_UPSTREAM.")


def test_check_says_what_is_wrong_with_a_certificate(
    new_upstream: Callable[..., ScriptedUpstream], certificate: tuple[Path, Path]
) -> None:
    """OpenSSL's own words are shown: a certificate that nothing trusts, and one of another host."""
    url = new_upstream(tls=certificate).url
    assert "The certificate: self-signed certificate" in ended("check", MISTRAL_FILTER_UPSTREAM=url)[1]
    other = url.replace("127.0.0.1", "localhost")
    out = ended("check", MISTRAL_FILTER_UPSTREAM=other, MISTRAL_FILTER_CA_BUNDLE=str(certificate[0]))[1]
    assert "The certificate: Hostname mismatch, certificate is not valid for 'localhost'." in out


def test_check_does_not_wait_as_long_as_a_server(upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upstream that is silent is said to be, long before MISTRAL_FILTER_READ_TIMEOUT."""
    upstream.script = chain(stall(5), json_answer(MODELS))
    monkeypatch.setattr(sys.modules["mistral_filter.command.check"], "_SECONDS", 0.5)
    monkeypatch.setenv("MISTRAL_FILTER_UPSTREAM", upstream.url)
    monkeypatch.setenv("MISTRAL_API_KEY", "canary-key")
    result = CliRunner().invoke(mistral_filter, ["check"])
    assert result.exit_code == 1
    assert result.output.splitlines()[-1] == "✗ Models: The upstream did not answer in time."


def test_check_tells_that_the_proxy_refuses(upstream: ScriptedUpstream) -> None:
    """A proxy that does not let the connection through is the proxy's setting's matter, not the certificate's."""
    upstream.script = json_answer({}, 407)
    out = ended("check", MISTRAL_FILTER_PROXY=upstream.url)[1].splitlines()
    assert [line[0] for line in out] == ["✓", "✓", "✗", "·", "·"]
    said = f"127.0.0.1:{upstream.port}, or the upstream through it, could not be reached. Check MISTRAL_FILTER_PROXY."
    assert out[2] == f"✗ Connection: {said}"


def test_check_names_the_setting_of_a_held_key_that_is_refused(upstream: ScriptedUpstream) -> None:
    """The key is the server's, so the sentence names its variable."""
    upstream.script = json_answer({"detail": "Unauthorized"}, 401)
    held = {"MISTRAL_FILTER_TOKENS": "canary-token", "MISTRAL_FILTER_CORS_ORIGINS": "none"}
    key = {"MISTRAL_FILTER_UPSTREAM": upstream.url, "MISTRAL_FILTER_API_KEY": "canary-held-key"}
    status, out, _ = ended("check", **held, **key)
    assert (status, out.splitlines()[-1]) == (1, "✗ Models: Mistral refuses the held key: check MISTRAL_FILTER_API_KEY")
    keys = {"MISTRAL_FILTER_UPSTREAMS": f"own={upstream.url}", "MISTRAL_FILTER_API_KEYS": "own=canary-held-key"}
    status, out, _ = ended("check", "--upstream", "own", **held, **keys)
    assert (status, out.splitlines()[-1]) == (1, "✗ Models: Mistral refuses the held key: check MISTRAL_FILTER_API_KEYS")


def test_check_uses_the_key_that_the_server_holds(upstream: ScriptedUpstream) -> None:
    """The held key goes up; neither key nor token is printed."""
    upstream.script = json_answer(MODELS)
    held = {
        "MISTRAL_FILTER_API_KEY": "canary-held-key",
        "MISTRAL_FILTER_TOKENS": "canary-token",
        "MISTRAL_FILTER_CORS_ORIGINS": "none",
    }
    status, out, err = ended("check", MISTRAL_FILTER_UPSTREAM=upstream.url, **held)
    assert (status, err, "canary" in out) == (0, "", False)
    assert upstream.requests[0].header("Authorization") == "Bearer canary-held-key"


# ------------------------------------------------------------------------------------------------------- the command itself


def test_the_command_has_help_and_a_version() -> None:
    """``--help`` names the three commands, ``--version`` is the package's."""
    status, out, _ = ended("--help")
    assert status == 0
    assert all(f"\n  {name} " in out for name in ("serve", "explain", "check"))
    assert ended("--version")[1] == f"mistral-filter, version {__version__}\n"


def test_help_lists_every_setting() -> None:
    """An installed package has no documents: ``serve --help`` names each variable."""
    out = ended("serve", "--help")[1]
    assert [setting.variable for setting in SETTINGS if f"\n  {setting.variable}  " not in out] == []


@pytest.mark.parametrize(
    ("missing", "arguments"), [("click", ()), ("gunicorn", ("serve", "--port", "1")), ("flask_cors", ("check",))]
)
def test_the_command_says_what_is_missing(missing: str, arguments: tuple[str, ...]) -> None:
    """Where less than the proxy is installed, one sentence names the extra."""
    code = f"import sys; sys.modules[{missing!r}] = None; from mistral_filter.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (
        1,
        f"{missing} is missing: install mistral-filter with the extra proxy (in a clone: pip install '.[proxy]')\n",
    )


def check_contents(sdist: Path, wheel: Path) -> None:
    """Neither has tests; both have every file of the package; the sdist has the documents; the metadata say what it is."""
    top = f"mistral_filter-{__version__}"
    with tarfile.open(sdist) as archive:
        source = {name.removeprefix(f"{top}/") for name in archive.getnames()}
    with zipfile.ZipFile(wheel) as archive:
        built = set(archive.namelist())
        metadata = Parser().parsestr(archive.read(f"{top}.dist-info/METADATA").decode())
    package = {str(path.relative_to(ROOT)) for path in (ROOT / "mistral_filter").rglob("*") if path.suffix != ".pyc"}
    package = {name for name in package if (ROOT / name).is_file()}
    assert "mistral_filter/py.typed" in package
    assert package - built == package - source == set()
    assert [name for name in source | built if name.startswith("tests")] == []
    assert {name for name in built - package if not name.startswith(f"{top}.dist-info/")} == set()
    assert {"README.md", "README.zh-CN.md", "CHANGELOG.md", "LICENSE", "docs/settings.md", "docs/images/page.png"} <= source
    assert metadata["Version"] == __version__
    assert {"flask", "proxy", "metrics"} <= set(metadata.get_all("Provides-Extra", []))
    assert metadata.get_all("Project-URL")
    assert [each for each in metadata.get_all("Requires-Dist", []) if "extra ==" not in each] == ["msgspec>=0.19"]


def test_the_changelog_begins_with_this_version() -> None:
    """The newest release of the changelog is the version of the package."""
    released = re.findall(r"^## (\d\S*) - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert released[0] == __version__


def test_the_built_wheel_serves_alone(tmp_path: Path) -> None:
    """The wheel of the sdist in an empty environment, run from an empty folder, has the command, the page and the stand-in."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    environ = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", str(tmp_path))}
    copy = tmp_path / "source"  # building writes into the folder
    ignored = shutil.ignore_patterns("__pycache__", ".venv*", ".git", "node_modules", "*.egg-info", "build")
    shutil.copytree(ROOT, copy, ignore=ignored, symlinks=True)
    backend = tmp_path / "backend"
    subprocess.run([*pip, "install", "--no-compile", "--target", str(backend), "setuptools>=77"], env=environ, check=True)
    environ["PYTHONPATH"] = str(backend)
    code = f"from setuptools import build_meta; build_meta.build_sdist({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=copy, env=environ, stdout=subprocess.DEVNULL, check=True)
    (sdist,) = tmp_path.glob("*.tar.gz")
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(sdist)], env=environ, check=True)
    del environ["PYTHONPATH"]
    (wheel,) = tmp_path.glob("*.whl")
    check_contents(sdist, wheel)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = [*pip, "--python", str(python), "install", "--no-compile", "-c", str(ROOT / "requirements.txt")]
    subprocess.run([*install, f"{wheel}[proxy]"], env=environ, check=True)
    empty = tmp_path / "empty"
    empty.mkdir()

    class Installed(Serve):
        def __init__(self) -> None:
            super().__init__(empty, "--sandbox", "--workers", "1")
            self._command, self._root = [str(python.with_name("mistral-filter")), *self._command[3:]], empty

    with Installed() as server:
        assert ask(server.port, "GET", "/v1").json()["version"] == __version__
        page = ask(server.port, "GET", "/", None, [("Accept", "text/html")])
        assert (page.status, page.header("Content-Type")) == (200, "text/html; charset=utf-8")
        models = ask(server.port, "GET", "/sandbox/v1/models", None, [("Authorization", "Bearer k")])
        assert models.json()["object"] == "list"


def test_make_run_takes_no_host_from_the_environment() -> None:
    """Some shells and Conda set HOST to other things; ``make run HOST=…`` is taken."""
    environ = {"PATH": os.environ["PATH"], "HOST": "x86_64-conda-linux-gnu", "PORT": "8123"}
    for arguments, host in (((), "127.0.0.1"), (("HOST=0.0.0.0",), "0.0.0.0")):
        done = subprocess.run(
            ["make", "-n", "run", *arguments], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60
        )
        assert done.stdout.splitlines()[-1].endswith(f"serve --sandbox --host {host} --port 8123")
