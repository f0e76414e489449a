"""What a loss makes of a batch's sums: numbers and words, without a tensor but the weights."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class OverlapNumbers(NamedTuple):
    """The numbers of an overlap term.

    Attributes:
        share: Weight of the term in the loss; 0 leaves it out.
        of_overlap: Factor of `tp` in the numerator N.
        of_tp: Factor of `tp` in the denominator D, and so on.
        of_p: Factor of `p`.
        of_p_sq: Factor of `p_sq`.
        of_t: Factor of `t`.
        smooth_nr: Added to the numerator.
        smooth_dr: Added to the denominator.
        exponent: In (0, 1]. Below 1, what costs nothing has slope 0.
    """

    share: float
    of_overlap: float
    of_tp: float
    of_p: float
    of_p_sq: float
    of_t: float
    smooth_nr: float
    smooth_dr: float
    exponent: float


class OverlapFormula(NamedTuple):
    """The mean over classes of `w_c (1 - N_c / D_c) ** exponent`: Dice, Jaccard, Tversky.

    `N = of_overlap tp + smooth_nr` and `D = of_tp tp + of_p p + of_p_sq p_sq + of_t t + smooth_dr`.
    Where D is 0 the class costs 0.

    Attributes:
        numbers: Its numbers.
        first: The first channel that counts, 0 or 1.
        over_batch: Whether samples are summed before the ratio.
        absent: "smooth", "skip" or "penalise", as `segfocal.functional.dice_loss` explains.
        is_mean: Whether to divide by the number of classes that count.
    """

    numbers: OverlapNumbers
    first: int
    over_batch: bool
    absent: str
    is_mean: bool


class FocalFormula(NamedTuple):
    """`sum_c (a_c focal_pos_c + b_c focal_neg_c) / N`: focal loss and cross-entropy.

    Attributes:
        share: Weight of the term in the loss; 0 leaves it out.
        first: The first channel that counts, 0 or 1.
        normalizer: What N is: "valid", "positives", "alpha" or "none", as
            `segfocal.functional.focal_loss` explains.
        has_negatives: Whether a channel has negatives: under sigmoid.
    """

    share: float
    first: int
    normalizer: str
    has_negatives: bool


class LossFormula(NamedTuple):
    """A weighted sum of two terms, or one of them alone."""

    overlap: OverlapFormula | None
    focal: FocalFormula | None


class TermWeights(NamedTuple):
    """Numbers of the classes: one for all `()`, `(C,)`, or `(C - 1,)` without the background.

    Attributes:
        overlap: Weight w of each class in the overlap term; None for 1.
        alpha: Balance of the focal term: a is alpha and b is 1 - alpha; but under softmax one
            number weighs the background by 1 - alpha and every other class by alpha. None for 1.
        focal: What a and b are multiplied with besides; None for 1.
    """

    overlap: Tensor | None
    alpha: Tensor | None
    focal: Tensor | None


class Loss(NamedTuple):
    """A loss of a batch.

    Attributes:
        total: The weighted sum of the terms.
        overlap: The overlap term before its share, for a log: it has no gradient. 0 if there is
            none.
        focal: The same of the voxelwise term.
    """

    total: Tensor
    overlap: Tensor
    focal: Tensor
