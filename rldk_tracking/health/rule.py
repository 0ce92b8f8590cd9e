"""A rule as data: which series, which condition, how severe, how long before it is believed, what to tell people."""

from __future__ import annotations

import math
import string
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, StrictInt, ValidationError, field_validator, model_validator

from rldk_tracking.health.actions import Action, actions_of
from rldk_tracking.health.alert import Severity
from rldk_tracking.health.conditions import CONDITIONS
from rldk_tracking.health.conditions.base import Condition
from rldk_tracking.health.parameters import ParameterError, check_parameters, parameters_of
from rldk_tracking.messages.arguments import nearest, shown
from rldk_tracking.metrics.keys import misspelt

FAMILIES = (
    "nan", "reference", "kl", "policy", "entropy", "sampler", "reward", "advantage", "length", "diversity", "value",
    "grad", "update", "lr", "preference", "memory", "throughput", "checkpoint", "tracker", "health",
    "run", "tools", "async",
)  # fmt: skip
"""The families of the built-in rules, in the order in which they are judged. A user's own rule may have another."""
CORE = ("reward", "kl", "policy", "entropy", "value", "advantage", "preference", "grad", "update")
"""Those that say how learning goes, as against the machine, the files, single values and the start."""


REQUIRED = {
    "id": 'id="team.slow"',
    "keys": 'keys=["rldk/reward/mean"]',
    "condition": 'condition="level"',
}
"""Fields without a default, with what to write."""
PLAIN_WORDS = {
    ("id", "string_pattern_mismatch"): 'must be FAMILY.PROBLEM in small letters, such as "team.slow"',
    ("keys", "too_short"): "must name a series",
    ("keys", "tuple_type"): "must be a list of series",
    ("persistence", "tuple_type"): "must be (k, n), breached in k of the last n rows",
    ("page", "model_type"): "must be a mapping of why, causes and limit",
    ("page.causes", "tuple_type"): "must be a list of texts",
}
"""What pydantic says in words of its own, by field and kind of error."""
MAX_FORMAT_CHARACTERS = 8


class RuleError(ValueError):
    """Something is no rule; the message names the rule, the field, the value, and what to write.

    Attributes:
        rule: its id, None where it has none.
        path: the field, and below it the parameter, that is wrong first.
    """

    def __init__(self, rule: object, reason: str, path: tuple[str | int, ...] = ()) -> None:
        self.rule = rule if isinstance(rule, str) else None
        self.path = path
        super().__init__(f"a rule without an id: {reason}" if self.rule is None else f"rule {rule!r}: {reason}")


