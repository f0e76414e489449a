"""segfocal.compat.monai as a door: the same words, the same state, and where it differs."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
import subprocess
import sys

import monai.losses
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.utils import DiceCEReduction, LossReduction, Weight
from torch.nn import functional as F
from torch.nn.modules.loss import _Loss

from segfocal.compat import monai as compat
from segfocal.compat.monai import pair as pair_module
from tests.compat.twins import assert_same

CLASSES = [name for name in compat.__all__ if name.endswith("Loss")]
EACH = pytest.mark.parametrize("name", CLASSES)
REQUIRED = {
    "DeepSupervisionLoss": {"loss": torch.nn.MSELoss()},
    "GeneralizedWassersteinDiceLoss": {"dist_matrix": 1 - np.eye(3)},
}
LABELLED = {"to_onehot_y": True, "softmax": True}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make_case(num_classes=3, size=(5, 6), dtype=torch.float32):
    logits = 2 * torch.randn(2, num_classes, *size, generator=seeded(), dtype=dtype)
    labels = torch.randint(0, num_classes, (2, 1, *size), generator=seeded(1))
    return logits.requires_grad_(), labels


def parameters(library, name, method):
    return inspect.signature(getattr(getattr(library, name), method)).parameters.values()


def plain(default):
    return getattr(default, "value", default)


@pytest.fixture
def passes(monkeypatch):
    """The activation of every pass that the op makes over the voxels."""
    made = []

    def count(*args, **options):
        made.append(options["activation"])
        return original(*args, **options)

    original = pair_module.class_sums
    monkeypatch.setattr(pair_module, "class_sums", count)
    return made


@EACH
def test_constructor_and_forward_have_monais_arguments_in_its_order(name):
    for method in ("__init__", "forward"):
        ours, theirs = (
            [
                (p.name, p.kind, plain(p.default))
                for p in inspect.signature(
                    getattr(getattr(library, name), method)
                ).parameters.values()
            ]
            for library in (compat, monai.losses)
        )
        assert ours == theirs


def test_monais_aliases_are_there():
    aliases = [name for name in compat.__all__ if name not in CLASSES]
    assert len(aliases) == 6
    for name in aliases:
        assert getattr(compat, name).__name__ == getattr(monai.losses, name).__name__


def test_a_script_changes_its_import_and_nothing_else():
    script = """
import torch
from monai.losses import DeepSupervisionLoss, DiceFocalLoss
from monai.utils import LossReduction

torch.manual_seed(0)
network = torch.nn.Conv3d(1, 3, 3, padding=1)
loss = DeepSupervisionLoss(
    DiceFocalLoss(True, True, False, True, reduction=LossReduction.MEAN, gamma=2.0, alpha=0.25)
)
optimizer = torch.optim.SGD(network.parameters(), 0.1)
image = torch.randn(2, 1, 6, 6, 6)
labels = torch.randint(0, 3, (2, 1, 6, 6, 6)).float()
losses = []
for _ in range(4):
    output = network(image)
    value = loss([output, output[..., ::2, ::2, ::2]], labels)
    optimizer.zero_grad()
    value.backward()
    optimizer.step()
    losses.append(value.item())
