"""What happens beside the alert when a rule fires, as data.

| in Python | in YAML | what happens |
|---|---|---|
| `"alert"` | `alert` | the alert goes to the trackers and to Slack; it always does, named or not |
| `"stop"` | `stop` | the trainer saves and stops |
| `"save"` | `save` | the trainer saves a checkpoint and goes on |
| a function | `call: NAME` | it is called with the `Alert`; a name is one of `action` |
| `Webhook(...)` | `webhook: {environment: NAME}` or `webhook: ADDRESS` | the alert is posted as JSON |

Stop and save are asked for when the rule begins to fire or becomes more severe; functions and webhooks are told of its
end as well (`alert.state`). Of one that fires again (`alert.times`) only functions are told, unless it is more
severe. A replay takes no action. Nothing here runs a shell, and a file of rules imports nothing: it can name only
functions that the program has given a name. TRL's PPO on several ranks cannot save.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from rldk_tracking.health.alert import Alert
from rldk_tracking.messages.arguments import flag, function, nearest, shown

Word = Literal["alert", "stop", "save"]
Function = Callable[[Alert], object]
WORDS: tuple[Word, ...] = ("alert", "stop", "save")
FORMS = "alert, stop, save, call: NAME, webhook: ADDRESS, webhook: {environment: NAME}, or in Python a function"

_FUNCTIONS: dict[str, Function] = {}
_F = TypeVar("_F", bound=Function)


@dataclass(frozen=True)
class Call:
    """A function under the name that `action` gave it."""

    name: str

    def function(self) -> Function:
        """The function.

        Raises:
            ValueError: nothing has that name; the message lists what has one.
        """
        if self.name not in _FUNCTIONS:
            known = ", ".join(sorted(_FUNCTIONS)) or "none yet"
            raise ValueError(
                f"no function is named {self.name!r} (named: {known}); name it with @action({self.name!r})."
            )
        return _FUNCTIONS[self.name]


@dataclass(frozen=True)
class Webhook:
    """Where an alert is posted as JSON.

    Args:
        address: `https://...`. It is a secret, and shown nowhere.
        environment: the environment variable that holds the address, so that no file has to.
        allow_loopback: let the address be plain http on this machine.

    Raises:
        TypeError: an argument is of another type. The message quotes no address.
    """

    address: str | None = field(default=None, repr=False)
    environment: str | None = None
    allow_loopback: bool = False

    def __post_init__(self) -> None:
        for name, value in (("address", self.address), ("environment", self.environment)):
            if value is not None and not isinstance(value, str):
                raise TypeError(
                    f"the {name} of a webhook must be a string, got a value of type {type(value).__name__}."
                )
        flag("allow_loopback", self.allow_loopback)

    def reveal(self) -> str:
        """The address; "" where there is none."""
        return self.address or (os.environ.get(self.environment, "") if self.environment else "")


Action = Word | Call | Webhook | Function


def action(name: str) -> Callable[[_F], _F]:
    """Give a function a name, by which a YAML file can ask for it.

    @action("page_me")
    def page_me(alert: Alert) -> None: ...

    Raises:
        TypeError: the name is missing, or what is named cannot be called with an alert.
    """
    if not isinstance(name, str):
        raise TypeError(f'@action needs a name, got {shown(name)}: write @action("page_me") above the function.')

    def register(named: _F) -> _F:
        function(f"the function of @action({name!r})", named, ["alert"])
        _FUNCTIONS[name] = named
        return named

    return register


def actions_of(given: Any) -> tuple[Action, ...]:
    """What a rule's field `actions` holds, one or several, in Python's or in YAML's form.

    Raises:
        ValueError: something is none of these. The message quotes no address.
    """
    if isinstance(given, (str, Mapping, Call, Webhook)) or callable(given):
        given = [given]
    if not isinstance(given, (list, tuple)):
        raise ValueError(f"actions is a list of {FORMS}.")
    return tuple(_action(item) for item in given)


def _action(given: Any) -> Action:
    if isinstance(given, str):
        if given in WORDS:
            return given
        # A string may be an address, which is a secret.
        raise ValueError(f"an action is {FORMS}; this is none of them{_word_hint(given)}")
    if isinstance(given, (Call, Webhook)):
        return given
    if callable(given):
        return _function(given)
    if isinstance(given, Mapping) and len(given) == 1:
        if isinstance(given.get("call"), str):
            return Call(given["call"])
        if "webhook" in given:
            return _webhook(given["webhook"])
    raise ValueError(f"an action is {FORMS}; this is none of them.")


def _word_hint(given: str) -> str:
    return nearest(given, WORDS) if given.isalpha() else "."


def _function(given: Any) -> Function:
    try:
        return function("an action", given, ["alert"])
    except TypeError as error:
        raise ValueError(str(error)) from None


def _webhook(given: Any) -> Webhook:
    if isinstance(given, str):
        return Webhook(given)
    if isinstance(given, Mapping) and given and set(given) <= {"address", "environment", "allow_loopback"}:
        try:
            return Webhook(given.get("address"), given.get("environment"), given.get("allow_loopback", False))
        except TypeError as error:
            raise ValueError(str(error)) from None
    raise ValueError("a webhook is an address, or has address or environment, and allow_loopback.")
