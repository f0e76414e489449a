"""The modules hold arguments and buffers, and equal the functions."""

from __future__ import annotations

import copy
import inspect
import os
import pickle
import re
import shutil

import monai.losses
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

import segfocal
from segfocal.functional import (
    dice_focal_loss,
    dice_focal_terms,
    dice_loss,
    focal_loss,
    generalized_dice_loss,
    tversky_loss,
    unified_focal_loss,
)
from segfocal.losses import (
    AsymmetricUnifiedFocalLoss,
    DiceCELoss,
    DiceFocalLoss,
    DiceLoss,
    FocalLoss,
    FocalTverskyLoss,
    GeneralizedDiceFocalLoss,
    GeneralizedDiceLoss,
    OneVsRestFocalLoss,
    TverskyFocalLoss,
    TverskyLoss,
    UnifiedFocalLoss,
)
from segfocal.ops import backends
from segfocal.statistics.class_alpha import ClassAlpha
from tests.gpu import no_waiting

REGIONS = ((1, 2, 3), (2, 3), (3,))
MODULES = {
    "focal": lambda: FocalLoss(use_softmax=True, alpha=[0.2, 1.1, 1.3, 1.4], ignore_index=255),
    "focal regions": lambda: FocalLoss(
        alpha=[0.9, 0.8, 0.7], gamma=[0.5, 1.0, 2.0], regions=REGIONS, ignore_index=255
    ),
    "dice": lambda: DiceLoss(softmax=True, weight=[0.1, 1, 1, 2], ignore_index=255, batch=True),
    "dice focal": lambda: DiceFocalLoss(
        softmax=True, gamma=2.0, alpha=[0.2, 1.1, 1.3, 1.4], ignore_index=255, batch=False
    ),
    "dice focal regions": lambda: DiceFocalLoss(
        sigmoid=True, regions=REGIONS, alpha=[0.9, 0.95, 0.8], ignore_index=255, absent="skip"
    ),
    "dice ce": lambda: DiceCELoss(
        softmax=True, weight=[0.1, 1, 1, 2], label_smoothing=0.1, ignore_index=255
    ),
    "tversky": lambda: TverskyLoss(softmax=True, alpha=0.3, beta=0.7, ignore_index=255),
    "focal tversky regions": lambda: FocalTverskyLoss(
        sigmoid=True, regions=REGIONS, ignore_index=255, absent="penalise"
    ),
    "gdl": lambda: GeneralizedDiceLoss(softmax=True, ignore_index=255, batch=True),
    "gdl focal": lambda: GeneralizedDiceFocalLoss(softmax=True, alpha=0.8, ignore_index=255),
    "tversky focal": lambda: TverskyFocalLoss(
        softmax=True,
        tversky_alpha=0.3,
        tversky_beta=0.7,
        alpha=[0.2, 1.1, 1.3, 1.4],
        ignore_index=255,
    ),
    "unified": lambda: UnifiedFocalLoss(softmax=True, ignore_index=255),
    "unified regions": lambda: AsymmetricUnifiedFocalLoss(
        sigmoid=True, softmax=False, regions=REGIONS, ignore_index=255
    ),
    "one vs rest": lambda: OneVsRestFocalLoss(alpha=[0.2, 0.4, 0.6, 0.8], ignore_index=255),
    "one vs rest smoothed": lambda: OneVsRestFocalLoss(p_smoothing=0.01, ignore_index=255),
    "top-k": lambda: FocalLoss(use_softmax=True, top_k=20, ignore_index=255),
    "dice focal voxels": lambda: DiceFocalLoss(softmax=True, ignore_index=255, reduction="none"),
}
EVERY = pytest.mark.parametrize("name", list(MODULES))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make_case(name, dtype=torch.float32):
    num_channels = 3 if "regions" in name else 4
    logits = 3 * torch.randn(2, num_channels, 5, 6, generator=seeded(), dtype=dtype)
    labels = torch.randint(0, 4, (2, 5, 6), generator=seeded(1)).to(torch.uint8)
    labels[0, 2] = 255
    return logits.requires_grad_(), labels


