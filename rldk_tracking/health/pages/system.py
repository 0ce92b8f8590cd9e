"""Pages of the rules about memory, speed, checkpoints, trackers and the run as a whole."""

from __future__ import annotations

from rldk_tracking.health.pages.page import Page

PAGES = {
    "memory.high": Page(
        "The next long batch ends the run with an out-of-memory error, of the GPU or of the machine.",
        ("Completions got longer.", "The allocator is fragmented: reserved is far above used."),
        (
            "Smaller micro-batches with more accumulation; gradient checkpointing.",
            "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True against fragmentation.",
        ),
        "95 % of the GPU's or of the machine's memory cannot be had in five of six rows, whoever holds it: what torch "
        "reserves and could reuse counts as free, and a container's own limit (cgroup) as the machine's memory.",
    ),
    "memory.leak": Page(
        "The process grows until the machine kills it, hours later and without a trace.",
        ("Tensors kept across steps: a loss appended without .item().", "Stored completions; a cache without a limit."),
        ("tracemalloc between two steps names the line.", "Detach and convert what you keep."),
        "The lowest value of each block of ten rows rises eight times in a row, by 15 % and 0.25 GiB in all: caches "
        "that fill and empty do not do that.",
    ),
    "throughput.drop": Page(
        "The same work takes three times as long: money, and often the first sign of a failing node.",
        ("A slow rank, a throttled GPU, another job.", "Swapping.", "An inference engine that preempts."),
        ("Compare step times over ranks.", "nvidia-smi -q -d PERFORMANCE shows throttling."),
        "A CUSUM on log tokens per second, against the run's own past and its autocorrelation; a third of the usual "
        "for ten minutes and 15 rows, after ten minutes at the usual, and samples per second fell too, since longer "
        "completions are no fault. Ten minutes, because a shorter one costs less than looking for it.",
    ),
    "checkpoint.corrupt": Page(
        "A checkpoint that cannot be read is not there when it is needed.",
        ("The disk was full.", "The process died while saving.", "A copy that was cut."),
        ("Save again, and check the disk.", "Keep an older one (save_total_limit) until this one is read back."),
        "One file is too many.",
    ),
    "checkpoint.nonfinite": Page(
        "A NaN in a checkpoint makes it worthless, and every resume from it.",
        ("The weights were NaN when it was saved (see nan.weights).",),
        ("Resume from an earlier one: the run's table says which are finite.",),
        "One tensor is too many.",
    ),
    "checkpoint.unchanged": Page(
        "What is saved is not what is trained.",
        ("The base model is saved in place of the adapter.", "The learning rate is 0, or updates round away."),
        ("Check which object save_pretrained is called on.", "See update.none and lr.zero."),
        "Every element equal to the checkpoint before, NaN where that has NaN.",
    ),
    "checkpoint.drift": Page(
        "Weights half their norm away from the first checkpoint belong to another model or to a run that diverged.",
        ("The wrong model was saved or compared.", "A learning rate that is too high.", "One layer ran away."),
        ("`rldk-tracking checkpoint DIR --against DIR` names the layers.",),
        "0.5 of the norm: fine-tuning moves weights by 1e-3 to 1e-1, unrelated models are 1.4 apart. Or one layer at "
        "ten times its norm. Of a LoRA adapter these are the effective weights, W + scale * B A.",
    ),
    "checkpoint.incomplete": Page(
        "A resume from it begins the optimizer anew: the loss jumps, and nobody knows why.",
        ("save_only_model is on.", "A shard, an index entry or the rng state is missing."),
        ("Save with optimizer and scheduler.", "Look at what the scan lists as missing."),
        "One file or tensor that should be there.",
    ),
    "checkpoint.disk": Page(
        "A save that finds the disk full ends the training, and the checkpoint that it was writing is broken.",
        ("Every checkpoint is kept (no save_total_limit).", "Others write to the same disk."),
        (
            "Delete old checkpoints: `rldk-tracking checkpoint DIR` says which are whole and without NaN.",
            "save_total_limit=2, larger save_steps, or save_only_model where no exact resume is needed.",
        ),
        "Free space / size of a checkpoint below the saves to come up to max_steps; one where save_total_limit makes "
        "room for each, three where the end is not known.",
    ),
    "tracker.down": Page(
        "The page shows an old state. Nothing is lost: rows are kept in the local journal.",
        ("The server or the network is down.", "The token has expired.", "The disk of the store is full."),
        ("`rldk-tracking doctor` tries the connection.", "`rldk-tracking sync` sends what was kept."),
        "Three rows in a row in which a tracker does not take our writes.",
    ),
    "health.unstable": Page(
        "Spikes in most rows: each may pass, together they say that the settings are at the edge.",
        ("A learning rate that is too high.", "Batches that are too small.", "Rewards with heavy tails."),
        ("Halve the learning rate.", "Larger batches, clipped rewards, max_grad_norm."),
        "Less than half free of spikes in ten of twelve rows: most of the recent rows had a NaN, a spike of KL or "
        "gradient, a jump of value loss or update, or an explosion of entropy.",
    ),
}
