"""The file that imports ray.tune: many trials of one function, side by side, resumable."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from sslscale.cluster.connection import connect, disconnect
from sslscale.cluster.workers import unwrap
from sslscale.settings.tune import Dimension, TuneConfig
from sslscale.storage import mirror

SCORE, STEP = "score", "step"  # what every report has
LAID = "laid"  # and may have: values beside the drawn ones, as JSON


class Report(Protocol):
    """Hears a trial's numbers; `state` names what a member of a population may go on from."""

    def __call__(self, metrics: Mapping[str, float | str], state: str | None = None) -> None: ...


class Watch(Protocol):
    """Is told that a trial is running, ended, was stopped early or failed, with its values and its last report."""

    def changed(self, name: str, state: str, values: Mapping[str, Any], metrics: Mapping[str, Any]) -> None: ...


watching: Watch | None = None  # hears of the trials of this process's search


def search(
    config: TuneConfig,
    trial: Callable[[str, dict[str, Any], Report, str | None], None],
    folder: Path,
    watch: Watch | None = None,
) -> list[tuple[dict[str, Any], dict[str, float] | str]]:
    """Call `trial(name, values, report, state)` for values drawn from the space, and a state that a member of a
    population goes on from; returns each trial's values, in the order of names, with its last report or why it failed.

    `watch` hears of each trial meanwhile. A search that was killed goes on: trials that ended stay, the others start
    again.
    """
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Ctrl-C ends a search as it ends a run
    ray = connect()
    from ray import tune

    from sslscale.cluster.trial_events import Events

    global watching
    watching = watch

    def run(values: dict[str, Any]) -> None:
        from ray import tune

        def report(metrics: Mapping[str, float | str], state: str | None = None) -> None:
            if state is None:
                tune.report(dict(metrics))
                return
            with tempfile.TemporaryDirectory() as name:
                (Path(name) / "state").write_text(state)
                tune.report(dict(metrics), checkpoint=tune.Checkpoint.from_directory(name))

        begun, state = tune.get_checkpoint(), None
        if begun is not None:
            with begun.as_directory() as name:
                state = (Path(name) / "state").read_text()
        trial(str(tune.get_context().get_trial_id()), values, report, state)  # which it keeps in a search that goes on

    # a trial only waits for its stages; it needs some resource, and every cluster's head has this one
    trainable: Any = tune.with_resources(run, {"node:__internal_head__": 0.001})
    cpus = max(int(ray.cluster_resources().get("CPU", 1)), 1)
    place, files = _place(folder)
    try:
        if tune.Tuner.can_restore(f"{place}/{folder.name}", files):
            tuner = tune.Tuner.restore(
                f"{place}/{folder.name}",
                trainable,
                resume_unfinished=True,
                restart_errored=True,
                storage_filesystem=files,
            )
        else:
            tuner = tune.Tuner(
                trainable,
                param_space=None if config.search == "optuna" else _space(config),
                tune_config=tune.TuneConfig(
                    metric=SCORE,
                    mode=config.mode,
                    num_samples=config.samples,
                    max_concurrent_trials=config.concurrent or cpus,
                    search_alg=_searcher(config),
                    scheduler=_scheduler(config),
                    trial_dirname_creator=lambda found: found.trial_id,
                ),
                run_config=tune.RunConfig(
                    name=folder.name, storage_path=place, storage_filesystem=files, verbose=0, callbacks=[Events()]
                ),
            )
        found = tuner.fit()
    finally:
        watching = None
        disconnect()
    rows: list[tuple[dict[str, Any], dict[str, float] | str]] = []
    results = [found[number] for number in range(len(found))]
    for result in sorted(results, key=lambda result: Path(result.path or "").name):  # not as they were restored
        values = {**(result.config or {}), **json.loads((result.metrics or {}).get(LAID) or "{}")}
        if result.error is not None:
            rows.append((values, str(unwrap(result.error)).strip().splitlines()[-1]))
        else:
            numbers = {n: float(v) for n, v in (result.metrics or {}).items() if isinstance(v, int | float)}
            rows.append((values, numbers))
    return rows


def _place(folder: Path) -> tuple[str, Any]:
    """Where Tune keeps its state: beside the trials, on disk or in the root's store."""
    store = mirror.of(folder.parent)
    if store is None:
        return str(folder.parent), None
    files, base = store.store.arrow()
    return f"{base}/{folder.parent.relative_to(store.folder).as_posix()}", files


def _space(config: TuneConfig) -> dict[str, Any]:
    return {key: _domain(dimension) for key, dimension in config.space.items()}


def _domain(dimension: Dimension) -> Any:
    from ray import tune

    if dimension.choice is not None:
        return tune.choice(list(dimension.choice))
    if dimension.uniform is not None:
        return tune.uniform(*dimension.uniform)
    if dimension.loguniform is not None:
        return tune.loguniform(*dimension.loguniform)
    assert dimension.integer is not None
    first, last = dimension.integer
    return tune.randint(first, last + 1)


def _searcher(config: TuneConfig) -> Any:
    if config.search == "optuna":
        import optuna
        from ray.tune.search.optuna import OptunaSearch

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        return OptunaSearch(_space(config), metric=SCORE, mode=config.mode, seed=config.seed)
    from ray.tune.search.basic_variant import BasicVariantGenerator

    return BasicVariantGenerator(random_state=config.seed)


def _scheduler(config: TuneConfig) -> Any:
    stop, population = config.early_stop, config.population
    if population is not None:
        from sslscale.cluster.population import Population

        return Population(
            STEP,
            perturbation_interval=population.interval,
            hyperparam_mutations=_space(config),
            quantile_fraction=population.quantile,
            resample_probability=population.resample,
        )
    if stop is None:
        return None
    from ray.tune.schedulers import ASHAScheduler

    return ASHAScheduler(
        time_attr=STEP, max_t=stop.max_steps + 1, grace_period=stop.grace, reduction_factor=stop.reduction
    )
