"""Checks of the pages that were built."""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


def check_html(folder: Path, names: list[str]) -> list[str]:
    """Problems of finished pages: broken links, images without file or alternative text, anything loaded from outside.

    Args:
        names: the pages to check, without `.html`.
    """
    seen: dict[Path, _Seen] = {}

    def look(file: Path) -> _Seen:
        if file not in seen:
            seen[file] = _Seen()
            seen[file].feed(file.read_text())
        return seen[file]

    problems = []
    for name in names:
        page = folder / f"{name}.html"
        problems += [f"{name}: {p}" for p in _page_problems(page, look(page), look)]
    return problems


def _page_problems(page: Path, found: _Seen, look: Any) -> Iterator[str]:
    for address in found.loaded:
        if urlsplit(address).scheme in ("http", "https") or address.startswith("//"):
            yield f"would load {address} from outside"
        elif not address.startswith("data:") and not (page.parent / unquote(urlsplit(address).path)).exists():
            yield f"{address} is missing"
    for address, alt in found.images:
        if not alt or alt.strip() == address:
            yield f"image {address[:80]} has no alternative text"
    for address in dict.fromkeys(found.links):
        parts = urlsplit(address)
        if parts.scheme or address.startswith("//"):
            continue
        target = (page.parent / unquote(parts.path)) if parts.path else page
        if not target.exists():
            yield f"broken link to {address}"
        elif parts.fragment and target.suffix == ".html" and unquote(parts.fragment) not in look(target).ids:
            yield f"broken link to {address}: no such place on that page"


class _Seen(HTMLParser):
    """What a page links to, loads and offers as link targets."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.images: list[tuple[str, str]] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        a = {k: v or "" for k, v in attrs}
        if "id" in a:
            self.ids.add(a["id"])
        if tag == "a" and "name" in a:
            self.ids.add(a["name"])
        if tag == "a" and a.get("href"):
            self.links.append(a["href"])
        if tag in ("script", "img", "iframe", "source", "video", "audio", "embed") and a.get("src"):
            self.loaded.append(a["src"])
        if (
            tag == "link"
            and a.get("href")
            and {"stylesheet", "preload", "icon", "modulepreload"} & set(a.get("rel", "").split())
        ):
            self.loaded.append(a["href"])
        if tag == "img":
            self.images.append((a.get("src", ""), a.get("alt", "")))