def refused(message):
    return pytest.raises(ValueError, match="^" + re.escape(message) + "$")


@pytest.mark.parametrize(
    ("module", "function", "held", "passed"),
    [
        (
            FocalLoss,
            focal_loss,
            {"use_softmax": True, "include_background": False, "normalizer": "alpha"},
            {"activation": "softmax", "include_background": False, "normalizer": "alpha"},
        ),
        (
            FocalLoss,
            focal_loss,
            {"alpha": 0.25, "weight": 2.0, "gamma": [0.5, 1.0, 2.0, 3.0], "reduction": "none"},
            {
                "activation": "sigmoid",
                "alpha": 0.25,
                "weight": 2.0,
                "gamma": [0.5, 1.0, 2.0, 3.0],
                "reduction": "none",
            },
        ),
        (
            DiceLoss,
            dice_loss,
            {"sigmoid": True, "squared_pred": True, "jaccard": True, "batch": True},
            {"activation": "sigmoid", "squared_pred": True, "jaccard": True, "batch": True},
        ),
        (
            DiceLoss,
            dice_loss,
            {"softmax": True, "smooth_nr": 0.5, "smooth_dr": 0.25, "absent": "skip"},
            {"activation": "softmax", "smooth_nr": 0.5, "smooth_dr": 0.25, "absent": "skip"},
        ),
        (
            DiceLoss,
            dice_loss,
            {"softmax": True, "weight": [1.0, 2.0, 0.5, 0.25], "reduction": "sum"},
            {"activation": "softmax", "weight": [1.0, 2.0, 0.5, 0.25], "reduction": "sum"},
        ),
        (
            DiceFocalLoss,
            dice_focal_loss,
            {"softmax": True, "alpha": [0.5, 1.5, 1.0, 1.0], "lambda_dice": 0.5, "gamma": 1.5},
            {
                "activation": "softmax",
                "alpha": [0.5, 1.5, 1.0, 1.0],
                "lambda_dice": 0.5,
                "gamma": 1.5,
            },
        ),
        (
            DiceFocalLoss,
            dice_focal_loss,
            {
                "sigmoid": True,
                "alpha": [0.5, 0.75, 1.0, 0.25],
                "lambda_focal": 3.0,
                "normalizer": "positives",
                "squared_pred": True,
                "jaccard": True,
                "batch": True,
                "smooth_nr": 0.5,
                "smooth_dr": 0.25,
                "absent": "skip",
                "weight": 0.5,
                "include_background": False,
            },
            {
                "activation": "sigmoid",
                "alpha": [0.5, 0.75, 1.0, 0.25],
                "lambda_focal": 3.0,
                "normalizer": "positives",
                "squared_pred": True,
                "jaccard": True,
                "batch": True,
                "smooth_nr": 0.5,
                "smooth_dr": 0.25,
                "absent": "skip",
                "weight": 0.5,
                "include_background": False,
            },
        ),
    ],
)
def test_a_module_is_its_function_with_every_argument_passed_on(module, function, held, passed):
    logits, labels = make_case("")
    mask = torch.rand(2, 1, 5, 6, generator=seeded(2)) > 0.2
    ours = module(**held, ignore_index=(255, 1))(logits, labels, mask)
    truth = function(logits, labels, **passed, ignore_index=(255, 1), mask=mask)
    assert torch.equal(ours, truth)


def test_regions_are_passed_on():
    logits, labels = make_case("regions")
    options = {"regions": REGIONS, "ignore_index": 255}
    for module, function in (
        (FocalLoss(**options), focal_loss),
        (DiceLoss(sigmoid=True, **options), dice_loss),
        (DiceFocalLoss(sigmoid=True, **options), dice_focal_loss),
    ):
        truth = function(logits, labels, activation="sigmoid", **options)
        assert torch.equal(module(logits, labels), truth)


