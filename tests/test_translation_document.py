"""docs/translation.md: every row of its tables has an example that becomes what the row says, and every rule has its row."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import sdk
from servers import ROOT

from mistral_filter import errors, filter_body
from mistral_filter.proxy.answers import error_answer, plan


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
