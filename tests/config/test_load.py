from pathlib import Path

import pytest

from segfocal.config.load import check_config, load_config
from segfocal.config.schema import setting_names
from segfocal.errors import UserError

BASE = "data:\n  root: somewhere\n"


@pytest.fixture
def write(tmp_path):
    def _write(text):
        path = tmp_path / "brats.yaml"
        path.write_text(text)
        return path

    return _write


def mistake(path, *overrides):
    with pytest.raises(UserError) as error:
        load_config(path, overrides)
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            BASE + "loss:\n  gama: 2\n",
            "brats.yaml:4: loss.gama is not a setting. Did you mean loss.gamma?",
        ),
        (
            BASE + "lose:\n  gamma: 2\n",
            "brats.yaml:3: lose is not a setting. Did you mean loss?",
        ),
        (
            BASE + "loss:\n  gamma: -1\n",
            "brats.yaml:4: loss.gamma: expected numbers >= 0, got -1.",
        ),
        (
            BASE + "loss:\n  gamma: .nan\n",
            "brats.yaml:4: loss.gamma: expected a finite number or a valid list, got nan.",
        ),
        (
            BASE + "train:\n  epochs: ten\n",
            (
                "brats.yaml:4: train.epochs: expected a valid integer, unable to parse string as "
                "an integer, got 'ten'."
            ),
        ),
        (
            BASE + "loss:\n  gamma: 1\n  gamma: 2\n",
            "brats.yaml:5: loss.gamma is set twice (first in brats.yaml:4).",
        ),
        (
            "loss: {}\n",
            "data.root is not set. Write it in the config, or pass --set data.root=...",
        ),
        (
            "- a\n",
            "brats.yaml:1: expected sections (data:, loss:, train:), got ['a'].",
        ),
        (
            BASE + "train: !!python/object:os.system {}\n",
            (
                "brats.yaml:3: tag tag:yaml.org,2002:python/object:os.system means code. "
                "A config holds plain values."
            ),
        ),
        (
            BASE + "out: !!python/name:os.system\n",
            (
                "brats.yaml:3: could not determine a constructor for the tag "
                "'tag:yaml.org,2002:python/name:os.system'. A config holds plain values."
            ),
        ),
    ],
)
def test_a_mistake_is_one_line_with_file_line_and_cure(write, text, message):
    assert mistake(write(text)) == message


def test_a_wrong_override_names_the_option(write):
    path = write(BASE)
    assert (
        mistake(path, "loss.gama=2")
        == "--set: loss.gama is not a setting. Did you mean loss.gamma?"
    )
    assert mistake(path, "gamma=2") == "--set: gamma is not a setting. Did you mean loss.gamma?"
    assert (
        mistake(path, "loss.gamma")
        == "--set loss.gamma: expected section.setting=value, as loss.gamma=2."
    )
    assert mistake(path, "data.image_pattern={case}_t1") == (
        "--set data.image_pattern={case}_t1: '{case}_t1' is not a YAML value. Quote text that "
        "begins with a brace, bracket or star: --set 'data.image_pattern=\"...\"'."
    )


@pytest.mark.parametrize(
    ("override", "word"),
    [
        ("trackers=[mlflow, wanb]", "wandb"),
        ("trackers=[tensorboard, mlflow, wnb]", "wandb"),
        ("data.normalize={CT: zscor, MR: none}", "zscore"),
        ("data.normalize={CT: [0, 1], MR: zscore_nonzer}", "zscore_nonzero"),
    ],
)
def test_a_misspelt_word_among_right_ones_is_suggested(write, override, word):
    assert mistake(write(BASE), override).endswith(f". Did you mean {word}?")


def test_a_misspelt_word_is_suggested(write):
    assert mistake(write(BASE), "loss.alpha=balancd").endswith(
        "got 'balancd'. Did you mean balanced?"
    )


def test_overrides_win_over_the_file_and_are_parsed_as_yaml(write):
    path = write(BASE + "loss:\n  gamma: 1\n")
    config = load_config(
        path, ["loss.gamma=[1,2]", "train.lr=1e-3", "loss.ignore_index=255", "data.pad=false"]
    ).config
    assert config.loss.gamma == [1.0, 2.0]
    assert config.train.lr == 1e-3
    assert config.loss.ignore_index == 255
    assert config.data.pad is False


def test_a_config_survives_its_own_plain_values(write):
    loaded = load_config(write(BASE), ["data.normalize={CT: [-100, 200], PET: zscore}"])
    assert check_config(loaded.plain, "again").config == loaded.config


def test_every_setting_has_a_documented_meaning():
    from segfocal.config import schema

    for section in (
        schema.DataConfig,
        schema.NetworkConfig,
        schema.LossConfig,
        schema.AugmentConfig,
        schema.TrainConfig,
        schema.InferConfig,
    ):
        for name, field in section.model_fields.items():
            assert field.description, f"{section.__name__}.{name}"
    assert "train.augment.noise_std" in setting_names()


@pytest.mark.parametrize("path", sorted(Path("configs").glob("*.yaml")), ids=lambda p: p.name)
def test_shipped_configs_load(path):
    assert load_config(path).name == path.stem
    assert load_config(Path(path.name)).config == load_config(path).config


