"""Seeded faults: each is a plausible mistake in one room of kcv, and the tests named beside it must find it.

`nox -s faults` makes each change in a copy of the tree and runs those tests there; it fails where one lives. Take a new
room's fault into the table, so that its tests are known to test. `python tests/faults.py WORD...` runs those whose
name holds a word.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COPIED = (
    "kcv",
    "tests",
    "configs",
    "docs",
    "pyproject.toml",
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "noxfile.py",
)


@dataclass(frozen=True)
class Fault:
    """One mistake.

    Attributes:
        name: what is wrong.
        path: the file, below `kcv/`.
        right: text that stands there once.
        wrong: what the mistake makes of it.
        tests: where it must be found, below `tests/`; all of them belong to the fast set.
    """

    name: str
    path: str
    right: str
    wrong: str
    tests: str


FAULTS = (
    Fault("paths of the machine in a published file", "exporting/published.py",
          'return path.name or "data"', "return text", "exporting/test_published.py"),
    Fault("a flipped sign in the calibration error", "metrics/scores.py",
          '(row["accuracy"] or 0.0) - (row["confidence"] or 0.0)', '(row["accuracy"] or 0.0) + (row["confidence"] or 0.0)',
          "metrics"),
    Fault("an interval that is too narrow", "metrics/significance.py",
          "math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))", "math.sqrt(p * (1 - p) / n)", "metrics"),
    Fault("a quantile without its correction for few images", "metrics/conformal.py",
          "math.ceil((n + 1) * Fraction", "math.ceil(n * Fraction", "metrics/test_conformal.py"),
    Fault("views are added, not averaged", "inference/tta.py", "total / len(views)", "total", "inference/test_tta.py"),
    Fault("a model that never saw mirror images is shown some", "inference/tta.py",
          "itertools.cycle((False, mirrored))", "itertools.cycle((False, True))", "inference/test_tta.py"),
    Fault("vectors of different models are compared", "inference/vector_file.py",
          "if file.origin != origin:", "if False:", "inference/test_embedding.py"),
    Fault("a run goes on with another teacher", "training/distillation.py",
          "if digest is not None and digest != found:", "if False:", "training/test_distillation.py"),
    Fault("a page of another site uses a server", "serving/guard.py",
          'return site == b"cross-site"', "return False", "serving/test_access.py"),
    Fault("feedback for a class that the model does not have", "serving/feedback.py",
          "if class_name not in self._folders[model].class_names:", "if not class_name:", "serving/test_feedback.py"),
    Fault("a stranger's run imports its code", "training/resume/consent.py",
          "OwnName.find(config.model.name) is not None and not record.own", "False", "training/test_own_function.py"),
    Fault("a changed file of a model is run", "training/own_function.py",
          "sha256 is not None and found != sha256", "False", "training/test_own_function.py"),
    Fault("a class begins again in each epoch", "data/sampling.py", "epoch * int(quota)", "0", "data/test_sampling.py"),
    Fault("smoothing weighs classes", "training/loss.py", "- smoothing * weights.mean()", "", "training/test_loss.py"),
    Fault("model files may name any class", "artifact/allowed_layers.py",
          'if "class_name" in node and not _is_allowed(node):', 'if "class_name" in node and False:',
          "hostile/test_models.py"),
    Fault("weights may be links to other files", "artifact/weights.py",
          "if not isinstance(group.get(name, getlink=True), h5py.HardLink):", "if False:", "hostile/test_models.py"),
    Fault("resuming forgets the optimizer", "training/resume/state.py",
          '    _put("optimizer", state, train_model.optimizer.variables)\n', "", "training/resume/test_resume.py"),
    Fault("resuming forgets torch's generator", "training/resume/state.py",
          'torch.set_rng_state(state.tensors["torch"])', "pass", "training/resume"),
    Fault("resuming forgets what a user's callback keeps", "training/callbacks/checkpoint.py",
          "        self._user.load_from(state)", "        pass", "training/test_extensions.py"),
    Fault("steps of before an interruption reach the callbacks", "training/callbacks/checkpoint.py",
          "        self._skip = skip\n", "        self._skip = 0\n", "training/test_extensions.py"),
    Fault("a damaged checkpoint is taken", "training/resume/checkpoint_store.py",
          'if hashlib.file_digest(cast(BufferedReader, stream), "sha256").hexdigest() != checksum:', "if False:", "training/resume"),
    Fault("classes of an exported file in the wrong order", "tasks/export.py",
          "class_names=info.class_names,", "class_names=info.class_names[::-1],", "exporting"),
    Fault("weights of another export are run", "inference/openvino_graph.py",
          "if digest is not None and digest != hashlib.sha256(weights).hexdigest():", "if False:", "hostile/test_openvino.py"),
    Fault("the parity gate lets wrong logits pass", "exporting/parity.py",
          "if not self.max_difference <= self.tolerance:", "if self.max_difference > 1e9:", "exporting/test_parity.py"),
    Fault("the worst epoch is kept where a loss is monitored", "training/callbacks/control.py",
          "self._best: Standing | None = None\n", 'self._best: Standing | None = None\n        self._monitor = "val_accuracy"\n',
          "training/test_callbacks.py"),
    Fault("the higher loss is better where the monitor ties", "metrics/standing.py",
          'loss = -float(figures["val_loss"])', 'loss = float(figures["val_loss"])', "training/test_callbacks.py"),
    Fault("statistics of short trainings are not estimated again", "training/callbacks/control.py",
          " <= _FADED:", " <= 2.0:", "training/test_few_steps.py"),
    Fault("test images stay in the training split", "data/split.py",
          "for split, part in parts.items()}, samples.take(rest)", "for split, part in parts.items()}, samples",
          "data/test_split.py"),
    Fault("mixup blends images but not targets", "data/augment/mix.py",
          "return blended, _mix_targets(targets, keep)", "return blended, targets", "data"),
    Fault("the same order in every epoch", "data/order.py",
          "permutation = np.random.default_rng((seed, epoch, ORDER))", "permutation = np.random.default_rng((seed, 0, ORDER))",
          "data/test_batches.py"),
    Fault("moving variances follow the unbiased variance", "native/layers/moving.py",
          "[(one.count - 1) / one.count for one in seen]", "[1.0 for one in seen]", "native"),
    Fault("what a failed pass has seen goes into the moving statistics", "native/layers/moving.py",
          "self._free, self._seen = {}, []", "pass", "native/test_moving.py"),
    Fault("the learning rate of a group is ignored", "native/optimizers.py",
          "steps, learning_rate * lr_scale, decay", "steps, learning_rate, decay", "native/test_optimizers.py"),
    Fault("a replayed step works on the batch of its recording", "native/cuda_graph.py",
          "kept.copy_(tensor, non_blocking=True)", "pass", "native/test_device_step.py"),
    Fault("the gradient of a depthwise kernel forgets the stride", "native/layers/depthwise.py",
          "dilation=stride, groups", "dilation=1, groups", "native/test_depthwise.py"),
    Fault("the gradient of a normalisation forgets its mean", "native/kernels/kernels.c",
          " - offset[j];", ";", "native/test_kernels.py"),
    Fault("kernels that compute something else are used", "native/kernels/library.py",
          "if not _computes_as_torch(kernels):", "if False:", "native/test_kernels.py"),
    Fault("an activation is joined to a normalisation that others read", "native/merging.py",
          "readers[before.targets[0]] == 1", "readers[before.targets[0]] >= 1", "native/test_kernels.py"),
    Fault("the moving average of the weights moves the wrong way round", "native/optimizers.py",
          "else 1.0 - self.ema_momentum", "else self.ema_momentum", "native/test_optimizers.py"),
    Fault("photos are not turned upright", "images/decoding.py",
          "return turned(to_eight_bits(image), _orientation(image))", "return to_eight_bits(image)",
          "images/test_decoding.py"),
    Fault("heat maps show what speaks against a class", "saliency/methods.py",
          "_stretched(maps.relu())", "_stretched((-maps).relu())", "saliency/test_explainer.py"),
    Fault("confidences are sharpened where they should be softened", "metrics/temperature.py",
          "shifted /= temperature", "shifted *= temperature",
          "metrics/test_temperature.py"),
    Fault("several comparisons are not corrected for", "metrics/significance.py",
          "(len(p_values) - rank) * p_values[position]", "p_values[position]", "metrics/test_paired.py"),
    Fault("an entry for the tracker is lost where another one fails", "tracking/outbox.py",
          "        self._offset = self._next\n", "        self._offset = self.path.stat().st_size\n", "tracking/test_outbox.py"),
    Fault("a killed run lacks its data sets", "training/run_setup.py",
          "        log(data_records(dataset, shown.data.source))\n", "        pass\n", "training/test_data_records.py"),
    Fault("a comma in the path of a database separates trackers", "tracking/tracker.py",
          'if found and "//" in found[-1] and not', "if found and not", "tracking/test_several.py"),
    Fault("rows of predictions get the next image's scores", "inference/prediction.py",
          "scores = iter(self.model.predict_pixels(np.stack(pixels)) if pixels else ())",
          "scores = iter(self.model.predict_pixels(np.stack(pixels))[::-1] if pixels else ())",
          "tasks/test_predict.py"),
    Fault("a download is kept whatever came", "common/download.py",
          "if digest.hexdigest() != expected:", "if False:", "common/test_download.py"),
    Fault("what was typed does not override the file", "config/overrides.py",
          "            place[leaf] = value", "            place.setdefault(leaf, value)",
          "config"),
    Fault("formulas reach a spreadsheet", "common/files.py",
          'return f"\'{value}"', "return value",
          "common/test_files.py"),
    Fault("a trial of a search reads the test split", "tuning/study.py",
          '"final_split": "val"', '"final_split": "test"', "tuning/test_space.py"),
    Fault("a trial in folds counts for its best fold", "tuning/coordinator.py",
          'else rows[-1:]', "else rows", "tuning/test_coordinator.py"),
    Fault("folds that validate hold images out as well", "data/folds.py",
          "held_out &= ~val", "held_out &= True", "data/test_folds.py"),
    Fault("a search that was killed draws other values", "tuning/sampling.py",
          'f"{seed} {number}"', 'f"{seed} {id(trials)}"', "tuning/test_coordinator.py"),
    Fault("copies in train and test are not reported", "quality/copies/duplicates.py",
          "    if len(splits) > 1:\n", "    if len(splits) > 2:\n", "quality/test_check.py"),
    Fault("a copy of an image is on both sides of a fold", "data/folds.py",
          "rank = first[inverse]", "rank = np.arange(len(inverse))", "data/test_folds.py"),
    Fault("a label is doubted whatever a model usually says of its class", "metrics/confident_learning.py",
          "sums / np.maximum(counts, 1)", "sums / np.maximum(counts, len(labels))", "metrics/test_confident_learning.py"),
    Fault("a name from a file becomes markup in a report", "reporting/page.py",
          "autoescape=True", "autoescape=False", "reporting"),
    Fault("a name from a file becomes markup in a model card", "reporting/card.py",
          "finalize=_shown,", "", "reporting"),
    Fault("figures of several processes are not weighed", "training/callbacks/logging.py",
          "weights = {name: seen[name.startswith(\"val_\")] for name in logs}", "weights = dict.fromkeys(logs, 1.0)",
          "distributed"),
    Fault("ImageNet weights of Keras get red where they want blue", "models/networks/resnet.py",
          "np.ascontiguousarray(kernel[:, :, ::-1])", "np.ascontiguousarray(kernel)", "models/test_transfer.py"),
    Fault("waits between tries move the generator of a training", "stores/client.py",
          "* _chance.uniform(0.5, 1.0)", "* random.uniform(0.5, 1.0)", "stores/test_training.py"),
    Fault("an object that changed is read as if it had not", "stores/reading.py",
          'more["IfMatch"] = one.etag', "pass", "stores/test_objects.py"),
    Fault("the rest of a body that broke off is asked for from the beginning", "stores/reading.py",
          "at = begin + len(content)", "at = begin", "stores/test_objects.py"),
    Fault("a store that does not answer counts as a bad image", "stores/client.py",
          "error = DataError if issubclass(error, ImageError) else error", "pass", "stores/test_predicting.py"),
    Fault("an unreadable image is no error of the command", "cli/render/figures.py",
          "return KcvError.exit_code if failed else 0", "return 0", "cli"),
)  # fmt: skip


def main(words: list[str]) -> int:
    """Tries the faults; returns 1 where one is not found, or where what found it fails on sound code as well."""
    chosen = [fault for fault in FAULTS if not words or any(word in fault.name for word in words)]
    alive, found = [], []
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        tree.mkdir()
        for name in COPIED:
            source = ROOT / name
            copy = shutil.copytree if source.is_dir() else shutil.copy
            copy(source, tree / name)
        for fault in chosen:
            began = time.monotonic()
            if test := _found(fault, tree):
                print(f"found  {time.monotonic() - began:4.0f} s  {fault.name}\n                by {test}", flush=True)
                found.append(test)
            else:
                print(f"LIVES  {time.monotonic() - began:4.0f} s  {fault.name}", flush=True)
                alive.append(fault.name)
        sound = _run(tree, *dict.fromkeys(found)) if found else None
    print(f"{len(chosen) - len(alive)} of {len(chosen)} faults found")
    if sound is not None and sound.returncode != 0:
        print(f"but of the tests that found them, not all pass on sound code:\n{sound.stdout[-2000:]}")
        return 1
    return 1 if alive else 0


def _found(fault: Fault, tree: Path) -> str | None:
    """Makes the mistake in the tree, runs the tests, and takes it back; returns the test that failed."""
    path = tree / "kcv" / fault.path
    sound = path.read_text(encoding="utf-8")
    if sound.count(fault.right) != 1:
        raise SystemExit(f"{fault.path}: the text of the fault {fault.name!r} does not stand there once")
    path.write_text(sound.replace(fault.right, fault.wrong), encoding="utf-8")
    try:
        done = _run(tree, f"tests/{fault.tests}")
    finally:
        path.write_text(sound, encoding="utf-8")
    if done.returncode not in (0, 1):
        raise SystemExit(f"{fault.name}: the tests did not run\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    if done.returncode == 0:
        return None
    failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", done.stdout, re.MULTILINE)
    if failed is None:
        raise SystemExit(f"{fault.name}: no test is named that failed\n{done.stdout[-2000:]}")
    return failed[1]


def _run(tree: Path, *tests: str) -> subprocess.CompletedProcess[str]:
    """Runs tests of the tree up to the first that fails."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-n0", "-q", "-x", "-p", "no:cacheprovider", *tests],
        cwd=tree, env={**os.environ, "PYTHONPATH": str(tree)}, capture_output=True, text=True, check=False,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
