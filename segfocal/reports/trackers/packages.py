"""Which packages the trackers need, asked before anything of them is imported."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from segfocal.errors import UserError

_NEEDED = {
    "tensorboard": ("tensorboard",),
    "mlflow": ("mlflow", "sqlalchemy", "alembic"),
    "wandb": ("wandb",),
}


def check_installed(names: Sequence[str]) -> None:
    """Refuses a tracker whose packages are not there.

    Args:
        names: Trackers, as `trackers` in a config has them.

    Raises:
        UserError: With what to install.
    """
    for name in names:
        for package in _NEEDED[name]:
            if not _is_installed(package):
                raise UserError(
                    f"trackers: {name} needs the package {package}. Install it: "
                    f"pip install 'segfocal[{name}]'."
                )


def _is_installed(package: str) -> bool:
    """A folder of that name in the current one, such as wandb makes, is no package."""
    spec = find_spec(package)
    return spec is not None and spec.origin is not None
