"""The vectors of the order of datasets are what its specification, written down a second time in Python, computes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

COMPAT = Path(__file__).parents[1] / "compat"


def test_the_vectors_are_those_of_the_specification() -> None:
    vectors = COMPAT / "order-1.json"
    done = subprocess.run([sys.executable, COMPAT / "order.py"], capture_output=True, timeout=120, check=True)
    assert done.stdout == vectors.read_bytes()
    assert len(done.stdout) < 100_000


def test_other_vectors_are_found_out(tmp_path: Path) -> None:
    text = (COMPAT / "order-1.json").read_text(encoding="utf-8")
    changed = tmp_path / "order-1.json"
    changed.write_text(text.replace('"algorithm":1', '"algorithm":2'), encoding="utf-8")
    done = subprocess.run([sys.executable, COMPAT / "order.py", changed], capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "other vectors" in done.stderr
