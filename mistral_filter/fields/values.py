"""What single values mean, wherever they stand: what a field that is left out was worth, and which ones hold files."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["MEDIA", "NEUTRAL", "WITHOUT_EFFECT"]


WITHOUT_EFFECT: Mapping[str, str] = {
    "stream_options": "Mistral sends the usage in its last chunk anyway",
    "user": "a label for the provider's own records",
    "safety_identifier": "a label for the provider's own records",
    "prompt_cache_retention": "how long OpenAI caches a prompt",
    "prompt_cache_options": "how OpenAI caches a prompt",
    "cache_control": "how Anthropic caches a prompt",
    "client_metadata": "a label for the provider's own records",
    "annotations": "part of an earlier answer that models do not read",
    "parsed": "part of an earlier answer that models do not read",
    "content_chunks": "part of an earlier answer that models do not read",
    "provider_specific_fields": "part of an earlier answer that models do not read",
    "id": "an identifier of the client's own",
    "status": "part of an earlier answer that models do not read",
    "_index": "a count of the client's own",
}
"""Foreign fields (OpenAI's reference, 2026-11) that do not change the answer, wherever they stand, and why."""

NEUTRAL: Mapping[str, tuple[bytes, ...]] = {
    "frequency_penalty": (b"0", b"0.0"),
    "presence_penalty": (b"0", b"0.0"),
    "repetition_penalty": (b"1", b"1.0"),
    "n": (b"1",),
    "best_of": (b"1",),
    "parallel_tool_calls": (b"true",),
    "logprobs": (b"false",),
    "top_logprobs": (b"0",),
    "echo": (b"false",),
    "store": (b"false",),
    "service_tier": (b'"auto"', b'"default"'),
    "modalities": (b'["text"]',),
    "verbosity": (b'"medium"',),
    "truncation": (b'"disabled"',),
    "background": (b"false",),
    "thinking": (b'{"type":"disabled"}',),
    "include_reasoning": (b"true",),
    "exclude": (b"false",),
}
"""Values that say what happens without the field: dropping them loses nothing. Sources: OpenAI's, Mistral's and OpenRouter's
references of 2026-11 (``include_reasoning``, and ``exclude`` in ``reasoning``, are OpenRouter's), Anthropic's for ``thinking``.
``reasoning_effort`` is not among them: without it Mistral's models do not reason, and OpenAI's do."""

MEDIA = frozenset(("url", "image_url", "document_url", "input_audio", "data", "file_data"))
"""Keys under which a request may hold a file in base64: Mistral's chunks and OCR's documents (OpenAPI 2026-08-21), OpenAI's
image, audio and file parts (reference of 2026-11). No rule looks at more of such a text than its beginning."""
