"""How much a model shall reason, and the ``top_p`` that greedy sampling takes.

The rules work on a part and the name of the effort in it, because chat has ``reasoning_effort`` at the top and the Responses API
``effort`` in ``reasoning``. Sources: the API's 400 codes 3051 (effort) and 3054 ("top_p must be 1 when using greedy sampling");
measured by others on 2026-07-10 and 2026-08-30: while a model reasons, a ``top_p`` that is left out is not 1 either.
"""

from __future__ import annotations

from mistral_filter.changes import Loss
from mistral_filter.dialect.values import note_rest
from mistral_filter.fields import EFFORTS
from mistral_filter.models import nearest_word, reasoning_of
from mistral_filter.parts import Object
from mistral_filter.rawjson import NULL

__all__ = ["greedy_sampling", "rename_effort", "settle_effort", "takes_none"]

_NONE = EFFORTS[0]


def rename_effort(body: Object) -> None:
    """``reasoning.effort`` (the Responses API, OpenRouter) is chat's ``reasoning_effort``."""
    given = body.object("reasoning")
    if given is None:
        return
    note_rest(given, ("effort",))
    effort = given.fields.get("effort", NULL)
    if effort != NULL and not body.has("reasoning_effort"):
        body.note("rename", given.at("effort"), "chat's name", to="reasoning_effort")
        body.fields["reasoning_effort"] = effort
    elif "effort" in given.fields or not given.fields:
        path = given.at("effort") if given.fields else given.path
        body.note("drop", path, "it says nothing, or reasoning_effort says it")
    del body.fields["reasoning"]


def settle_effort(holder: Object, name: str, model: str | None) -> bool:
    """Puts the nearest effort that *model* takes under *name* of *holder*; of two equally near ones, the greater.

    The field goes where the model is known to take none. Unknown models and unknown words are left to the API. Returns whether
    the request asks the model to reason, as far as the model does.
    """
    word = holder.text(name)
    known = reasoning_of(model) if word in EFFORTS else None
    if word is None or known is None or known.efforts is None or word in known.efforts:
        return word not in (None, _NONE)
    if known.efforts:
        nearest = nearest_word(word, known.efforts)
        holder.set(name, nearest, f"this model takes {', '.join(known.efforts)} only", "approximate")
        return nearest != _NONE
    loss: Loss = "approximate" if known.reads else "none"
    reason = "this model takes no effort: it always reasons" if known.reads else "this model takes no effort: it does not reason"
    holder.drop(name, reason, loss if (word != _NONE) is known.reads else "lost")
    return known.reads and word != _NONE


def takes_none(model: str | None) -> bool:
    """Whether *model* is known to refuse every effort."""
    known = reasoning_of(model)
    return known is not None and known.efforts == ()


def greedy_sampling(body: Object, *, reasons: bool) -> None:
    """At temperature 0, ``top_p`` is 1: Mistral refuses another one, and none has an effect there.

    *reasons*: the request asks the model to reason; then a ``top_p`` that is left out is inserted. A temperature below 0 counts,
    because it is clamped to 0. To be called before ``top_p`` is clamped.
    """
    temperature = body.number("temperature")
    if temperature is None or temperature > 0:
        return
    top_p = body.number("top_p")
    if top_p is not None:
        if top_p != 1:
            body.set("top_p", 1, "at temperature 0 Mistral takes no other, and none has an effect")
    elif reasons and not body.has("top_p"):
        body.insert("top_p", 1, "Mistral requires it at temperature 0 while the model reasons")