def test_terms_are_those_of_the_function():
    logits, labels = make_case("dice focal")
    module = DiceFocalLoss(
        softmax=True, alpha=0.25, ignore_index=255, lambda_dice=0.5, lambda_focal=2.0
    )
    terms = module.terms(logits, labels)
    truth = dice_focal_terms(logits, labels, alpha=0.25, ignore_index=255)
    assert torch.equal(terms.dice, truth.dice)
    assert torch.equal(terms.focal, truth.focal)
    torch.testing.assert_close(module(logits, labels), 0.5 * terms.dice + 2 * terms.focal)


@pytest.mark.parametrize("check_target", [False, True])
def test_check_target_and_backend_are_passed_on(monkeypatch, check_target):
    seen = []

    def spy(*_arguments, **options):
        seen.append((options["check_target"], options["backend"]))
        raise InterruptedError

    monkeypatch.setattr("segfocal.functional.voxel_options.sums_with_backend", spy)
    for module in (
        FocalLoss,
        lambda **o: DiceLoss(softmax=True, **o),
        lambda **o: DiceFocalLoss(softmax=True, **o),
    ):
        with pytest.raises(InterruptedError):
            module(check_target=check_target, backend="reference")(*make_case(""))
    assert seen == [(check_target, "reference")] * 3


