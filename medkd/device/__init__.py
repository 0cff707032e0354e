"""device: what runs at the bedside; no torch, no MONAI.

``from medkd.device import load; mask = load("releases/student").predict(volume)``
"""

from medkd.device.predictor import Prediction, Predictor, load

__all__ = ["Prediction", "Predictor", "load"]
