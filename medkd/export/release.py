"""Release: a folder a device can run: weights, and a manifest with the SHA-256 of every file.

A network is released in several variants. Each is compared with the network as trained on the
validation cases; one that loses more than its gate leaves ``parity.json`` with the reason, and no
weights.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.markup import escape
from torch import nn

from medkd.config import Config, shareable
from medkd.data.check import Cohort
from medkd.data.samples import Sample, load_samples
from medkd.device.choice import CHOICE
from medkd.device.engine import Engine, lacks, open_engine
from medkd.device.manifest import MANIFEST, PARITY, WEIGHTS, Manifest, read_manifest, sha256
from medkd.device.predictor import Predictor
from medkd.distill.teacher import FrozenTeacher
from medkd.errors import ReleaseError, TrainingError
from medkd.export import bundle, openvino
from medkd.export.conformal import conformal_thresholds, operating_points, told
from medkd.export.guard import guard_of
from medkd.export.onnx import export_onnx, verify_onnx
from medkd.export.parity import compare, in_torch, why_refused
from medkd.models.checkpoint import load_checkpoint
from medkd.models.cost import macs, parameters
from medkd.options import ExportOptions
from medkd.predict.teachers import Member, is_portable, load_member, stages, weights_among
from medkd.progress import console
from medkd.results import Attempt, Parity, VariantResult
from medkd.study import STAGE_FILE, Study, digest, write_atomic
from medkd.types import Case, Role, Runtime, Temperature, Variant

TORCHSCRIPT = "torchscript"  # what computes a bundle
OF_ONNX = (Runtime.ONNXRUNTIME, Runtime.OPENVINO)  # what computes an ONNX file
NO_PART = {STAGE_FILE, MANIFEST, CHOICE}  # of what a manifest vouches for
RETRAINED = "trained on as if in int8"
# to the checkpoint of a role's network that was trained on as if in int8
Retrain = Callable[[Study, Cohort, Role], Path]


def export_all(
    study: Study,
    cohort: Cohort,
    *,
    variants: Sequence[Variant] = (),
    roles: Sequence[Role] = (),
    retrain: Retrain | None = None,
) -> list[Path]:
    """Write releases of a study; return the folders of those that may be used.

    Args:
        study: whose networks are trained.
        cohort: its checked cases.
        variants: those of the config if empty.
        roles: if empty, the student in all variants, and all three in ONNX.
        retrain: called where int8 loses too much; without it, nothing is released then.

    Raises:
        StudyError: a role has not been trained yet.
        ReleaseError: an exported network is not the trained one.
    """
    folders = []
    for variant in variants or dict.fromkeys((Variant.ONNX, *study.config.export.variants)):
        for role in roles or (Role if variant is Variant.ONNX else (Role.STUDENT,)):
            folder = export(study, cohort, role=role, variant=variant, retrain=retrain)
            folders += [folder] if folder and (folder / MANIFEST).exists() else []
    return folders


def export(
    study: Study,
    cohort: Cohort,
    *,
    role: Role,
    variant: Variant = Variant.ONNX,
    retrain: Retrain | None = None,
) -> Path | None:
    """Write one release; return its folder, or None for a teacher without a network.

    A variant that is refused has a folder too, with ``parity.json`` alone.

    Raises:
        StudyError: the role has not been trained yet.
        ReleaseError: the exported network is not the trained one.
    """
    if role is Role.TEACHER and not is_portable(study):
        return None
    members = stages(study.config) if role is Role.TEACHER else [str(role)]
    release = _Release(study, cohort, role, variant, members, retrain)
    return study.stage(f"releases/{variant.of(role)}", inputs=release.inputs, make=release.make)


def write_release(
    folder: Path, network: nn.Module, config: Config, *, role: str, model: Mapping[str, object]
) -> None:
    """Write weights and manifest of a network that nothing is known of but its speed.

    Args:
        folder: the release's.
        network: in evaluation mode; it puts out logits.
        config: of the study.
        role: which of the three models it is.
        model: its name and options.

    Raises:
        ReleaseError: the exported network is not the one given.
    """
    _write_onnx(network, folder / WEIGHTS, config)
    here = tuple(each for each in OF_ONNX if lacks(each) is None)
    said: dict[str, Any] = {"model": dict(model), "temperature": 1.0, "runtimes": here}
    _seal(folder, _manifest(network, config, role=role, **said))


@dataclass(frozen=True)
class _Form:
    """A variant whose files are written, before it is known whether it may be released.

    Attributes:
        weights: the file that is opened.
        engines: by what computes it.
        runtimes: those of a device.
        way: how it was made, where there are several ways.
    """

    weights: str
    engines: dict[str, Engine]
    runtimes: tuple[Runtime, ...] = ()
    way: str = ""


@dataclass(frozen=True)
class _Judged:
    """A form, and what the validation cases said of it."""

    form: _Form
    parity: dict[str, Parity]
    refused: dict[str, str] = field(default_factory=dict)
    attempts: tuple[Attempt, ...] = ()

    @property
    def attempt(self) -> Attempt:
        """What became of the form."""
        (first, *_) = self.parity.values()
        reasons = None if self.accepted else "; ".join(self.refused.values())
        return Attempt(way=self.form.way, difference=first.difference, refused=reasons)

    @property
    def accepted(self) -> list[str]:
        """What may compute it."""
        return [name for name in self.parity if name not in self.refused]


@dataclass(frozen=True)
class _Release:
    """One role in one variant, from its checkpoints to its folder."""

    study: Study
    cohort: Cohort
    role: Role
    variant: Variant
    members: Sequence[str]
    retrain: Retrain | None = None

    @property
    def inputs(self) -> dict[str, object]:
        config, split = self.study.config, self.cohort.split
        given: dict[str, object] = {
            "weights": [self.study.stage_digest(member) for member in self.members],
            "labels": config.data.labels,
            "codes": {n: c.model_dump(exclude_none=True) for n, c in config.data.codes.items()},
            "preprocess": config.preprocess.model_dump(),
            "postprocess": config.postprocess.model_dump(),
            "training images": [self.cohort.images[i] for i in split.train],
            "validation cases": self.cohort.digest_of(split.validation),
            "export": [config.export.licence, self._may_lose, config.evaluate.promised],
            "seed": config.study.seed,
        }
        if config.data.overlapping:
            given["overlapping"] = config.data.includes
            if config.has_findings:
                given["specificity"] = config.evaluate.specificity
        if self.variant is Variant.INT8:
            given["calibration"] = config.export.calibration_cases
            steps = config.export.retrain_steps
            if steps != ExportOptions().retrain_steps:
                given["retrain_steps"] = steps
        if len(self.members) > 1:
            given["weight of each"] = weights_among(config, self.members)
        return given

    def make(self, folder: Path) -> None:
        """Write the variant, judge it, and release it or leave the reason."""
        name = self.variant.of(self.role)
        console.print(f"export {name}")
        judged = self._best_form(folder)
        for runtime, reason in judged.refused.items():
            console.print(f"[yellow]{name} is not released[/] for {runtime}: {escape(reason)}")
        self._tell(folder, judged)
        if judged.accepted:
            self._seal(folder, judged)

    def _best_form(self, folder: Path) -> _Judged:
        """Return the first form that may be released; of those that may not, the last verdict."""
        _empty(folder)
        attempts: list[Attempt] = []
        for form in FORMS[self.variant](self, folder):
            if isinstance(form, Attempt):  # one that was not even made
                attempts.append(form)
                continue
            judged = self._judge(form)
            attempts += [judged.attempt] if form.way else []
            if judged.accepted:
                break
            _empty(folder)
        return replace(judged, attempts=tuple(attempts))

    def _judge(self, form: _Form) -> _Judged:
        released = compare(
            self.network,
            form.engines,
            self._validation,
            self.study.config,
            temperature=self.temperature,
        )
        reasons = {
            name: why_refused(parity, may_lose=self._may_lose) for name, parity in released.items()
        }
        return _Judged(form, released, {name: why for name, why in reasons.items() if why})

    def _tell(self, folder: Path, judged: _Judged) -> None:
        size = sum(path.stat().st_size for path in _files(folder)) / 2**20
        result = VariantResult(
            role=self.role,
            variant=self.variant,
            may_lose=self._may_lose,
            parity=judged.parity,
            refused=judged.refused,
            attempts=judged.attempts,
            size_mib=size if judged.accepted else None,
        )
        write_atomic(folder / PARITY, result.model_dump_json(indent=1))

    def _seal(self, folder: Path, judged: _Judged) -> None:
        first = judged.accepted[0]
        is_int8 = self.variant is Variant.INT8  # its confidence is not the trained network's
        temperature = judged.parity[first].temperature if is_int8 else self.temperature
        config, single = self.study.config, len(self.members) == 1
        manifest = _manifest(
            self.network,
            config,
            role=self.role,
            model=self._loaded[0].model | ({} if single else {"members": len(self.members)}),
            temperature=temperature,
            variant=self.variant,
            weights=judged.form.weights,
            runtimes=tuple(each for each in judged.form.runtimes if each in judged.accepted),
            parity={name: judged.parity[name] for name in judged.accepted},
            study=_provenance(self.study, self.cohort, self._loaded),
            guard=guard_of(self.study, self.cohort),
        )
        predictor = Predictor(manifest, judged.form.engines[first])
        cases = self.cohort.of(self.cohort.split.validation)
        said = told(predictor, cases, config)
        found = {
            "conformal": conformal_thresholds(said, cases, config),
            "operating_points": operating_points(said, cases, config),
        }
        _seal(folder, manifest.model_copy(update=found))

    @property
    def _may_lose(self) -> float:
        return self.study.config.export.loss_allowed(self.variant)

    @cached_property
    def _validation(self) -> list[Sample]:
        return load_samples(self.cohort.of(self.cohort.split.validation), self.study.config)

    @cached_property
    def _loaded(self) -> list[Member]:
        return [load_member(self.study, member) for member in self.members]

    @property
    def temperature(self) -> Temperature:
        """That calibrates the network; an ensemble's members have theirs inside."""
        return self._loaded[0].temperature if len(self.members) == 1 else 1.0

    @cached_property
    def network(self) -> nn.Module:
        """As trained, in evaluation mode."""
        networks = [member.network.cpu().eval() for member in self._loaded if member.network]
        if len(self.members) == 1:  # its temperature is the manifest's business
            return networks[0]
        return FrozenTeacher(
            networks,
            temperatures=[member.temperature for member in self._loaded],
            weights=weights_among(self.study.config, self.members),
            activation=self.study.config.activation,
        )

    @property
    def training_cases(self) -> list[Case]:
        """Those that a variant may be fitted to."""
        return self.cohort.of(self.cohort.split.train)

    @contextmanager
    def onnx(self) -> Iterator[Path]:
        """Lend the network as an ONNX file, the released one where there is one."""
        released = self.study.path(f"releases/{Variant.ONNX.of(self.role)}")
        if (released / MANIFEST).is_file() and self.study.is_complete(f"releases/{self.role}"):
            read_manifest(released)
            yield released / WEIGHTS
            return
        with _written_onnx(self.network, self.study.config) as written:
            yield written

    def retrained(self) -> nn.Module:
        """Return the network after it was trained on as if in int8.

        Raises:
            _NotTried: it cannot be, or training went wrong.
        """
        options, config = self.study.config.export, self.study.config
        if self.retrain is None or not options.retrain_steps:
            raise _NotTried("export.retrain_steps is 0" if self.retrain else "nothing trains here")
        if self.role is Role.TEACHER:
            raise _NotTried("only students are trained on")
        is_taught = self.role is Role.STUDENT and not config.distill.online
        if is_taught and not self.study.is_complete("soft_targets"):
            raise _NotTried("the soft targets are gone; medkd soften writes them anew")
        try:
            return load_checkpoint(self.retrain(self.study, self.cohort, self.role))[0]
        except TrainingError as error:
            console.print(f"[yellow]{RETRAINED}:[/] {escape(str(error))}")
            raise _NotTried("training went wrong") from None


