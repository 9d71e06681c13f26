"""Content parts: OpenAI's files, audio, refusals and Responses parts as Mistral's chunks."""

from __future__ import annotations

import mimetypes
import re
from typing import Any

from mistral_filter.changes import Change
from mistral_filter.dialect.values import DROP, report_repeated, report_rest
from mistral_filter.errors import Refused
from mistral_filter.fields import CHUNKS_BY_ROLE
from mistral_filter.rawjson import NULL, Node, as_array, as_object, as_objects, as_text, with_sent_bytes

__all__ = ["THOUGHT_TYPES", "translate_content"]

_TEXT_TYPES = {
    "input_text": "text",
    "output_text": "text",
    "summary_text": "text",
    "reasoning_text": "text",
    "refusal": "refusal",
}
"""OpenAI part type: the key that holds its text."""

THOUGHT_TYPES = ("thinking", "reasoning", "reasoning_content", "redacted_thinking")
"""Part types for earlier reasoning in OpenAI-style histories: the text is under the type's own name or under ``text``, if any."""

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
"""The form of Mistral's own file ids (OpenAPI 2026-08-21, FileChunk.file_id)."""


def translate_content(
    message: Node, role: str, path: str, changes: list[Change], *, thinks: bool, placed: bool
) -> list[tuple[Node, str]]:
    """Translates the parts of *message*'s content.

    Returns the chunks that its *role* may not hold but a user message may, each with its path. A part that goes leaves DROP in
    its place, so that the others keep theirs. *thinks*: the model reads earlier reasoning. *placed*: the API judges which chunks
    a role may hold. Raises Refused for a file that only OpenAI can read.
    """
    parts = as_objects(message.get("content"))
    if parts is None:
        return []
    content = f"{path}.content"
    allowed = CHUNKS_BY_ROLE[role] if placed else _ANYWHERE
    chunks: list[Any] = []
    moved: list[tuple[Node, str]] = []
    touched = report_repeated(message["content"], parts, content, changes)
    for i, part in enumerate(parts):
        mark = len(changes)
        chunk = _chunk(part, f"{content}[{i}]", changes, thinks=thinks) if isinstance(part, dict) else part
        if isinstance(chunk, dict) and (kind := as_text(chunk.get("type"))) in _ANYWHERE and kind not in allowed:
            if role == "tool" and kind in CHUNKS_BY_ROLE["user"] and kind != "reference":
                moved.append((chunk, f"{content}[{i}]"))
            chunk = _misplaced(chunk, kind, role, f"{content}[{i}]", changes)
        chunks.append(chunk)
        if len(changes) != mark:
            touched.add(i)
    if touched:
        gone = all(chunk is DROP for chunk in chunks)
        message["content"] = (_PLACEHOLDER if moved else "") if gone else with_sent_bytes(chunks, message["content"], touched)
    return moved


_ANYWHERE = frozenset().union(*CHUNKS_BY_ROLE.values())
_PLACEHOLDER = "attachment"
"""What stands in a tool's result whose only content moved out of it."""


def _misplaced(chunk: Node, kind: str | None, role: str, path: str, changes: list[Change]) -> Any:
    """What stays in place of a *chunk* that a message of *role* may not hold; DROP: nothing."""
    if kind == "thinking":
        changes.append(Change("set", path, f"no thinking in a message of role {role}", "approximate", "text"))
        return {"type": "text", "text": joined_text(chunk.get("thinking"), f"{path}.thinking", changes)}
    if kind == "reference":
        changes.append(Change("drop", path, f"no reference in a message of role {role}", "approximate"))
        return DROP
    if role == "tool":
        changes.append(Change("move", path, "a tool's result is text only", "approximate", "a user message"))
        return DROP
    changes.append(Change("set", path, f"no {kind} in a message of role {role}", "lost", "text"))
    return {"type": "text", "text": f"[{kind}]"}


def joined_text(parts: object, path: str, changes: list[Change]) -> str:
    """The text of text *parts* as one string; what else they hold is reported."""
    texts = []
    for i, part in enumerate(as_objects(parts) or []):
        node = part if isinstance(part, dict) else {}
        text = as_text(node.get("text"))
        if text is None:
            changes.append(Change("drop", f"{path}[{i}]", "only text can stand here", "lost"))
        else:
            texts.append(text)
            report_rest(node, ("type", "text"), f"{path}[{i}]", changes)
    return "".join(texts)


