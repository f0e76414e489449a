"""Data sets labelled with different classes, joined: what nobody looked for is masked, not 0.

    python examples/04_partial_labels.py

A large site A drew livers, a small site B spleens, in volumes of noise with a bright ball and a
dark one. A voxel of site A with label 0 may well be spleen: where a class was not annotated, it
leaves the softmax, and gets no gradient. A small network is trained with that mask, and again with
what joined label files say by themselves, that everything else is background. Both are measured on
volumes where both organs are drawn. (A Dice term beside the focal one hides the difference here:
this task is easy.) The tool does the same with `data.partial` (docs/data.md).
"""

import torch
from torch import nn

from segfocal import FocalLoss, LabelScheme
from segfocal.data.partial import annotated_outputs

STEPS, SIZE = 150, 20
SCHEME = LabelScheme(("background", "liver", "spleen"), (0, 1, 2))
SITES = {"A": ["liver"], "B": ["spleen"]}
BATCH = ("A", "A", "A", "B")


def draw(generator):
    """An image `(1, 1, *S)` and its full label: noise, a liver above it, a spleen below."""
    at = torch.stack(torch.meshgrid(*[torch.arange(SIZE)] * 3, indexing="ij"))
    label = torch.zeros(1, 1, SIZE, SIZE, SIZE, dtype=torch.uint8)
    for organ in (1, 2):
        centre = torch.randint(5, SIZE - 5, (3, 1, 1, 1), generator=generator)
        label[0, 0][((at - centre) ** 2).sum(0) < 16] = organ
    mean = torch.tensor([0.0, 1.5, -1.5])[label.long()]
    return mean + torch.randn(label.shape, generator=generator), label


def as_drawn(label, site):
    """What the label file of a site holds: 0 for what it did not look for."""
    known = torch.tensor(annotated_outputs(SCHEME, SITES[site]))
    return torch.where(known[label.long()], label, 0), known.view(1, -1, 1, 1, 1)


def make_network():
    torch.manual_seed(0)
    layers = [nn.Conv3d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv3d(8, 8, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv3d(8, SCHEME.num_outputs, 1))


def train(*, masked):
    """Three volumes of site A and one of site B a step."""
    network, generator = make_network(), torch.Generator().manual_seed(1)
    loss_function = FocalLoss(use_softmax=True, gamma=2.0)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for step in range(STEPS):
        images, labels, known = [], [], []
        for site in BATCH:
            image, label = draw(generator)
            label, annotated = as_drawn(label, site)
            images.append(image)
            labels.append(label)
            known.append(annotated)
        logits = network(torch.cat(images))
        logits.retain_grad()
        mask = torch.cat(known).expand_as(logits) if masked else None
        loss = loss_function(logits, torch.cat(labels), mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step == 0:
            for site, pull in zip(BATCH[2:], logits.grad[2:].abs().sum((2, 3, 4)), strict=True):
                told = [f"{name} {p:.2g}" for name, p in zip(SCHEME.names, pull, strict=True)]
                print(f"  gradient from a volume of site {site}: {', '.join(told)}")
        if (step + 1) % 50 == 0:
            print(f"  step {step + 1}: loss {loss.item():.4f}")
    return network


@torch.no_grad()
def test(network):
    """Dice of each organ over ten volumes that nobody trained on, fully labelled."""
    generator = torch.Generator().manual_seed(2)
    images, labels = map(torch.cat, zip(*(draw(generator) for _ in range(10)), strict=True))
    found = network(images).argmax(1, keepdim=True)
    scores = []
    for organ in (1, 2):
        both = ((found == organ) & (labels == organ)).sum()
        dice = 2 * both / ((found == organ).sum() + (labels == organ).sum())
        scores.append(f"{SCHEME.names[organ]} {dice:.3f}")
    return ", ".join(scores)


def main() -> None:
    for name, masked in (("with the mask", True), ("what is missing as background", False)):
        print(name)
        print("  Dice on full labels:", test(train(masked=masked)))


if __name__ == "__main__":
    main()
