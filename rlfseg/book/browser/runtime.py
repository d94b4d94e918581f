"""The program that runs ONNX files in a browser, from npm, where npm is.

python -m rlfseg.book.browser.runtime FOLDER    puts it there, or says why not
"""

import hashlib
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

from rlfseg.stage import replaced

VERSION = "1.30.0"
_SHA256 = "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71"
_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")


def fetch_runtime(folder: Path) -> str:
    """Put onnxruntime-web's three files into a folder, if they aren't there.

    The archive is npm's; it is unpacked only if it is the one that is known, and none of its
    scripts is run here.

    Returns:
        Why they aren't there; nothing if they are.
    """
    if all((folder / name).is_file() for name in _FILES):
        return ""
    npm = shutil.which("npm")
    if npm is None:
        return "npm is not on PATH"
    with TemporaryDirectory() as place:
        asked = [npm, "pack", "--silent", "--fetch-retries=0", f"onnxruntime-web@{VERSION}"]
        done = subprocess.run(asked, cwd=place, capture_output=True, text=True, check=False)
        archives = list(Path(place).glob("*.tgz"))
        if done.returncode or len(archives) != 1:
            return f"npm had no onnxruntime-web {VERSION}: {done.stderr.strip()[:200]}"
        if hashlib.sha256(archives[0].read_bytes()).hexdigest() != _SHA256:
            return f"npm's onnxruntime-web {VERSION} is not the archive that is known"
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(archives[0]) as archive:
            for name in _FILES:
                file = archive.extractfile(f"package/dist/{name}")
                assert file is not None
                with replaced(folder / name) as draft:
                    draft.write_bytes(file.read())
    return ""


if __name__ == "__main__":
    sys.exit(fetch_runtime(Path(sys.argv[1])) or None)
