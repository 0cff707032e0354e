"""Bundle: a network as a MONAI bundle, which MONAI's own tools run without medkd.

``configs/inference.json`` says in MONAI's transforms what ``medkd.data.preprocess`` and the
predictor do; ``models/model.ts`` is the network as TorchScript, and ``models/model.pt`` its weights
for ``network_def`` where MONAI has a class of it (MONAI Label asks for that).
"""

import io
import json
import warnings
import zipfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nibabel.nifti1 import data_type_codes
from torch import nn

from medkd.config import Config
from medkd.data.preprocess import SAME_SPACING
from medkd.models.stock import definition_of
from medkd.options import LARGEST_LABEL, PreprocessOptions
from medkd.study import write_atomic
from medkd.types import Activation, Task, Temperature

WEIGHTS = "models/model.ts"
FILES = {3: "*.nii.gz", 2: "*.png"}
CONFIGS = "--config_file configs/inference.json --meta_file configs/metadata.json"
INTEGERS = (np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.uint64, np.int64)
# of a mask ``x``, [1, *space], by the value of a structure; both equal medkd.data.postprocess.
# MONAI's KeepLargestConnectedComponent keeps the last of several that are equally large, not the
# first, and its FillHoles fills a hole whatever other structure lies in it
LARGEST = (
    "(lambda n: x.masked_fill(torch.tensor("
    "(n > 0) & (n != numpy.bincount(n[n > 0], minlength=1).argmax()), device=x.device), 0))"
    "(ndimage.label(x.numpy(force=True) == {value}, numpy.ones([3] * x.ndim))[0])"
)
FILLED = "torch.where(x == 0, monai.transforms.FillHoles({value}, connectivity=1)(x.clone()), x)"


def export_bundle(
    network: nn.Module,
    folder: Path,
    config: Config,
    *,
    role: str,
    temperature: Temperature,
) -> None:
    """Write a MONAI bundle.

    Args:
        network: in evaluation mode.
        folder: to write into.
        config: of the study.
        role: of the network in the study.
        temperature: that calibrates its logits.
    """
    for name in ("configs", "models", "docs"):
        (folder / name).mkdir(exist_ok=True)
    shape = (config.preprocess.channels, *config.preprocess.window)
    _save_torchscript(network, folder / WEIGHTS, shape=shape)
    definition = definition_of(network)
    if definition is not None:
        torch.save(network.state_dict(), folder / "models" / "model.pt")
    inference = _inference(config, definition, temperature=temperature)
    described = _metadata(config, role=role)
    write_atomic(folder / "configs" / "inference.json", json.dumps(inference, indent=1))
    write_atomic(folder / "configs" / "metadata.json", json.dumps(described, indent=1))
    write_atomic(folder / "docs" / "README.md", _readme(config, role))


