"""The public names, for `__init__.py` to load on first use and for type checkers to read."""

from .component_maps import LesionMapsd as LesionMapsd
from .crop_indices import ClassCropIndicesd as ClassCropIndicesd
from .foreground_crop_indices import ForegroundCropIndicesd as ForegroundCropIndicesd
from .labels_to_regions import LabelsToRegionsd as LabelsToRegionsd
from .lesion_crop_indices import LesionCropIndicesd as LesionCropIndicesd
from .load_case import LoadCased as LoadCased
from .map_ignored import MapIgnoredd as MapIgnoredd
from .normalize import NormalizeChannelsd as NormalizeChannelsd
from .pipelines import (
    Preprocessing as Preprocessing,
    preprocessing as preprocessing,
)
from .rand_patch import RandPatchd as RandPatchd
from .save_label import SaveLabeld as SaveLabeld
