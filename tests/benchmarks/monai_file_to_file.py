"""The peer of the predictor: one network from file to file the way MONAI's bundles do it.

python -m tests.benchmarks.monai_file_to_file CHECKPOINT IMAGE MASK --queries 16 --threads 2
prints the latencies and the peak memory of this process as JSON.
"""

import argparse
import json
import sys
import time
import warnings
from pathlib import Path

import numpy as np


def pipeline(checkpoint, mask):
    """Return a function from an image file to a mask file, with medkd's preprocessing."""
    import torch
    from monai import transforms as mt
    from monai.inferers import SlidingWindowInferer

    from medkd.models.checkpoint import load_checkpoint

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
        with torch.no_grad():
            case = before({"image": image})
            case["pred"] = infer(case["image"][None], network)[0]
        save(after(case)["pred"], filename=mask.with_suffix("").with_suffix(""))

    return answer


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("mask", type=Path)
    parser.add_argument("--queries", type=int)
    parser.add_argument("--threads", type=int)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    import torch

    torch.set_num_threads(given.threads)
    answer = pipeline(given.checkpoint, given.mask)
    times = []
    for _ in range(given.queries + 3):
        start = time.perf_counter()
        answer(given.image)
        times.append(1000 * (time.perf_counter() - start))
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
    p50, p90 = np.percentile(times[3:], [50, 90])
    sys.stdout.write(json.dumps({"p50_ms": p50, "p90_ms": p90, "peak_memory_mib": peak}))


if __name__ == "__main__":
    main()
