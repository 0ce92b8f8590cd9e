"""Whether the training still goes on.

These rules are judged beside the training, by the watchdog of the process that delivers the journal, on rows of the
watchdog's own: see `rldk_tracking.health.watched` and `rldk_tracking.journal.watchdog`.
"""

from __future__ import annotations

from rldk_tracking.health.rules import Rule

RULES = (
    Rule(
        id="run.crashed",
        keys=("rldk/run/gone",),
        condition="level",
        parameters={"threshold": 0.0},
        severity="critical",
        clear_after=1,
        reopen_steps=0,
        silences=("run.hung",),
        message="Training {how} at step {step}: {cause}.",
        advice="Resume from the last checkpoint, resume_from_checkpoint=True; what was written until then is in the "
        "journal and in the trackers. Without an exception, ask the system who killed it: dmesg, the scheduler's log.",
    ),
    Rule(
        id="run.hung",
        keys=("rldk/run/silent_seconds",),
        condition="silence",
        parameters={"threshold": 120.0, "times": 10.0, "first": 1800.0, "critical": 2.0, "stacks": True},
        clear_after=1,
        reopen_steps=0,
        message="Nothing was heard for {value:.0f} s (limit {threshold:.0f} s) in {phase} of step {step}: {about}.",
        advice="The alert's evidence has where the main thread stands, and the file that it names has every thread. A "
        "rank that did not arrive is the one to look at: the others wait for it.",
    ),
)
