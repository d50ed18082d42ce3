"""The events of a search, told to whoever watches it."""

from __future__ import annotations

from typing import Any

from ray.tune import Callback

from sslscale.cluster import trials


class Events(Callback):
    """Passes the events on to `trials.watching`. It has no fields: Tune pickles it with the search."""

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        del iteration, trials, info
        _tell("running", trial)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        del iteration, trials, info
        _tell("running", trial, result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        del iteration, trials, info
        result = trial.last_result or {}
        _tell("ended" if "value" in result else "stopped", trial, result)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        del iteration, trials, info
        _tell("failed", trial)


def _tell(state: str, trial: Any, result: dict[str, Any] | None = None) -> None:
    if trials.watching is not None:
        trials.watching.changed(trial.trial_id, state, trial.config, result or trial.last_result or {})
