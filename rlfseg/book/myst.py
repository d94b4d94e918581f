"""Tables in MyST's markup, for the book."""

from collections.abc import Mapping, Sequence

from IPython.display import Markdown

DASH = "–"


def grid(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Write a table in Markdown; texts keep to one line, and a bar in them stays a bar."""
    return "\n".join(map(_line, (heads, ["---"] * len(heads), *lines)))


def captioned(body: str, *, caption: str, name: str) -> str:
    """Set a caption over a table, and make it the target of `{ref}`."""
    return f":::{{table}} {flat(caption)}\n:name: {name}\n\n{body}\n:::"


def tabled(
    rows: Mapping[str, Mapping[str, str]], *, stub: str, caption: str, name: str
) -> Markdown:
    """Set what is said of several things as a table.

    Args:
        rows: what is said, by column, by the thing; what isn't said of one is a dash.
        stub: the head of the things' column.
        caption: one line.
        name: target of `{ref}`, such as `table-learning`.
    """
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    lines = [[thing, *(row.get(each, DASH) for each in columns)] for thing, row in rows.items()]
    return Markdown(captioned(grid([stub, *columns], lines), caption=caption, name=name) + "\n")


def flat(text: str) -> str:
    """Return a text on one line."""
    return " ".join(text.split())


def _line(texts: Sequence[str]) -> str:
    return "| " + " | ".join(flat(text).replace("|", r"\|") for text in texts) + " |"
