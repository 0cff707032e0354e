"""Answers: what a role says of a test case, by its release or, where it has none, in process."""

from collections.abc import Callable, Iterable

import numpy as np

from medkd.config import Config
from medkd.data.labels import class_of
from medkd.data.postprocess import postprocess, postprocess_apart
from medkd.data.preprocess import preprocess
from medkd.data.reading import image_of
from medkd.data.samples import Sample
from medkd.device.predictor import Prediction, load
from medkd.predict.teachers import Teachers, is_portable, load_member, looking_once, on_image_grid
from medkd.study import Study
from medkd.types import Activation, Case, Role, Task, Volume

Answer = Callable[[Case], Prediction]
AnswerImage = Callable[[Volume], Prediction]


def answers_of(study: Study, role: Role) -> Answer:
    """Return how a role answers: mask and probabilities on the image's own grid.

    A release answers as it will at the bedside. A teacher of saved probabilities, or one that
    cannot be exported, has no release.
    """
    answer = answers_to_images(study, role)
    if answer is None:
        return answers_of_teachers(study)
    return lambda case: answer(image_of(case, study.config))


def answers_to_images(study: Study, role: Role) -> AnswerImage | None:
    """Return how a role's release answers for any image; None where it has no release."""
    if role is Role.TEACHER and not is_portable(study):
        return None
    predictor = load(study.path(f"releases/{role}"))
    return lambda volume: predictor.answer(volume, with_probabilities=True)


def classified(
    answer: Answer, cases: Iterable[Case], config: Config
) -> tuple[np.ndarray, np.ndarray]:
    """Ask for whole images.

    Returns:
        Probabilities ``[cases, classes]``, and what is true as ``class_of`` gives it:
        ``[cases, 1]``, or of findings ``[cases, findings]``.
    """
    said = [(answer(case).probabilities, class_of(case, config)) for case in cases]
    return np.stack([p for p, _ in said if p is not None]), np.stack([truth for _, truth in said])


def answers_of_teachers(study: Study) -> Answer:
    """Return how all teachers of a study answer together, in process."""
    return _in_process(Teachers(study).probabilities, study.config)


def answers_of_checkpoint(study: Study, stage: str) -> Answer:
    """Return how the network of a stage answers, in process: to compare many without exporting.

    It looks once, as its release would, whatever the teacher's ``flip_axes``.
    """
    member, config = load_member(study, stage), looking_once(study.config)
    return _in_process(lambda sample: on_image_grid(member, sample, config), config)


def _in_process(probabilities_of: Callable[[Sample], np.ndarray], config: Config) -> Answer:
    def answer(case: Case) -> Prediction:
        image, grid = preprocess(image_of(case, config), config.preprocess)
        sample = Sample(case=case, image=image, label=np.empty(0), grid=grid)
        probabilities = probabilities_of(sample).astype(np.float32)
        is_map = config.task is Task.SEGMENTATION
        return Prediction(
            mask=_mask(probabilities, config) if is_map else None, probabilities=probabilities
        )

    return answer


def _mask(probabilities: np.ndarray, config: Config) -> np.ndarray:
    if config.activation is Activation.SIGMOID:
        answer = (probabilities >= 0.5).view(np.uint8)
        return postprocess_apart(answer, config.postprocess, config.structures)
    mask = np.asarray(config.label_values)[probabilities.argmax(axis=0)]
    return postprocess(mask, config.postprocess, config.data.labels)
