"""data: images on disk become cases, volumes and batches."""

import sys

# nibabel looks for pydicom, for header extensions that nobody reads here; finding it would cost
# every start 0.1 s and 30 MB
if not {"nibabel", "pydicom"} & sys.modules.keys():
    sys.modules["pydicom"] = None  # type: ignore[assignment]
    import nibabel  # noqa: F401

    del sys.modules["pydicom"]
