"""``python tests/tools/render_clients.py``: writes docs/clients.md and docs/clients.zh-CN.md from the clients of the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / "mistral_filter" / "proxy" / "page"
BASE = "https://YOUR-HOST/v1"

HEADS = {
    "en": (
        "# Clients\n\nThe page of a running server at `/` shows the same settings with its own address in them. Use your\n"
        "Mistral key as the API key. `https://YOUR-HOST` is the address of your server; on your machine it is `http://127.0.0.1:8000`.\n"
    ),
    "zh": (
        "# 客户端\n\n运行中的服务器在 `/` 的页面上列出同样的设置，并填好它自己的地址。API 密钥用你自己的 Mistral 密钥。"
        "`https://YOUR-HOST` 是你的服务器地址；\n在本机上是 `http://127.0.0.1:8000`。\n"
    ),
}
FILES = {"en": ROOT / "docs" / "clients.md", "zh": ROOT / "docs" / "clients.zh-CN.md"}


def render(language: str) -> str:
    """The document in *language*, ``en`` or ``zh``."""
    data = json.loads((PAGE / "clients.json").read_text("utf-8"))
    texts = json.loads((PAGE / f"{language}.json").read_text("utf-8"))
    parts = [HEADS[language]]
    for group in data["groups"]:
        if f"group_{group['id']}" in texts:
            parts.append(f"## {texts['group_' + group['id']]}\n")
        for client in group["clients"]:
            parts.append(f"### {client['name']}\n")
            parts.extend(_setting(setting, language, data["model"]) for setting in client["settings"])
            parts.extend(note + "\n" for note in client["notes"][language])
    return "\n".join(parts)


def _setting(setting: dict[str, Any], language: str, model: str) -> str:
    label, code = setting["label"], setting["code"]
    for name, value in (("root", BASE.removesuffix("/v1")), ("base", BASE), ("model", model)):
        code = code.replace("{" + name + "}", value)
    text = label if label is None or isinstance(label, str) else label[language]
    return (f"{text}:\n\n" if text else "") + f"```\n{code}\n```\n"


if __name__ == "__main__":
    for language, file in FILES.items():
        file.write_text(render(language), "utf-8")