def _chunk(part: Node, path: str, changes: list[Change], *, thinks: bool) -> Any:
    kind = as_text(part.get("type"))
    if kind in _TEXT_TYPES:
        key = _TEXT_TYPES[kind]
        report_rest(part, ("type", key), path, changes)
        changes.append(Change("rename", f"{path}.type", f"Mistral's name for {kind}", "none", "text"))
        return {"type": "text", "text": part.get(key, "")}
    if kind == "input_image":
        return _image(part, path, changes)
    if kind in ("file", "input_file"):
        return _file(part, path, changes)
    if kind == "input_audio" and (audio := as_object(part.get("input_audio"))) is not None:
        report_rest(audio, ("data", "format"), f"{path}.input_audio", changes)
        changes.append(Change("set", f"{path}.input_audio", "Mistral takes the base64 text itself", "none"))
        return {**part, "input_audio": audio.get("data", NULL)}
    if kind in THOUGHT_TYPES and as_array(part.get("thinking")) is None:
        return _thought(part, kind, path, changes, thinks=thinks)
    return part


def _thought(part: Node, kind: str, path: str, changes: list[Change], *, thinks: bool) -> Any:
    """Earlier reasoning in a form that is not Mistral's: a thinking chunk for a model that reads it, nothing for another."""
    used = next((name for name in (kind, "text") if as_text(part.get(name))), None)
    if used is None or not thinks:
        changes.append(Change("drop", path, "the model does not read earlier reasoning", "none"))
        return DROP
    changes.append(Change("set", path, "Mistral's form of reasoning", "none", "thinking"))
    return {"type": "thinking", "thinking": [{"type": "text", "text": part[used]}]}


def _image(part: Node, path: str, changes: list[Change]) -> Node:
    if part.get("image_url", NULL) == NULL:
        raise _foreign_file(f"{path}.file_id")
    url: Any = part["image_url"]
    used = ["type", "image_url"]
    if part.get("detail", NULL) != NULL and as_text(url) is not None:
        url = {"url": url, "detail": part["detail"]}
        used.append("detail")
    report_rest(part, used, path, changes)
    changes.append(Change("rename", f"{path}.type", "Mistral's name for input_image", "none", "image_url"))
    return {"type": "image_url", "image_url": url}


def _file(part: Node, path: str, changes: list[Change]) -> Node:
    file, inner = as_object(part.get("file")), f"{path}.file"
    if file is None:
        file, inner = part, path
    used = next((name for name in ("file_data", "file_url") if as_text(file.get(name))), None)
    file_id = as_text(file.get("file_id"))
    if used is None:
        if file_id is None:
            return part
        if not _UUID.fullmatch(file_id):
            raise _foreign_file(f"{inner}.file_id")
        if file is part and as_text(part.get("type")) == "file":
            return part  # Mistral's own form
        if file is not part:
            report_rest(part, ("type", "file"), path, changes)
        report_rest(file, ("type", "file_id"), inner, changes)
        changes.append(Change("rename", inner, "Mistral's form of a file part", "none", "file_id"))
        return {"type": "file", "file_id": file["file_id"]}
    if file is not part:
        report_rest(part, ("type", "file"), path, changes)
    report_rest(file, ("type", used, "filename"), inner, changes)
    name = as_text(file.get("filename"))
    document = as_text(file[used]) or ""
    if not document.startswith(("data:", "http://", "https://")):
        kind = mimetypes.guess_type(name or "")[0] or "application/pdf"  # what chat takes most: no name need be given
        document = f"data:{kind};base64,{document}"
    changes.append(Change("rename", inner, "Mistral's form of a document", "none", "document_url"))
    chunk: Node = {"type": "document_url", "document_url": document}
    if name is not None:
        chunk["document_name"] = file["filename"]
    return chunk


def _foreign_file(path: str) -> Refused:
    return Refused(
        f"{path}: Mistral cannot read a file that was uploaded elsewhere. Send the file itself (file_data with a data URL), "
        "or upload it to Mistral's /v1/files and send that id.",
        param=path,
        code="foreign_file_id",
    )
