"""Values that are not finite. Counted before the row is made, because a trainer may hide them from its log."""

from __future__ import annotations

from rldk_tracking.health.rules import Rule

CONSEQUENCES = (
    "kl.*", "policy.*", "entropy.*", "reward.*", "value.*", "advantage.*", "length.*", "diversity.*", "grad.*",
    "update.*", "lr.*", "sampler.*", "preference.*", "health.*", "checkpoint.nonfinite",
)  # fmt: skip
"""What follows from a NaN and says nothing new beside it."""


def _count(name: str, what: str, advice: str, silences: tuple[str, ...]) -> Rule:
    return Rule(
        id=f"nan.{name}",
        keys=(f"rldk/nan/{name}",),
        condition="level",
        parameters={"threshold": 0.0},
        severity="critical",
        clear_after=5,
        silences=silences,
        message=what,
        advice=advice,
        quotes=("learning_rate", "max_grad_norm", "bf16", "fp16"),
    )


RULES = (
    _count(
        "weights",
        "{value:.0f} weight tensors hold NaN or infinity since step {first_step}.",
        "The run cannot recover: stop it and resume from the last checkpoint before this step, with a lower learning "
        "rate or bf16 in place of fp16.",
        ("nan.gradients", "nan.loss", *CONSEQUENCES),
    ),
    _count(
        "gradients",
        "{value:.0f} gradient tensors hold NaN or infinity at step {step}.",
        "One such step is normal under fp16 loss scaling; otherwise look for log(0), a division by zero spread of the "
        "rewards, or an overflow of exp in the ratio, and clip gradients.",
        CONSEQUENCES,
    ),
    _count(
        "loss",
        "The loss is not a finite number at step {step}.",
        "Trainers may show a clean running mean in its place. Check the rewards and the log-probabilities of this "
        "step, then resume from the last checkpoint.",
        CONSEQUENCES,
    ),
    _count(
        "reward",
        "{value:.0f} completions got a reward that is NaN or infinite at step {step}.",
        "Look at what the reward functions return for empty, cut or malformed completions "
        "(rldk/reward/function/<name>/not_finite says which): a finite worst score, or None to abstain.",
        CONSEQUENCES,
    ),
)
