"""A rendered book, where there is one: its links lead somewhere, and its pages are light."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup
from chromium import chromium, served

pytestmark = pytest.mark.integration

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


def unsaid(page: str) -> list[str]:
    """The figures and tables of a page, in their first words, that no sentence follows."""
    found = []
    for cell in BeautifulSoup(page, "html.parser").select("div.cell"):
        if not cell.select_one(":scope > .cell_output :is(img, table, iframe, canvas)"):
            continue
        after = cell.find_next_sibling()
        while after is not None and "cell" in (after.get("class") or []):
            after = after.find_next_sibling()
        if after is None or after.name not in ("p", "ul"):
            found.append(cell.select_one(".cell_output").get_text(" ", strip=True)[:60])
    return found


def test_a_figure_without_a_word_is_seen() -> None:
    shows = '<div class="cell"><div class="cell_output"><img>{}</div></div>'
    code = '<div class="cell"><div class="cell_input">x = 1</div></div>'
    bare = f"<section>{shows.format('bare')}{code}<section><h2>Next</h2></section></section>"
    assert unsaid(f"{bare}<section>{shows.format('said')}{code}<p>See.</p></section>") == ["bare"]


def test_each_figure_and_table_is_followed_by_a_sentence(site: Path) -> None:
    found = {path.name: unsaid(path.read_text()) for path in site.glob("*.html")}
    assert {name: each for name, each in found.items() if each} == {}


#: What scrolls by itself counts too: code, tables, equations in lines of their own.
SIDEWAYS = """
const over = (each) => each.scrollWidth - each.clientWidth;
const all = [...document.querySelectorAll(
  ".bd-article pre, .bd-article .pst-scrollable-table-container, mjx-container[display=true]")];
const found = all.filter((each) => each.clientWidth && over(each) > 1).map((each) =>
  `${each.tagName} ${each.textContent.trim().slice(0, 40)}: ${over(each)}`);
return over(document.documentElement) > 0 ? ["the page", ...found] : found;
"""


@pytest.mark.parametrize("width", [1280, 390])
def test_no_page_has_to_be_moved_sideways(site: Path, width: int) -> None:
    with served(site.resolve()) as at, chromium() as tab:
        found = {}
        for page in sorted(site.glob("*.html")):
            tab.open(f"{at}/{page.name}", width=width)
            if over := tab.ask(f"(() => {{ {SIDEWAYS} }})()"):
                found[page.name] = over
    assert not found


@pytest.mark.parametrize("width", [1280, 390])
def test_the_model_answers_in_the_readers_browser(site: Path, width: int) -> None:
    """A phrase that nobody thought of, another tolerance, and a thing that was put there."""
    if not (site / "_static" / "browser").is_dir():
        pytest.skip("the site was built without the model: npm was not there")
    here = "document.querySelector('#live')"
    change = (
        f"((name, value, kind) => {{ const each = {here}.querySelector(name); each.value = value;"
        "each.dispatchEvent(new Event(kind)); })"
    )
    with served(site.resolve()) as at, chromium() as tab:
        tab.open(f"{at}/05b_ask.html", width=width)
        tab.until(f"{here}.dataset.done")
        tab.ask(f"{change}('.phrase', 'a moon that nobody drew', 'change')")
        answer = tab.until(f"{here}.dataset.done.startsWith('a moon that nobody drew|')")
        tab.ask(f"{change}('.tol', 0, 'input')")
        answer = max(answer, tab.until(f"{here}.dataset.done.includes('|0.0000|')"))
        before = tab.ask(f"{here}.querySelector('canvas.picture').toDataURL()")
        tab.ask(
            f"(() => {{ const on = {here}.querySelector('canvas.picture');"
            "const box = on.getBoundingClientRect(); on.dispatchEvent(new MouseEvent('click',"
            "{ clientX: box.left + box.width / 2, clientY: box.top + box.height / 2 })); })()"
        )
        assert tab.ask(f"{here}.querySelector('canvas.picture').toDataURL()") != before
        assert answer < 10  # two seconds on a laptop; other work may go on beside a test
