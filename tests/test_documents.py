"""The documents hold: every example runs, every setting and error code has its place, every link leads somewhere."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from render_clients import FILES as CLIENT_DOCUMENTS
from render_clients import render
from servers import ROOT, Serve

from mistral_filter import Change, errors, filter_body
from mistral_filter.proxy.settings import SETTINGS
from mistral_filter.sandbox.rules import broken_rule, refused_by_model
from mistral_filter.sandbox.schema import violations

DOCUMENTS = [ROOT / "README.md", ROOT / "README.zh-CN.md", *sorted((ROOT / "docs").glob("*.md"))]
WRITTEN = [path for path in DOCUMENTS if path not in CLIENT_DOCUMENTS.values()]

ELSEWHERE = {
    "make run": "test_command starts what it starts",
    "pip install": "test_command installs the wheel with its extra",
    "mistral-filter serve": "test_command",
    "mistral-filter explain": "test_command",
    "mistral-filter check": "test_command",
    "docker compose up -d": "needs Docker; the document says how it was tried",
    "docker build": "the same",
    "docker run": "the same",
    "heroku": "needs an account; the document says that it is untried",
    "git push heroku": "the same",
    "python3 -m venv .venv": "test_command makes one for the wheel",
    "python3 -m venv /opt": "writes outside of the project; test_platforms has the service verified",
    "/opt/mistral-filter": "the same",
    "cp deploy/": "the same",
    "systemctl": "the same",
}
"""Commands that are not run here, by how they begin, and where they are tried."""


def blocks(path: Path, language: str) -> Iterator[str]:
    """The fenced blocks in *language*."""
    yield from re.findall(rf"^```{language}\n(.*?)^```$", path.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def every(language: str) -> list[Any]:
    """Each block in *language* of the written documents, as a parameter."""
    return [
        pytest.param(block, id=f"{path.name}-{number}")
        for path in WRITTEN
        for number, block in enumerate(blocks(path, language), 1)
    ]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """What ``make run`` starts."""
    with Serve(tmp_path_factory.mktemp("served"), "--sandbox", "--workers", "1") as server:
        yield server


@pytest.mark.parametrize("block", every("python"))
def test_python_examples_run(block: str, served: Serve) -> None:
    """As they are, but for the address: a program of its own that ends without an error."""
    program = block.replace("http://127.0.0.1:8000/v1", f"{served.url}/sandbox/v1")
    before = "def application(environ, start_response):\n    start_response('200 OK', [])\n    return [b'']\n"
    if "django" in program:
        pytest.importorskip("django")
        before += "from django.conf import settings\nsettings.configure(ALLOWED_HOSTS=['*'])\n"
    environ = {"PATH": "", "LANG": "C.UTF-8"}
    done = subprocess.run(
        [sys.executable, "-c", before + program], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("block", every("sh"))
def test_shell_examples_run(block: str, served: Serve, tmp_path: Path) -> None:
    """Requests are sent to what ``make run`` serves; settings are taken; all other commands are tried where the table says."""
    (tmp_path / "body.json").write_text('{"model": "mistral-small-latest", "messages": [], "user": "u"}')
    for command in re.sub(r"\\\n\s*", "", block).strip().split("\n" if "-d '{" not in block else "\n\n"):
        if command.startswith("curl"):
            if "Authorization" in command:  # the stand-in takes any key
                command = command.replace(":8000/v1/", ":8000/sandbox/v1/")
            command = command.replace("http://127.0.0.1:8000", served.url)
            done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=60)
            assert (done.returncode, "mistral-small-latest" in done.stdout) == (0, True), done.stderr
        elif match := re.match(r"export (MISTRAL_FILTER_\w+)=(.*)", command):
            setting = next(setting for setting in SETTINGS if setting.variable == match[1])
            setting.parse(shlex.split(match[2])[0])  # raises ValueError for a value that cannot be used
        else:
            assert [start for start in ELSEWHERE if command.startswith(start)], command


def test_every_command_of_the_table_is_in_a_document() -> None:
    """An example that is gone leaves nothing in the table."""
    text = "\n".join(block for path in WRITTEN for block in blocks(path, "sh"))
    assert [start for start in ELSEWHERE if start not in text] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    """Links within the project name files that exist."""
    targets = re.findall(r"\]\((?!https?://)([^)#\s]+)", path.read_text("utf-8"))
    assert [target for target in targets if not (path.parent / target).exists()] == []


def test_the_readme_is_short() -> None:
    """Nine hundred words at most, code included; both languages have the same parts and the same examples."""
    english, chinese = (path.read_text("utf-8") for path in DOCUMENTS[:2])
    assert len(english.split()) <= 900
    assert [line.count("#") for line in re.findall(r"^#+ ", english, re.MULTILINE)] == [
        line.count("#") for line in re.findall(r"^#+ ", chinese, re.MULTILINE)
    ]
    assert re.findall(r"^\d+\. ", english, re.MULTILINE) == re.findall(r"^\d+\. ", chinese, re.MULTILINE)
    for language in ("python", "sh"):
        ours, theirs = (list(blocks(path, language)) for path in DOCUMENTS[:2])
        assert len(ours) == len(theirs)


def test_the_readmes_example_is_what_happens() -> None:
    """The request in the README becomes what it says, with the header that it shows."""
    from mistral_filter.changes import as_header

    for path in DOCUMENTS[:2]:
        text = path.read_text("utf-8")
        before, after = (body.replace("[…]", "[]").encode() for body in re.findall(r'^\{"model".*\}$', text, re.MULTILINE))
        filtered = filter_body(before)
        assert filtered.body == after.replace(b": ", b":").replace(b", ", b",")
        assert f"\nMistral-Filter-Changes: {as_header(filtered.changes)}\n" in text


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_clients_are_those_of_the_page(language: str) -> None:
    """docs/clients.md is what tests/tools/render_clients.py writes."""
    assert CLIENT_DOCUMENTS[language].read_text("utf-8") == render(language), "run: python tests/tools/render_clients.py"


def test_the_bounds_are_documented() -> None:
    """The figures in the table of bounds are those of the code."""
    from inspect import signature

    from mistral_filter import changes, document, explain, middleware, models, toolnames
    from mistral_filter.proxy import budget, learning, lingering, logs, patience, reply, stderr, view
    from mistral_filter.proxy.answers import events
    from mistral_filter.proxy.upstream import addresses, head, idle, sessions, wire

    text = (ROOT / "docs" / "how-it-works.md").read_text("utf-8").partition("## Bounds")[2]
    learned = signature(learning.Learned).parameters
    for words in (
        f"{errors.MAX_DEPTH} levels",
        f"{document.BUDGET:,} units",
        f"{document.ROOM_FOR_EACH_BYTE + 1} times its size and {document.ROOM >> 20} MiB",
        f"{toolnames.MOST}, each of {toolnames.LONGEST} characters",
        f"`MISTRAL_FILTER_MODELS` | {models.MOST_ALIASES:,} |",
        f"bodies up to {budget.SMALL_BODY >> 20} MB",
        f"{patience.MOST_TRIES} tries",
        f"{wire._MAX_HEAD >> 10} KiB, {head._MAX_LINE >> 10} KiB a line, {head.MAX_FIELDS} fields, {wire._MAX_INTERIM} interim",
        f"one for {idle._KEPT_SECONDS:g} s, up to {idle._MOST_IDLE} for {idle._IDLE_SECONDS:g} s",
        f"{sessions._MOST} callers, ten minutes each",
        f"remembered for {addresses._FRESH_SECONDS:g} s, for {addresses._OLD_SECONDS / 60:g} minutes while",
        f"{reply._WHOLE_TO_REWRITE >> 20} MiB of JSON",
        f"{logs._CHANGES_BYTES} in a log line",
        f"{lingering._BYTES >> 20} MB, {lingering._SECONDS:g} s, {lingering._SILENCE_SECONDS:g} s of silence",
        f"{events.MAX_EVENT >> 20} MiB an event",
        f"a body of {view.MAX_EXPLAIN >> 10} KB; {explain.MOST_CHANGES} changes",
        f"{changes.MAX_HEADER:,} bytes in the header",
        f"{stderr.MAX_LINE:,} bytes each",
        f"{learned['size'].default} fields, an hour each",
    ):
        assert words in text
    assert (learned["seconds"].default, sessions._SECONDS, idle._KEPT) == (3600, 600, 1)
    keywords = (ROOT / "docs" / "embedding.md").read_text("utf-8")
    assert f"| `max_body` | {middleware.MAX_BODY >> 20} MiB |" in keywords


def called(id: str, name: str = "f") -> list[dict[str, Any]]:
    """A message with a tool call, and its result."""
    calls = [{"id": id, "type": "function", "function": {"name": name, "arguments": "{}"}}]
    return [{"role": "assistant", "content": "", "tool_calls": calls}, {"role": "tool", "tool_call_id": id, "content": "r"}]


def test_every_setting_is_documented() -> None:
    """A section for each in order: its sentence, its default, a note, and an example that is a value of it."""
    text = (ROOT / "docs" / "settings.md").read_text("utf-8")
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    assert list(sections) == [setting.variable for setting in SETTINGS]
    for setting in SETTINGS:
        section = sections[setting.variable]
        sentence, default, note, example = re.fullmatch(
            r"\n(.*)\.\n\n- Default: (.*)\n- Note: (.*)\.\n- Example: `(.*)`\n*", section
        ).groups()  # type: ignore[union-attr]
        assert sentence in (setting.sentence, setting.sentence[0].upper() + setting.sentence[1:])
        if default == "none":
            assert setting.default in (None, (), {}), setting.name
        else:
            assert setting.parse(default.strip("`")) == setting.default, setting.name
        variable, _, value = example.partition("=")
        assert variable == setting.variable
        (word,) = shlex.split(value)
        if setting.name != "ca_bundle":  # a file that is not everywhere
            assert setting.parse(word) != setting.default or setting.name == "fields"
        assert note


def test_every_error_code_is_documented() -> None:
    """docs/errors.md has every code once, in a row with its status, and no other."""
    table = (ROOT / "docs" / "errors.md").read_text("utf-8").partition("| status | code | when |\n")[2].splitlines()[1:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")[:2]] for line in table if line.startswith("|")]
    explained = [(code, statuses.split(", ")) for statuses, codes in rows for code in re.findall(r"`(\w+)`", codes)]
    assert sorted(code for code, _ in explained) == sorted(errors.CODES)
    assert [code for code, statuses in explained if str(errors.CODES[code].status) not in statuses] == []
    for statuses, codes in rows:
        assert set(statuses.split(", ")) == {str(errors.CODES[code].status) for code in re.findall(r"`(\w+)`", codes)}


HI = {"role": "user", "content": "Hi"}
SAID = {"role": "assistant", "content": "A"}
TEXTS: dict[str, dict[str, Any]] = {
    "Extra inputs are not permitted": {"messages": [HI], "user": "u"},
    "with a length of 9": {"messages": [HI, *called("call_1"), HI]},
    "with a maximum length of 64": {"messages": [HI, *called("abcdefghi", "a.b"), HI]},
    "Not the same number of function calls and responses": {"messages": [HI, called("abcdefghi")[0], HI]},
    "Unexpected role 'system' after role 'assistant'": {"messages": [HI, SAID, {"role": "system", "content": "s"}, HI]},
    "Assistant message must have either content or tool_calls": {"messages": [HI, {**SAID, "content": ""}, HI]},
    "Expected last role User or Tool (or Assistant with prefix True)": {"messages": [HI, SAID]},
    "top_p must be 1 when using greedy sampling": {"messages": [HI], "temperature": 0, "top_p": 0.5},
    "is not enabled for this model": {"messages": [HI], "model": "mistral-large-latest", "prompt_mode": "reasoning"},
    "Invalid model": {"messages": [HI], "model": "gpt-4o"},
}
"""Texts in docs/errors.md that the stand-in answers with, as Mistral does, and a body for each. Through the filter it answers."""


@pytest.mark.parametrize("text", TEXTS)
def test_mistrals_errors_are_documented_and_mended(text: str, served: Serve) -> None:
    """A body that gets the error as it is gets an answer through the filter, with the setting that the document names."""
    searched = (ROOT / "docs" / "errors.md").read_text("utf-8").partition("## mistral-filter's own errors")[0]
    assert text in searched
    body = {"model": "mistral-small-latest", **TEXTS[text]}
    refused = broken_rule(body) or refused_by_model(body) or {"message": violations(body, "chat")}
    assert text in json.dumps(refused)
    if text == "Invalid model":  # only with a setting
        (example,) = re.findall(r'MISTRAL_FILTER_MODELS="(.*?)"', searched)
        models = next(setting for setting in SETTINGS if setting.name == "models").parse(example)
        body = json.loads(filter_body(json.dumps(body).encode(), models=models).body)
    request = Request(f"{served.url}/sandbox/v1/chat/completions", json.dumps(body).encode(), {"Authorization": "Bearer k"})
    with urlopen(request, timeout=60) as answer:
        assert answer.status == 200


def test_the_keywords_are_documented() -> None:
    """The table of keyword arguments is the signatures of the function and of the middleware."""
    import inspect

    from mistral_filter import MistralFilter

    table = (
        (ROOT / "docs" / "embedding.md").read_text("utf-8").partition("| keyword | default | meaning |\n")[2].partition("\n\n")[0]
    )
    named = {name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    taken = {
        name
        for each in (filter_body, MistralFilter.__init__)
        for name, parameter in inspect.signature(each).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    assert named == taken
    assert set(Change._fields) == {"action", "path", "reason", "loss", "to"}  # as embedding.md says


def test_the_endpoints_are_documented() -> None:
    """embedding.md names every endpoint."""
    from mistral_filter.fields import ENDPOINTS

    sentence = (ROOT / "docs" / "embedding.md").read_text("utf-8").partition("The endpoints are ")[2].partition(". ")[0]
    assert sorted(re.findall(r"`([^`]+)`", sentence)) == sorted(ENDPOINTS)
