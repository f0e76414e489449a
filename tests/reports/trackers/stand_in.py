"""A package that calls itself wandb, prints, reads stdin, and fails in each way there is."""

import sys

STAND_IN = """
import os, time

def fails_at(place):
    where, how = os.environ["STAND_IN"].split()
    if where != place:
        return
    if how == "raises":
        raise OSError("disk full at https://me:secret@host")
    if how == "dies":
        os.kill(os.getpid(), 9)
    time.sleep(60)

class Settings:
    def __init__(self, **_):
        pass

class Run:
    url, step, resumed, id = "https://host/run", 0, False, "x"
    def __init__(self):
        self.config, self.summary = self, {}
    def update(self, *_, **__):
        pass
    def log(self, row, step):
        fails_at("log")
        with open(__file__ + ".log", "a") as file:
            file.write(f"{step}{' and a picture' if 'sample' in row else ''} ")
    def log_artifact(self, artifact):
        with open(__file__ + ".log", "a") as file:
            file.write("report")
    def finish(self, exit_code):
        fails_at("finish")

class Image:
    def __init__(self, path):
        pass

class Artifact(Image):
    def __init__(self, name, type):
        pass
    def add_file(self, path):
        pass

def login(verify):
    fails_at("login")

def init(**_):
    fails_at("init")
    print("wandb: no answer to the training", flush=True)
    assert os.read(0, 1) == b"", "took what the training says"
    return Run()
"""


def stand_in(folder, monkeypatch):
    """Puts it where a tracker's process finds it.

    Returns:
        Takes where and how it fails (`log hangs`); gives the file of what it was told.
    """
    package = folder / "packages" / "wandb"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)

    def behave(place_and_how):
        monkeypatch.setenv("STAND_IN", place_and_how)
        return package / "__init__.py.log"

    return behave
