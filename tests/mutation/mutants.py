"""Mistakes that the tests must catch: one small change of the sources each.

    make mutants                                        all of them
    python tests/mutation/mutants.py --only gradient    those whose name holds a word

Every mutant is applied to a copy of the package, and the tests that should notice run on the copy.
A mutant that they let pass is printed, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
OPS = (
    "tests/ops/test_reference.py",
    "tests/ops/test_class_sums.py",
    "tests/ops/test_every_backend.py",
)
BACKENDS = ("tests/ops/test_every_backend.py",)
INTERPRETER = "tests/ops/test_triton_interpreter.py::test_in_the_interpreter"
TRITON = (f"{INTERPRETER}[interpreted_triton.py]",)
TRITON_LOSS = (f"{INTERPRETER}[interpreted_triton_loss.py]",)
CHUNKED = ("tests/ops/test_chunked.py",)
GRADIENTS = ("tests/ops/test_differentiable.py", "tests/functional/test_focal.py")
FOCAL = ("tests/functional/test_focal.py",)
PER_VOXEL = ("tests/functional/test_per_voxel.py",)
DICE = ("tests/functional/test_dice.py",)
TVERSKY = ("tests/functional/test_tversky.py",)
GDL = ("tests/functional/test_generalized_dice.py",)
UNIFIED = ("tests/functional/test_unified.py",)
COMPOUND = ("tests/functional/test_compound.py",)
RANKS = ("tests/functional/test_across_ranks.py",)
TRAPS = ("tests/losses/test_monai_traps.py",)
MODULES = ("tests/losses/test_modules.py",)
WRAPPERS = ("tests/losses/test_wrappers.py",)


class Mutant(NamedTuple):
    """A mistake.

    Attributes:
        name: What it stands for.
        path: File under `segfocal/`.
        old: Text that stands there exactly once.
        new: What the mistake writes instead.
        tests: Which tests must notice.
    """

    name: str
    path: str
    old: str
    new: str
    tests: tuple[str, ...]


MUTANTS = (
    Mutant(
        "gradient doubled",
        "ops/differentiable.py",
        "return (grad, *(None,)",
        "return (2 * grad, *(None,)",
        GRADIENTS,
    ),
    Mutant(
        "gradient with the wrong sign",
        "ops/differentiable.py",
        "return (grad, *(None,)",
        "return (-grad, *(None,)",
        GRADIENTS,
    ),
    Mutant(
        "gradient detached",
        "ops/differentiable.py",
        "return (grad, *(None,)",
        "return (0 * grad, *(None,)",
        GRADIENTS,
    ),
    Mutant(
        "second derivative silently zero",
        "ops/differentiable.py",
        "backward = staticmethod(refuse)",
        "backward = staticmethod(lambda ctx, *g: (None,) * 20)",
        ("tests/ops/test_differentiable.py",),
    ),
    Mutant(
        "focal gradient without the slope of the focusing factor",
        "ops/elementwise.py",
        "return at.q.pow(gamma) * (1 + gamma * ratio)",
        "return at.q.pow(gamma)",
        OPS,
    ),
    Mutant(
        "binary focal gradient without it",
        "ops/elementwise.py",
        "return q.pow(gamma) * (q + gamma * _times_nll(x.sigmoid(), -F.logsigmoid(x)))",
        "return q.pow(gamma) * q",
        OPS,
    ),
    Mutant(
        "softmax Jacobian without its off-diagonal",
        "ops/reference.py",
        "+ slope - at.p * slope_total",
        "+ slope",
        OPS,
    ),
    Mutant(
        "1 - p with its cancellation",
        "ops/reference.py",
        "q=(self.rest_BS + (1 - e)) / self.total_BS",
        "q=1 - e / self.total_BS",
        ("tests/ops",),
    ),
    Mutant(
        "ignored logits masked by multiplication",
        "ops/reference.py",
        "return z if self.valid.voxel is None else torch.where(self.valid.voxel, z, 0)",
        "return z if self.valid.voxel is None else z * self.valid.voxel",
        OPS,
    ),
    Mutant(
        "float64 dropped to float32",
        "ops/elementwise.py",
        "return torch.float64 if logits.dtype == torch.float64 else torch.float32",
        "return torch.float32",
        ("tests/ops/test_class_sums.py", *FOCAL),
    ),
    Mutant(
        "squares of p forgotten in the gradient",
        "ops/elementwise.py",
        "2 * upstream.p_sq * at.p",
        "upstream.p_sq * at.p",
        OPS,
    ),
    Mutant(
        "chunked: only the last block of a sample counts",
        "ops/chunked.py",
        "sums[task.samples] += partials[index]",
        "sums[task.samples] = partials[index]",
        BACKENDS,
    ),
    Mutant(
        "chunked softmax: the own class keeps its place among the others",
        "ops/chunked_label_softmax.py",
        "        e.view(-1).scatter_(0, places, torch.zeros_like(p).view(-1))\n",
        "",
        CHUNKED,
    ),
    Mutant(
        "chunked softmax: the own class's gradient forgotten",
        "ops/chunked_label_softmax.py",
        "        block.all.view(-1).scatter_(0, block.places, own.view(-1))\n",
        "",
        CHUNKED,
    ),
    Mutant(
        "chunked softmax: the own class cancels where it is certain",
        "ops/chunked_label_softmax.py",
        "log_total = (p - 1).add_(q).log1p_()",
        "log_total = (p + q).log_()",
        CHUNKED,
    ),
    Mutant(
        "chunked softmax: voxels that do not count are counted by label",
        "ops/chunked_label_softmax.py",
        "(*values, block.valid)",
        "(*values, None)",
        CHUNKED,
    ),
    Mutant(
        "chunked sigmoid: only the first class of a region",
        "ops/chunked_hard_sigmoid.py",
        "for label in classes[1:]:",
        "for label in classes[1:1]:",
        CHUNKED,
    ),
    Mutant(
        "chunked sigmoid: an infinite loss reaches the other side",
        "ops/chunked_hard_sigmoid.py",
        "if bool(focal.sum().isfinite()):",
        "if True:",
        CHUNKED,
    ),
    Mutant(
        "chunked: operations that torch splits up",
        "ops/chunked_blocks.py",
        'OPERATION_ELEMENTS = {"cpu": 2**15 - 2**6}',
        'OPERATION_ELEMENTS = {"cpu": 2**16}',
        CHUNKED,
    ),
    Mutant(
        "numba: squares of p forgotten in the softmax gradient",
        "ops/native_cpu_kernels.py",
        "z[i] *= worth + square * z[i] - others[i]",
        "z[i] *= worth - others[i]",
        BACKENDS,
    ),
    Mutant(
        "numba: squares of p forgotten in the unrolled softmax gradient",
        "ops/native_cpu_kernels.py",
        "slope = above[3, c] + above[4, c] * y - _pick(",
        "slope = above[3, c] - _pick(",
        BACKENDS,
    ),
    Mutant(
        "numba: the own class among the others",
        "ops/native_cpu_kernels.py",
        "others += _pick(is_own, _ZERO, e)",
        "others += e",
        BACKENDS,
    ),
    Mutant(
        "numba: overlap with the wrong sign in the sigmoid gradient",
        "ops/native_cpu_kernels.py",
        "grad = focal + yes * no * slope",
        "grad = focal - yes * no * slope",
        BACKENDS,
    ),
    Mutant(
        "triton: a label out of range in a class of its own",
        "ops/triton_tiles.py",
        "kept & (label >= 0) & (label < sizes[0])",
        "kept & (label >= 0)",
        TRITON,
    ),
    Mutant(
        "triton: own class among the others (unrolled)",
        "ops/triton_unrolled_kernels.py",
        "others += es[c] - is_of(label, c, FORM) * es[c]",
        "others += es[c]",
        TRITON,
    ),
    Mutant(
        "triton: squares of p forgotten in the unrolled gradient",
        "ops/triton_unrolled_kernels.py",
        "worth = grad_p[c] + 2 * grad_p_sq[c] * ps[c]",
        "worth = grad_p[c] + grad_p_sq[c] * ps[c]",
        TRITON,
    ),
    Mutant(
        "triton: own class among the others (tiles)",
        "ops/triton_label_kernels.py",
        "return es[tile] - is_of(label, tile, FORM) * es[tile]",
        "return es[tile]",
        TRITON,
    ),
    Mutant(
        "triton: first tile's weights for all (tiles)",
        "ops/triton_label_kernels.py",
        "mean += ps[i] * (grad_p[i] + 2 * grad_p_sq[i] * ps[i])",
        "mean += ps[i] * (grad_p[0] + 2 * grad_p_sq[i] * ps[i])",
        TRITON,
    ),
    Mutant(
        "triton: ignored voxels counted (tiles)",
        "ops/triton_label_kernels.py",
        "n_valid += fold(kept.to(tl.int32), FORM)",
        "n_valid += fold((label >= -1).to(tl.int32), FORM)",
        TRITON,
    ),
    Mutant(
        "triton: an infinite loss reaches the other classes",
        "ops/triton_formulas.py",
        "return tl.where(values > HUGE, HUGE, values)",
        "return values",
        TRITON,
    ),
    Mutant(
        "triton: an infinite loss comes out finite",
        "ops/triton_formulas.py",
        'return tl.where(sums >= HUGE, float("inf"), sums)',
        "return sums",
        TRITON,
    ),
    Mutant(
        "triton: gamma 2 with the slope of gamma 1",
        "ops/triton_formulas.py",
        "return q * (q + 2 * times_nll(p, nll))",
        "return q * (q + times_nll(p, nll))",
        TRITON,
    ),
    Mutant(
        "triton: classes beyond the last counted (tiles)",
        "ops/triton_label_kernels.py",
        'z = tl.where(rows(i, FORM) < sizes[0], z, float("-inf"))',
        "pass",
        TRITON,
    ),
    Mutant(
        "triton: p of the wrong side",
        "ops/triton_sigmoid_kernels.py",
        "worth = grad_p + 2 * grad_p_sq * p + share.to(FORM.acc) * grad_tp",
        "worth = grad_p + 2 * grad_p_sq * own_p + share.to(FORM.acc) * grad_tp",
        TRITON,
    ),
    Mutant(
        "triton: labels beyond the first word lost",
        "ops/triton_sigmoid_kernels.py",
        "found |= words[word] & region_words(channel, word, FORM)",
        "pass",
        TRITON,
    ),
    Mutant(
        "triton: squares' slope left to an absent class",
        "ops/triton_loss_kernels.py",
        "by_p_sq = tl.where(there, by_p_sq, 0.0)",
        "pass",
        TRITON_LOSS,
    ),
    Mutant(
        "triton: a term of share 0 in the loss",
        "ops/triton_loss_kernels.py",
        "if FORM.focal_counts:",
        "if FORM.has_focal:",
        TRITON_LOSS,
    ),
    Mutant(
        "triton: learnable weights without a gradient",
        "functional/one_step.py",
        "if any(isinstance(given, Tensor) and given.requires_grad for given in numbers):",
        "if False:",
        TRITON_LOSS,
    ),
    Mutant(
        "an absent class is charged squares",
        "functional/dice.py",
        "loss = reduce_classes(_class_losses(powers, options), each, options)",
        "loss = reduce_classes(_class_losses(powers, options), powers, options)",
        DICE,
    ),
    Mutant(
        "smoothing not shared by the classes",
        "ops/formula.py",
        "return self.label_smoothing / ways",
        "return self.label_smoothing",
        PER_VOXEL,
    ),
    Mutant(
        "labels out of range not refused",
        "ops/target_values.py",
        "    if bool(wrong.any()):",
        "    if False:",
        ("tests/ops/test_target_values.py",),
    ),
    Mutant(
        "only the first ignored label ignored",
        "ops/flat_target.py",
        "    for value in within[1:]:",
        "    for value in within[1:1]:",
        ("tests/ops/test_flat_target.py",),
    ),
    Mutant(
        "255 in uint8 taken for -1",
        "ops/flat_target.py",
        "within = [value for value in wanted if limits.min <= value <= limits.max]",
        "within = [value % 256 for value in wanted]",
        ("tests/ops/test_flat_target.py",),
    ),
    Mutant(
        "a voxel of a masked class still counts",
        "ops/flat_target.py",
        "voxel = both(voxel, ~belongs | target.mask[:, channel])",
        "pass",
        ("tests/ops/test_flat_target.py", *OPS),
    ),
    Mutant(
        "ignored mean divided by C",
        "functional/focal.py",
        "return sums.t.sum()  # a voxel counts once",
        "return sums.n_valid.sum()  # a voxel counts once",
        FOCAL,
    ),
    Mutant(
        "mean over all voxels, ignored ones too",
        "functional/focal.py",
        "    count = sum_over_ranks(count, options.process_group)\n",
        "    count = sum_over_ranks(count, options.process_group) + 1\n",
        FOCAL,
    ),
    Mutant(
        "all ignored gives NaN",
        "functional/voxel_options.py",
        "return total / count.masked_fill(count == 0, 1)",
        "return total / count",
        FOCAL,
    ),
    Mutant(
        "background left in",
        "functional/focal.py",
        "        each = each[:, 1:]\n",
        "        pass\n",
        FOCAL,
    ),
    Mutant(
        "numba: own class's place by the first class's slope",
        "ops/native_cpu_kernels.py",
        "slope = above[3, label] + _TWO * above[4, label] * p[i] - own[i]",
        "slope = above[3, 0] + _TWO * above[4, label] * p[i] - own[i]",
        BACKENDS,
    ),
    Mutant(
        "softmax without the background's channel",
        "functional/voxel_options.py",
        "sums_with_backend(\n        voxels.logits,",
        "sums_with_backend(\n        voxels.logits.index_fill(1, torch.tensor([0]), -1e9),",
        DICE,
    ),
    Mutant(
        "negatives weigh 1",
        "functional/class_weights.py",
        "        negative = 1 - positive\n",
        "        negative = ones\n",
        FOCAL,
    ),
    Mutant(
        "a single alpha the other way round",
        "functional/class_weights.py",
        "torch.cat([1 - foreground[:1], foreground[1:]])",
        "torch.cat([foreground[:1], 1 - foreground[1:]])",
        FOCAL,
    ),
    Mutant(
        "a class missing from the mean",
        "functional/overlap.py",
        "counted.sum().to(total.dtype)",
        "(counted.sum() - 1).to(total.dtype)",
        DICE,
    ),
    Mutant(
        "absent classes not skipped",
        "functional/overlap.py",
        "counted = counted & (each.t > 0)",
        "counted = counted",
        DICE,
    ),
    Mutant(
        "absent classes not penalised",
        "functional/overlap.py",
        "torch.where(each.t > 0, loss, each.p / (each.p + expected))",
        "torch.where(each.t > 0, loss, 0)",
        DICE,
    ),
    Mutant(
        "unannotated channels in the mean",
        "functional/overlap.py",
        "    counted = each.n_valid > 0\n",
        "    counted = each.n_valid >= 0\n",
        DICE,
    ),
    Mutant(
        "batch Dice summed over classes",
        "functional/overlap.py",
        "fields.sum(-2, keepdim=True)",
        "fields.sum(-1, keepdim=True)",
        DICE,
    ),
    Mutant(
        "masked voxels in the squares of a soft target",
        "functional/overlap.py",
        "squares = torch.where(_valid(target, mask, voxels.options.activation), squares, 0)",
        "pass",
        DICE,
    ),
    Mutant(
        "Jaccard without the factor",
        "functional/dice.py",
        "union = 2 * (union - each.tp)",
        "union = union - each.tp",
        DICE,
    ),
    Mutant(
        "Dice numerator not doubled",
        "functional/dice.py",
        "numerator = 2 * each.tp + options.smooth_nr",
        "numerator = each.tp + options.smooth_nr",
        DICE,
    ),
    Mutant(
        "false positives and negatives exchanged",
        "functional/tversky.py",
        "denominator = tp + alpha * fp + beta * fn + smooth_dr",
        "denominator = tp + beta * fp + alpha * fn + smooth_dr",
        TVERSKY,
    ),
    Mutant(
        "focal Tversky raised to gamma, not 1 / gamma",
        "functional/tversky.py",
        "raised(1 - index, 1 / options.gamma)",
        "raised(1 - index, options.gamma)",
        TVERSKY,
    ),
    Mutant(
        "infinite slope of a perfect class",
        "functional/tversky.py",
        "    positive = loss > torch.finfo(loss.dtype).eps\n",
        "    return loss**exponent\n    positive = loss > torch.finfo(loss.dtype).eps\n",
        TVERSKY,
    ),
    Mutant(
        "square volume weights simple",
        "functional/generalized_dice.py",
        '{"square": 2,',
        '{"square": 1,',
        GDL,
    ),
    Mutant(
        "absent classes weigh 1",
        "functional/generalized_dice.py",
        "rarest = weights.amax(1, keepdim=True)",
        "rarest = torch.ones_like(weights)",
        GDL,
    ),
    Mutant(
        "a generalized Dice of NaN is 0",
        "functional/generalized_dice.py",
        "(denominator != 0)",
        "(denominator > 0)",
        GDL,
    ),
    Mutant(
        "rare classes focused away in the asymmetric form",
        "functional/unified.py",
        "return 0.0 if options.asymmetric else options.gamma",
        "return options.gamma",
        UNIFIED,
    ),
    Mutant(
        "delta of the background",
        "functional/unified.py",
        "[1 - options.delta, *[options.delta] * rare]",
        "[options.delta, *[options.delta] * rare]",
        UNIFIED,
    ),
    Mutant(
        "top-k of all voxels",
        "functional/top_k.py",
        "number = (counted.sum() * per_cent / 100).ceil()",
        "number = torch.tensor(counted.numel() * per_cent / 100).ceil()",
        PER_VOXEL,
    ),
    Mutant(
        "weight map ignored",
        "functional/focal.py",
        "each = each * voxel_weight",
        "each = each * 1",
        PER_VOXEL,
    ),
    Mutant(
        "terms exchanged",
        "functional/compound.py",
        "return _times(lambda_overlap, overlap) + _times(lambda_focal, focal)",
        "return _times(lambda_focal, overlap) + _times(lambda_overlap, focal)",
        COMPOUND,
    ),
    Mutant(
        "gradient of the other ranks forgotten",
        "functional/across_ranks.py",
        "return _all_reduced(upstream[0], ctx.group), None",
        "return upstream[0], None",
        RANKS,
    ),
    Mutant(
        "each rank divides by its own voxels",
        "functional/focal.py",
        "    count = sum_over_ranks(count, options.process_group)\n",
        "",
        RANKS,
    ),
    Mutant(
        "one-vs-rest mean over voxels, not elements",
        "functional/one_vs_rest.py",
        "count = sum_voxels(voxels).n_valid.sum()",
        "count = sum_voxels(voxels).n_valid[:, 0].sum()",
        ("tests/functional/test_one_vs_rest.py",),
    ),
    Mutant(
        "p smoothed in the cross-entropy too",
        "functional/one_vs_rest.py",
        "* F.logsigmoid(towards)\n",
        "* (1 - wrong).log()\n",
        ("tests/functional/test_one_vs_rest.py",),
    ),
    Mutant(
        "a weight under the ignore label has a say",
        "functional/weight_map.py",
        "weights = torch.where(valid, weights, 0)",
        "weights = weights * valid",
        PER_VOXEL,
    ),
    Mutant(
        "learnable weights cut off",
        "functional/focal.py",
        "if not (positive.requires_grad or negative.requires_grad):",
        "if True:",
        PER_VOXEL,
    ),
    Mutant(
        "weights of the logits under vmap",
        "functional/focal.py",
        "return torch.empty((), dtype=accumulation_dtype(logits), device=logits.device)",
        "return logits.new_empty((), dtype=accumulation_dtype(logits))",
        PER_VOXEL,
    ),
    Mutant(
        "the foreground's Dice handed to the background",
        "functional/compound.py",
        "torch.cat([torch.zeros_like(each[:, :1]), each], dim=1)",
        "torch.cat([each[:, :1], each], dim=1)",
        COMPOUND,
    ),
    Mutant(
        "alpha rounded with the model",
        "losses/base.py",
        "moved.dtype.itemsize < 4",
        "moved.dtype.itemsize < 1",
        MODULES,
    ),
    Mutant(
        "a schedule out of range accepted",
        "losses/schedule.py",
        "        owner.check_numbers()\n",
        "        pass\n",
        ("tests/losses/test_schedule.py",),
    ),
    Mutant(
        "origin of alpha lost",
        "losses/base.py",
        "            self.alpha_origin = state_dict.get(key)\n",
        "            self.alpha_origin = None\n",
        MODULES,
    ),
    Mutant(
        "MetaTensor kept",
        "checks.py",
        "plain = given if unwrap is None else unwrap()",
        "plain = given",
        MODULES,
    ),
    Mutant(
        "focal term with the sigmoid that was not asked for",
        "functional/voxel_options.py",
        "        activation=options.activation,\n        gamma=gamma,",
        '        activation="sigmoid",\n        gamma=gamma,',
        TRAPS,
    ),
    Mutant(
        "the given BCE changed",
        "losses/focal_bce.py",
        "        self.loss_fcn = loss_fcn\n",
        '        self.loss_fcn = loss_fcn\n        loss_fcn.reduction = "none"\n',
        WRAPPERS,
    ),
    Mutant(
        "last axis not moved",
        "losses/channel_last.py",
        "            logits.movedim(-1, 1),",
        "            logits,",
        WRAPPERS,
    ),
)


def is_caught(mutant: Mutant, folder: Path) -> bool:
    """Whether a test fails on a copy of the package with the mistake in it."""
    for part in ("segfocal", "tests"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    path = folder / "segfocal" / mutant.path
    path.write_text(path.read_text().replace(mutant.old, mutant.new))
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    result = subprocess.run(
        [*command, *mutant.tests],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode not in (0, 1):
        raise RuntimeError(f"{mutant.name}: pytest ended with {result.returncode}\n{result.stdout}")
    return result.returncode == 1


def main() -> int:
    """Run them; the exit status says whether all were caught."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="a word of the names to run")
    chosen = [mutant for mutant in MUTANTS if parser.parse_args().only in mutant.name]
    survivors = []
    for number, mutant in enumerate(chosen, 1):
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            caught = is_caught(mutant, Path(folder))
        survivors += [] if caught else [mutant]
        verdict = "caught" if caught else "SURVIVED"
        seconds = time.monotonic() - started
        print(f"{number}/{len(chosen)} {verdict} {seconds:.0f} s  {mutant.path}: {mutant.name}")
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} mutants caught")
    return 1 if survivors or not chosen else 0


if __name__ == "__main__":
    sys.exit(main())
