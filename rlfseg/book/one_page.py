"""A Sphinx extension: what can be written on many pages can be written on one, from which the PDF
is printed.

Sphinx looks up how a node is written by the builder's name, and by `html` only where no extension
has named that builder. sphinx-exercise names `singlehtml`, which would hide all other extensions'.
"""

from typing import Any


def setup(app: Any) -> dict[str, bool]:
    """Let all that is written as `html` be written as `singlehtml` too."""
    app.connect("builder-inited", _as_html)
    return {"parallel_read_safe": True}


def _as_html(app: Any) -> None:
    handlers = app.registry.translation_handlers
    handlers["singlehtml"] = {**handlers.get("html", {}), **handlers.get("singlehtml", {})}