class _NotTried(Exception):  # noqa: N818 - no error of the user's
    """Why a network is not trained on."""


@contextmanager
def _written_onnx(network: nn.Module, config: Config) -> Iterator[Path]:
    """Lend a network as an ONNX file."""
    with tempfile.TemporaryDirectory() as scratch:
        _write_onnx(network, Path(scratch) / WEIGHTS, config)
        yield Path(scratch) / WEIGHTS


def _onnx_form(release: _Release, folder: Path) -> Iterator[_Form]:
    _write_onnx(release.network, folder / WEIGHTS, release.study.config)
    yield _form(folder, WEIGHTS, *OF_ONNX)


def _openvino_form(release: _Release, folder: Path) -> Iterator[_Form]:
    with release.onnx() as onnx:
        openvino.export_openvino(onnx, folder / openvino.WEIGHTS)
    yield _form(folder, openvino.WEIGHTS, Runtime.OPENVINO, Runtime.OPENVINO_BF16)


def _int8_forms(release: _Release, folder: Path) -> Iterator[_Form | Attempt]:
    """Quantise in seconds; thoroughly, and at last a network trained for it, if that lost too much.

    What was trained as if in int8 is quantised without correction: it answers right as it is.
    """
    windows = openvino.calibration_windows(release.training_cases, release.study.config)
    weights = folder / openvino.WEIGHTS
    for bias in (openvino.Bias.FAST, openvino.Bias.THOROUGH):
        with release.onnx() as onnx:
            openvino.quantise(onnx, weights, windows, bias=bias)
        yield _form(folder, openvino.WEIGHTS, Runtime.OPENVINO, way=f"quantised, {bias}")
    try:
        network = release.retrained()
    except _NotTried as why:
        yield Attempt(way=RETRAINED, refused=f"not tried: {why}")
        return
    with _written_onnx(network, release.study.config) as onnx:
        openvino.quantise(onnx, weights, windows, bias=openvino.Bias.KEPT)
    yield _form(folder, openvino.WEIGHTS, Runtime.OPENVINO, way=RETRAINED)