@pytest.mark.parametrize(
    ("ours", "theirs", "left_out"),
    [
        (FocalLoss, monai.losses.FocalLoss, set()),
        (DiceLoss, monai.losses.DiceLoss, {"other_act"}),
        (DiceFocalLoss, monai.losses.DiceFocalLoss, {"other_act"}),
        (TverskyLoss, monai.losses.TverskyLoss, {"other_act"}),
        (GeneralizedDiceLoss, monai.losses.GeneralizedDiceLoss, {"other_act"}),
        (GeneralizedDiceFocalLoss, monai.losses.GeneralizedDiceFocalLoss, {"other_act"}),
        (DiceCELoss, monai.losses.DiceCELoss, {"other_act"}),
    ],
)
def test_arguments_have_monai_s_names_and_defaults(ours, theirs, left_out):
    mine, monais = (inspect.signature(kind.__init__).parameters for kind in (ours, theirs))
    assert left_out == set(monais) - set(mine)
    for name in set(monais) - left_out - {"self"}:
        default = monais[name].default
        assert mine[name].default == getattr(default, "value", default), name
    positional = [n for n, p in mine.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional == list(monais)[: len(positional)]
    assert list(inspect.signature(ours.forward).parameters)[:3] == ["self", "input", "target"]


@EVERY
def test_forward_changes_neither_module_nor_inputs(name):
    module = MODULES[name]()
    logits, labels = make_case(name)
    before = copy.deepcopy(module.state_dict())
    attributes = {key: value for key, value in vars(module).items() if not key.startswith("_")}
    kept = logits.detach().clone(), labels.clone()
    module(logits, labels).sum().backward()
    assert module.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert attributes == {k: v for k, v in vars(module).items() if not k.startswith("_")}
    assert torch.equal(logits, kept[0])
    assert torch.equal(labels, kept[1])


@EVERY
def test_pickle_deepcopy_and_state_dict_carry_everything(name):
    module = MODULES[name]()
    case = make_case(name)
    for twin in (pickle.loads(pickle.dumps(module)), copy.deepcopy(module)):
        assert torch.equal(twin(*case), module(*case))
    blank = MODULES[name]()
    for buffer in blank.buffers():
        buffer.fill_(0.5)
    blank.load_state_dict(module.state_dict())
    assert torch.equal(blank(*case), module(*case))


@pytest.mark.parametrize("alpha", [0.25, [0.5, 0.25, 1.0, 0.75], np.array([0.5, 0.25, 1, 0.75])])
def test_alpha_weight_and_gamma_per_class_are_in_the_state_dict(alpha):
    module = DiceFocalLoss(sigmoid=True, alpha=alpha, weight=[1, 2, 3, 4], gamma=(0.5, 1, 2, 3))
    state = module.state_dict()
    assert set(state) == {"alpha", "weight", "gamma"}
    assert state["alpha"].tolist() == np.asarray(alpha).tolist()
    assert {value.dtype for value in state.values()} == {torch.float32}
    assert DiceFocalLoss(sigmoid=True).state_dict() == {}
    assert DiceFocalLoss(sigmoid=True, gamma=1.5).gamma == 1.5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_casting_a_model_with_its_loss_does_not_round_alpha(dtype):
    loss = torch.nn.Sequential(FocalLoss(alpha=0.999, gamma=[1.001], weight=1.001)).to(dtype)[0]
    assert loss.alpha.item() == pytest.approx(0.999, rel=1e-6)
    assert {buffer.dtype for buffer in loss.buffers()} == {torch.float32}
    logits = torch.zeros(1, 1, 100, dtype=dtype)
    truth = focal_loss(
        logits,
        torch.zeros(1, 100, dtype=torch.long),
        activation="sigmoid",
        alpha=0.999,
        gamma=[1.001],
        weight=1.001,
    )
    torch.testing.assert_close(loss(logits, torch.zeros(1, 100, dtype=torch.long)), truth)
    assert loss.double().alpha.dtype == torch.float64
    assert FocalLoss(alpha=torch.tensor(0.5, dtype=dtype)).alpha.dtype == torch.float32
    assert FocalLoss(alpha=0.5).to("meta", dtype).alpha.device.type == "meta"


@pytest.mark.parametrize("name", ["alpha", "weight"])
def test_a_loss_refuses_numbers_that_learn(name):
    with refused(
        f"{name} must not require grad: a loss holds a copy, which does not learn. Pass "
        f"{name}.detach(), or give the tensor to the function in segfocal.functional."
    ):
        FocalLoss(**{name: torch.tensor(0.5, requires_grad=True)})


def derived_alpha(kind="class"):
    return ClassAlpha(
        weights=(0.2, 0.9, 0.4, 0.7),
        names=("background", "a", "b", "c"),
        kind=kind,
        scheme="balanced",
        options={"normalize": "mean"},
        provenance={"num_cases": 388, "ignore_values": [255]},
    )


@pytest.mark.parametrize("kind", [FocalLoss, DiceFocalLoss, GeneralizedDiceFocalLoss])
def test_the_state_dict_tells_where_a_derived_alpha_comes_from(kind, tmp_path):
    sigmoid = {} if kind is FocalLoss else {"sigmoid": True}
    alpha = derived_alpha("region")
    module = kind(alpha=alpha, **sigmoid)
    assert module.alpha.tolist() == pytest.approx(alpha.weights)
    torch.save(module.state_dict(), tmp_path / "loss.pt")
    state = torch.load(tmp_path / "loss.pt", weights_only=True)
    fresh = kind(alpha=[0.1, 0.1, 0.1, 0.1], **sigmoid)
    fresh.load_state_dict(state)
    assert ClassAlpha.from_dict(fresh.alpha_origin) == alpha
    parent = torch.nn.Sequential(module)
    twin = torch.nn.Sequential(kind(alpha=[0.1, 0.1, 0.1, 0.1], **sigmoid))
    twin.load_state_dict(parent.state_dict())
    assert twin[0].alpha_origin["provenance"]["num_cases"] == 388


def test_a_state_dict_without_the_loss_leaves_the_origin_of_alpha():
    loss = torch.nn.Sequential(FocalLoss(alpha=derived_alpha("region")))
    origin = loss[0].alpha_origin
    loss.load_state_dict({}, strict=False)
    assert loss[0].alpha_origin == origin
    loss.load_state_dict({"0.alpha": torch.full((4,), 0.5)})
    assert loss[0].alpha_origin is None


def test_a_loss_without_alpha_takes_no_origin_of_one():
    loss = DiceFocalLoss(sigmoid=True)
    loss.load_state_dict(FocalLoss(alpha=derived_alpha("region")).state_dict(), strict=False)
    assert loss.alpha is None
    assert loss.alpha_origin is None


def test_an_alpha_of_the_other_activation_is_refused():
    with refused(
        "alpha holds region weights, but softmax takes class weights. Derive it with class_alpha."
    ):
        FocalLoss(use_softmax=True, alpha=derived_alpha("region"))
    with refused(
        "alpha holds class weights, but sigmoid takes region weights. Derive it with region_alpha."
    ):
        DiceFocalLoss(sigmoid=True, alpha=derived_alpha())


def test_dice_ce_is_dice_plus_torch_s_weighted_smoothed_cross_entropy():
    logits, labels = make_case("")
    weight = torch.tensor([0.1, 1.0, 1.0, 2.0])
    module = MODULES["dice ce"]()
    truth = torch.nn.functional.cross_entropy(
        logits, labels.long(), weight=weight, label_smoothing=0.1, ignore_index=255
    )
    torch.testing.assert_close(module.terms(logits, labels).ce, truth)
    dice = dice_loss(logits, labels, weight=weight, ignore_index=255)
    torch.testing.assert_close(module(logits, labels), dice + truth)


@pytest.mark.parametrize("include_background", [True, False])
def test_the_cross_entropy_sees_the_background_as_monai_s_does(include_background):
    logits, labels = make_case("")
    labels[labels == 255] = 0
    options = {"softmax": True, "include_background": include_background, "to_onehot_y": True}
    truth = monai.losses.DiceCELoss(**options)(logits, labels[:, None].long())
    torch.testing.assert_close(DiceCELoss(**options)(logits, labels), truth)
    own = DiceCELoss(**options, ce_include_background=None).terms(logits, labels).ce
    both = DiceCELoss(**options).terms(logits, labels).ce
    assert (own == both).item() is include_background


def test_the_terms_of_the_other_compounds_are_those_of_their_functions():
    logits, labels = make_case("")
    focal = focal_loss(logits, labels, alpha=0.8, ignore_index=255)
    gdl = generalized_dice_loss(logits, labels, ignore_index=255)
    terms = MODULES["gdl focal"]().terms(logits, labels)
    torch.testing.assert_close(terms.gdl, gdl)
    torch.testing.assert_close(terms.focal, focal)
    loss = GeneralizedDiceFocalLoss(
        softmax=True, alpha=0.8, ignore_index=255, lambda_gdl=0.3, lambda_focal=2.0
    )
    torch.testing.assert_close(loss(logits, labels), 0.3 * gdl + 2 * focal)
    tversky = tversky_loss(logits, labels, alpha=0.3, beta=0.7, gamma=1.5, ignore_index=255)
    focal = focal_loss(logits, labels, alpha=[0.2, 1.1, 1.3, 1.4], gamma=1.0, ignore_index=255)
    loss = TverskyFocalLoss(
        softmax=True,
        tversky_alpha=0.3,
        tversky_beta=0.7,
        tversky_gamma=1.5,
        gamma=1.0,
        alpha=[0.2, 1.1, 1.3, 1.4],
        ignore_index=255,
        lambda_tversky=0.3,
        lambda_focal=2.0,
    )
    torch.testing.assert_close(loss(logits, labels), 0.3 * tversky + 2 * focal)


def test_unified_modules_are_their_function():
    logits, labels = make_case("")
    options = {"weight": 0.3, "delta": 0.8, "gamma": 0.2}
    truth = unified_focal_loss(logits, labels, ignore_index=255, **options)
    asymmetric = AsymmetricUnifiedFocalLoss(ignore_index=255, num_classes=4, **options)
    torch.testing.assert_close(asymmetric(logits, labels), truth)
    torch.testing.assert_close(
        UnifiedFocalLoss(softmax=True, ignore_index=255, **options)(logits, labels), truth
    )
    with refused("logits must have num_classes=2 channels: got shape (2, 4, 5, 6)."):
        AsymmetricUnifiedFocalLoss(num_classes=2, ignore_index=255)(logits, labels)


def test_a_loaded_alpha_is_the_one_that_counts():
    case = make_case("focal")
    trained = FocalLoss(use_softmax=True, alpha=[0.5, 2.0, 1.0, 0.5], ignore_index=255)
    fresh = FocalLoss(use_softmax=True, alpha=[1.0, 1.0, 1.0, 1.0], ignore_index=255)
    assert fresh(*case) != trained(*case)
    fresh.load_state_dict(trained.state_dict())
    assert fresh(*case) == trained(*case)


def test_the_caller_s_alpha_is_copied():
    alpha = torch.tensor([0.5, 2.0, 1.0, 0.5])
    module = FocalLoss(use_softmax=True, alpha=alpha)
    alpha.zero_()
    assert module.alpha.tolist() == [0.5, 2.0, 1.0, 0.5]


@EVERY
def test_a_meta_tensor_gives_a_plain_tensor(name):
    module = MODULES[name]()
    logits, labels = make_case(name)
    meta_logits = MetaTensor(logits.detach(), meta={"filename_or_obj": "case.nii.gz"})
    meta_logits.requires_grad_()
    loss = module(meta_logits, MetaTensor(labels), MetaTensor(torch.ones(2, 1, 5, 6) > 0))
    assert type(loss) is torch.Tensor
    assert torch.equal(loss, module(logits, labels))
    loss.sum().backward()
    assert torch.equal(
        meta_logits.grad,
        torch.autograd.grad(module(logits, labels).sum(), logits)[0],
    )


@EVERY
def test_compiles_in_one_graph(name):
    module = MODULES[name]()
    logits, labels = make_case(name)
    torch._dynamo.reset()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    results = [kind(logits, labels) for kind in (module, compiled)]
    torch.testing.assert_close(results[1], results[0], rtol=1e-6, atol=1e-7)
    grads = [torch.autograd.grad(result.sum(), logits)[0] for result in results]
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-6, atol=1e-9)


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="no C++ compiler for inductor here"
)
def test_inductor_compiles_forward_and_backward():
    module = MODULES["dice focal"]()
    logits, labels = make_case("dice focal")
    torch._dynamo.reset()
    results = [kind(logits, labels) for kind in (module, torch.compile(module, fullgraph=True))]
    torch.testing.assert_close(results[1], results[0], rtol=1e-6, atol=1e-7)
    grads = [torch.autograd.grad(result, logits)[0] for result in results]
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-6, atol=1e-9)