"""
    theirs, ours = {}, {}
    exec(script, theirs)
    exec(script.replace("from monai.losses", "from segfocal.compat.monai"), ours)
    assert ours["losses"] == pytest.approx(theirs["losses"], rel=1e-6)
    assert theirs["losses"][3] < theirs["losses"][0]


def test_monai_is_not_imported():
    code = "import segfocal.compat.monai, sys; print('monai' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_monais_enums_are_words():
    assert compat.DiceLoss(reduction=LossReduction.SUM).reduction == "sum"
    assert compat.GeneralizedDiceLoss(w_type=Weight.SIMPLE).w_type == "simple"
    assert compat.DiceCELoss(reduction=DiceCEReduction.SUM).cross_entropy.reduction == "sum"
    assert compat.DiceCELoss(reduction=LossReduction.MEAN).cross_entropy.reduction == "mean"
    assert type(compat.DiceLoss(reduction=LossReduction.SUM).reduction) is str


@pytest.mark.parametrize(
    ("name", "option", "word", "message"),
    [
        ("DiceLoss", "reduction", "max", "reduction must be one of mean, sum, none: got 'max'."),
        ("DiceCELoss", "reduction", "none", "reduction must be one of mean, sum: got 'none'."),
        (
            "GeneralizedDiceLoss",
            "w_type",
            "cube",
            "w_type must be one of square, simple, uniform: got 'cube'.",
        ),
    ],
)
def test_an_unknown_word_is_refused(name, option, word, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        getattr(compat, name)(**{option: word})


@EACH
def test_state_dict_has_monais_keys_and_values(name):
    weights = {"weight": torch.tensor([1.0, 2.0, 3.0])}
    takes = inspect.signature(getattr(compat, name)).parameters
    is_per_class = "weight" in takes and name != "AsymmetricUnifiedFocalLoss"
    options = REQUIRED.get(name, {}) | (weights if is_per_class else {})
    ours, theirs = (getattr(library, name)(**options) for library in (compat, monai.losses))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    assert isinstance(ours, _Loss)
    assert ours.reduction == theirs.reduction


@EACH
def test_a_loss_can_be_copied_and_pickled(name):
    loss = getattr(compat, name)(**REQUIRED.get(name, {}))
    again = pickle.loads(pickle.dumps(loss))
    assert type(again) is type(copy.deepcopy(loss)) is type(loss)
    assert again.reduction == loss.reduction


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("DiceLoss", {"softmax": True}, ["softmax"]),
        ("DiceLoss", {"sigmoid": True, "squared_pred": True, "soft_label": True}, ["sigmoid"]),
        ("TverskyLoss", {"softmax": True}, ["softmax"]),
        ("GeneralizedDiceLoss", {"softmax": True}, ["softmax"]),
        ("FocalLoss", {}, ["sigmoid"]),
        ("FocalLoss", {"use_softmax": True, "alpha": 0.25}, ["softmax"]),
        ("FocalLoss", {"include_background": False, "reduction": "sum"}, ["sigmoid"]),
        ("DiceFocalLoss", {"sigmoid": True}, ["sigmoid"]),
        ("DiceFocalLoss", {"softmax": True}, ["softmax", "sigmoid"]),
        ("GeneralizedDiceFocalLoss", {"sigmoid": True}, ["sigmoid"]),
        ("GeneralizedDiceFocalLoss", {"softmax": True}, ["softmax", "sigmoid"]),
        ("DiceCELoss", {"softmax": True}, ["softmax"]),
        ("DiceCELoss", {"sigmoid": True}, ["sigmoid", "softmax"]),
        ("DiceLoss", {"other_act": torch.tanh}, []),
        ("DiceLoss", {}, []),
        ("FocalLoss", {"reduction": "none"}, []),
        ("FocalLoss", {"use_softmax": True, "include_background": False}, []),
    ],
)
@pytest.mark.parametrize("target_is", ["labels", "one-hot"])
def test_passes_over_the_voxels(passes, name, options, expected, target_is):
    logits, labels = make_case()
    target = labels
    if target_is == "one-hot":
        target = F.one_hot(labels[:, 0], 3).movedim(-1, 1).float()
    loss = getattr(compat, name)(to_onehot_y=target_is == "labels", **options)
    loss(logits, target)
    assert passes == expected


@pytest.mark.parametrize("name", ["DiceLoss", "TverskyLoss"])
def test_what_lies_under_an_ignored_voxel_keeps_no_loss_from_the_sums(passes, name):
    logits, labels = make_case(1)
    target = labels.float()
    target[:, :, 0] = 255
    assert_same(name, {"sigmoid": True, "ignore_index": 255}, logits, target)
    logits, labels = make_case(3)
    target = F.one_hot(labels[:, 0], 3).movedim(-1, 1).float()
    target[:, :, 0] = 0
    assert_same(name, {"softmax": True, "ignore_index": 255}, logits, target)
    assert passes == ["sigmoid", "softmax"]


def test_dice_ce_weights_of_another_dtype_fail_as_torchs():
    logits, labels = make_case(dtype=torch.float64)
    options = LABELLED | {"weight": torch.tensor([1.0, 2.0, 3.0])}
    assert assert_same("DiceCELoss", options, logits, labels).error is RuntimeError


@pytest.mark.parametrize(
    ("name", "error"),
    [("DiceLoss", AssertionError), ("TverskyLoss", RuntimeError), ("FocalLoss", ValueError)],
)
def test_other_sizes_beside_an_ignore_index_raise_monais_error(name, error):
    """MONAI's Tversky multiplies by the mask before it compares the shapes."""
    logits, _ = make_case()
    target = torch.ones(2, 3, 5, 4)
    assert assert_same(name, {"ignore_index": 255}, logits, target).error is error


