"""Settings that switch parts of the augmentation off."""

ONLY_SPATIAL = {
    "elastic": 0,
    "intensity_shift": 0,
    "intensity_scale": 0,
    "gamma": 0,
    "noise": 0,
    "blur_voxels": 0,
    "low_resolution": 0,
    "dropout": 0,
}
OFF = ONLY_SPATIAL | {"rotation_degrees": (0.0, 0.0, 0.0), "scale": 0, "translation": 0}
