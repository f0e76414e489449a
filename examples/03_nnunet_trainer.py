"""nnU-Net trained with segfocal: Dice and focal loss, deep supervision, ignore label, regions.

    python examples/03_nnunet_trainer.py

`nnUNetTrainerSegfocal` is nnU-Net's own trainer but for its loss. Lesions of a voxel stay in the
targets of the coarser levels, which nnU-Net makes by nearest neighbour. To use it, copy this file
into a folder of its own, and tell nnU-Net where that is:

    export nnUNet_extTrainer=FOLDER
    nnUNetv2_train DATASET 3d_fullres 0 -tr nnUNetTrainerSegfocal

Run as a script it does so: it writes five small phantom cases in nnU-Net's format, plans,
preprocesses, and trains two short epochs on the CPU. Needs nnunetv2 (written for 2.8.1), which is
no dependency of segfocal.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn

from segfocal.losses import DeepSupervisionLoss, DiceFocalLoss


class LossOfNnunetTargets(nn.Module):
    """Takes what nnU-Net's trainer hands to its loss: outputs and targets, lists of levels or not.

    Args:
        loss: Made for the network's outputs; targets of lower levels are its own business.
        regions: Whether a target has a channel for each region, and last one of ignored voxels.
        has_ignore: Whether it has that last channel.
    """

    def __init__(self, loss: nn.Module, *, regions: bool, has_ignore: bool) -> None:
        super().__init__()
        self.loss, self.regions, self.has_ignore = loss, regions, has_ignore

    def forward(self, output, target):
        """The loss of what `train_step` and `validation_step` pass."""
        full = target[0] if isinstance(target, (list, tuple)) else target
        if not self.regions:
            return self.loss(output, full.to(torch.int16))
        if not self.has_ignore:
            return self.loss(output, full.float())
        return self.loss(output, full[:, :-1].float(), ~full[:, -1:].bool())


class nnUNetTrainerSegfocal(nnUNetTrainer):  # noqa: N801 - nnU-Net finds trainers by such names
    """nnU-Net's trainer with Dice and focal loss. Subclass it to change `gamma` or `alpha`."""

    gamma = 2.0
    alpha = None  # one weight a class, background first, or one alpha a region

    def _build_loss(self):
        labels, batch_dice = self.label_manager, self.configuration_manager.batch_dice
        kind = {"sigmoid": True} if labels.has_regions else {"softmax": True}
        loss = DiceFocalLoss(
            include_background=labels.has_regions,
            focal_include_background=True,
            gamma=self.gamma,
            alpha=self.alpha,
            batch=batch_dice,
            process_group="world" if batch_dice and self.is_ddp else None,
            ignore_index=None if labels.has_regions else labels.ignore_label,
            **kind,
        )
        if self.enable_deep_supervision:
            weights = [0.5**level for level in range(len(self._get_deep_supervision_scales()))]
            # nnU-Net's own weights. DDP complains of outputs that reach no loss.
            weights[-1] = 1e-6 if self.is_ddp else 0.0
            dims = len(self.configuration_manager.patch_size)
            loss = DeepSupervisionLoss(loss, weights=weights, spatial_dims=dims)
        return LossOfNnunetTargets(
            loss, regions=labels.has_regions, has_ignore=labels.has_ignore_label
        )


class nnUNetTrainerSegfocalTwoShortEpochs(nnUNetTrainerSegfocal):  # noqa: N801
    """For this script: two epochs of three steps."""

    def __init__(self, plans, configuration, fold, dataset_json, device):  # nnU-Net reads the names
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 2, 3, 1


CHANNELS = ("FLAIR", "T1w", "T1gd", "T2w")
LABELS = {"background": 0, "oedema": 1, "non-enhancing": 2, "enhancing": 3, "ignore": 4}


def write_nnunet_cases(root: Path) -> None:
    """Phantom cases as nnU-Net wants them: a file a channel, the ignore label the highest."""
    import nibabel as nib

    from segfocal.data.phantom.dataset import write_phantom

    write_phantom(root / "phantom", num_cases=5, num_test=0, shape=(32, 36, 28))
    data = root / "raw" / "Dataset999_Phantom"
    for folder in ("imagesTr", "labelsTr"):
        (data / folder).mkdir(parents=True)
    for path in sorted((root / "phantom" / "imagesTr").iterdir()):
        name = path.name.removesuffix(".nii.gz")
        image = nib.load(path)
        for index in range(len(CHANNELS)):
            channel = image.slicer[..., index]
            channel.to_filename(data / "imagesTr" / f"{name}_{index:04d}.nii.gz")
        label = nib.load(root / "phantom" / "labelsTr" / path.name)
        values = np.asarray(label.dataobj)
        values = np.where(values == 255, LABELS["ignore"], values).astype(np.uint8)
        nib.Nifti1Image(values, label.affine).to_filename(data / "labelsTr" / path.name)
    description = {
        "channel_names": {str(index): name for index, name in enumerate(CHANNELS)},
        "labels": LABELS,
        "numTraining": 5,
        "file_ending": ".nii.gz",
    }
    (data / "dataset.json").write_text(json.dumps(description))


def nnunet(module: str, entry: str, *arguments: str) -> str:
    """A command of nnU-Net, as its scripts start it."""
    code = f"from nnunetv2.{module} import {entry}; {entry}()"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{entry} failed:\n{done.stderr[-3000:]}")
    return done.stdout


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_nnunet_cases(root)
        trainers = root / "trainers"
        trainers.mkdir()
        shutil.copy(__file__, trainers / "segfocal_trainer.py")
        for name in ("raw", "preprocessed", "results"):
            os.environ[f"nnUNet_{name}"] = str(root / name)
        os.environ |= {"nnUNet_extTrainer": str(trainers), "nnUNet_n_proc_DA": "1"}
        print("nnU-Net plans and preprocesses 5 cases of the synthetic phantom")
        nnunet(
            *("experiment_planning.plan_and_preprocess_entrypoints", "plan_and_preprocess_entry"),
            *("-d", "999", "-c", "3d_fullres", "-np", "1", "-npfp", "1"),
        )
        os.environ |= {"nnUNet_n_proc_DA": "0"}  # augment in the training process
        trainer = nnUNetTrainerSegfocalTwoShortEpochs.__name__
        log = nnunet(
            *("run.run_training", "run_training_entry"),
            *("999", "3d_fullres", "0", "-tr", trainer, "-device", "cpu"),
        )
        for line in log.splitlines():
            if any(word in line for word in ("Epoch ", "_loss", "Pseudo dice", "Mean Validation")):
                print(line.split(": ", 1)[-1])
        results = root / "results" / "Dataset999_Phantom" / f"{trainer}__nnUNetPlans__3d_fullres"
        print("checkpoint written:", (results / "fold_0" / "checkpoint_final.pth").is_file())


if __name__ == "__main__":
    main()