def test_unified_focal_takes_an_ignored_label_above_its_classes():
    probs = torch.rand(2, 1, 4, 4, generator=seeded())
    labels = torch.randint(0, 2, (2, 1, 4, 4), generator=seeded(1)).float()
    labels[:, :, 0] = 255
    theirs = assert_same("AsymmetricUnifiedFocalLoss", {"ignore_index": 255}, probs, labels)
    assert theirs.error is None
    assert assert_same("AsymmetricUnifiedFocalLoss", {}, probs, labels).error is ValueError


@pytest.mark.parametrize("name", ["DiceFocalLoss", "DiceCELoss", "GeneralizedDiceFocalLoss"])
def test_a_term_may_weigh_0(name):
    logits, labels = make_case()
    options = [p.name for p in parameters(compat, name, "__init__") if p.name.startswith("lambda")]
    assert len(options) == 2
    for option in options:
        assert assert_same(name, LABELLED | {option: 0.0}, logits, labels).error is None


def test_tversky_of_a_bool_target_fails_as_monais():
    logits, labels = make_case()
    target = F.one_hot(labels[:, 0], 3).movedim(-1, 1).bool()
    error = assert_same("TverskyLoss", {"softmax": True}, logits, target).error
    assert issubclass(error, RuntimeError)  # torch 2.14 has a kind of its own


@pytest.mark.parametrize("name", ["DiceLoss", "DiceFocalLoss", "DiceCELoss", "TverskyLoss"])
def test_nothing_of_the_logits_size_is_kept_but_they(name):
    kept = {}
    for library in (compat, monai.losses):
        logits, labels = make_case(size=(16, 16))
        found = []

        def pack(tensor, logits=logits, found=found):
            if tensor.numel() >= logits.numel() and tensor.data_ptr() != logits.data_ptr():
                found.append(tensor.shape)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            getattr(library, name)(**LABELLED)(logits, labels)
        kept[library] = len(found)
    assert kept[compat] == 0
    assert kept[monai.losses] >= 2


@pytest.mark.parametrize("name", ["DiceFocalLoss", "DiceCELoss", "GeneralizedDiceFocalLoss"])
def test_a_volume_of_float32_agrees_to_float_precision(name):
    logits, labels = make_case(4, (24, 24, 24))
    values, grads = [], []
    for library in (compat, monai.losses):
        value = getattr(library, name)(**LABELLED)(logits, labels)
        values.append(value)
        grads.append(torch.autograd.grad(value, logits)[0])
    torch.testing.assert_close(*values, rtol=1e-6, atol=0)
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-6 * grads[1].abs().max().item())


