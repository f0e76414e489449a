"""A run as trackers are told of it, for their tests."""

import io
import json

from segfocal.reports.trackers.worker import serve

STAMP = "SYNTHETIC PHANTOM - not clinical evidence"


def run(folder, epoch=0, note=STAMP, **settings):
    return {
        "open": {
            "folder": str(folder),
            "name": folder.name,
            "note": note,
            "facts": {"data": "4 cases trained, 2 validated", "versions": "segfocal 0.1.0"},
            "settings": {"loss.gamma": 2.0, "train.epochs": 3, "loss.alpha": None, **settings},
            "epoch": epoch,
        }
    }


def row(epoch, picture=None, **numbers):
    numbers = {"epoch": epoch, "loss": 1 / epoch, **numbers}
    return {"log": epoch, "numbers": numbers, "picture": picture and str(picture)}


def end(status="done", report=None, **best):
    return {"close": {"status": status, "best": best, "report": report and str(report)}}


def tell(name, *messages, killed=lambda: None):
    """Serves a tracker in this process; what it answered."""
    answers = []
    lines = io.BytesIO(b"".join(json.dumps(m).encode() + b"\n" for m in messages))
    serve(name, lines, lambda **answer: answers.append(answer), killed)
    return answers
