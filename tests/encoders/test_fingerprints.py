"""No encoder's fingerprint ever changes: embeddings that somebody has stored are found under it."""

import json
from pathlib import Path
from typing import get_args

from biofuse.encoders import Precision, list_cards

RECORDED = json.loads(Path(__file__).with_name("fingerprints.json").read_text(encoding="utf-8"))


def test_fingerprints_are_the_recorded_ones():
    now = {
        card.name: {precision: card.fingerprint(precision=precision) for precision in get_args(Precision)}
        for card in list_cards()
    }
    assert {name: now.get(name) for name in RECORDED} == RECORDED
