"""The peers of the predictor, each in a process that answers for the images it is told of.

python -m tests.benchmarks.file_to_file monai CHECKPOINT MASK
python -m tests.benchmarks.file_to_file nnunet CHECKPOINT MASK
python -m tests.benchmarks.file_to_file bare RELEASE MASK
Standard input names images; for each, the milliseconds by stage come back as a line of JSON, and
at its end the peak memory. ``monai`` is a pipeline of MONAI's transforms and sliding window;
``nnunet`` is nnU-Net's predictor with the same network, without mirroring; ``bare`` is a script of
nibabel and ONNX Runtime that knows the one image it is made for.
"""

import json
import os
import sys
import time
import warnings
from pathlib import Path

import numpy as np

from medkd.device.predictor import Clock

THREADS = 2


def monai(checkpoint, mask):
    """Return a function from an image file to a mask file, with medkd's preprocessing."""
    import torch
    from monai import transforms as mt
    from monai.inferers import SlidingWindowInferer

    from medkd.models.checkpoint import load_checkpoint

    torch.set_num_threads(THREADS)
    network, _ = load_checkpoint(checkpoint)
    options = json.loads((checkpoint / "preprocess.json").read_text())
    before = mt.Compose(
        [
            mt.LoadImaged("image", ensure_channel_first=True),
            mt.Orientationd("image", axcodes=options["orientation"], labels=None),
            mt.Spacingd("image", pixdim=options["spacing_mm"], mode="bilinear"),
            mt.NormalizeIntensityd("image"),
        ]
    )
    after = mt.Compose(
        [
            mt.Invertd("pred", transform=before, orig_keys="image", nearest_interp=False),
            mt.Activationsd("pred", softmax=True),
            mt.AsDiscreted("pred", argmax=True),
        ]
    )
    save = mt.SaveImage(
        output_dir=mask.parent, output_postfix="", separate_folder=False, print_log=False
    )
    infer = SlidingWindowInferer(
        options["window"], sw_batch_size=2, overlap=options["overlap"], mode="gaussian"
    )

    def answer(image):
        clock = Clock()
        with torch.no_grad():
            case = before({"image": image})
            clock.lap("before")
            case["pred"] = infer(case["image"][None], network)[0]
        clock.lap("network")
        save(after(case)["pred"], filename=mask.with_suffix("").with_suffix(""))
        clock.lap("after")
        return clock.laps

    return answer


def nnunet(checkpoint, mask):
    """Return the same by nnU-Net's own predictor, reader and writer, on the network's grid."""
    import torch

    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ.setdefault(name, str(mask.parent))
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from medkd.models.checkpoint import load_checkpoint

    torch.set_num_threads(THREADS)
    network, _ = load_checkpoint(checkpoint)
    options = json.loads((checkpoint / "preprocess.json").read_text())
    resampling = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    by = {
        f"resampling_fn_{what}": "resample_data_or_seg_to_shape"
        for what in ("data", "seg", "probabilities")
    }
    configuration = {
        **by,
        **{f"{name}_kwargs": resampling for name in by},
        "preprocessor_name": "DefaultPreprocessor",
        "patch_size": options["window"],
        "spacing": options["spacing_mm"],
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "architecture": {},
    }
    plans = PlansManager(
        {
            "configurations": {"3d_fullres": configuration},
            "transpose_forward": [0, 1, 2],
            "transpose_backward": [0, 1, 2],
            "image_reader_writer": "NibabelIO",
            "label_manager": "LabelManager",
            "foreground_intensity_properties_per_channel": {"0": {}},
        }
    )
    said = {
        "labels": {"background": 0, "anterior": 1, "posterior": 2},
        "channel_names": {"0": "MR"},
        "file_ending": ".nii.gz",
    }
    predictor = nnUNetPredictor(
        tile_step_size=1 - options["overlap"],
        use_mirroring=False,
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )
    predictor.manual_initialization(
        network.eval(),
        plans,
        plans.get_configuration("3d_fullres"),
        [network.state_dict()],
        said,
        "nnUNetTrainer",
        None,
    )
    reader = plans.image_reader_writer_class()

    def answer(image):
        clock = Clock()
        array, about = reader.read_images([str(image)])
        clock.lap("read")
        name = str(mask.with_suffix("").with_suffix(""))
        predictor.predict_single_npy_array(array, about, output_file_truncated=name)
        clock.lap("all else")
        return clock.laps

    return answer


def bare(release, mask):
    """Return the shortest way from a file to a file: an image that is one window as it is."""
    import nibabel
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = ort.InferenceSession(release / "model.onnx", options)
    window = session.get_inputs()[0].shape[2:]

    def answer(image):
        clock = Clock()
        read = nibabel.load(image)
        array = np.asanyarray(read.dataobj)
        clock.lap("read")
        given = np.zeros((1, 1, *window), np.float32)
        inside = tuple(slice(0, min(n, w)) for n, w in zip(array.shape, window, strict=True))
        given[(0, 0, *inside)] = (array[inside] - array.mean()) / array.std()
        clock.lap("prepare")
        logits = session.run(None, {"image": given})[0]
        clock.lap("network")
        answer = np.zeros(array.shape, np.uint8)
        answer[inside] = logits.argmax(axis=1)[(0, *inside)]
        clock.lap("argmax")
        nibabel.save(nibabel.Nifti1Image(answer, read.affine), mask)
        clock.lap("write")
        return clock.laps

    return answer


def peak_memory_mib():
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def main():
    kind, given, mask = sys.argv[1], *map(Path, sys.argv[2:4])
    warnings.simplefilter("ignore")
    os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))
    answer = {"monai": monai, "nnunet": nnunet, "bare": bare}[kind](given, mask)
    for line in sys.stdin:
        images = json.loads(line)
        if not images:
            break
        mask.unlink(missing_ok=True)  # as medkd's answers are: new files
        start = time.perf_counter()
        laps = answer(Path(images[0]))
        laps["total"] = 1000 * (time.perf_counter() - start)
        print(json.dumps(laps), flush=True)
    print(json.dumps({"peak_memory_mib": peak_memory_mib()}), flush=True)


if __name__ == "__main__":
    main()
