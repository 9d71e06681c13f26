"""Content parts of the Responses API: chat's parts and Mistral's chunks as ``input_text``, ``input_image``, ``input_file``."""

from __future__ import annotations

from collections.abc import Iterator

from mistral_filter.dialect.chunks import OWN_FILE_ID, foreign_file
from mistral_filter.dialect.values import note_rest
from mistral_filter.fields import RESPONSE_ANNOTATIONS, RESPONSE_LOGPROBS, RESPONSE_PARTS, Tagged, Value
from mistral_filter.fields import Object as Table
from mistral_filter.parts import Array, Object
from mistral_filter.rawjson import NULL, Node

__all__ = ["TEXT_KEYS", "complete_answer", "input_parts", "numbered", "part_text"]

TEXT_KEYS = {
    "input_text": "text",
    "text": "text",
    "output_text": "text",
    "summary_text": "text",
    "reasoning_text": "text",
    "refusal": "refusal",
}
"""Part type: the key that holds its text. Chat's, Responses' and Mistral's types (OpenAI's reference and mistralai 3.7.0)."""


def _details() -> tuple[str, ...]:
    node = RESPONSE_PARTS["input_image"].fields["detail"]
    assert isinstance(node, Value)
    return node.choices


_DETAILS = _details()


def numbered(parts: Array) -> Iterator[tuple[int, Object]]:
    """The objects among *parts* with their indexes. They stay open, because several rules look at each."""
    for index in range(len(parts.items)):
        part = parts.part(index)
        if isinstance(part, Object):
            yield index, part


def part_text(part: object) -> str | None:
    """The text of a text *part*; None: it is no part, or not one of text."""
    if not isinstance(part, Object):
        return None
    key = TEXT_KEYS.get(part.text("type") or "text")
    return None if key is None else part.text(key)


def input_parts(content: Array, *, detail: bool) -> None:
    """Makes the parts of *content* parts of an input; *detail*: an image has to say how closely it is looked at.

    Raises Refused for a file that only OpenAI can read.
    """
    for index, part in numbered(content):
        kind = part.text("type")
        if kind in ("input_image", "image_url"):
            _image(part, kind, detail=detail)
        elif kind == "input_file":
            _check_file(part)
        elif kind == "file" and part.object("file") is not None:
            _nested_file(part)
        elif kind == "file" and part.text("file_id") is not None:  # Mistral's own form
            part.set("type", "input_file", "the name of the Responses API", to="input_file")
            _check_file(part)
        elif kind == "document_url":
            _document(part)
        elif kind != "input_text":
            text = part_text(part)
            if text is None:
                content.drop(index, "the Responses API has no parts of this type", "lost")
                continue
            note_rest(part, ("type", TEXT_KEYS[kind or "text"]))
            part.become({"type": "input_text", "text": text}, "rename", part.at("type"), _NAME, to="input_text")


_NAME = "the name of the Responses API"


def _image(part: Object, kind: str, *, detail: bool) -> None:
    fields: Node = {**part.fields, "type": "input_image"}
    url = part.object("image_url")
    if url is not None:
        note_rest(url, ("url", "detail"))
        fields["image_url"] = url.fields.get("url", NULL)
        if url.has("detail"):
            fields["detail"] = url.fields["detail"]
    if kind == "image_url" or url is not None:
        path = part.at("type") if kind == "image_url" else part.at("image_url")
        part.become(fields, "rename", path, "the form of the Responses API", to="input_image")
    _check_file(part)
    if not detail or part.text("detail") in _DETAILS:
        return
    if part.has("detail"):
        part.set("detail", "auto", "Mistral has no such value", "approximate")
    else:
        part.insert("detail", "auto", "Mistral requires it, and this is the default")


def _check_file(part: Object) -> None:
    file_id = part.text("file_id")
    if file_id is not None and not OWN_FILE_ID.fullmatch(file_id):
        raise foreign_file(part.at("file_id"))


def _nested_file(part: Object) -> None:
    file = part.object("file")
    assert file is not None
    _check_file(file)
    used = ("file_data", "file_url", "file_id", "filename")
    note_rest(part, ("type", "file"))
    note_rest(file, used)
    fields = {"type": "input_file", **{key: file.fields[key] for key in used if key in file.fields}}
    part.become(fields, "rename", part.at("file"), "the form of the Responses API", to="input_file")


def _document(part: Object) -> None:
    note_rest(part, ("type", "document_url", "document_name"))
    url = part.text("document_url") or ""
    fields: Node = {"type": "input_file", "file_data" if url.startswith("data:") else "file_url": url}
    if part.has("document_name"):
        fields["filename"] = part.fields["document_name"]
    part.become(fields, "rename", part.at("type"), "the form of the Responses API", to="input_file")


_NOT_READ = "part of an earlier answer that models do not read"


def complete_answer(content: Array) -> None:
    """Gives the parts of an earlier answer what Mistral requires of them, and leaves out what it would not take."""
    for _, part in numbered(content):
        if part.text("type") != "output_text":
            continue
        annotations = part.array("annotations")
        if annotations is None:
            insert = part.set if "annotations" in part.fields else part.insert
            insert("annotations", [], "Mistral requires the list")
        else:
            for index, annotation in numbered(annotations):
                if not _is_complete(annotation, RESPONSE_ANNOTATIONS):
                    annotations.drop(index, f"Mistral refuses it: {_NOT_READ}")
        logprobs = part.array("logprobs")
        if logprobs is not None and not all(_is_complete(token, RESPONSE_LOGPROBS) for token in logprobs.objects()):
            part.drop("logprobs", _NOT_READ)


def _is_complete(part: Object, known: Tagged | Table) -> bool:
    """Whether all that *known* requires is there."""
    table = known.variants.get(part.text(known.by) or "") if isinstance(known, Tagged) else known
    return table is not None and all(part.has(name) for name in table.required)
