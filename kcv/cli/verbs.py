"""What each verb of the command line takes. Knows no verb's code."""

from __future__ import annotations

from kcv.cli.options import Option, Verb
from kcv.config import DEVICES, PRECISIONS
from kcv.errors import UsageError, nearest
from kcv.models import registry

FORMATS = ("text", "json")

FORMAT = Option("format", "how results are printed", "text", FORMATS)
BATCH = Option("batch_size", "images computed at once; default: 256, fewer of large ones", least=1)
DEVICE = Option("device", "where to compute", "auto", DEVICES)
BENCHMARKED = tuple(network.name for network in registry.networks() if network.torch)
EXPORTED = ("float32", "int8")
EXPLAINED = ("gradcam", "gradcam++", "hirescam", "layercam")
OPSETS = ("18", "19", "20", "21")
"""Written down here too because kcv.benchmark, kcv.saliency and kcv.exporting import torch, and help must not;
tests hold both together."""

VERBS = {
    verb.name: verb
    for verb in (
        Verb(
            "train",
            "Train a model and leave a run folder with it.",
            ("config",),
            0,
            "a YAML file; without one, the defaults below",
            (Option("resume", "continue the run in this folder, which was cut short"), FORMAT),
            (
                "train configs/quickstart.yaml",
                "train --data=path/to/images --epochs=30 --output_dir=runs/mine",
                "train --resume=runs/mine",
            ),
            configured=True,
        ),
        Verb(
            "evaluate",
            "Measure a model on a split: accuracy with its interval, per class, with plots.",
            ("model",),
            1,
            "a model file (model.keras), or the run folder that holds it",
            (
                Option("data", "cifar10, digits, or the path of images; default: what the model was trained on"),
                Option("split", "which part of the data", "test", ("train", "val", "test")),
                Option("output_dir", "where metrics and plots go; default: evaluation/ beside the model"),
                Option(
                    "calibrate", "fit the temperature to the validation split first, into the model file", switch=True
                ),
                Option(
                    "explain", "measure how far heat maps can be trusted, too: some seconds to minutes", switch=True
                ),
                Option("plots", "draw plots; --plots=false: figures and tables alone", True, switch=True),
                Option(
                    "abstain_precision",
                    "calibrate, and say unsure below the confidence that makes this part of the answers right",
                    between=(0.01, 1),
                ),
                BATCH,
                DEVICE,
                FORMAT,
            ),
            ("evaluate runs/mine/model.keras", "evaluate runs/mine/model.keras --data=path/to/other/images"),
        ),
        Verb(
            "predict",
            "Say what is on images.",
            ("path",),
            1,
            "images, folders or quoted patterns ('photos/*.jpg'); - reads a list of images from standard input",
            (
                Option("model", "a model file (model.keras, model.onnx), or a run folder; needed"),
                Option("top_k", "how many classes to rank; default: 1, for one image 5", least=1),
                Option("threshold", "say unsure below this confidence; default: the model's own", between=(0, 1)),
                Option("output", "write rows to this file: .csv, .jsonl or .parquet"),
                Option("recursive", "a folder stands for all below it, not only for its own images", switch=True),
                Option("resume", "keep finished parts beside the output, and go on from those there", switch=True),
                Option("batch_size", "images computed at once; default: chosen by their size", least=1),
                DEVICE,
                FORMAT,
            ),
            (
                "predict cat.jpg --model=runs/mine/model.onnx",
                "predict photos --recursive --model=runs/mine/model.onnx --output=predictions.csv",
            ),
            many=True,
            stdin=True,
        ),
        Verb(
            "explain",
            "Show where on images a model found what speaks for a class: heat maps over the images.",
            ("path",),
            1,
            "images, folders or quoted patterns ('photos/*.jpg')",
            (
                Option("model", "a model file (model.keras), or the run folder that holds it; needed"),
                Option("method", "how activations and gradients become a map", "gradcam", EXPLAINED),
                Option("class_name", "the class to explain; default: each image's most probable one"),
                Option("layer", "the layer to look at; default: the last one with height and width"),
                Option("output", "the folder for the files; default: explanations/ beside the model"),
                Option("recursive", "a folder stands for all below it, not only for its own images", switch=True),
                Option("batch_size", "images computed at once; default: chosen by their size", least=1),
                DEVICE,
                FORMAT,
            ),
            (
                "explain cat.jpg --model=runs/mine",
                "explain photos --model=runs/mine --method=gradcam++ --class_name=cat --output=why_cat",
            ),
            many=True,
        ),
        Verb(
            "export",
            "Export a model to one ONNX file, checked against it on real images.",
            ("model",),
            1,
            "a model file (model.keras), or the run folder that holds it",
            (
                Option("output", "the file; default: model.onnx beside the model"),
                Option("precision", "of weights and computation; int8 is kept only where it pays", "float32", EXPORTED),
                Option("opset", "version of ONNX's operators", "20", OPSETS),
                Option("samples", "images to check with; default: the validation split of the training data"),
                Option("force", "keep int8 whatever it gains and costs", switch=True),
                FORMAT,
            ),
            ("export runs/mine", "export runs/mine --precision=int8 --output=mine.onnx"),
        ),
        Verb(
            "compare",
            "Compare runs on the same images, and test whether they really differ.",
            ("run",),
            2,
            "two or more run folders or model files",
            (
                Option("data", "cifar10, digits, or the path of images; default: what the first was trained on"),
                Option("split", "which part of the data", "test", ("train", "val", "test")),
                Option("output", "a folder for the table and the learning curves; default: no files"),
                BATCH,
                DEVICE,
                FORMAT,
            ),
            ("compare runs/first runs/second", "compare runs/* --output=comparison"),
            many=True,
        ),
        Verb(
            "report",
            "Write what a run came to as one HTML page, report.html, and as a model card, MODEL_CARD.md.",
            ("run",),
            1,
            "a run folder, or the model file in it",
            (Option("output_dir", "where to; default: the run folder"), FORMAT),
            ("report runs/mine",),
        ),
        Verb(
            "check",
            "Check data before training: damaged files, copies, leaks between splits, odd images.",
            ("data",),
            1,
            "cifar10, digits, or the path of images",
            (
                Option("output", "write all findings to this file: .json or .csv"),
                Option(
                    "similarity",
                    "from which likeness on two images are nearly the same; 1: only exact copies; default: 0.8",
                    between=(0.5, 1),
                ),
                Option("strict", "warnings count as errors, too: exit code 2", switch=True),
                FORMAT,
            ),
            ("check path/to/images", "check path/to/images --output=findings.csv"),
        ),
        Verb(
            "info",
            "Show what is in a model file.",
            ("model",),
            1,
            "a model file (model.keras, model.onnx), or the run folder that holds it",
            (FORMAT,),
            ("info runs/mine/model.keras",),
        ),
        Verb(
            "models",
            "List the models that can be trained, and whose ImageNet weights are on this machine.",
            (),
            0,
            "",
            (FORMAT,),
            ("models",),
        ),
        Verb(
            "benchmark",
            "Measure kcv beside PyTorch, Keras and torchvision, in turns, on this machine.",
            ("what",),
            1,
            "train (training steps), predict (finished models), data (reading and augmenting images), memory (what "
            "streaming needs) or scaling (several processes, under torchrun)",
            (
                Option("model", "train, predict, scaling: the network; default: each in turn", choices=BENCHMARKED),
                Option("image_size", "px; default: 32, of the larger networks 64 (train), 224 (predict)", least=16),
                Option(
                    "batch_size",
                    "train, data, memory: images at once; default: 128, of the larger networks 32, else 256",
                    least=1,
                ),
                Option("precision", "train: the number format", "auto", PRECISIONS),
                Option("repeats", "train, predict, data: turns of each that count", 20, least=1),
                Option("pictures", "memory: the largest set, in images; default: 1000000", least=1000),
                DEVICE,
                FORMAT,
            ),
            (
                f"benchmark train --model={BENCHMARKED[0]} --precision=float32",
                f"benchmark predict --model={BENCHMARKED[-1]}",
            ),
            operand_choices=("train", "predict", "data", "memory", "scaling"),
        ),
    )
}


def find_verb(typed: str) -> Verb:
    """Returns a verb by its name.

    Raises:
        UsageError: there is none of that name.
    """
    if typed not in VERBS:
        hint = nearest(typed, VERBS)
        raise UsageError(f"unknown verb {typed!r}.{hint} There are {', '.join(VERBS)}; see kcv --help.")
    return VERBS[typed]
