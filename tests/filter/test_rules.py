"""OpenAI → Mistral, rule by rule: the records in ``rules/``, one a line. A new case is a new line.

A record has the rule's name, its source, what is given, the options (``fields`` is ``current`` where none are named), what must
come out (``expected``; left out: the very same), and what must be said: ``changes`` are [action, path, loss] or [action, path,
loss, to], in any order, ``reasons`` the sentences at some paths; ``refused`` is the code and param of an error instead.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sdk

from mistral_filter import filter_body
from mistral_filter.errors import Refused

Record = dict[str, Any]

RECORDS = [
    pytest.param(json.loads(line), id=f"{file.stem}: {json.loads(line)['rule']}")
    for file in sorted((Path(__file__).parent / "rules").glob("*.jsonl"))
    for line in file.read_text("utf-8").split("\n")
    if line
]
KEYS = {"rule", "source", "endpoint", "options", "given", "expected", "changes", "reasons", "refused"}


def options_of(record: Record) -> dict[str, Any]:
    return {"fields": "current", **record.get("options", {})}


def test_every_record_is_whole() -> None:
    """Each has a name of its own, a source, and says what must come of it; the files are found."""
    records = [param.values[0] for param in RECORDS]
    assert len(records) > 200
    assert len({param.id for param in RECORDS}) == len(records)
    for record in records:
        assert record["rule"]
        assert record["source"]
        assert record.keys() <= KEYS
        assert ("changes" in record) is not ("refused" in record)


@pytest.mark.parametrize("record", RECORDS)
def test_a_rule(record: Record) -> None:
    """What a client says in OpenAI's words comes out in Mistral's, and every change is reported with what it costs."""
    body, endpoint, options = json.dumps(record["given"]).encode(), record.get("endpoint", "chat"), options_of(record)
    if "refused" in record:
        with pytest.raises(Refused) as caught:
            filter_body(body, endpoint, **options)
        assert {"code": caught.value.code, "param": caught.value.param} == record["refused"]
        assert caught.value.message.startswith(f"{caught.value.param}: ")
        assert "Send " in caught.value.message
        return
    filtered = filter_body(body, endpoint, **options)
    assert json.loads(filtered.body) == record.get("expected", record["given"])
    said = [[c.action, c.path, c.loss, *([c.to] if c.to else [])] for c in filtered.changes]
    assert sorted(said) == sorted(record["changes"])
    reasons = {change.path: change.reason for change in filtered.changes}
    assert {path: reasons.get(path) for path in record.get("reasons", {})} == record.get("reasons", {})
    if not record["changes"]:
        assert filtered.body == body
    assert filter_body(filtered.body, endpoint, **options)[:2] == (filtered.body, ())


@pytest.mark.parametrize("record", [param for param in RECORDS if "refused" not in param.values[0]])
def test_what_comes_out_is_accepted(record: Record) -> None:
    """Every expectation is a body that Mistral's own packages accept, so none can be one that the API refuses."""
    if options_of(record).get("translate") is False:
        return
    expected, endpoint = record.get("expected", record["given"]), record.get("endpoint", "chat")
    assert sdk.accepts(endpoint, expected) == []
    if endpoint == "chat":
        pytest.importorskip("mistral_common")
        assert sdk.common_accepts(expected) == []
