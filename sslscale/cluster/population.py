"""The file that imports ray.tune.schedulers: population-based training that goes on after it was killed."""

from __future__ import annotations

from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import PopulationBasedTraining


class Population(PopulationBasedTraining):
    """Ray keeps trials, but not what its scheduler knows of them: where they stand, and for which step all wait. A
    search that goes on would wait for a step that all have passed, for ever."""

    def __init__(self, step: str, **settings: Any):
        super().__init__(time_attr=step, synch=True, **settings)  # what is decided does not depend on who is faster

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        super().on_trial_add(tune_controller, trial)
        if self._metric in trial.last_result and self._time_attr in trial.last_result:
            step = trial.last_result[self._time_attr]
            self._save_trial_state(self._trial_state[trial], step, trial.last_result, trial)
        slowest = min(
            state.last_train_time for t, state in self._trial_state.items() if not t.is_finished() or t is trial
        )
        interval = self._perturbation_interval
        self._next_perturbation_sync = (slowest // interval + 1) * interval