@EVERY
def test_integer_labels_are_recognised_with_and_without_to_onehot_y(name):
    module, told = MODULES[name](), MODULES[name]()
    told.to_onehot_y = True
    logits, labels = make_case(name)
    for target in (labels, labels[:, None], labels.long(), labels[:, None].int()):
        assert torch.equal(module(logits, target), told(logits, target))


def test_to_onehot_y_refuses_a_one_hot_target():
    with refused(
        "to_onehot_y=True says that the target holds labels, but it has one value per channel "
        "already: got shape (2, 3, 5). Leave to_onehot_y out."
    ):
        DiceLoss(to_onehot_y=True, softmax=True)(torch.zeros(2, 3, 5), torch.zeros(2, 3, 5))


@pytest.mark.parametrize(
    "kind", [DiceLoss, DiceFocalLoss, DiceCELoss, TverskyLoss, UnifiedFocalLoss]
)
def test_neither_sigmoid_nor_softmax_is_refused_with_the_cure(kind):
    with refused(
        "the loss takes logits: expected sigmoid=True or softmax=True, got neither. Set the one "
        "your network is trained for, and pass its raw output."
    ):
        kind()
    with refused("sigmoid and softmax exclude each other: got both. Set one to True."):
        kind(sigmoid=True, softmax=True)


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (FocalLoss, {"gamma": -1.0}, "gamma must be finite and >= 0: got -1."),
        (FocalLoss, {"gamma": [1.0, float("nan")]}, "gamma must be finite and >= 0: got nan."),
        (FocalLoss, {"alpha": 1.5}, "alpha must be finite and in [0, 1]: got 1.5."),
        (FocalLoss, {"alpha": [0.5, 1.5]}, "alpha must be finite and in [0, 1]: got 1.5."),
        (
            FocalLoss,
            {"alpha": torch.tensor([-1.0, 2.0]), "use_softmax": True},
            "alpha must be finite and >= 0: got -1.",
        ),
        (FocalLoss, {"weight": [-1, 1]}, "weight must be finite and >= 0: got -1."),
        (
            FocalLoss,
            {"alpha": "balanced"},
            "alpha must be one number or one per class: got 'balanced'.",
        ),
        (FocalLoss, {"top_k": "10"}, "top_k must be a number: got '10'."),
        (
            DiceCELoss,
            {"softmax": True, "lambda_ce": -1.0},
            "lambda_ce must be a finite number >= 0: got -1.0.",
        ),
        (
            DiceCELoss,
            {"softmax": True, "lambda_ce": 0, "lambda_dice": 0},
            "lambda_dice and lambda_ce are both 0, which leaves no loss. Give one a weight.",
        ),
        (
            DiceLoss,
            {"sigmoid": True, "regions": (1, 2)},
            (
                "regions must list the class indices of each channel, such as "
                "((1, 2, 3), (2, 3), (3,)): got (1, 2)."
            ),
        ),
        (
            OneVsRestFocalLoss,
            {"reduction": "avg"},
            "reduction must be one of mean, sum, none: got 'avg'.",
        ),
        (OneVsRestFocalLoss, {"p_smoothing": 1.0}, "p_smoothing must be in [0, 1): got 1."),
        (UnifiedFocalLoss, {"softmax": True, "delta": "a"}, "delta must be a number: got 'a'."),
        (
            FocalLoss,
            {"weight": [[1.0]]},
            "weight must be one number or one per class: got [[1.0]].",
        ),
        (
            FocalLoss,
            {"regions": REGIONS, "alpha": [0.5, 0.5]},
            (
                "alpha must have one number per class: expected shape (3,), got (2,). "
                "Did you drop the background class?"
            ),
        ),
        (
            FocalLoss,
            {"regions": REGIONS, "use_softmax": True},
            "regions overlap, so each needs its own yes or no: expected sigmoid, got softmax.",
        ),
        (
            FocalLoss,
            {"regions": REGIONS, "include_background": False},
            (
                "include_background=False would drop the first region: regions have no background "
                "channel. Leave it at True."
            ),
        ),
        (FocalLoss, {"reduction": "avg"}, "reduction must be one of mean, sum, none: got 'avg'."),
        (
            FocalLoss,
            {"normalizer": "all"},
            "normalizer must be one of valid, positives, alpha, none: got 'all'.",
        ),
        (
            FocalLoss,
            {"backend": "fast"},
            f"backend must be one of auto, {', '.join(backends())}: got 'fast'.",
        ),
        (
            FocalLoss,
            {"ignore_index": 2.5},
            "ignore_index must be an integer label or several: got 2.5.",
        ),
        (
            DiceLoss,
            {"softmax": True, "smooth_dr": -1.0},
            "smooth_dr must be a finite number >= 0: got -1.0.",
        ),
        (
            GeneralizedDiceLoss,
            {"softmax": True, "weight": 2.0},
            (
                "weight of a generalized Dice loss must be one number per class: one for all of "
                "them cancels. Leave it out."
            ),
        ),
        (
            DiceFocalLoss,
            {"softmax": True, "lambda_focal": -1.0},
            "lambda_focal must be a finite number >= 0: got -1.0.",
        ),
        (
            DiceFocalLoss,
            {"softmax": True, "absent": "zero"},
            "absent must be one of smooth, skip, penalise: got 'zero'.",
        ),
    ],
)
def test_construction_refuses(kind, arguments, message):
    with refused(message):
        kind(**arguments)


