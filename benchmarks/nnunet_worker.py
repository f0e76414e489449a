"""nnU-Net's DC_and_CE loss in a Python of its own, timed one step at a time when it is told to.

`losses.py --nnunet-python PATH` starts this with the Python of a virtual environment that holds
nnunetv2, and talks to it over pipes, a line of JSON each way. Needs torch and nnunetv2 alone.
"""

import json
import sys
import time

import torch
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss


def main():
    settings = json.loads(sys.stdin.readline())
    torch.set_num_threads(settings["threads"])
    loss = DC_and_CE_loss(
        {"batch_dice": False, "smooth": 1e-5, "do_bg": True, "ddp": False},
        {},
        dice_class=MemoryEfficientSoftDiceLoss,
    )
    logits = target = None
    for line in sys.stdin:
        order = json.loads(line)
        if "file" in order:
            logits, target = torch.load(order["file"])
            logits.requires_grad_()
        logits.grad = None
        began = time.perf_counter()
        with torch.set_grad_enabled(order["backward"]):
            value = loss(logits, target)
        if order["backward"]:
            value.backward()
        elapsed = time.perf_counter() - began
        print(json.dumps({"seconds": elapsed, "value": value.item()}), flush=True)


if __name__ == "__main__":
    main()
