"""For tests of real clients."""

from __future__ import annotations

from pathlib import Path

import certifi
import pytest

_END = "-----END CERTIFICATE-----\n"


@pytest.fixture(scope="session")
def short_ca_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA bundle of one certificate."""
    path = tmp_path_factory.mktemp("ca") / "bundle.pem"
    path.write_text(certifi.contents().partition(_END)[0] + _END)
    return path


@pytest.fixture(autouse=True)
def _ca_bundle_that_loads_quickly(monkeypatch: pytest.MonkeyPatch, short_ca_bundle: Path) -> None:
    """httpx reads its CA bundle for each client, also for one that never speaks TLS: 45 ms with that of certifi."""
    monkeypatch.setenv("SSL_CERT_FILE", str(short_ca_bundle))
