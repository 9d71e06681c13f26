"""What each endpoint of Mistral's API accepts, as data.

Sources: the official SDK ``mistralai`` 3.7.0 (read 2026-11-23) for names and nullability, Mistral's OpenAPI document of
2026-08-21 for ranges and for the three tool types that only it lists (web_search, web_search_premium, code_interpreter),
``mistral-common`` 1.13.1 for ``CHUNKS_BY_ROLE``, TOOL_CALL_ID and FUNCTION_NAME. What depends on the model has its sources
beside it. ``make drift`` compares names and words with the newest SDK. Mistral refuses a key that a strict object does not list:
422 ``extra_forbidden``.
"""

from __future__ import annotations

from mistral_filter.fields.chat import CHUNKS_BY_ROLE, FUNCTION_NAME, MESSAGES, TOOL_CALL_ID
from mistral_filter.fields.endpoints import CHAT_FIELDS, ENDPOINTS
from mistral_filter.fields.models import DIMENSIONS, EFFORTS, MODEL_OPTIONS, REASONING, Reasoning
from mistral_filter.fields.nodes import KEEP, SET, Array, Node, Object, Tagged, Value
from mistral_filter.fields.responses import (
    FOREIGN_CALLS,
    FOREIGN_ITEMS,
    FOREIGN_RESULTS,
    RESPONSE_ANNOTATIONS,
    RESPONSE_CONSTANTS,
    RESPONSE_INCLUDED,
    RESPONSE_INPUT,
    RESPONSE_ITEMS,
    RESPONSE_LOGPROBS,
    RESPONSE_MESSAGES,
    RESPONSE_PARTS,
    RESPONSE_TOOLS,
    RESPONSES,
    Constant,
    ForeignCall,
    ForeignResult,
)
from mistral_filter.fields.values import MEDIA, NEUTRAL, WITHOUT_EFFECT

__all__ = [
    "CHAT_FIELDS",
    "CHUNKS_BY_ROLE",
    "DIMENSIONS",
    "EFFORTS",
    "ENDPOINTS",
    "FOREIGN_CALLS",
    "FOREIGN_ITEMS",
    "FOREIGN_RESULTS",
    "FUNCTION_NAME",
    "KEEP",
    "MEDIA",
    "MESSAGES",
    "MODEL_OPTIONS",
    "NEUTRAL",
    "REASONING",
    "RESPONSES",
    "RESPONSE_ANNOTATIONS",
    "RESPONSE_CONSTANTS",
    "RESPONSE_INCLUDED",
    "RESPONSE_INPUT",
    "RESPONSE_ITEMS",
    "RESPONSE_LOGPROBS",
    "RESPONSE_MESSAGES",
    "RESPONSE_PARTS",
    "RESPONSE_TOOLS",
    "SET",
    "TOOL_CALL_ID",
    "WITHOUT_EFFECT",
    "Array",
    "Constant",
    "ForeignCall",
    "ForeignResult",
    "Node",
    "Object",
    "Reasoning",
    "Tagged",
    "Value",
]
