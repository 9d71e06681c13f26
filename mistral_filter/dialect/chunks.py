"""Content parts: OpenAI's files, refusals and Responses parts as Mistral's chunks."""

from __future__ import annotations

import mimetypes
import re
from typing import Any

from mistral_filter.dialect.thoughts import NO_TEXT, NOT_READ, TEXT_NAMES, THOUGHT_TYPES, thinking, thought
from mistral_filter.dialect.values import note_rest
from mistral_filter.errors import Refused
from mistral_filter.fields import CHUNKS_BY_ROLE, MESSAGES, Node, Tagged
from mistral_filter.fields import Array as List
from mistral_filter.judge import Judge
from mistral_filter.parts import GONE, Array, Object
from mistral_filter.rawjson import Node as JSONObject

__all__ = ["OWN_FILE_ID", "foreign_file", "joined_text", "translate_content"]

_TEXT_TYPES = {
    "input_text": "text",
    "output_text": "text",
    "summary_text": "text",
    "reasoning_text": "text",
    "refusal": "refusal",
}
"""OpenAI part type: the key that holds its text."""

OWN_FILE_ID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
"""The form of Mistral's own file ids (OpenAPI 2026-08-21, FileChunk.file_id)."""


def _chunk_table(role: str) -> Node:
    message = MESSAGES.items
    assert isinstance(message, Tagged)
    content = message.variants[role].fields["content"]
    assert isinstance(content, List)
    return content.items


CHUNK_TABLES = {role: _chunk_table(role) for role in CHUNKS_BY_ROLE}
"""What the chunks of a message of each role are judged by."""

_ANYWHERE = frozenset().union(*CHUNKS_BY_ROLE.values())
_PLACEHOLDER = "attachment"
"""What stands in a tool's result whose only content moved out of it."""


def translate_content(message: Object, role: str, judge: Judge, *, reads_reasoning: bool, by_role: bool) -> list[Object]:
    """Translates the parts of *message*'s content and has them judged. Returns the chunks that go into a user message.

    Those are the chunks that its *role* may not hold but a user may.

    *reads_reasoning*: the model reads earlier reasoning. *by_role*: the API judges which chunks a role may hold. Raises Refused
    for a file that only OpenAI can read.
    """
    content = message.array("content")
    if content is None:
        return []
    attachments = []
    for index, part in content.each():
        _translate(part, content, index, reads_reasoning=reads_reasoning)
        if content.items[index] is GONE:
            continue
        if by_role and not _may_hold(role, part):
            if role == "tool" and (kind := part.text("type")) in CHUNKS_BY_ROLE["user"] and kind != "reference":
                content.take(index, "a tool's result is text and images", "approximate", "a user message")
                judge.one(part, CHUNK_TABLES["user"])
                attachments.append(part)
                continue
            _replace(part, content, index, role)
        judge.one(part, CHUNK_TABLES[role])
    content.is_judged = True
    if content.items and content.is_empty():
        message.fields["content"] = _PLACEHOLDER if attachments else ""  # what stood there has been noted, part by part
    return attachments


def _may_hold(role: str, chunk: Object) -> bool:
    kind = chunk.text("type")
    return kind not in _ANYWHERE or kind in CHUNKS_BY_ROLE[role]


def _replace(chunk: Object, content: Array, index: int, role: str) -> None:
    """Puts text in place of a *chunk* that a message of *role* may not hold, or nothing."""
    kind = chunk.text("type")
    if kind == "reference":
        content.drop(index, f"no reference in a message of role {role}", "approximate")
    elif kind == "thinking":
        thinking = chunk.array("thinking")
        text = {"type": "text", "text": "" if thinking is None else joined_text(thinking)}
        chunk.become(text, "set", chunk.path, f"no thinking in a message of role {role}", "approximate", to="text")
    else:
        reason = f"no {kind} in a message of role {role}"
        chunk.become({"type": "text", "text": f"[{kind}]"}, "set", chunk.path, reason, "lost", to="text")


