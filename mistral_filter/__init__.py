"""Lets OpenAI-style chat clients talk to Mistral's API: keeps fields that Mistral accepts, translates others, drops the rest.

``filter_body`` is the pure function, ``MistralFilter`` the WSGI middleware, ``mistral_filter.flask.init_app`` the same for a
Flask app; ``mistral_filter.proxy`` forwards to Mistral. ``restore_tool_names`` is for applications that forward
requests themselves.
"""

from mistral_filter.changes import Change
from mistral_filter.errors import MistralFilterError
from mistral_filter.filtering import Filtered, filter_body
from mistral_filter.middleware import MistralFilter
from mistral_filter.toolnames import restore_tool_names

__all__ = ["Change", "Filtered", "MistralFilter", "MistralFilterError", "__version__", "filter_body", "restore_tool_names"]

__version__ = "0.2.0"
