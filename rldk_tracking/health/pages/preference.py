"""Pages of the rules about preference training."""

from __future__ import annotations

from rldk_tracking.health.pages.page import Page

PAGES = {
    "preference.likelihood_collapse": Page(
        "DPO and relatives raise the margin between chosen and rejected; they may do so by making both less likely, "
        "until the chosen answers are not generated any more (Razin et al. 2024, arXiv:2410.08847).",
        (
            "A learning rate that is too high, or too many epochs.",
            "Pairs that are nearly the same, so that pushing one down pushes both.",
            "A beta that is too small.",
        ),
        (
            "Add a supervised term on the chosen answers (rpo_alpha, or ORPO, CPO).",
            "Lower the learning rate, raise beta, stop earlier.",
        ),
        "Log-probabilities of twice the size of the start: published healthy runs fall by 0 to 34 %, the collapsed "
        "ones by 220 %.",
    ),
    "preference.overfit": Page(
        "Pairs that are told apart without error are known by heart. Held-out pairs get worse from here.",
        ("Too many epochs over few pairs.", "Pairs that differ by something trivial, such as length."),
        (
            "Hold out a tenth of the pairs, and keep the checkpoint of the best held-out accuracy.",
            "One epoch; a lower learning rate; a higher beta.",
        ),
        "Above 98.5 % in ten rows in a row: the 95th percentile of published healthy runs is 98 %.",
    ),
}