def joined_text(parts: Array) -> str:
    """The text of text *parts* as one string; what else they hold is noted."""
    texts = []
    for index in range(len(parts.items)):
        part = parts.part(index)
        text = part.text("text") if isinstance(part, Object) else None
        if text is None:
            parts.note("drop", parts.at(index), "only text can stand here", "lost")
        elif isinstance(part, Object):
            texts.append(text)
            note_rest(part, ("type", "text"))
    return "".join(texts)


def _translate(part: Object, content: Array, index: int, *, reads_reasoning: bool) -> None:
    """One part in Mistral's form."""
    kind = part.text("type")
    if kind in _TEXT_TYPES:
        key = _TEXT_TYPES[kind]
        note_rest(part, ("type", key))
        text = {"type": "text", "text": part.fields.get(key, "")}
        part.become(text, "rename", part.at("type"), f"Mistral's name for {kind}", to="text")
    elif kind == "input_image":
        _image(part)
    elif kind in ("file", "input_file"):
        _file(part)
    elif kind in THOUGHT_TYPES and part.array("thinking") is None:
        _thought(part, kind, content, index, reads_reasoning=reads_reasoning)


def _thought(part: Object, kind: str, content: Array, index: int, *, reads_reasoning: bool) -> None:
    """Earlier reasoning in a form that is not Mistral's: a thinking chunk for a model that reads it, nothing for another."""
    text = thought(part, kind, *TEXT_NAMES) if reads_reasoning else None
    if text is None:
        content.drop(index, NO_TEXT if reads_reasoning else NOT_READ)
    else:
        part.become(thinking(text), "set", part.path, "Mistral's form of reasoning", to="thinking")


def _image(part: Object) -> None:
    if not part.has("image_url"):
        raise foreign_file(part.at("file_id"))
    url: Any = part.fields["image_url"]
    used = ["type", "image_url"]
    if part.has("detail") and part.text("image_url") is not None:
        url = {"url": url, "detail": part.fields["detail"]}
        used.append("detail")
    note_rest(part, used)
    image = {"type": "image_url", "image_url": url}
    part.become(image, "rename", part.at("type"), "Mistral's name for input_image", to="image_url")


def _file(part: Object) -> None:
    file = part.object("file") or part
    path = part.at("file") if file is not part else part.path
    used = next((name for name in ("file_data", "file_url") if file.text(name)), None)
    if used is not None:
        if file is not part:
            note_rest(part, ("type", "file"))
        note_rest(file, ("type", used, "filename"))
        part.become(_document(file, used), "rename", path, "Mistral's form of a document", to="document_url")
        return
    file_id = file.text("file_id")
    if file_id is None:
        return
    if not OWN_FILE_ID.fullmatch(file_id):
        raise foreign_file(file.at("file_id"))
    if file is part and part.text("type") == "file":
        return  # Mistral's own form
    if file is not part:
        note_rest(part, ("type", "file"))
    note_rest(file, ("type", "file_id"))
    own = {"type": "file", "file_id": file.fields["file_id"]}
    part.become(own, "rename", path, "Mistral's form of a file part", to="file_id")


def _document(file: Object, used: str) -> JSONObject:
    """The chunk for a *file* whose content is under the key *used*."""
    name = file.text("filename")
    document = file.text(used) or ""
    if not document.startswith(("data:", "http://", "https://")):
        kind = mimetypes.guess_type(name or "")[0] or "application/pdf"  # what chat takes most: no name need be given
        document = f"data:{kind};base64,{document}"
    chunk: JSONObject = {"type": "document_url", "document_url": document}
    if name is not None:
        chunk["document_name"] = file.fields["filename"]
    return chunk


def foreign_file(path: str) -> Refused:
    """The error for a file id at *path* that is not Mistral's."""
    return Refused(
        f"{path}: Mistral cannot read a file that was uploaded elsewhere. Send the file itself (file_data with a data URL), "
        "or upload it to Mistral's /v1/files and send that id.",
        param=path,
        code="foreign_file_id",
    )