def test_an_unknown_config_lists_those_that_ship():
    with pytest.raises(UserError, match=r"none\.yaml does not exist.*brats\.yaml"):
        load_config(Path("none.yaml"))


def test_checking_a_config_imports_no_torch():
    import subprocess
    import sys

    code = "import sys, segfocal.config.load; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.spacing_mm=[0, 1, 1]", "expected three numbers > 0, got [0, 1, 1]."),
        ("data.spacing_mm=[1, 1, -2]", "expected three numbers > 0, got [1, 1, -2]."),
        ("data.spacing_mm=1", "expected 3 numbers, [a, b, c], got 1."),
        ("train.patch_size=[8, 8, 8, 8]", "expected 3 numbers, [a, b, c], got [8, 8, 8, 8]."),
        ("train.patch_size=[8, 8]", "expected 3 numbers, [a, b, c], got [8, 8]."),
        (
            "data.normalize=[100, 0]",
            "expected a window [low, high] with low < high, got [100, 0].",
        ),
        (
            "data.normalize={CT: [5, 5]}",
            "expected a window [low, high] with low < high, got {'CT': [5, 5]}.",
        ),
        ("train.device=mps", "expected auto, cpu, cuda or cuda:N, got 'mps'."),
        ("train.lr=1e400", "expected a finite number, got '1e400'."),
        ("train.epochs=true", "expected no true or false, got True."),
        ("train.patch_size=[8, true, 8]", "expected no true or false, got [8, True, 8]."),
        ("data.root=", "expected a path, got None."),
        ("train.augment.flip_axes=[0, 2, 0]", "expected each axis once, got [0, 2, 0]."),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused_in_words_of_the_setting(write, override, message):
    setting = override.partition("=")[0]
    assert mistake(write(BASE), override) == f"--set: {setting}: {message}"


def test_a_section_that_is_none_is_named(write):
    assert mistake(write("data: 3\n")) == (
        "brats.yaml:1: data: expected a section: settings below it, a line each."
    )


@pytest.mark.parametrize(
    ("lines", "wrong"),
    [
        ("folds: 5", ": data.fold: expected the fold that validates, 0 to 4, got None."),
        ("folds: 5\n  fold: 5", ":4: data.fold: expected the fold that validates, 0 to 4, got 5."),
        ("folds: 1\n  fold: 0", ":3: data.folds: expected greater than or equal to 2, got 1."),
        (
            "fold: 0",
            (
                ":3: data.fold: expected none without data.folds, or a data.split that holds "
                "folds, got 0."
            ),
        ),
        (
            "split: a.json\n  folds: 5\n  fold: 0",
            ":4: data.folds: expected none beside data.split, which says who validates, got 5.",
        ),
    ],
)
def test_folds_say_which_of_them_validates(write, lines, wrong):
    assert mistake(write(f"{BASE}  {lines}\n")).removeprefix("brats.yaml").endswith(wrong)


def test_a_fold_of_a_cross_validation_or_of_a_file_is_taken(write):
    data = load_config(write(f"{BASE}  folds: 5\n  fold: 4\n")).config.data
    assert (data.folds, data.fold) == (5, 4)
    data = load_config(write(f"{BASE}  split: splits_final.json\n  fold: 7\n")).config.data
    assert (data.folds, data.fold) == (None, 7)


def test_a_message_ends_in_one_dot(write):
    line = mistake(write(BASE + "loss: {name: DiceLoss, alpha: 0.5}\n"))
    assert line.endswith("weighted cross-entropy).")


def test_an_alias_of_what_holds_it_is_refused(write):
    assert mistake(write("data: &a {root: mini, partial: *a}\n")) == (
        "brats.yaml:1: data.partial holds itself, by an alias."
    )


def test_an_alias_of_something_else_is_as_good_as_its_text(write):
    text = BASE + "  normalize: {T1: &w [0, 100], T2: *w}\n"
    assert load_config(write(text)).config.data.normalize == {"T1": (0, 100), "T2": (0, 100)}


def test_truth_values_are_left_where_they_are_meant(write):
    text = BASE + "network: {args: {use_conv_final: true}}\n"
    config = load_config(write(text), ["data.pad=false"]).config
    assert (config.network.args, config.data.pad) == ({"use_conv_final": True}, False)


def test_two_weights_of_0_have_the_place_of_one(write):
    path = write(BASE + "loss:\n  lambda_dice: 0\n  lambda_focal: 0\n")
    assert mistake(path) == (
        "brats.yaml:4: loss.lambda_dice and loss.lambda_focal are both 0: nothing to learn."
    )


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("data.root: holds nothing.", "brats.yaml:2: data.root: holds nothing."),
        ("loss.gamma: is odd.", "--set: loss.gamma: is odd."),
        ("loss.alpha: nobody wrote it.", "loss.alpha: nobody wrote it."),
        ("brats.yaml:2: data.root: has it.", "brats.yaml:2: data.root: has it."),
        ("BRATS_012: label holds 4.", "BRATS_012: label holds 4."),
        ("data.root", "data.root"),
    ],
)
def test_an_error_that_begins_with_a_setting_gets_its_place(write, said, told):
    loaded = load_config(write(BASE), ["loss.gamma=3"])
    with pytest.raises(UserError) as error, loaded.placing():
        raise UserError(said)
    assert str(error.value) == told
