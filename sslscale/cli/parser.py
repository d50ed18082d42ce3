"""The command line's words: commands, their arguments, and what the shell completes."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from sslscale import __version__
from sslscale.cli import catalog, cluster, compare, doctor, graphs, images, init, roots, serve, show
from sslscale.errors import ConfigError
from sslscale.settings.suggest import STRATEGIES

_EPILOG = """examples:
  sslscale run configs/noisy_student/digits.yaml
  sslscale run configs/noisy_student/digits.yaml seed=1 student.model.dropout=0 --plan
  sslscale data pack photos/ shards/ --labels labels.csv --test 0.1
  sslscale predict runs/artifacts/train/KEY photo.jpg
  sslscale eval runs/artifacts/train/KEY shards/ --protocol knn,linear,finetune --labels 1%,10%
"""


class _Parser(argparse.ArgumentParser):
    """argparse, with our exit code and one line."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}\n(see: {self.prog} --help)")


def _count(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = _Parser(
        prog="sslscale",
        description="Image models from few labels and many images, as a graph of cached stages.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"sslscale {__version__}")
    named = top.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    def add(to: Any, name: str, call: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        command = to.add_parser(name, help=text, description=text)
        command.set_defaults(call=call)
        command.add_argument("--debug", action="store_true", help="show tracebacks")
        return command

    def add_root(command: argparse.ArgumentParser) -> None:
        command.add_argument("--root", default="runs", help="where results are kept: a folder, or s3://... (./runs)")

    run = add(named, "run", graphs.run, "Run the graph of a configuration; what is done already is not done again.")
    run.add_argument("--plan", action="store_true", help="show what would run, and why; run nothing")
    plan = add(named, "plan", graphs.run, "Show what `run` would run, and why; run nothing.")
    plan.set_defaults(plan=True)
    for command in (run, plan):
        command.add_argument("config", metavar="CONFIG", help="a YAML file")
        command.add_argument(
            "overrides", nargs="*", metavar="key.path=value", help="values to set in it; seed=N sets all seeds"
        )
        add_root(command)
        command.add_argument(
            "--estimate", action="store_true", help="of a plan: each stage's time and bytes, by what this root measured"
        )
        command.add_argument("--seeds", metavar="0,1,2", help="run all of it with each seed; shows mean and spread")
        command.add_argument("--json", action="store_true", help="end with one JSON line on stdout")

    against = add(named, "compare", compare.compare, "What differs between runs, in configuration and in results.")
    against.add_argument("sides", metavar="A B", nargs="+", help="configurations that were run, keys, or stages' names")
    against.add_argument("--seeds", metavar="0,1,2", help="of configurations: compare the runs with these seeds")
    add_root(against)
    against.add_argument("--json", action="store_true", help="print one JSON line")

    look = add(named, "show", show.show, "A result with all it came from as a page, or what trainings would be shown.")
    look.add_argument("what", metavar="KEY|CONFIG", help="a key, a stage, latest; or a configuration, with --views")
    look.add_argument("overrides", nargs="*", metavar="key.path=value", help="values to set in a configuration")
    look.add_argument("--views", action="store_true", help="draw the views of a few images, for each training")
    look.add_argument("--seed", type=int, default=0, help="which images, and which views of them (0)")
    look.add_argument("--out", type=Path, help="the page, or the folder of the pictures")
    add_root(look)

    again = add(named, "replay", graphs.replay, "Run one batch of a training alone, to see where it is not finite.")
    again.add_argument("config", metavar="CONFIG", help="the YAML file of the run")
    again.add_argument("stage", metavar="STAGE", help="the name of the training, as `sslscale plan` shows it")
    again.add_argument("overrides", nargs="*", metavar="key.path=value", help="values that were set in it")
    again.add_argument("--step", type=int, help="the batch, if not the one that the training stopped at")
    add_root(again)
    again.add_argument("--json", action="store_true", help="print one JSON line")

    tuning = add(named, "tune", graphs.tune, "Search for the best values of a configuration's keys.")
    tuning.add_argument("config", metavar="CONFIG", help="a YAML file that `sslscale run` takes")
    tuning.add_argument("overrides", nargs="*", metavar="key.path=value", help="values to set in it")
    tuning.add_argument("--space", required=True, help="a YAML file: metric, space, search (see configs/tune)")
    tuning.add_argument("--samples", type=_count, help="trials, if not as many as the space says")
    add_root(tuning)
    tuning.add_argument("--json", action="store_true", help="end with one JSON line on stdout")

    def add_address(command: argparse.ArgumentParser) -> None:
        command.add_argument(
            "--address",
            default=os.environ.get("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:8265"),
            help="the cluster's dashboard (http://127.0.0.1:8265)",
        )

    submit = add(named, "submit", cluster.submit, "Run a configuration on a Ray cluster, as a job of its own.")
    submit.add_argument("config", metavar="CONFIG", help="a YAML file")
    submit.add_argument("overrides", nargs="*", metavar="key.path=value", help="values to set in it")
    submit.add_argument(
        "--root", required=True, help="where results are kept: a path that every node sees, or s3://..."
    )
    add_address(submit)
    submit.add_argument("--follow", action="store_true", help="show the job's log until it ends")
    listed = add(named, "jobs", cluster.list_jobs, "List a cluster's jobs.")
    add_address(listed)
    listed.add_argument("--json", action="store_true", help="one JSON line for each job")
    stop = add(named, "stop", cluster.stop, "Stop a job; submitted again, it goes on where it was.")
    stop.add_argument("job", metavar="JOB", help="its name, as `sslscale jobs` shows it")
    add_address(stop)

    data = named.add_parser("data", help="Pack, index and check images.").add_subparsers(
        dest="data_command", required=True, metavar="COMMAND", parser_class=_Parser
    )
    pack = add(data, "pack", images.pack, "Write images as shards: labeled, unlabeled, val and test.")
    pack.add_argument(
        "source",
        metavar="SRC",
        help="a folder, a CSV (path,label), torchvision:NAME:ROOT, webdataset:SHARDS, or digits",
    )
    pack.add_argument("out", metavar="OUT", help="a folder that is not there yet, or s3://...")
    pack.add_argument("--labels", help="CSV (path,label) of the few labelled images; all others are unlabelled")
    pack.add_argument("--frames", type=_count, help="of a folder of videos: cut them into clips of so many frames")
    pack.add_argument("--fps", type=float, default=8.0, help="frames a second of those clips (8)")
    pack.add_argument("--sound", type=_count, metavar="HZ", help="pack the clips' sound too, so many samples a second")
    pack.add_argument("--captions", help="txt for the text file beside each image, or the column of a CSV")
    pack.add_argument("--shard-size", type=_count, default=1000, help="images a shard (1000)")
    pack.add_argument("--resize", type=_count, help="scale larger images to this short side (re-encodes them)")
    index = add(data, "index", images.index, "Index shards that others wrote, where they lie: nothing is copied.")
    index.add_argument("shards", metavar="SHARDS", nargs="+", help="paths or URLs with braces or wildcards")
    index.add_argument(
        "--label", help="the member that has a sample's class: cls (if there is one), txt, json:FIELD, none"
    )
    index.add_argument(
        "--prefix-keys", action="store_true", help="put a shard's name before its keys, if each counts from 0"
    )
    for command in (pack, index):
        command.add_argument("--labels-per-class", type=_count, help="keep so many labels of each class, hide the rest")
        command.add_argument(
            "--keep-hidden-labels",
            action="store_true",
            help="keep those that are hidden beside the shards, so that logs tell how often pseudo-labels are right",
        )
        kind = "a folder of class folders" if command is pack else "shards"
        command.add_argument("--val", help=f"a fraction of the labelled images, or {kind}")
        command.add_argument("--test", help=f"a fraction of the labelled images, or {kind}")
        command.add_argument("--channels", type=_count, default=3, help="of the images, if they are not RGB (3)")
        command.add_argument("--bits", type=int, choices=(8, 16), default=8, help="of a channel to be kept (8)")
        command.add_argument(
            "--range",
            type=float,
            nargs=2,
            metavar=("LOW", "HIGH"),
            help="the numbers that are black and white, where they are not those of 8 or 16 bits",
        )
        command.add_argument("--on-bad-sample", choices=("error", "skip"), default="error")
        command.add_argument("--seed", type=int, default=0, help="which labels --labels-per-class keeps")
        command.add_argument("--workers", type=_count, default=1, help="processes, on Ray if more than one (1)")
    index.add_argument("out", metavar="OUT", help="a folder that is not there yet, or s3://...")
    label = add(data, "label", images.label, "Take up labels for unlabelled images of shards: nothing is copied.")
    label.add_argument("shards", metavar="SHARDS", help="a folder that `sslscale data pack` wrote")
    label.add_argument(
        "answers", metavar="ANSWERS", type=Path, help="a CSV (key,label), as `sslscale suggest` writes it"
    )
    label.add_argument("out", metavar="OUT", type=Path, help="a folder that is not there yet")
    check = add(data, "check", images.check, "Check shards: counts, checksums, images, class balance, duplicates.")
    check.add_argument("shards", metavar="SHARDS", help="a folder of shards, or of splits")
    check.add_argument("--json", action="store_true", help="end with one JSON line on stdout")

    model_help = "a checkpoint: its folder, its key or the beginning of it, its stage's name, or latest"
    predict = add(named, "predict", images.predict, "Class and probability for image files, from any checkpoint.")
    predict.add_argument("model", metavar="MODEL", help=model_help)
    predict.add_argument("paths", metavar="PATHS", nargs="+", type=Path, help="images, or folders of images")
    predict.add_argument("--top", type=_count, default=1, help="classes to show for each image (1)")
    predict.add_argument("--json", action="store_true", help="one JSON line for each image")
    predict.add_argument("--out", type=Path, metavar="FILE.csv", help="write a table instead of printing")
    embed = add(named, "embed", images.embed, "Features of image files, from any checkpoint.")
    embed.add_argument("model", metavar="MODEL", help=model_help)
    embed.add_argument("paths", metavar="PATHS", nargs="+", type=Path, help="images, or folders of images")
    embed.add_argument("--out", type=Path, required=True, metavar="FILE", help="a .npy or .parquet file")
    for command in (predict, embed):
        add_root(command)

    judge = add(named, "eval", graphs.evaluate, "What a checkpoint is worth on shards of labelled images.")
    judge.add_argument("model", metavar="CHECKPOINT", help=model_help)
    judge.add_argument(
        "shards", metavar="SHARDS", help="a folder that `sslscale data pack` wrote: labeled and a test split"
    )
    judge.add_argument("overrides", nargs="*", metavar="key.path=value", help="settings of the evaluation pipeline")
    judge.add_argument(
        "--protocol",
        default="knn,linear",
        help="knn, linear, sgd, retrieval, clustering, layerwise, finetune, classify, robustness, zero_shot, captions, "
        "sound; of annotated images detect, detection, segmentation, patches",
    )
    judge.add_argument("--labels", default="1%,10%,100%", help="shares of the labels to fine-tune on (1%%,10%%,100%%)")
    judge.add_argument("--split", default="test", help="the split to measure on (test)")
    judge.add_argument("--seeds", type=_count, default=1, help="fine-tunings of each share (1)")
    add_root(judge)
    judge.add_argument("--plan", action="store_true", help="show what would run, and why; run nothing")
    judge.add_argument("--json", action="store_true", help="end with one JSON line on stdout")

    active = add(named, "suggest", graphs.suggest, "Which unlabelled images to label next.")
    active.add_argument("model", metavar="CHECKPOINT", help=model_help)
    active.add_argument("shards", metavar="SHARDS", help="a folder that `sslscale data pack` wrote")
    active.add_argument("overrides", nargs="*", metavar="key.path=value", help="settings of the pipeline")
    active.add_argument("--number", type=_count, default=100, help="how many images (100)")
    active.add_argument("--by", default="margin", choices=STRATEGIES, help="how they are chosen (margin)")
    active.add_argument(
        "--pool", type=_count, default=50_000, help="images that are compared with one another (50,000)"
    )
    active.add_argument("--out", type=Path, default=Path("suggestions.csv"), metavar="FILE.csv", help="the list")
    active.add_argument("--seed", type=int, default=0)
    add_root(active)
    active.add_argument("--plan", action="store_true", help="show what would run, and why; run nothing")
    active.add_argument("--json", action="store_true", help="end with one JSON line on stdout")

    export = add(named, "export", images.export, "Write a checkpoint for timm, ONNX, TorchScript or Hugging Face.")
    export.add_argument("model", metavar="CHECKPOINT", help=model_help)
    add_root(export)
    export.add_argument("out", metavar="OUT", type=Path, help="a .safetensors, .pth, .onnx or .pt file, or a folder")
    export.add_argument("--to", choices=("safetensors", "pth", "onnx", "torchscript", "hf"), help="if OUT does not say")

    serving = add(named, "serve", serve.serve, "Serve a checkpoint over HTTP on this machine (needs sslscale[serve]).")
    serving.add_argument("model", metavar="CHECKPOINT", help=model_help)
    add_root(serving)
    serving.add_argument("--port", type=int, default=8000, help="the port on the loopback (8000)")
    serving.add_argument("--replicas", type=_count, default=1, help="processes that compute (1)")
    serving.add_argument("--gpus", type=float, default=0, help="GPUs for each of them (0)")
    serving.add_argument("--batch", type=_count, default=32, help="images that are computed at once, at most (32)")
    serving.add_argument("--max-mb", type=_count, default=10, help="largest image that is taken, in MB (10)")

    registering = add(named, "register", roots.register, "Register a checkpoint in MLflow's model registry.")
    registering.add_argument("model", metavar="CHECKPOINT", help=model_help)
    registering.add_argument("name", metavar="NAME", help="the model of which it becomes the next version")
    registering.add_argument("--alias", help="let this name stand for the version, such as champion")
    add_root(registering)

    begin = add(named, "init", init.init, "Look at images, and write a configuration that fits them and this machine.")
    begin.add_argument("source", metavar="PHOTOS", help="a folder of images or of class folders, or a CSV (path,label)")
    begin.add_argument("--labels", help="CSV (path,label) of the labelled images")
    begin.add_argument("--goal", choices=("classify", "pretrain", "cluster"), help="classify where there are labels")
    begin.add_argument("--out", type=Path, metavar="FILE", help="the file to write (the folder's name, .yaml)")
    healthy = add(
        named, "doctor", doctor.doctor, "Check Python, torch, CUDA, Ray, DeepSpeed, MLflow, disk and ports here."
    )
    add_root(healthy)
    healthy.add_argument("--port", type=int, default=5000, help="the port that `sslscale ui` is to use (5000)")
    healthy.add_argument("--json", action="store_true", help="one JSON line for each finding")
    methods = add(named, "methods", catalog.list_methods, "List the learning methods.")
    methods.add_argument("--kind", choices=catalog.KINDS, help="of one kind alone")
    methods.add_argument("--for", dest="suits", metavar="CONFIG", help="those that suit a configuration, and why")
    models = add(named, "models", catalog.list_models, "List the networks, search timm's, or count one's weights.")
    models.add_argument("text", metavar="TEXT", nargs="?", help="a network's name, or a part of names in timm")
    configs = add(named, "configs", catalog.list_configs, "List the configurations that come with sslscale.")
    configs.add_argument("text", metavar="TEXT", nargs="?", help="a word of their name or description")
    for command in (methods, models, configs):
        command.add_argument("--json", action="store_true", help="one JSON line for each")
    add(named, "schema", catalog.print_schema, "Print the JSON schema of configurations, for editors.")
    completion = add(named, "completion", _completion, "Print a shell's completion script.")
    completion.add_argument("shell", metavar="SHELL", choices=("bash", "zsh", "tcsh"), help="bash, zsh or tcsh")

    ui = add(named, "ui", roots.ui, "Open MLflow's own page over this root's store, on this machine only.")
    add_root(ui)
    ui.add_argument("--port", type=int, default=5000)
    listing = add(named, "ls", roots.list_artifacts, "List artifacts: stage, key, age, size, headline numbers.")
    add_root(listing)
    listing.add_argument("--sort", metavar="METRIC", help="only those with this metric, the highest first")
    listing.add_argument("--json", action="store_true", help="one JSON line for each artifact")
    collect = add(named, "gc", roots.collect_garbage, "Remove artifacts that no configuration's last run uses.")
    add_root(collect)
    collect.add_argument("--dry-run", action="store_true", help="show what would go")
    check = add(named, "verify", roots.verify, "Find files that have changed since they were written.")
    add_root(check)
    check.add_argument("--repair", action="store_true", help="remove damaged artifacts: the same runs make them anew")
    return top


def _completion(options: argparse.Namespace) -> int:
    print(catalog.completion(parser(), options.shell))
    return 0
