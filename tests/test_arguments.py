"""What a Python program gives to a stage: types that it takes, and one sentence for others before anything is made."""

import json
import re

import numpy as np
import pytest

from repro import UsageError, barrier, imp, pretrain, score, select, warmup
from repro.stages.arguments import checked

WRONG = [
    (pretrain, {"dataset": "digits", "t": 2.5}, "t (=2.5) must be a whole number"),
    (pretrain, {"dataset": "digits", "t": True}, "t (=True) must be a whole number"),
    (pretrain, {"dataset": "digits", "t": "2"}, "t (='2') must be a whole number"),
    (pretrain, {"dataset": "digits", "seed": np.float64(1)}, "seed (=np.float64(1.0)) must be a whole number"),
    (imp, {"rewind_point": "t2.h5", "levels": 1.5}, "levels (=1.5) must be a whole number"),
    (imp, {"rewind_point": "t2.h5", "levels": None}, "levels (=None) must be a whole number"),
    (imp, {"rewind_point": 3, "levels": 1}, "rewind_point (=3) must be a text or a path"),
    (imp, {"rewind_point": "t2.h5", "levels": 1, "pruning": "snip"}, "pruning (='snip') must be a Pruning"),
    (select, {"kind": "easy", "size": 40.5}, "size (=40.5) must be a whole number"),
    (select, {"kind": "easy", "balanced": 1}, "balanced (=1) must be True or False"),
    (barrier, {"points": "imp.h5", "alphas": 2.5}, "alphas (=2.5) must be a whole number or a sequence"),
    (warmup, {"dataset": "digits", "steps": 20}, "steps (=20) must be a sequence"),
    (score, {"dataset": "digits", "label_noise": "0.1"}, "label_noise (='0.1') must be a number"),
]


@pytest.mark.parametrize(("stage", "given", "said"), WRONG, ids=[said for *_, said in WRONG])
def test_a_mistake_is_found_before_anything_is_made(stage, given, said, tmp_path):
    with pytest.raises(UsageError, match=f"^{re.escape(said)}$"):
        stage(tmp_path / "x.h5", **given)
    assert list(tmp_path.iterdir()) == []


def test_numbers_of_numpy_become_json_and_others_stay():
    @checked
    def stage(out: str, *, t: int | None = None, noise: float = 0.0, grid: int | tuple[float, float] = 3) -> tuple:
        return out, t, noise, grid

    taken = stage("x.h5", t=np.int64(2), noise=np.float32(0.5), grid=(0.0, 1.0))
    assert json.dumps(taken) == '["x.h5", 2, 0.5, [0.0, 1.0]]'
    assert stage("x.h5", t=None, noise=1) == ("x.h5", None, 1, 3)