class Page(BaseModel):
    """What `rldk-tracking explain` says of a rule beyond the rule itself.

    Attributes:
        why: what goes wrong if nobody looks.
        causes: the likeliest first.
        limit: where the limit comes from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    why: str = ""
    causes: tuple[str, ...] = ()
    limit: str = ""


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
        clear_after: observations in a row, past the clear level, that end it. Twice as many with each return.
        cooldown_steps: after it ended, steps in which it stays silent unless it is more severe than before.
        reopen_steps: within so many steps of its end, or ten times `clear_after` observations, an alert that fires
            again has to be clear for longer, and its steps add up. However late it comes back in a run, it is counted
            (`Alert.times`), and people are sent it again only if it is more severe. 0: each firing is a new alert.
        critical_after: steps in which a warning was breached, with its returns, after which it is critical: what
            it costs grows with them. None: never.
        silences: ids, or families as `family.*`, whose alerts are held back while this one fires: its consequences.
        message: sentence with {value}, {threshold}, {first_step}, {step}, {key} and the names of the evidence.
        advice: what to try first, the cheapest first: a list of texts, kept as a text with a line for each.
        quotes: names of the run's settings that the advice quotes where they are known.
        actions: what else happens, see `rldk_tracking.health.actions`.
        page: why the rule is there.

    Raises:
        RuleError: a ValueError; the fields make no rule.

    Examples:
        >>> from rldk_tracking import Rule
        >>> rule = Rule(
        ...     id="team.slow",
        ...     keys=["rldk/throughput/step_seconds"],
        ...     condition="level",
        ...     parameters={"threshold": 60.0},
        ...     message="A step takes {value:.0f} s.",
        ... )
        >>> rule.family, rule.severity  # RLDKCallback(rules=[rule])
        ('team', 'warning')
    """

    # A webhook's address is a secret, and errors would quote what they are about.
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, hide_input_in_errors=True)

    id: str = Field(pattern=r"^[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*$")
    keys: tuple[str, ...] = Field(min_length=1)
    condition: str
    parameters: dict[str, Any] = Field(default_factory=dict)
    settings: dict[str, str] = Field(default_factory=dict)
    severity: Severity = "warning"
    warm_up_steps: int = Field(default=0, ge=0, strict=True)
    warm_up_samples: int = Field(default=0, ge=0, strict=True)
    persistence: tuple[StrictInt, StrictInt] = (1, 1)
    clear_after: int = Field(default=3, ge=1, strict=True)
    cooldown_steps: int = Field(default=0, ge=0, strict=True)
    reopen_steps: int = Field(default=100, ge=0, strict=True)
    critical_after: int | None = Field(default=None, ge=0, strict=True)
    silences: tuple[str, ...] = ()
    message: str = "{key} is {value:.4g}, limit {threshold:.4g}."
    advice: str = ""
    quotes: tuple[str, ...] = ()
    actions: tuple[Any, ...] = ()
    page: Page | None = None

    if not TYPE_CHECKING:  # type checkers know the fields from the class

        def __init__(self, **fields: Any) -> None:
            try:
                super().__init__(**fields)
            except ValidationError as error:
                # The traceback must not show what pydantic was given: an address is a secret.
                path, reason = _first_problem(error, fields)
            else:
                return
            raise RuleError(fields.get("id"), reason, path)

    @property
    def family(self) -> str:
        """The part of the id before the dot."""
        return self.id.partition(".")[0]

    @property
    def own_names(self) -> list[str]:
        """The series outside the catalogue that it reads: names under which the trainer or the user logs."""
        return [key for key in dict.fromkeys((*self.keys, *self.build({}).keys)) if not key.startswith("rldk/")]

    @field_validator("actions", mode="before")
    @classmethod
    def _known_actions(cls, value: Any) -> tuple[Action, ...]:
        return actions_of(value)

    @field_validator("advice", mode="before")
    @classmethod
    def _one_a_line(cls, value: Any) -> Any:
        if not isinstance(value, (list, tuple)):
            return value
        if not all(isinstance(line, str) for line in value):
            raise ValueError(f"a text or a list of texts is wanted, got {shown(value)}.")
        return "\n".join(value)

    @field_validator("persistence")
    @classmethod
    def _k_of_n(cls, value: tuple[int, int]) -> tuple[int, int]:
        if not 1 <= value[0] <= value[1] <= 1000:
            raise ValueError("persistence is (k, n) with 1 <= k <= n <= 1000.")
        return value

    @field_validator("keys", mode="before")
    @classmethod
    def _known_series(cls, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            for key in value:
                problem = misspelt(key, in_full=True) if isinstance(key, str) else None
                if problem is not None:
                    raise ValueError(problem)
        elif isinstance(value, str):
            raise ValueError(f"a list of series is wanted, got {shown(value)}: write [{value!r}].")
        return value

    @field_validator("condition")
    @classmethod
    def _known_condition(cls, value: str) -> str:
        if value not in CONDITIONS:
            raise ValueError(f"unknown condition {value!r}{nearest(value, sorted(CONDITIONS))}")
        return value

    @field_validator("message")
    @classmethod
    def _plain_fields(cls, value: str) -> str:
        for _, name, form, conversion in string.Formatter().parse(value):
            if name is None:
                continue
            if not name.replace("_", "").replace(" ", "").isalnum() or conversion:
                raise ValueError(f"a message may name plain fields only, not {{{name}}}.")
            if len(form or "") > MAX_FORMAT_CHARACTERS:
                raise ValueError(f"the format {form!r} is too long.")
            _try_format(name, form or "")
        return value

    @model_validator(mode="after")
    def _parameters_fit(self) -> Rule:
        check_parameters(self.condition, self.parameters, self.keys, tuple(self.settings))
        try:
            self.build({})
        except (TypeError, ValueError) as error:
            raise ParameterError("", str(error)) from None
        return self

    def build(self, context: Mapping[str, Any]) -> Condition:
        """The condition, with parameters out of the run's settings where the rule says so."""
        parameters = dict(self.parameters)
        for name, setting in self.settings.items():
            value = context.get(setting)
            if parameters.get(name) is None and isinstance(value, (int, float)) and math.isfinite(value):
                parameters[name] = value
        return CONDITIONS[self.condition](self.keys, **parameters)


def _try_format(name: str, form: str) -> None:
    """Fill a field as an alert would, which is too late to learn that it cannot be.

    Raises:
        ValueError: the format is none for what the field stands for.
    """
    samples: dict[str, tuple[object, ...]] = {
        "value": (0.5,), "threshold": (0.5,), "step": (1,), "first_step": (1,), "key": ("",),
    }  # fmt: skip
    faults = []
    for sample in samples.get(name, (0.5, "")):  # evidence is a number or a word
        try:
            format(sample, form)
        except ValueError as error:
            faults.append(str(error))
        else:
            return
    raise ValueError(f"{{{name}:{form}}} cannot be filled: {faults[0]}.")


def _first_problem(error: ValidationError, fields: Mapping[str, Any]) -> tuple[tuple[str | int, ...], str]:
    """Where the first thing is that pydantic complains of, and a sentence about it. It quotes no action."""
    problem = error.errors(include_url=False)[0]
    path: tuple[str | int, ...] = tuple(problem["loc"])
    field, kind = str(path[0]) if path else "", problem["type"]
    if field == "page" and len(path) > 1:
        field = f"page.{path[1]}"
    cause = problem.get("ctx", {}).get("error")
    if isinstance(cause, ParameterError):
        return ("parameters", cause.parameter), str(cause)
    if kind == "missing":
        missing = [str(other["loc"][0]) for other in error.errors() if other["type"] == "missing"]
        needed = ", ".join(REQUIRED.get(name, name) for name in missing)
        return path, f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing: write {needed}."
    if kind == "extra_forbidden":
        condition = fields.get("condition")
        if condition in CONDITIONS and field in parameters_of(str(condition)):
            return path, f"{field} is a parameter of condition {condition!r}: write parameters={{{field!r}: ...}}."
        known = Page.model_fields if field.startswith("page.") else Rule.model_fields
        return path, f"there is no field {field!r}{nearest(path[-1], known)}"
    if isinstance(cause, ValueError):
        return path, f"{field}: {cause}"
    wanted = PLAIN_WORDS.get((field, kind)) or problem["msg"].replace("Input should be", "must be")
    got = "" if field == "actions" else f", got {shown(problem['input'])}"
    return path, f"{field} {wanted}{got}."


def is_core(family: str) -> bool:
    """Whether rules of a family say how learning goes, as those of a family of the user's own do."""
    return family in CORE or family not in FAMILIES