def test_dice_of_half_precision_logits_overflows_as_monais():
    """Two classes of 80000 voxels: more than float16's largest number."""
    logits, labels = make_case(2, (400, 400))
    logits = logits[:1].half()
    losses = [
        library.DiceLoss(**LABELLED)(logits, labels[:1]) for library in (compat, monai.losses)
    ]
    assert losses == [1, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_under_autocast(dtype):
    logits, labels = make_case(dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, theirs = (
            library.DiceFocalLoss(**LABELLED)(logits, labels) for library in (compat, monai.losses)
        )
    rounding = 1e-6 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(ours, theirs, rtol=rounding, atol=0)


def test_a_call_changes_neither_target_nor_mask_nor_module():
    logits, labels = make_case()
    labels[0, 0, 0] = 255
    mask = torch.ones(2, 1, 5, 6)
    before = logits.detach().clone(), labels.clone(), mask.clone()
    for name in ("DiceLoss", "FocalLoss", "TverskyLoss"):
        loss = getattr(compat, name)(to_onehot_y=True, ignore_index=255)
        settings = {key: copy.copy(value) for key, value in vars(loss).items()}
        loss(logits, labels)
        assert {key: copy.copy(value) for key, value in vars(loss).items()} == settings
    compat.MaskedDiceLoss(sigmoid=True)(logits, (labels == 1).expand(-1, 3, -1, -1).float(), mask)
    assert all(
        torch.equal(old, new) for old, new in zip(before, (logits, labels, mask), strict=True)
    )


@pytest.mark.parametrize("name", ["DiceFocalLoss", "DiceCELoss", "TverskyLoss", "FocalLoss"])
def test_labels_compile_into_one_graph(name):
    torch.compiler.reset()
    logits, labels = make_case()
    options = {"to_onehot_y": True} if name == "FocalLoss" else LABELLED
    loss = getattr(compat, name)(**options)
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    value, truth = compiled(logits, labels), loss(logits, labels)
    torch.testing.assert_close(value, truth)
    torch.testing.assert_close(
        torch.autograd.grad(value, logits)[0], torch.autograd.grad(truth, logits)[0]
    )


@pytest.mark.parametrize("name", ["DiceLoss", "FocalLoss", "TverskyLoss"])
def test_a_target_that_asks_for_a_gradient_gets_monais(name):
    logits, labels = make_case()
    target = F.one_hot(labels[:, 0], 3).movedim(-1, 1).float().requires_grad_()
    options = {} if name == "FocalLoss" else {"softmax": True}
    grads = [
        torch.autograd.grad(getattr(library, name)(**options)(logits, target), (logits, target))
        for library in (compat, monai.losses)
    ]
    torch.testing.assert_close(*grads)
    assert grads[0][1].abs().max() > 0


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 3, 0), (2, 3)])
@pytest.mark.parametrize("name", ["DiceLoss", "FocalLoss", "TverskyLoss", "GeneralizedDiceLoss"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_no_voxel_and_no_spatial_axis(name, shape, reduction):
    options = {"reduction": reduction} | ({} if name == "FocalLoss" else {"sigmoid": True})
    logits = torch.randn(shape, generator=seeded())
    assert_same(name, options, logits, (logits > 0).float())


# Known differences, in the order of the module's list.


def test_gamma_below_1_has_a_finite_gradient_on_confident_voxels():
    logits = torch.tensor([[[40.0], [-40.0]]], requires_grad=True)
    labels = torch.tensor([[[0]]])
    grads = [
        torch.autograd.grad(
            library.FocalLoss(use_softmax=True, gamma=0.5, to_onehot_y=True)(logits, labels), logits
        )[0]
        for library in (compat, monai.losses)
    ]
    assert grads[0].isfinite().all()
    assert grads[1].isnan().all()


def test_minus_infinity_at_a_wrong_class_is_finite():
    logits = torch.tensor([[[1.0], [0.0], [-torch.inf]]])
    labels = torch.tensor([[[0]]])
    options = {"use_softmax": True, "to_onehot_y": True}
    assert compat.FocalLoss(**options)(logits, labels).isfinite()
    assert monai.losses.FocalLoss(**options)(logits, labels).isnan()


@pytest.mark.parametrize("name", ["DiceLoss", "TverskyLoss", "FocalLoss"])
def test_nan_under_an_ignored_label_does_no_harm(name):
    logits, labels = make_case()
    labels[:, :, 0] = 255
    options = {"to_onehot_y": True, "ignore_index": 255}
    options |= {} if name == "FocalLoss" else {"sigmoid": True}
    poisoned = logits.detach().clone()
    poisoned[:, :, 0] = torch.nan
    poisoned.requires_grad_()
    ours = getattr(compat, name)(**options)(poisoned, labels)
    torch.testing.assert_close(ours, getattr(monai.losses, name)(**options)(logits, labels))
    assert (torch.autograd.grad(ours, poisoned)[0][:, :, 0] == 0).all()
    assert getattr(monai.losses, name)(**options)(poisoned, labels).isnan()


@pytest.mark.parametrize("name", ["DiceLoss", "TverskyLoss"])
def test_without_smoothing_an_ignored_sample_gets_no_gradient(name):
    logits = torch.tensor([[[0.5], [-1.0]]], requires_grad=True)
    labels = torch.tensor([[[255]]])
    options = {"to_onehot_y": True, "sigmoid": True, "ignore_index": 255, "smooth_dr": 0.0}
    grads = [
        torch.autograd.grad(getattr(library, name)(**options)(logits, labels), logits)[0]
        for library in (compat, monai.losses)
    ]
    assert (grads[0] == 0).all()
    assert grads[1].isnan().all()


def test_the_size_of_a_class_is_whole_where_it_is_squared():
    logits = torch.zeros(1, 2, 2, dtype=torch.float64)  # probability 1/2 in both voxels
    labels = torch.zeros(1, 1, 2, dtype=torch.int64)
    options = {"sigmoid": True, "to_onehot_y": True, "squared_pred": True, "reduction": "none"}
    options |= {"smooth_nr": 0.0, "smooth_dr": 0.0}
    ours, theirs = (
        library.DiceLoss(**options)(logits, labels)[0, 0].item()
        for library in (compat, monai.losses)
    )
    truth = 1 - 2 * 1.0 / (2 + 0.5)
    assert ours == pytest.approx(truth, rel=1e-14)
    assert 1e-9 < abs(theirs - truth) < 1e-7


def test_focal_of_float64_is_rounded_once():
    logits, labels = make_case(size=(40, 40), dtype=torch.float64)
    truth = F.cross_entropy(logits, labels[:, 0]) / 3
    errors = []
    for library in (compat, monai.losses):
        loss = library.FocalLoss(use_softmax=True, gamma=0.0, to_onehot_y=True)(logits, labels)
        assert loss.dtype == torch.float32
        errors.append((loss.double() - truth).abs())
    nearest = (truth.float().double() - truth).abs()
    assert errors[0] == nearest
    assert errors[0] <= errors[1]


def test_a_scalar_weight_stays_scalar():
    logits, labels = make_case()
    shapes = []
    for library in (compat, monai.losses):
        loss = library.DiceLoss(weight=2.0, **LABELLED)
        loss(logits, labels)
        shapes.append(loss.class_weight.shape)
    assert shapes == [(), (3,)]


@EACH
def test_a_meta_tensor_gives_a_plain_tensor(name):
    logits, labels = make_case(2)
    required = REQUIRED | {
        "DeepSupervisionLoss": {"loss": compat.DiceLoss(sigmoid=True, to_onehot_y=True)},
        "GeneralizedWassersteinDiceLoss": {"dist_matrix": 1 - np.eye(2)},
    }
    options = required.get(name, {"to_onehot_y": True})
    target = labels.float()
    rest = [MetaTensor(torch.ones_like(target))] if name == "MaskedDiceLoss" else []
    loss = getattr(compat, name)(**options)
    value = loss(MetaTensor(logits.sigmoid()), MetaTensor(target), *rest)
    assert type(value) is torch.Tensor
    assert value == loss(logits.sigmoid(), target, *[mask.as_tensor() for mask in rest])


def test_a_second_derivative_is_refused_from_the_sums_and_there_otherwise():
    logits, labels = make_case()

    def differentiate_twice(loss):
        (grad,) = torch.autograd.grad(loss(logits, labels), logits, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), logits)[0]

    with pytest.raises(RuntimeError, match="segfocal::class_sums has no second derivative"):
        differentiate_twice(compat.DiceLoss(**LABELLED))
    options = {"to_onehot_y": True, "other_act": torch.sigmoid}
    torch.testing.assert_close(
        differentiate_twice(compat.DiceLoss(**options)),
        differentiate_twice(monai.losses.DiceLoss(**options)),
    )


@pytest.mark.gpu
def test_on_a_gpu_a_label_out_of_range_is_not_looked_for():
    logits, labels = make_case()
    labels[0, 0, 0, 0] = 7
    assert compat.DiceLoss(**LABELLED)(logits.cuda(), labels.cuda()).isfinite()


def test_a_spatial_mismatch_in_dice_focal_is_an_assertion_error():
    logits, labels = make_case()
    with pytest.raises(AssertionError, match="ground truth has different shape"):
        compat.DiceFocalLoss(**LABELLED)(logits, labels[..., :3])


def test_generalized_dice_gives_a_target_its_gradient_where_monai_fails():
    logits, _ = make_case()
    target = torch.rand(logits.shape, generator=seeded(2), requires_grad=True)
    theirs = monai.losses.GeneralizedDiceLoss(softmax=True)(logits, target)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(theirs, target)
    ours = compat.GeneralizedDiceLoss(softmax=True)(logits, target)
    assert ours == theirs
    assert torch.autograd.grad(ours, target)[0].isfinite().all()
