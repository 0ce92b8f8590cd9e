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
    "preference.no_signal": Page(
        "A run whose pairs are ranked by chance, and whose margin does not rise, learns nothing: DPO's loss stands at "
        "ln 2 = 0.693 and looks as if it had converged. The hours are lost, not the model.",
        (
            "Chosen and rejected are the same, or become the same by truncation or the chat template.",
            "The labels are random, or swapped in half of the data.",
            "A learning rate that is too small, or steps that bfloat16 weights round away.",
            "An adapter that is not trained, or a reference that is the policy itself.",
        ),
        (
            "Print ten pairs as they are tokenized.",
            "Look at rldk/update/ratio and rldk/grad/norm: weights that do not move learn nothing.",
            "Raise the learning rate tenfold for a short run.",
        ),
        "The mean accuracy over about 50 rows is not two of its standard errors above one half, and the margin does "
        "not rise by a tenth of its size with certainty (Mann and Kendall), from 20 rows and 200 steps after the "
        "learning rate's warm-up on; or the margin is 0 in 20 rows in a row. KTO, which logs no accuracy, is not "
        "judged.",
    ),
    "preference.reference_mismatch": Page(
        "The implicit reward is beta (log pi - log pi_ref). Training begins at its reference, so it begins at 0, and "
        "the sigmoid loss at ln 2. Otherwise the loss pulls towards another model from the first step.",
        (
            "A reference from another checkpoint, as the base model in place of the fine-tuned one.",
            "Log-probabilities of the reference that were computed once, with another template or other data.",
            "Dropout in the policy, or two dtypes or quantizations.",
        ),
        (
            "Leave out ref_model: the trainer then takes the model as it is when training begins.",
            "Recompute the log-probabilities of the reference.",
        ),
        "Beyond 0.2, where bfloat16 leaves some hundredths and a mismatch 0.6 and more; at step 1, or in the first two "
        "means of a log that begins before step 50 where they hardly differ. Trainers without a reference (ORPO, CPO, "
        "SimPO) and resumed runs are not judged.",
    ),
}
