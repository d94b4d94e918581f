"""What an executed chapter says of itself: its end, how long it took, its numbers."""

import ast
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_RECORD = "application/papermill.record/text/plain"
_UNREAD = {"remove-cell", "hide-input"}
_WORDS_A_MINUTE, _LINES_A_MINUTE = 200, 25


def finish(path: Path) -> None:
    """Write below a chapter's title how long it takes to read, and took to run.

    Raises:
        ValueError: if the chapter did not come to its end.
    """
    page = json.loads(path.read_text())
    if page["metadata"]["papermill"]["exception"]:
        raise ValueError(f"{path}: a cell failed; see its end")
    title = page["cells"][0]
    head, _, rest = "".join(title["source"]).partition("\n\n")
    title["source"] = f"{head}\n\n*{_times(page)}*\n\n{rest}"
    path.write_text(json.dumps(page, indent=1, ensure_ascii=False))


def _times(page: dict[str, Any]) -> str:
    read = [c for c in page["cells"] if not _UNREAD & {*c["metadata"].get("tags", [])}]
    words, lines = (
        sum(len(count("".join(c["source"]))) for c in read if c["cell_type"] == kind)
        for kind, count in (("markdown", str.split), ("code", str.splitlines))
    )
    minutes = max(1, round(words / _WORDS_A_MINUTE + lines / _LINES_A_MINUTE))
    ran = page["metadata"]["papermill"]
    taken, profile = ran["duration"], ran["parameters"].get("profile", "mini")
    said = f"{taken:.0f} s" if taken < 100 else f"{taken / 60:.0f} min"
    return f"{minutes} min to read; executed in {said} (`{profile}`)"


def told(paths: Iterable[Path]) -> dict[str, str]:
    """Return what chapters have glued as text, by name with `_` for `-`, for other pages to say."""
    found = {}
    for path in paths:
        for cell in json.loads(path.read_text())["cells"]:
            for output in cell.get("outputs", []):
                name = output.get("metadata", {}).get("scrapbook", {}).get("name", "")
                if _RECORD in output.get("data", {}):
                    text = "".join(output["data"][_RECORD])
                    found[name.replace("-", "_")] = str(ast.literal_eval(text))
    return found