def _bundle_form(release: _Release, folder: Path) -> Iterator[_Form]:
    if not list(release.network.parameters()):
        raise ReleaseError(
            f"{release.role}: a network that came as an ONNX file can not be made into a bundle, "
            f"which holds networks of torch; leave out the variant"
        )
    bundle.export_bundle(
        release.network,
        folder,
        release.study.config,
        role=release.role,
        temperature=release.temperature,
    )
    yield _Form(bundle.WEIGHTS, {TORCHSCRIPT: in_torch(bundle.open_bundle(folder))})


FORMS: dict[Variant, Callable[[_Release, Path], Iterator[_Form | Attempt]]] = {
    Variant.ONNX: _onnx_form,
    Variant.OPENVINO: _openvino_form,
    Variant.INT8: _int8_forms,
    Variant.BUNDLE: _bundle_form,
}


def _form(folder: Path, weights: str, *runtimes: Runtime, way: str = "") -> _Form:
    """Open what was written in each of the runtimes that this machine has."""
    here = tuple(each for each in runtimes if lacks(each) is None)
    engines: dict[str, Engine] = {each: open_engine(folder / weights, each) for each in here}
    return _Form(weights, engines, here, way)


def _write_onnx(network: nn.Module, path: Path, config: Config) -> None:
    shape = (config.preprocess.channels, *config.preprocess.window)
    export_onnx(network, path, shape=shape)
    verify_onnx(network, path, shape=shape)


