"""Long base64 texts are put aside while a body is read: the result is as if they had not been."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mistral_filter import filter_body
from mistral_filter.errors import InvalidJSON
from mistral_filter.media import LEAST, put_aside

LONG = "iVBORw0KGgo" + "A" * (2 * LEAST)


def image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def body(*parts: Any, **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": list(parts)}], **more}


@pytest.mark.parametrize("spaces", [(",", ":"), (", ", ": "), (" ,\n", "\t: ")])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_long_texts_come_back_where_they_belong(spaces: tuple[str, str], ascii_only: bool) -> None:
    """Several texts, one of them dropped and one made longer; and what stands between them."""
    given = body(
        {"type": "text", "text": "naïve"},
        image("data:image/png;base64," + LONG),
        {"type": "input_audio", "input_audio": {"data": LONG + "a", "format": "wav"}},
        {"type": "file", "file": {"file_data": LONG + "b", "filename": "a.pdf"}},
        {**image(LONG + "c"), "data": LONG + "d"},
    )
    raw = json.dumps(given, separators=spaces, ensure_ascii=ascii_only).encode()
    aside = put_aside(raw)
    assert aside is not None
    assert len(aside.body) < 8000
    assert aside.restore(aside.body) == raw
    filtered = filter_body(raw)
    parts = json.loads(filtered.body)["messages"][0]["content"]
    assert parts[:2] == given["messages"][0]["content"][:2]
    assert parts[2] == given["messages"][0]["content"][2]
    assert parts[3]["document_url"] == "data:application/pdf;base64," + LONG + "b"
    assert parts[4] == image(LONG + "c")


def test_a_body_with_a_long_text_that_needs_no_change_is_the_same_object() -> None:
    """No byte of it is copied."""
    raw = json.dumps(body(image(LONG))).encode()
    assert filter_body(raw).body is raw


@pytest.mark.parametrize(
    "value",
    [
        LONG + '"',
        LONG + "\\",
        LONG + "\n",
        "A" * (LEAST - 1),
    ],
)
def test_texts_with_escapes_and_short_ones_stay(value: str) -> None:
    """They are read as everything else."""
    raw = json.dumps(body(image(value), user="u")).encode()
    assert put_aside(raw) is None
    assert json.loads(filter_body(raw).body) == body(image(value))


@pytest.mark.parametrize("key", ["text", "id", "name", "xurl", "url\\"])
def test_only_values_that_no_rule_compares_are_put_aside(key: str) -> None:
    """An id or a name is compared with others, however long it is."""
    assert put_aside(json.dumps({key: LONG}).encode()) is None


@pytest.mark.parametrize("text", ["\ue001", "\\ue001", "\\uE001", "\ue0010\ue001"])
def test_a_text_that_looks_like_a_token_is_none(text: str) -> None:
    """With the character of the tokens in a body, nothing is put aside."""
    raw = json.dumps(body(image(LONG), {"type": "text", "text": "#"}, user="u"), ensure_ascii=False).replace("#", text).encode()
    assert put_aside(raw) is None
    assert json.loads(filter_body(raw).body)["messages"] == json.loads(raw)["messages"]


@pytest.mark.parametrize("bad", [b"\x00", b"\n", b"\x1f", b"\xff", b"\xc3", b"\xed\xa0\x80"])
def test_what_is_put_aside_is_legal(bad: bytes) -> None:
    """A control character or a broken character is refused inside a long text as anywhere else."""
    raw = json.dumps(body(image(LONG + "#" + LONG))).encode().replace(b"#", bad)
    assert put_aside(raw) is None
    with pytest.raises(InvalidJSON):
        filter_body(raw)


def test_an_error_names_the_byte_of_the_body_as_it_came() -> None:
    """Not of the shorter one."""
    raw = json.dumps(body(image(LONG))).encode()[:-1]
    with pytest.raises(InvalidJSON) as caught:
        filter_body(raw + b"!")
    assert f"byte {len(raw)}" in caught.value.message


def test_half_an_emoji_beside_a_long_text_survives() -> None:
    """Both are put back, each as it was."""
    raw = json.dumps(body(image(LONG), {"type": "text", "text": "\ud83d"}, user="u")).encode()
    assert put_aside(raw) is not None
    assert json.loads(filter_body(raw).body) == body(image(LONG), {"type": "text", "text": "\ud83d"})


@pytest.mark.parametrize(
    "text",
    ["", '"' * LEAST, '"url":"' * LEAST, "{" * 3 * LEAST, '"url":"' + "A" * 3 * LEAST, "A" * 3 * LEAST + '"', " " * 3 * LEAST],
)
def test_what_is_no_json_is_no_trouble(text: str) -> None:
    """Nothing is found in it, and nothing breaks."""
    assert put_aside(text.encode()) is None
