"""Executes a chapter for the chain: by papermill, with a kernel that is spoken to through files.

python -m rlfseg.book.execute NOTEBOOK EXECUTED PARAMETERS    and writes times below its title

For one chapter at a time `papermill NOTEBOOK EXECUTED -f PARAMETERS` does. Of several kernels that
begin at once, two may choose the same TCP port; one dies of it, and papermill waits for ever.
"""

import logging
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import papermill
from papermill.iorw import read_yaml_file
from traitlets.config import Config

from rlfseg.book.executed import finish


def execute(notebook: Path, executed: Path, parameters: Path) -> None:
    """Execute a notebook with the parameters of a YAML file; write it, cell by cell, to `executed`.

    Raises:
        papermill.PapermillExecutionError: if a cell fails; what was executed is kept.
    """
    # it warns of values that it can't read; names are checked by the chapter itself
    logging.getLogger("papermill").setLevel(logging.ERROR)
    with TemporaryDirectory() as folder:
        sockets = {"transport": "ipc", "ip": f"{folder}/kernel"}  # a file's name, for the latter
        papermill.execute_notebook(
            notebook,
            executed,
            read_yaml_file(str(parameters)),
            config=Config({"KernelManager": sockets}),
        )


if __name__ == "__main__":
    _, done, _ = places = [Path(each) for each in sys.argv[1:]]
    execute(*places)
    finish(done)