def open_bundle(folder: Path) -> nn.Module:
    """Return a bundle's network, on the CPU."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # MONAI reads nothing newer
        return torch.jit.load(folder / WEIGHTS, map_location="cpu")


def _save_torchscript(network: nn.Module, path: Path, *, shape: Sequence[int]) -> None:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of a tracer, about Python values that are constants here
        traced = torch.jit.trace(network.cpu().eval(), torch.zeros(2, *shape), check_trace=False)
        archive = io.BytesIO()
        torch.jit.save(traced, archive)
    path.write_bytes(_without_sources(archive))


def _without_sources(archive: io.BytesIO) -> bytes:
    """Leave out where the lines that were traced lie on this machine: paths name its users."""
    kept = io.BytesIO()
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(kept, "w") as target:
        for entry in source.infolist():
            if not entry.filename.endswith(".debug_pkl"):
                target.writestr(entry, source.read(entry))
    return kept.getvalue()


def _inference(
    config: Config, definition: dict[str, Any] | None, *, temperature: Temperature
) -> dict[str, Any]:
    loaded = (
        "$torch.jit.load(os.path.join(@bundle_root, 'models', 'model.ts'), map_location=@device)"
    )
    return {
        "imports": [
            "$import glob",
            "$import os",
            "$import torch",
            "$import numpy",
            "$import monai",
            *["$from scipy import ndimage"] * _tidies(config),
        ],
        "bundle_root": ".",
        "dataset_dir": "$os.path.join(@bundle_root, 'images')",
        "output_dir": "$os.path.join(@bundle_root, 'eval')",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "network_def": definition or loaded,
        "network": loaded,
        "preprocessing": {"_target_": "Compose", "transforms": _preprocessing(config)},
        "dataset": {
            "_target_": "Dataset",
            "data": "$" + _cases(config.preprocess),
            "transform": "@preprocessing",
        },
        "dataloader": {
            "_target_": "DataLoader",
            "dataset": "@dataset",
            "batch_size": 1,
            "shuffle": False,
            "num_workers": 0,
        },
        "inferer": _inferer(config),
        "postprocessing": {
            "_target_": "Compose",
            "transforms": _postprocessing(config, temperature=temperature),
        },
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
        },
        "initialize": ["$monai.utils.set_determinism(seed=0)"],
        "run": ["$@evaluator.run()"],
    }


def _cases(options: PreprocessOptions) -> str:
    """Return the expression of the cases in a folder: a file each, or a file a modality.

    Files of modalities are called ``CASE_NAME``; where one is missing, MONAI says which.
    """
    pattern = FILES[len(options.window)]
    files = f"sorted(glob.glob(os.path.join(@dataset_dir, {pattern!r})))"
    if len(options.modalities) < 2:
        return f"[{{'image': path}} for path in {files}]"
    endings = [f"_{name}{pattern[1:]}" for name in options.modalities]
    first, others = endings[0], tuple(endings[1:])
    together = f"[path[:-{len(first)}] + ending for ending in {endings!r}]"
    image = f"{together} if path.endswith({first!r}) else path"
    return f"[{{'image': {image}}} for path in {files} if not path.endswith({others!r})]"


def _inferer(config: Config) -> dict[str, Any]:
    if config.task is Task.CLASSIFICATION:
        return {"_target_": "SimpleInferer"}
    return {
        "_target_": "SlidingWindowInferer",
        "roi_size": list(config.preprocess.window),
        "sw_batch_size": 2,
        "overlap": config.preprocess.overlap,
        "mode": "gaussian",
    }


def _on(key: str, target: str, **arguments: object) -> dict[str, Any]:
    return {"_target_": target, "keys": key, **arguments}


def _preprocessing(config: Config) -> list[dict[str, Any]]:
    options = config.preprocess
    steps = [*_loading(options)]
    if config.dims == 3 and options.orientation:
        steps.append(_on("image", "Orientationd", axcodes=options.orientation, labels=None))
    if options.spacing_mm and not options.size:
        steps += _resampling(options.spacing_mm)
    if options.size:
        size = list(options.size)
        kind = {2: "bilinear", 3: "trilinear"}[config.dims]
        steps.append(_on("image", "Resized", spatial_size=size, mode=kind, align_corners=True))
    return steps + _intensity(options, config.dims)


def _resampling(spacing_mm: Sequence[float]) -> list[dict[str, Any]]:
    """Return what lays the grid of ``preprocess``: first and last centres of each axis meet.

    ``Spacingd`` keeps the spacing to the letter instead, and misses the last centre. ``grid`` is an
    empty image that has shape and affine; the way back is that of ``ResampleToMatchd``.
    """
    sizes = (
        f"[n if abs(s / t - 1) < {SAME_SPACING} else max(1, round((n - 1) * s / t) + 1) "
        f"for n, s, t in zip(x.shape[1:], x.pixdim.tolist(), {list(spacing_mm)})]"
    )
    steps = (
        "[(n - 1) / (m - 1) if n > 1 and m > 1 else n / m for n, m in zip(x.shape[1:], sizes)]"
        " + [1] * (len(x.affine) - len(sizes))"
    )
    # an @ would be a reference of MONAI's
    affine = f"x.affine.matmul(torch.diag(torch.tensor({steps}, dtype=x.affine.dtype)))"
    empty = f"monai.data.MetaTensor(torch.zeros(1).expand(1, *sizes), affine={affine})"
    return [
        _on("image", "CopyItemsd", names="grid"),
        _on("grid", "Lambdad", func=f"$lambda x: (lambda sizes: {empty})({sizes})"),
        _on(
            "image",
            "ResampleToMatchd",
            key_dst="grid",
            mode="bilinear",
            padding_mode="border",
            align_corners=True,
        ),
        _on("grid", "DeleteItemsd"),
    ]


def _loading(options: PreprocessOptions) -> list[dict[str, Any]]:
    """Return what reads an image, and brings the range of its type to 0..1 where that is asked."""
    is_unit = options.intensity == "unit"
    if len(options.window) == 3:
        if not is_unit:
            return [_on("image", "LoadImaged", ensure_channel_first=True)]
        # MONAI has no tensors of some types: the header names the file's
        tops = {data_type_codes.code[each]: int(np.iinfo(each).max) for each in INTEGERS}
        top = f"(1 if x.is_floating_point() else {tops}[int(x.meta['datatype'])])"
        return [
            _on("image", "LoadImaged", ensure_channel_first=True, dtype=None),
            _on("image", "Lambdad", func=f"$lambda x: x.float() / {top}"),
        ]
    mode = "L" if options.channels == 1 else "RGB"
    # Pillow would cut grey of 16 bits off at 255
    converter = f"lambda i: i if i.mode == 'I;16' else i.convert('{mode}')"
    reader = f"$monai.data.PILReader(converter={converter}, reverse_indexing=False)"
    steps = [_on("image", "LoadImaged", reader=reader), _on("image", "EnsureChannelFirstd")]
    if options.channels > 1:
        grey = f"$lambda x: x.repeat({options.channels}, 1, 1) if len(x) == 1 else x"
        steps.append(_on("image", "Lambdad", func=grey))
    if is_unit:
        scaled = "$lambda x: x / (65535 if x.meta['mode'] == 'I;16' else 255)"
        steps.append(_on("image", "Lambdad", func=scaled))
    return steps


def _intensity(options: PreprocessOptions, dims: int) -> list[dict[str, Any]]:
    if options.intensity == "unit":
        return []  # done where the image's type is still known
    apart = dims == 3  # the channels of a volume are measurements, those of a picture are colours
    normalise = _on("image", "NormalizeIntensityd", channel_wise=apart)
    if options.intensity == "zscore":
        return [normalise]
    clip = _on("image", "ClipIntensityPercentilesd", lower=0.5, upper=99.5, channel_wise=apart)
    return [clip, normalise]


def _postprocessing(config: Config, *, temperature: Temperature) -> list[dict[str, Any]]:
    if config.activation is Activation.SIGMOID:
        return _postprocessing_apart(config, temperature=temperature)
    softmax = _on("pred", "Lambdad", func=f"$lambda x: {_calibrated(config, temperature)}")
    if config.task is Task.CLASSIFICATION:
        return [softmax, *_saved_row()]
    inverted = _inverted()
    values = list(config.label_values)
    labels = _on(
        "pred", "MapLabelValued", orig_labels=list(range(len(values))), target_labels=values
    )
    kind = "uint8" if values[-1] < 256 else "uint16"
    assert values[-1] <= LARGEST_LABEL
    saved = _saved(config, kind=kind)
    turned = _on("pred", "Lambdad", func="$lambda x: x.transpose(1, 2)")  # MONAI writes columns
    steps = [softmax, inverted, _on("pred", "AsDiscreted", argmax=True), labels]
    steps += _tidying(config)
    return [*steps, saved] if config.dims == 3 else [*steps, turned, saved]


def _postprocessing_apart(config: Config, *, temperature: Temperature) -> list[dict[str, Any]]:
    """Return what asks for each structure by itself; the mask has a channel of each.

    Or for each finding, whose probabilities need not sum to 1.
    """
    is_map = config.task is Task.SEGMENTATION
    axes = config.dims if is_map else 0
    values = temperature if isinstance(temperature, float) else _by_class(temperature, axes=axes)
    sigmoid = [
        _on("pred", "Lambdad", func=f"$lambda x: x / {values}"),
        _on("pred", "Activationsd", sigmoid=True),
    ]
    if not is_map:
        return [*sigmoid, *_saved_row()]
    assert config.dims == 3
    return [
        *sigmoid,
        _inverted(),
        _on("pred", "AsDiscreted", threshold=0.5),
        *_tidying(config),
        _saved(config, kind="uint8"),
    ]


def _tidies(config: Config) -> bool:
    return bool(config.postprocess.largest_component or config.postprocess.fill_holes)


def _tidying(config: Config) -> list[dict[str, Any]]:
    """Return the rules that tidy a mask, in the order of the release."""
    rules, steps = config.postprocess, []
    for rule, names in ((LARGEST, rules.largest_component), (FILLED, rules.fill_holes)):
        for name in names:
            if config.activation is Activation.SIGMOID:
                i, tidy = config.classes.index(name), f"(lambda x: {rule.format(value=1)})"
                func = f"torch.cat([x[:{i}], {tidy}(x[{i} : {i + 1}]), x[{i + 1} :]])"
            else:
                func = rule.format(value=config.data.labels[name])
            steps.append(_on("pred", "Lambdad", func=f"$lambda x: {func}"))
    return steps


def _saved_row() -> list[dict[str, Any]]:
    """Return what writes the probabilities of an image into a row of a table."""
    meta = "image_meta_dict"  # holds the file's name
    saved = _on("pred", "SaveClassificationd", output_dir="@output_dir", meta_keys=meta)
    return [_on("image", "FromMetaTensord"), saved]


def _inverted() -> dict[str, Any]:
    return _on(
        "pred",
        "Invertd",
        transform="@preprocessing",
        orig_keys="image",
        nearest_interp=False,
        to_tensor=True,
    )


def _saved(config: Config, *, kind: str) -> dict[str, Any]:
    return _on(
        "pred",
        "SaveImaged",
        output_dir="@output_dir",
        output_postfix="",
        separate_folder=False,
        resample=False,
        output_dtype=f"$numpy.{kind}",
        output_ext=FILES[config.dims][1:],
    )


def _calibrated(config: Config, temperature: Temperature) -> str:
    """Return the expression of the calibrated probabilities of logits ``x``."""
    if isinstance(temperature, float):
        return f"torch.softmax(x / {temperature!r}, dim=0)"
    axes = config.dims if config.task is Task.SEGMENTATION else 0
    values = _by_class(temperature, axes=axes)
    return f"torch.softmax(torch.log_softmax(x, dim=0) / {values}, dim=0)"


def _by_class(temperature: Sequence[float], *, axes: int) -> str:
    """Return the expression of temperatures that divide ``x``, classes first."""
    shape = (-1, *[1] * axes)
    return f"torch.tensor({list(temperature)}, device=x.device).reshape({shape})"


def _metadata(config: Config, *, role: str) -> dict[str, Any]:
    classes = {str(index): name for index, name in enumerate(config.classes)}
    window = list(config.preprocess.window)
    is_map = config.task is Task.SEGMENTATION
    image = {
        "type": "image",
        "format": "magnitude",
        "num_channels": config.preprocess.channels,
        "spatial_shape": window,
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": is_map,
        "channel_def": {str(i): f"channel {i}" for i in range(config.preprocess.channels)},
    }
    answer = {
        "type": "image" if is_map else "probabilities",
        "format": "segmentation" if is_map else "classes",
        "num_channels": len(config.classes),
        "spatial_shape": window if is_map else [],
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": is_map,
        "channel_def": classes,
    }
    needed = {name: metadata.version(name) for name in _extras(config)}
    return {
        "version": metadata.version("medkd"),
        "changelog": {metadata.version("medkd"): "released by medkd"},
        "monai_version": metadata.version("monai"),
        "pytorch_version": metadata.version("torch").partition("+")[0],
        "numpy_version": metadata.version("numpy"),
        "required_packages_version": needed | {"pytorch-ignite": "0.5.5", "fire": "0.7.1"},
        "name": f"{config.study.name} {role}",
        "task": f"{config.task} of {', '.join(config.data.labels)}",
        "description": f"The {role} of the study {config.study.name}; its logits are the output.",
        "authors": "not stated",
        "copyright": config.export.licence or "not stated",
        "intended_use": "research; not a medical device",
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": answer}},
    }


def _extras(config: Config) -> list[str]:
    """Return the packages that MONAI leaves open and the bundle needs, beside those that run it."""
    return ["nibabel", "pillow"] + ["scipy"] * _tidies(config)


def _readme(config: Config, role: str) -> str:
    names = config.preprocess.modalities
    files = f"every `{FILES[config.dims]}`"
    if len(names) > 1:
        called = ", ".join(f"`CASE_{name}{FILES[config.dims][1:]}`" for name in names)
        files = f"every case ({called}, on one grid; or one 4D file of all channels)"
    coarse = ""
    if config.postprocess.argmax_first:
        coarse = """
It decides on each image's own grid, where the release decides on the network's
(`postprocess.argmax_first`): boundaries differ by parts of a voxel.
"""
    return f"""# {config.study.name}, {role}

A MONAI bundle: {config.task} of {", ".join(config.data.labels)}. With
`pip install 'monai[{",".join(["fire", "ignite", *_extras(config)])}]'` it answers for {files} of a
folder:

    python -m monai.bundle run {CONFIGS} \\
        --dataset_dir IMAGES --output_dir ANSWERS
{coarse}
`manifest.json` holds the SHA-256 of every file, and how the study's validation cases were answered.
"""
