"""A rendered book, where there is one: its links lead somewhere, and its pages are light."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[1]
SITES = sorted(path.parent for path in ROOT.glob("runs/*/site/.complete"))
LIMIT = 2_000_000  # bytes of a page, without its pictures


class Page(HTMLParser):
    """What a page may be linked at, and what it links to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("id", "name") and value:
                self.anchors.add(value)
            elif name in ("href", "src") and value:
                self.links.add(value)


def broken(site: Path) -> list[str]:
    """The links within a site, `page: link`, that lead to no file or to no anchor."""
    pages = {path: Page(path.read_text()) for path in site.glob("*.html")}
    found = []
    for path, page in sorted(pages.items()):
        for link in sorted(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or link.startswith("/"):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            known = pages[target].anchors if target in pages else {anchor}
            if not target.is_file() or (anchor and anchor not in known):
                found.append(f"{path.name}: {link}")
    return found


def test_a_broken_link_is_seen(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<a href="b%20c.html#there">1</a><a href="b%20c.html#gone">2</a><img src="no.png">'
        '<a href="#self">3</a><p id="self"><a href="https://example.org/x">4</a>'
    )
    (tmp_path / "b c.html").write_text('<span id="there"></span>')
    assert broken(tmp_path) == ["a.html: b%20c.html#gone", "a.html: no.png"]


@pytest.fixture(params=SITES or [None], ids=lambda site: site.parent.name if site else "none")
def site(request: pytest.FixtureRequest) -> Path:
    if request.param is None:
        pytest.skip("no book was rendered here: make book")
    return request.param


def test_links_within_the_book_lead_somewhere(site: Path) -> None:
    assert not broken(site.resolve())


def test_pages_are_light(site: Path) -> None:
    sizes = {path.name: path.stat().st_size for path in site.glob("*.html")}
    assert sizes and {name: n for name, n in sizes.items() if n > LIMIT} == {}
