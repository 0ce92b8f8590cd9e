"""A rule as data: which series, which condition, how severe, how long before it is believed, what to tell people."""

from __future__ import annotations

import inspect
import string
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from rldk_tracking.health.actions import Action, actions_of
from rldk_tracking.health.alert import Severity
from rldk_tracking.health.conditions import CONDITIONS
from rldk_tracking.health.conditions.base import Condition

FAMILIES = (
    "nan", "kl", "reference", "policy", "entropy", "reward", "value", "advantage", "length", "diversity", "grad",
    "update", "lr", "sampler", "preference", "memory", "throughput", "checkpoint", "tracker", "health",
    "run", "tools", "async",
)  # fmt: skip
"""The families of the built-in rules. A user's own rule may have another."""


class Rule(BaseModel):
    """One rule.

    Attributes:
        id: `<family>.<problem>`.
        keys: series to judge, alternatives in order of preference.
        condition: name of a condition in `rldk_tracking.health.conditions.CONDITIONS`.
        parameters: keywords of that condition's constructor.
        settings: parameter to the run's setting that it is taken from, where that is known and no parameter is given.
        severity: of an ordinary breach. The condition may call a breach critical.
        warm_up_steps: trainer steps from the run's first row in which nothing is believed.
        warm_up_samples: observations, of this rule's data, in which nothing is believed.
        persistence: (k, n): believed when k of the last n observations were breached.
        clear_after: observations in a row, past the clear level, that end it.
        cooldown_steps: after it ended, steps in which it stays silent unless it is more severe than before.
        critical_after: steps of firing after which a warning becomes critical. None: never.
        silences: ids, or families as `family.*`, whose alerts are held back while this one fires: its consequences.
        message: sentence with {value}, {threshold}, {first_step}, {step}, {key} and the names of the evidence.
        advice: what to try first.
        quotes: names of the run's settings that the advice quotes where they are known.
        actions: what else happens, see `rldk_tracking.health.actions`.
    """

    # A webhook's address is a secret, and errors would quote what they are about.
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, hide_input_in_errors=True)

    id: str = Field(pattern=r"^[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*$")
    keys: tuple[str, ...] = Field(min_length=1)
    condition: str
    parameters: dict[str, Any] = Field(default_factory=dict)
    settings: dict[str, str] = Field(default_factory=dict)
    severity: Severity = "warning"
    warm_up_steps: int = Field(default=0, ge=0)
    warm_up_samples: int = Field(default=0, ge=0)
    persistence: tuple[int, int] = (1, 1)
    clear_after: int = Field(default=3, ge=1)
    cooldown_steps: int = Field(default=0, ge=0)
    critical_after: int | None = Field(default=None, ge=0)
    silences: tuple[str, ...] = ()
    message: str = "{key} is {value:.4g}, limit {threshold:.4g}."
    advice: str = ""
    quotes: tuple[str, ...] = ()
    actions: tuple[Any, ...] = ()

    @property
    def family(self) -> str:
        """The part of the id before the dot."""
        return self.id.partition(".")[0]

    @field_validator("actions", mode="before")
    @classmethod
    def _known_actions(cls, value: Any) -> tuple[Action, ...]:
        return actions_of(value)

    @field_validator("persistence")
    @classmethod
    def _k_of_n(cls, value: tuple[int, int]) -> tuple[int, int]:
        if not 1 <= value[0] <= value[1] <= 1000:
            raise ValueError("persistence is (k, n) with 1 <= k <= n <= 1000.")
        return value

    @field_validator("message")
    @classmethod
    def _plain_fields(cls, value: str) -> str:
        for _, name, spec, conversion in string.Formatter().parse(value):
            if name is not None and (not name.replace("_", "").replace(" ", "").isalnum() or conversion):
                raise ValueError(f"a message may name plain fields only, not {{{name}}}.")
            if spec and len(spec) > 8:
                raise ValueError(f"the format {spec!r} is too long.")
        return value

    @model_validator(mode="after")
    def _condition_exists(self) -> Rule:
        if self.condition not in CONDITIONS:
            raise ValueError(f"unknown condition {self.condition!r}; there are {', '.join(CONDITIONS)}.")
        names = parameters_of(self.condition)
        for name in (*self.parameters, *self.settings):
            if name not in names:
                raise ValueError(f"condition {self.condition!r} has no parameter {name!r}; it has {', '.join(names)}.")
        self.build({})
        return self

    def build(self, context: Mapping[str, Any]) -> Condition:
        """The condition, with parameters out of the run's settings where the rule says so.

        Raises:
            ValueError: the parameters do not make a condition.
        """
        parameters = dict(self.parameters)
        for name, setting in self.settings.items():
            if parameters.get(name) is None and isinstance(context.get(setting), (int, float)):
                parameters[name] = context[setting]
        try:
            return CONDITIONS[self.condition](self.keys, **parameters)
        except TypeError as error:
            raise ValueError(f"{self.id}: {error}") from error


def parameters_of(condition: str) -> tuple[str, ...]:
    """Names of a condition's parameters."""
    signature = inspect.signature(CONDITIONS[condition].__init__)
    return tuple(name for name in signature.parameters if name not in ("self", "keys"))
