"""Modules that pytest imports for their examples, but for those whose library is not everywhere."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("triton") else ["medkd/distill/fused.py"]
