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

import pytest
import sdk
from render_clients import FILES as CLIENT_DOCUMENTS
from render_clients import render
from servers import ROOT, Serve

from mistral_filter import Change, errors, filter_body
from mistral_filter.proxy.answers import error_answer, plan
from mistral_filter.proxy.settings import SETTINGS

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


def rules() -> dict[str, dict[str, Any]]:
    """The records of tests/filter/rules by their names."""
    records = {}
    for file in (ROOT / "tests" / "filter" / "rules").glob("*.jsonl"):
        for line in filter(None, file.read_text("utf-8").split("\n")):
            record = json.loads(line)
            records[f"{file.stem}: {record['rule']}"] = {**record, "options": {"fields": "current", **record.get("options", {})}}
    return records


RULES = rules()


def translation_rows() -> list[dict[str, Any]]:
    """The lines of translation_rows.jsonl; for one that names a ``rule``, what that record says."""
    lines = (Path(__file__).parent / "translation_rows.jsonl").read_text("utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line]
    return [{**RULES.get(row.get("rule", ""), {}), **row} for row in rows]


ROWS = translation_rows()
"""Bodies for the rows of the tables of requests in docs/translation.md: ``row`` is the first cell of a row, ``given`` the body,
or its text where Python cannot write it; ``expected`` what Mistral gets, or ``refused`` the error."""


def requests_table() -> dict[str, tuple[str, str]]:
    """What is sent: what becomes of it, and the loss."""
    text = (ROOT / "docs" / "translation.md").read_text("utf-8")
    tables = [part.partition("\n\n")[0] for part in text.split("| sent | becomes | loss |\n")[1:]]
    lines = [line for table in tables for line in table.splitlines()[1:]]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len({sent for sent, _, _ in cells}) == len(cells)
    return {sent: (becomes, loss) for sent, becomes, loss in cells}


def test_every_row_of_the_translations_has_an_example() -> None:
    """No row stands there without a body that shows it, and no body without its row."""
    assert {example["row"] for example in ROWS} == requests_table().keys()


NAMES = re.compile(
    r"(?<=it is what )\S+|(?<=this model takes ).*(?= only)|(?<=no )\w+(?= in a message)|(?<=of role )\w+"
    r"|(?<=does not know the field).*"
)
"""What of a reason depends on the body."""


def said_of(record: dict[str, Any]) -> set[str]:
    """What the filter says of a record's body: each reason without what depends on the body, with its loss; or the error."""
    given = record["given"]
    body = (given if isinstance(given, str) else json.dumps(given)).encode()
    try:
        filtered = filter_body(body, record.get("endpoint", "chat"), **record.get("options", {}))
    except errors.Refused as refused:
        return {refused.code}
    return {f"{NAMES.sub('…', change.reason)} ({change.loss})" for change in filtered.changes}


def test_every_rule_has_its_row() -> None:
    """What the filter says of any record of its rules is said of an example of a documented row, with the same loss."""
    documented = {said for row in ROWS for said in said_of(row)}
    assert {said: name for name, record in RULES.items() for said in said_of(record) if said not in documented} == {}


@pytest.mark.parametrize("example", [pytest.param(each, id=f"{n}: {each['row'][:40]}") for n, each in enumerate(ROWS, 1)])
def test_the_translations_are_as_documented(example: dict[str, Any]) -> None:
    """A body for the row becomes what is expected, which the official SDK accepts; the loss reported is the one documented."""
    given, endpoint = example["given"], example.get("endpoint", "chat")
    body = (given if isinstance(given, str) else json.dumps(given)).encode()
    becomes, loss = requests_table()[example["row"]]
    if "refused" in example:
        refused = example["refused"]
        assert (becomes.startswith("a 400"), loss) == (True, "-")
        with pytest.raises(errors.Refused) as caught:
            filter_body(body, endpoint, **example.get("options", {}))
        assert caught.value.code == (refused if isinstance(refused, str) else refused["code"])
        return
    filtered = filter_body(body, endpoint, **example.get("options", {}))
    assert json.loads(filtered.body) == example["expected"] != given
    assert sdk.accepts(endpoint, example["expected"]) == []
    assert max((change.loss for change in filtered.changes), key=("none", "approximate", "lost").index) == loss


ANSWERS = [json.loads(line) for line in (Path(__file__).parent / "answer_rows.jsonl").read_text("utf-8").split("\n") if line]
"""Answers for the rows of the table "Answers": ``sent`` is a whole one (with ``status`` an error), ``events`` are the data of a
stream's events, ``stream`` is its text; ``gets`` what the client gets, or the code of an error."""


def test_every_row_of_the_answers_has_an_example() -> None:
    """The only row without one is that of a header, which tests/clients sees."""
    table = (ROOT / "docs" / "translation.md").read_text("utf-8").partition("| Mistral sends | the client gets |\n")[2]
    sent = [line.strip("|").split("|")[0].strip() for line in table.partition("\n\n")[0].splitlines()[1:]]
    assert {*(example["row"] for example in ANSWERS), "`mistral-correlation-id`"} == set(sent)


@pytest.mark.parametrize("example", [pytest.param(each, id=f"{n}: {each['row'][:40]}") for n, each in enumerate(ANSWERS, 1)])
def test_the_answers_are_as_documented(example: dict[str, Any]) -> None:
    """What Mistral sends becomes what the row says."""
    names = example.get("tool_names", {})
    planned = plan(example.get("endpoint", "chat"), example.get("base64", False), "", tool_names=names)
    if "sent" in example:
        body = example["sent"].encode() if isinstance(example["sent"], str) else json.dumps(example["sent"]).encode()
        if "status" in example:
            got = json.loads(error_answer(example["status"], "application/json" if body[:1] == b"{" else "text/html", body)[1])
        else:
            try:
                got = json.loads(planned.whole(200, "application/json", body))
            except errors.UpstreamError as error:
                got = error.code
        assert got == example["gets"] != example["sent"]
        return
    stream = example.get("stream") or "".join(f"data: {json.dumps(data)}\n\n" for data in example["events"])
    lines = b"".join(planned.events(iter([stream.encode()]))).decode().splitlines()
    came = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    expected = example["gets"]
    if isinstance(expected[-1].get("error"), str):  # one of ours: the code says which
        assert came.pop()["error"]["code"] == expected.pop()["error"]
    assert came == expected != example.get("events")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_clients_are_those_of_the_page(language: str) -> None:
    """docs/clients.md is what tests/tools/render_clients.py writes."""
    assert CLIENT_DOCUMENTS[language].read_text("utf-8") == render(language), "run: python tests/tools/render_clients.py"


def test_the_bounds_are_documented() -> None:
    """The figures in the table of bounds are those of the code."""
    from inspect import signature

    from mistral_filter import changes, document, explain, middleware, models, toolnames
    from mistral_filter.proxy import budget, learning, patience, stderr, view
    from mistral_filter.proxy.answers import events
    from mistral_filter.proxy.upstream import head

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
        f"{head.MAX_FIELDS} fields",
        f"{events.MAX_EVENT >> 20} MiB an event",
        f"a body of {view.MAX_EXPLAIN >> 10} KB; {explain.MOST_CHANGES} changes",
        f"{changes.MAX_HEADER:,} bytes in the header",
        f"{stderr.MAX_LINE:,} bytes each",
        f"{learned['size'].default} fields, an hour each",
    ):
        assert words in text
    assert learned["seconds"].default == 3600
    keywords = (ROOT / "docs" / "embedding.md").read_text("utf-8")
    assert f"| `max_body` | {middleware.MAX_BODY >> 20} MiB |" in keywords


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
