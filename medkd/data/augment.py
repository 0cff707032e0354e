"""Augment: random changes of a training patch; MONAI for volumes, albumentations for images.

Image, label, soft target and the mask of valid voxels pass through the SAME spatial change in one
pass; intensity changes touch the image alone. Volumes are changed on any device, to the same values
but for rounding; images on the CPU alone.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from medkd.data.preprocess import SAME_SPACING
from medkd.errors import ConfigError
from medkd.options import AugmentOptions, PreprocessOptions
from medkd.seeding import derive_seed

Patch = dict[str, Tensor]  # image, label, valid and perhaps soft, each [channels, *space]
Augment = Callable[[Patch, int], Patch]  # (patch, seed) -> patch

ELASTIC_SIGMA = 8.0  # voxels over which neighbours are displaced alike
MOST_OF_IMAGES = {"noise_std": 1, "gamma": 0.99}  # what albumentations takes
CPU = torch.device("cpu")
INTERPOLATION = {"image": "bilinear", "soft": "bilinear", "label": "nearest", "valid": "nearest"}


def augmentation(
    options: AugmentOptions,
    grid: PreprocessOptions,
    *,
    soft: bool,
    device: torch.device = CPU,
) -> Augment:
    """Return the augmentation for patches of ``grid.window``, with or without a soft target.

    What it returns keeps its type; the patch that it was given stays as it is.

    Args:
        options: of each change.
        grid: of the patches.
        soft: whether there is a soft target.
        device: where the patches are.

    Raises:
        ConfigError: a flip or transposition that such a window does not have, a strength that
            images do not take, or a rotation where ``spacing_mm`` says that pixels are no squares.
    """
    _check(options, grid)
    keys = [key for key in INTERPOLATION if soft or key != "soft"]
    if len(grid.window) == 2:
        return _images(options, keys)
    return _volumes(options, grid, keys, device=device)


def _check(options: AugmentOptions, grid: PreprocessOptions) -> None:
    window = tuple(grid.window)
    if options.transpose and (len(window) == 3 or len(set(window)) > 1):
        raise ConfigError(f"augment.transpose: needs a square 2D window, not {window}; turn it off")
    turned = {
        "rotate_degrees": options.rotate_degrees and options.probability,
        "transpose": options.transpose,
    }
    spacing_mm = list(grid.spacing_mm or [1])
    if len(window) == 2 and max(spacing_mm) / min(spacing_mm) > 1 + SAME_SPACING:
        for name in (name for name, is_on in turned.items() if is_on):
            raise ConfigError(
                f"augment.{name}: would shear bodies, because the sides of a pixel differ "
                f"(preprocess.spacing_mm is {spacing_mm}); make them alike, or turn it off"
            )
    strange = sorted(set(options.flip_axes) - set(range(len(window))))
    if strange:
        raise ConfigError(f"augment.flip_axes: {strange} are no axes of the window {window}")
    for name, most in MOST_OF_IMAGES.items() if len(window) == 2 else ():
        if (given := getattr(options, name)) > most:
            raise ConfigError(
                f"augment.{name}: {given:g} is more than images take; give up to {most}"
            )


def _volumes(
    options: AugmentOptions,
    grid: PreprocessOptions,
    keys: list[str],
    *,
    device: torch.device,
) -> Augment:
    from monai import transforms as mt

    flips = mt.Compose(
        [
            mt.RandFlipd(keys, prob=0.5, spatial_axis=axis, allow_missing_keys=True)
            for axis in options.flip_axes
        ]
    )
    sides = _sides(grid)
    affine, bias = _affine(options, grid, sides, device), _bias_field(options)
    intensity = mt.Compose(_intensity(options))

    def augment(patch: Patch, seed: int) -> Patch:
        for number, step in enumerate((flips, affine, intensity, bias)):
            step.set_random_state(seed=derive_seed(seed, number))
        bend = _displacement(options, grid.window, np.random.default_rng(derive_seed(seed, "bend")))
        with _without_metadata():
            moved = intensity(_moved(flips(patch), affine, sides, bend))
            moved["image"] = _lifted(bias, moved["image"])
        return moved

    return augment


@contextmanager
def _without_metadata() -> Iterator[None]:
    """Let MONAI carry no affines: a patch has no place in space any more, and they cost time."""
    from monai.data.meta_obj import get_track_meta, set_track_meta

    before = get_track_meta()
    set_track_meta(False)
    try:
        yield
    finally:
        set_track_meta(before)


def _sides(grid: PreprocessOptions) -> list[float]:
    """Return the sides of a voxel, of which the shortest is 1; all are where nobody says."""
    spacing_mm = grid.spacing_mm or [1.0] * len(grid.window)
    return [side / min(spacing_mm) for side in spacing_mm]


def _affine(
    options: AugmentOptions,
    grid: PreprocessOptions,
    sides: Sequence[float],
    device: torch.device,
) -> Any:  # noqa: ANN401
    from monai.transforms import RandAffine

    is_any = options.rotate_degrees or options.scale or options.translate
    affine = RandAffine(
        prob=options.probability if is_any else 0,
        rotate_range=[np.deg2rad(options.rotate_degrees)] * 3,
        scale_range=[options.scale] * 3,
        translate_range=[
            options.translate * width * side for width, side in zip(grid.window, sides, strict=True)
        ],
        device=device,
    )
    affine.resampler.dtype = np.float32
    return affine


def _displacement(
    options: AugmentOptions, window: Sequence[int], rng: np.random.Generator
) -> np.ndarray | None:
    """Return ``[dims, *window]`` voxels, the spline of random control points; or None."""
    if not options.elastic_voxels or rng.random() >= options.probability:
        return None
    points = [max(2, round(width / (2 * ELASTIC_SIGMA)) + 1) for width in window]
    field = options.elastic_voxels * rng.normal(size=(len(window), *points))
    for width, n in zip(window, points, strict=True):  # a spline goes axis by axis
        spline = ndimage.zoom(np.eye(n), (width / n, 1), order=3, mode="nearest")
        field = np.tensordot(field, spline, axes=(1, 1))
    return field.astype(np.float32)


def _bias_field(options: AugmentOptions) -> Any:  # noqa: ANN401
    from monai.transforms import RandBiasField

    prob = options.probability if options.bias_field else 0
    return RandBiasField(coeff_range=(-options.bias_field, options.bias_field), prob=prob)


def _lifted(bias: Any, image: Tensor) -> Tensor:  # noqa: ANN401
    """Multiply with a field, which is made for intensities from 0 up, whatever the scale is."""
    low = image.min()
    return bias(image - low) + low


def _moved(
    patch: Patch,
    affine: Any,  # noqa: ANN401
    sides: Sequence[float],
    bend: np.ndarray | None,
) -> Patch:
    """Apply a random affine and a displacement to all maps in two passes.

    MONAI's ``RandAffined`` makes one a key.

    Image and soft target are interpolated in one, label and mask are looked up in the other.
    """
    affine.randomize()
    if not affine._do_transform and bend is None:
        return dict(patch)
    grid, moved = _sampled(affine, patch["image"], sides, bend), dict(patch)
    for mode in ("bilinear", "nearest"):
        keys = [key for key in patch if INTERPOLATION[key] == mode]
        # each class by itself: as what the others leave, a small one would be rounded away
        parts = [patch[key].float() for key in keys]
        # beyond the border is what lies at it, for all keys: soft targets stay probabilities
        sampled = affine.resampler(torch.cat(parts), grid=grid, mode=mode, padding_mode="border")
        for key, part in zip(keys, sampled.split([len(part) for part in parts]), strict=True):
            moved[key] = part.to(patch[key].dtype)
    return moved


def _sampled(
    affine: Any,  # noqa: ANN401
    image: Tensor,
    sides: Sequence[float],
    bend: np.ndarray | None,
) -> Tensor:
    """Return where each voxel comes from, in homogeneous voxels from the centre.

    Bodies turn, not voxels: rotated as if its sides were alike, one that is not a cube is sheared.
    """
    from monai.transforms.utils import create_grid

    space = image.shape[1:]
    grid: Any = create_grid(space, dtype=torch.float32, device=image.device, backend="torch")
    if affine._do_transform:
        affine.rand_affine_grid(space, randomize=False, lazy=True)
        scale = torch.tensor([*sides, 1.0], device=image.device)
        turn = affine.rand_affine_grid.affine.to(grid) * scale / scale[:, None]
        grid = (turn @ grid.flatten(1)).view_as(grid)
    if bend is not None:
        grid[: len(space)] += torch.from_numpy(bend).to(grid)
    return grid


def _intensity(options: AugmentOptions) -> list[Any]:
    from monai import transforms as mt

    p = options.probability
    steps: list[Any] = []
    if options.noise_std:
        steps.append(mt.RandGaussianNoised("image", prob=p, std=options.noise_std))
    if options.blur_sigma:
        sigma = (0.2, options.blur_sigma)
        steps.append(
            mt.RandGaussianSmoothd("image", prob=p, sigma_x=sigma, sigma_y=sigma, sigma_z=sigma)
        )
    if options.low_resolution:
        zoom = (1 - options.low_resolution, 1.0)
        steps.append(mt.RandSimulateLowResolutiond("image", prob=p, zoom_range=zoom))
    if options.contrast:
        steps.append(mt.RandScaleIntensityd("image", factors=options.contrast, prob=p))
    if options.brightness:
        steps.append(mt.RandShiftIntensityd("image", offsets=options.brightness, prob=p))
    if options.gamma:
        steps.append(
            mt.RandAdjustContrastd(
                "image", prob=p, gamma=(1 - options.gamma, 1 + options.gamma), retain_stats=True
            )
        )
    return steps


def _images(options: AugmentOptions, keys: list[str]) -> Augment:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask a server at import
    import albumentations as alb

    masks = {key: "mask" for key in keys if INTERPOLATION[key] == "nearest"}
    spatial = alb.Compose(_spatial_2d(options), additional_targets={**masks, "soft": "image"})
    intensity = alb.Compose(_intensity_2d(options))
    bias = _bias_field(options)

    def augment(patch: Patch, seed: int) -> Patch:
        bias.set_random_state(seed=derive_seed(seed, 3))
        for number, step in enumerate((spatial, intensity)):
            step.set_random_seed(derive_seed(seed, number))
        moved = spatial(**{k: np.moveaxis(v.numpy(), 0, -1) for k, v in patch.items()})
        moved["image"] = _on_unit_scale(moved["image"], intensity)
        first = {key: _channels_first(moved[key]) for key in patch}
        return first | {"image": _lifted(bias, first["image"])}

    return augment


def _spatial_2d(options: AugmentOptions) -> list[Any]:
    import albumentations as alb

    flips = {0: alb.VerticalFlip(p=0.5), 1: alb.HorizontalFlip(p=0.5)}
    steps: list[Any] = [flips[axis] for axis in options.flip_axes]
    if options.transpose:
        steps.append(alb.D4(p=1.0))
    if options.rotate_degrees or options.scale or options.translate:
        steps.append(
            alb.Affine(
                scale=(1 - options.scale, 1 + options.scale),
                rotate=(-options.rotate_degrees, options.rotate_degrees),
                translate_percent=(-options.translate, options.translate),
                border_mode=2,  # cv2.BORDER_REFLECT: soft targets stay probabilities
                p=options.probability,
            )
        )
    if options.elastic_voxels:
        # uniform noise of deviation 3^-1/2, which the blur divides by 2 pi^1/2 sigma
        alpha = options.elastic_voxels * 2 * np.sqrt(3 * np.pi) * ELASTIC_SIGMA
        steps.append(
            alb.ElasticTransform(
                alpha=alpha,
                sigma=ELASTIC_SIGMA,
                noise_distribution="uniform",
                border_mode=2,
                p=options.probability,
            )
        )
    return steps


def _intensity_2d(options: AugmentOptions) -> list[Any]:
    import albumentations as alb
    import cv2

    p, steps = options.probability, []
    if options.brightness or options.contrast:
        steps.append(
            alb.RandomBrightnessContrast(
                brightness_limit=options.brightness, contrast_limit=options.contrast, p=p
            )
        )
    if options.gamma:
        limits = (100 * (1 - options.gamma), 100 * (1 + options.gamma))
        steps.append(alb.RandomGamma(gamma_limit=limits, p=p))
    if options.blur_sigma:
        steps.append(alb.GaussianBlur(sigma_limit=(0.2, options.blur_sigma), p=p))
    if options.low_resolution:
        down, up = cv2.INTER_NEAREST, cv2.INTER_LINEAR
        steps.append(
            alb.Downscale(
                scale_range=(1 - options.low_resolution, 1.0),
                interpolation_pair={"downscale": down, "upscale": up},
                p=p,
            )
        )
    if options.noise_std:
        steps.append(alb.GaussNoise(std_range=(0, options.noise_std), p=p))
    return steps


def _on_unit_scale(image: np.ndarray, intensity: Any) -> np.ndarray:  # noqa: ANN401
    """Apply ``intensity``, which is made for 0..1, to an image on any scale, and come back."""
    low, high = float(image.min()), float(image.max())
    span = max(high - low, 1e-8)
    changed = intensity(image=np.ascontiguousarray((image - low) / span, dtype=np.float32))["image"]
    return _with_channels(changed) * span + low


def _with_channels(array: np.ndarray) -> np.ndarray:
    return array if array.ndim == 3 else array[..., None]


def _channels_first(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(_with_channels(array), -1, 0)))