def _manifest(network: nn.Module, config: Config, **said: Any) -> Manifest:  # noqa: ANN401
    window = (1, config.preprocess.channels, *config.preprocess.window)
    return Manifest(
        task=config.task,
        classes=config.classes,
        label_values=config.label_values,
        codes=config.data.codes,
        preprocess=config.preprocess.of_anyone,
        activation=config.activation,
        postprocess=config.postprocess,
        parameters=parameters(network),
        macs=macs(network, window),
        licence=config.export.licence,
        files={},
        **{"study": {}, **said},
    )


def _seal(folder: Path, manifest: Manifest) -> None:
    """Write the manifest, with the digest of every other file."""
    files = {path.relative_to(folder).as_posix(): sha256(path) for path in _files(folder)}
    sealed = manifest.model_copy(update={"files": files})
    write_atomic(folder / MANIFEST, sealed.model_dump_json(indent=1))


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in NO_PART)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in NO_PART:
            path.unlink()


def _provenance(study: Study, cohort: Cohort, trained: Sequence[Member]) -> dict[str, str]:
    """What the release was made from, as digests; no name and no id."""
    split = cohort.split
    return {
        "name": study.config.study.name,
        "config": digest(shareable(study.config)),
        "train": cohort.digest_of(split.train),
        "validation": cohort.digest_of(split.validation),
        "test": cohort.digest_of(split.test),
        "training_patients": digest([member.patients for member in trained]),
    }
