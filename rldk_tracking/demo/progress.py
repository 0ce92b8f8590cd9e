"""What a person sees of the demo's runs in the terminal: a bar that moves, and alerts above it as they come."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm
from transformers import TrainerCallback

from rldk_tracking.charts.announce import alert_lines

if TYPE_CHECKING:
    from rldk_tracking.callback import RLDKCallback


class Progress(TrainerCallback):  # type: ignore[misc]
    """A progress bar with the reward and the KL of the latest step, and each alert once, with its end.

    Args:
        name: what stands before the bar.
        diagnostics: the callback whose alerts are shown; it comes before this one in the trainer's list.
    """

    def __init__(self, name: str, diagnostics: RLDKCallback) -> None:
        self._name = name
        self._diagnostics = diagnostics
        self._shown = 0
        self._bar: tqdm[Any] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._bar = tqdm(total=state.max_steps, desc=self._name, unit="step", dynamic_ncols=True)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._bar is None:
            return
        metrics = self._diagnostics.metrics
        shown = {"reward": metrics.reward_mean, "kl": metrics.kl_mean}
        known = {name: f"{value:.2f}" for name, value in shown.items() if value is not None}
        self._bar.set_postfix(known, refresh=False)
        self._bar.update(state.global_step - self._bar.n)
        self._show_alerts()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._show_alerts()
        self.close()

    def close(self) -> None:
        """Leave the bar as it is; also after a run that was stopped by an exception."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _show_alerts(self) -> None:
        alerts = self._diagnostics.alerts
        for alert in alerts[self._shown :]:
            if alert.notify:
                tqdm.write(alert_lines(alert, "  "))
        self._shown = len(alerts)
