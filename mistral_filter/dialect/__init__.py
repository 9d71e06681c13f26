"""OpenAI's way of saying things, in Mistral's: small functions, one per rule, each on one part of a document.

Every rule edits a part in place, and each edit says why; a part without the rule's words is not touched. Sources of the rules:
recorded requests of OpenAI-style clients, OpenAI's API reference of 2026-11, and the sources of ``mistral_filter.fields``.

=============== ==================================================================================
``responses``   a Responses body that was sent to chat/completions
``response_*``  a body for the Responses API: its top level, its items, their parts
``request``     the top level: renamed fields, OpenAI's forms of Mistral's fields
``effort``      how much a model shall reason, and greedy sampling
``tools``       ``tools``, ``tool_choice`` and the schemas in them
``messages``    a conversation: roles and places, contents, then the list
``chunks``      content parts
``thoughts``    earlier reasoning
``calls``       tool calls and their results (names of tools: ``mistral_filter.toolnames``)
``values``      single values, and what a dropped field was worth
=============== ==================================================================================
"""
