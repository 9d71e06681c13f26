"""The requests in ``tests/records``, as the clients sent them (``tests/records/README.md``).

@pytest.mark.parametrize("record", records.load(), ids=str)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parent.parent / "records"
NATIVE = ("ai-sdk5-mistral", "langchain-mistralai", "llama-index-mistralai", "mistralai-js", "mistralai-python")
"""The clients written for Mistral: what they send is accepted as it is."""


class Record(NamedTuple):
    client: str
    scenario: str
    method: str
    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]
    """Empty where the request has none."""
    raw: bytes
    """The body's bytes as the client would send them."""

    def __str__(self) -> str:
        return f"{self.client}/{self.scenario}"


def load(*names: str) -> list[Record]:
    """The records of the clients named; of all when none is."""
    files = [FOLDER / f"{name}.jsonl" for name in names] or sorted(FOLDER.glob("*.jsonl"))
    # Not str.splitlines: it also cuts at U+2028, which JSON allows inside a string.
    return [_record(line) for file in files for line in file.read_text("utf-8").split("\n") if line]


def _record(line: str) -> Record:
    found = json.loads(line)
    headers, body = found["headers"], found["body"]
    raw = b"" if body is None else _as_sent(body, headers)
    return Record(found["client"], found["scenario"], found["method"], found["path"], headers, body or {}, raw)


def _as_sent(body: dict[str, Any], headers: Mapping[str, str]) -> bytes:
    length = next((int(value) for name, value in headers.items() if name.lower() == "content-length"), None)
    compact, spaced = (json.dumps(body, ensure_ascii=False, separators=way).encode() for way in ((",", ":"), (", ", ": ")))
    return spaced if length == len(spaced) else compact
