"""Two nodes, each a network namespace of its own, train and score what one process does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from rlfseg.chapters.reading import chapter_file
from rlfseg.evaluation.score import Evaluation
from rlfseg.experiment import first_steps, is_trained, packed, scored, trained
from rlfseg.stage import made_at
from rlfseg.training.steps import read_steps

NODES = {"node-a": "10.77.0.1", "node-b": "10.77.0.2"}
RUN = {
    "backbone": {"name": "./tiny"},
    "data": {"source": "mini", "pixels": 16, "train": 6, "val": 2, "test": 30, "seed": 5},
    "train": {"steps": 4, "rank": 2, "batch": 4, "lr": 1e-2},
}
SCORING = {"split": "test", "phrases": 90, "sampler": {"name": "aos", "tol": 0.2}}
CHAPTER = {"profile": "smoke", "changes": {}, "variants": {"16": {}}, "longer": {}}
pytestmark = pytest.mark.slow


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture(scope="module")
def nodes() -> Iterator[dict[str, str]]:
    """Two namespaces joined by one wire, in which the other processes of the machine are not."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("network namespaces need iproute2 and root")
    names = list(NODES)
    try:
        for name in names:
            ip("netns", "add", name)
        ends = ("wire-a", "wire-b")
        ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        for name, end in zip(names, ends, strict=True):
            ip("link", "set", end, "netns", name)
            ip("-n", name, "addr", "add", f"{NODES[name]}/24", "dev", end)
            ip("-n", name, "link", "set", end, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield dict(zip(names, ends, strict=True))
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def launched(nodes: dict[str, str], command: str, parameters: Path) -> None:
    """Runs one `torchrun` on each node, as `srun` does on a cluster."""
    started = []
    for name, wire in nodes.items():
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2"]
        torchrun += ["--nproc_per_node", "1", "--rdzv-id", command, "--rdzv-backend", "c10d"]
        torchrun += ["--rdzv-endpoint", f"{NODES['node-a']}:29677", "--local-addr", NODES[name]]
        torchrun += ["--rdzv-conf", f"is_host={name == 'node-a'}"]  # they share a host's name
        started.append(
            subprocess.Popen(
                ["ip", "netns", "exec", name, *torchrun, "-m", "rlfseg", command, str(parameters)],
                env={**os.environ, "GLOO_SOCKET_IFNAME": wire, "OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    for process in started:
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said


def test_two_nodes_train_and_score_what_one_process_does(repo: Path, nodes: dict[str, str]) -> None:
    parameters = repo / "params" / "smoke" / "09_ranks.yml"
    parameters.parent.mkdir()
    (parameters.parent / "run.yml").write_text(yaml.safe_dump(RUN))
    parameters.write_text(yaml.safe_dump({**CHAPTER, "scoring": SCORING}))
    ((one, scoring),) = chapter_file(parameters).asks().scored
    packed(one, "val")
    launched(nodes, "train", parameters)
    assert is_trained(one)
    both = read_steps(trained(one) / "steps.jsonl")
    alone = first_steps(one, until=4)
    for a, b in zip(both, alone, strict=True):
        assert a.loss == pytest.approx(b.loss, rel=1e-2)  # bf16; in float32: test_processes

    launched(nodes, "evaluate", parameters)
    folder = made_at(one.scores_stage(scoring), profile="smoke")
    found = Evaluation.load(folder).annotation
    assert not (folder / "parts").exists()
    shutil.rmtree(folder)
    again = scored(one, scoring).annotation
    assert np.array_equal(found.image_id, again.image_id) and len(again) > 64
    assert found.miou().value == pytest.approx(again.miou().value, rel=1e-3)
