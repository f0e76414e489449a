"""Reads a run that wandb wrote offline: a LevelDB log of wandb's own records."""

import json
import struct
from pathlib import Path

HEADER, BLOCK = 7, 32768
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def records(path):
    """Every record, as wandb's protocol buffers define it."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, parts, found = path.read_bytes(), HEADER, [], []
    assert content[:4] == b":W&B"
    while place < len(content):
        room = BLOCK - place % BLOCK
        if room < HEADER:
            place += room
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        assert kind in (FULL, FIRST, MIDDLE, LAST)
        parts.append(content[place + HEADER : place + HEADER + length])
        place += HEADER + length
        if kind in (FULL, LAST):
            found.append(Record.FromString(b"".join(parts)))
            parts = []
    return found


def content(run_folder):
    """History by step, config, last summary, tags, notes and exit code of its offline runs."""
    told = {"history": {}, "config": {}, "summary": {}, "tags": set(), "ids": set()}
    told |= {"notes": set(), "exit": [], "artifacts": [], "files": set(), "names": set()}
    for path in sorted(run_folder.glob("wandb/offline-run-*/*.wandb")):
        for record in records(path):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                _keep_run(told, record.run)
            elif kind == "config":
                told["config"].update(_items(record.config.update))
            elif kind == "summary":
                told["summary"].update(_items(record.summary.update))
            elif kind == "exit":
                told["exit"].append(record.exit.exit_code)
            elif kind == "artifact":
                entries = record.artifact.manifest.contents
                told["artifacts"] += [(entry.path, Path(entry.local_path)) for entry in entries]
            elif kind == "files":
                told["files"].update(file.path for file in record.files.files)
            elif kind == "history":
                row = _items(record.history.item)
                told["history"].setdefault(record.history.step.num, []).append(row)
    return told


def _keep_run(told, run):
    told["ids"].add(run.run_id)
    told["names"].add((run.project, run.display_name))
    told["notes"].add(run.notes)
    told["tags"].update(run.tags)
    told["config"].update(_items(run.config.update))
    assert not run.host
    assert not run.git.remote_url


def _items(items):
    pairs = ((".".join(item.nested_key) or item.key, item.value_json) for item in items)
    return {name: json.loads(value) for name, value in pairs}
