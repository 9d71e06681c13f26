"""Python imports this by its name when a server of the tests starts.

gevent asks for its plugins 25 times in each worker, and each time the standard library reads what all installed packages say of
themselves: some twenty with the proxy, ninety with the tests. Of the tests' servers, which are started by the hundred, that was
a fifth of what a start took. They read it once.
"""

from __future__ import annotations

import functools
import importlib.metadata

importlib.metadata.entry_points = functools.cache(importlib.metadata.entry_points)
