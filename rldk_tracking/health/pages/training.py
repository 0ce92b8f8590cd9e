"""Pages of the rules about critic, gradients, updates and learning rate."""

from __future__ import annotations

from rldk_tracking.health.pages.page import Page

PAGES = {
    "value.explained_variance": Page(
        "A critic that is worse than a constant adds noise to every advantage: plain policy gradients would do better.",
        (
            "The critic was never trained on this reward's scale, or its learning rate is too low.",
            "Returns that change faster than it learns: normalise them.",
            "It shares layers with a policy that moves too fast.",
        ),
        (
            "Start it from the reward model, give it a higher learning rate or more warm-up steps.",
            "Raise vf_coef; widen or switch off cliprange_value.",
        ),
        "0 is a constant by definition. Smoothed over ten rows, after 30, and not while it is on its way up.",
    ),
    "value.loss": Page(
        "A value loss that grows by several times means that the critic lost track of the returns, or diverges.",
        ("Rewards changed their scale.", "The critic's learning rate is too high."),
        ("Clip or normalise rewards.", "Lower the critic's learning rate; clip its updates."),
        "10 robust standard deviations and 5 times the median, in three of four rows.",
    ),
    "grad.explosion": Page(
        "Clipping bounds the length of such a step, not its direction, and Adam's second moment remembers it for "
        "hundreds of steps.",
        (
            "One batch with an outlier: a reward, a ratio, a sequence that is degenerate.",
            "The KL term where the policy is far away.",
            "A learning rate at the edge of stability, if it repeats.",
        ),
        ("Look at rewards and ratios of this batch.", "Lower the learning rate if it repeats; max_grad_norm 0.1 to 1."),
        "10 times the median, 10 above it, and value times multiple above 1,500: the larger the norm, the smaller the "
        "multiple that counts. Within published healthy runs the largest is 11.5 times the median in 95 %; one learned "
        "well with a single 48 at a median of 2.2. Gradients of exactly 0 do not count for the median.",
    ),
    "grad.vanishing": Page(
        "The loss no longer depends on the weights: the run is over without saying so.",
        ("Entropy is 0: the softmax is saturated.", "All groups are tied.", "Every token is clipped."),
        ("See which of reward.no_signal, entropy.collapse, policy.clip_fraction fires: it is the cause.",),
        "A thousandth of the start. Exact zeros are left out: those are tied groups, or update.none.",
    ),
    "grad.flow": Page(
        "A layer without gradient is not trained, whatever the optimizer says.",
        (
            "A detach, or a torch.no_grad, in a custom forward.",
            "An adapter or head that is not in the graph of this loss.",
            "Experts of a mixture that no token reached: then it comes and goes.",
        ),
        ("The run's table of layers names it.", "Check requires_grad and the loss's inputs."),
        "One layer, in five of six rows.",
    ),
    "update.none": Page(
        "Nothing is learned although everything runs.",
        (
            "The loss does not reach the weights; parameters are frozen or not in the optimizer.",
            "bf16 weights that round every update away.",
            "The advantage is 0 everywhere (then reward.no_signal says so in its place).",
        ),
        ("Compare one weight before and after a step.", "Keep master weights in fp32, or raise the learning rate."),
        "The change of all weights together, or the gradient norm, is exactly 0 in eight rows in a row, and ties do "
        "not explain it. Layers that stand still beside others are update.frozen.",
    ),
    "update.frozen": Page(
        "Part of the model does not learn.",
        (
            "Parameters that are meant to train are not: requires_grad, PEFT target modules.",
            "Updates below the resolution of bf16 weights (relative 4e-3).",
        ),
        ("The run's table of layers names them.", "Freeze them openly if it is meant: frozen parameters do not count."),
        "One layer of the optimizer that did not move at all, in eight of ten rows.",
    ),
    "update.too_large": Page(
        "A step that moves weights by percents of their norm leaves the region in which the gradient means anything.",
        ("A jump of the learning rate.", "The first steps after a resume without the optimizer's state."),
        ("Lower the learning rate, lengthen the warm-up.", "Save and load the optimizer state."),
        "10 times the run's own median, 12 robust standard deviations, and 0.003 more: about 1e-3 is usual for Adam. "
        "Steps that moved nothing do not count for the median.",
    ),
    "lr.spike": Page(
        "The learning rate rose, and loss, KL or gradients answered. What follows (collapse, drift, length) is its "
        "consequence and is held back: one cause, one alert.",
        ("A schedule with restarts.", "A resume that began the warm-up anew, or with another base rate."),
        ("Go back to the checkpoint before, and raise the rate over more steps.",),
        "A rise to three times within one row beyond the warm-up, and an answer within 20 rows that leaves its own "
        "baseline by 6 robust standard deviations and by once its median.",
    ),
    "lr.zero": Page(
        "The schedule has ended and the training has not: everything from here on is spent for nothing.",
        ("max_steps or the number of epochs of the scheduler is below that of the training.", "A resume past its end."),
        ("Set num_training_steps of the scheduler, or stop.",),
        "Exactly 0 in four rows in a row, after it was above 0. A log that prints 1e-6 as 0.000 from the start is not "
        "judged.",
    ),
}