def test_printing_a_loss_names_its_settings():
    shown = repr(DiceLoss(softmax=True, ignore_index=255, batch=True))
    assert shown.startswith("DiceLoss(activation='softmax'")
    assert "ignore_index=(255,)" in shown
    assert "batch=True" in shown


def test_printing_a_loss_shows_the_numbers_of_the_classes():
    loss = DiceFocalLoss(softmax=True, alpha=[0.1, 0.9], weight=2.0, gamma=[0.0, 1.5])
    for part in ("alpha=[0.1, 0.9]", "weight=2", "gamma=[0, 1.5]"):
        assert part in repr(loss)
    assert "weight" not in repr(DiceLoss(softmax=True))
    assert "meta" in repr(FocalLoss(alpha=0.5).to("meta"))


def test_printing_a_unified_loss_shows_its_own_arguments_alone():
    shown = repr(AsymmetricUnifiedFocalLoss(weight=0.25))
    assert "weight=0.25" in shown
    assert not {"include_background", "reduction"} & set(re.split(r"\W", shown))


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (FocalLoss, {"alpha": 0.3, "gamma": 1.5, "weight": 2.5, "top_k": 5.5}),
        (DiceCELoss, {"softmax": True, "ce_include_background": False, "lambda_ce": 0.5}),
        (DiceFocalLoss, {"softmax": True, "focal_include_background": False, "alpha": 0.3}),
        (GeneralizedDiceFocalLoss, {"softmax": True, "alpha": 0.3, "lambda_gdl": 0.5}),
        (
            TverskyFocalLoss,
            {
                "softmax": True,
                "alpha": 0.3,
                "tversky_alpha": 0.4,
                "tversky_beta": 0.6,
                "gamma": 1.5,
            },
        ),
        (TverskyLoss, {"softmax": True, "alpha": 0.4, "beta": 0.6, "gamma": 1.5}),
        (UnifiedFocalLoss, {"softmax": True, "weight": 0.3, "delta": 0.7, "gamma": 0.2}),
        (AsymmetricUnifiedFocalLoss, {"num_classes": 2, "weight": 0.3}),
        (OneVsRestFocalLoss, {"alpha": 0.3, "p_smoothing": 0.1}),
    ],
)
def test_a_loss_holds_and_prints_its_numbers_by_the_names_that_it_takes(kind, arguments):
    loss = kind(**arguments)
    for name, given in arguments.items() - {("softmax", True)}:
        assert float(getattr(loss, name)) == pytest.approx(float(given))
        assert f"{name}={given}" in repr(loss)


@EVERY
def test_a_nan_logit_makes_the_loss_nan(name):
    """Else a run that has diverged reports a loss, and trains on."""
    logits, labels = make_case(name)
    logits.detach()[0, :, 0, 0] = torch.nan
    assert MODULES[name]()(logits, labels).sum().isnan()


def test_the_package_offers_the_losses_lazily():
    assert segfocal.DiceFocalLoss is DiceFocalLoss
    assert segfocal.FocalLoss is FocalLoss
    assert segfocal.DiceLoss is DiceLoss


@pytest.mark.gpu
@EVERY
def test_forward_and_backward_never_wait_for_the_device(name):
    module = MODULES[name]().cuda()
    logits, labels = make_case(name)
    expected = module.cpu()(logits, labels)
    (truth,) = torch.autograd.grad(expected.sum(), logits)
    module.cuda()
    on_gpu = logits.detach().cuda().requires_grad_()
    labels = labels.cuda()
    module(on_gpu, labels)
    with no_waiting():
        loss = module(on_gpu, labels)
        loss.sum().backward()
    torch.testing.assert_close(loss.cpu(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(on_gpu.grad.cpu(), truth, rtol=1e-4, atol=1e-7)
