"""Series of saved weights."""

from __future__ import annotations

from rldk_tracking.keys.key import EXTREMES, GIB, NORM_QUANTILES, SCORE, Key

KEYS = (
    Key("rldk/checkpoint/score", SCORE, "Health of the last checkpoint.", "its lowest part", "checkpoint", "higher"),
    *(
        Key(
            f"rldk/checkpoint/part/{part}",
            SCORE,
            meaning,
            "see rldk_tracking/checkpoint/score.py",
            "checkpoint",
            "higher",
        )
        for part, meaning in (
            ("intact", "1 where every file can be read."),
            ("complete", "1 where nothing is missing."),
            ("finite", "1 where every tensor holds numbers only."),
            ("similar", "Whether the weights point where the previous checkpoint's do."),
            ("balanced", "Whether the layers have kept their norms since the previous checkpoint."),
        )
    ),
    Key("rldk/checkpoint/corrupt", "files", "Files that cannot be read whole.", "count", "checkpoint", "lower", "max"),
    Key(
        "rldk/checkpoint/incomplete",
        "problems",
        "What the checkpoint lacks: shards, tensors, the state that a resume needs.",
        "count",
        "checkpoint",
        "lower",
        "max",
    ),
    Key(
        "rldk/checkpoint/nonfinite",
        "tensors",
        "Saved tensors that hold a NaN or an infinity.",
        "count",
        "checkpoint",
        "lower",
        "max",
    ),
    Key(
        "rldk/checkpoint/unchanged",
        "1",
        "1 where nothing differs from the previous checkpoint.",
        "all elements compared, as they are stored",
        "checkpoint",
        "lower",
    ),
    Key(
        "rldk/checkpoint/still_layers",
        "layers",
        "Layers that are as they were in the previous checkpoint while others have moved; frozen ones too.",
        "count",
        "checkpoint",
        "none",
        "max",
    ),
    Key(
        "rldk/checkpoint/changed_tensors",
        "tensors",
        "Tensors whose shape or type is another than in the previous checkpoint.",
        "count",
        "checkpoint",
        "lower",
        "max",
    ),
    Key(
        "rldk/checkpoint/drift",
        "1",
        "How far the weights have moved since the first checkpoint. With LoRA these are the effective weights, and "
        "like all distances it is absent where the base model is not known or an element is not finite.",
        "|W - W_first| / |W_first|; LoRA: W = W_base + scale B A of the adapted modules",
        "checkpoint",
    ),
    Key(
        "rldk/checkpoint/drift_previous",
        "1",
        "How far the weights have moved since the previous checkpoint; 0 where nothing was learnt.",
        "|W - W_previous| / |W_previous|, W as for drift",
        "checkpoint",
    ),
    Key(
        "rldk/checkpoint/drift_reference",
        "1",
        "How far the weights are from the reference model's.",
        "|W - W_reference| / |W_reference|, W as for drift",
        "checkpoint",
    ),
    Key(
        "rldk/checkpoint/cosine_previous",
        "1",
        "Near 1 the weights point where they pointed before.",
        "cosine of all weights with the previous checkpoint's, W as for drift",
        "checkpoint",
        "higher",
    ),
    *(
        Key(
            f"rldk/checkpoint/layer_drift/{stat}",
            "1",
            "How far a layer has moved since the previous checkpoint.",
            f"{name} over layers without NaN, W as for drift",
            "checkpoint",
        )
        for stat, name in NORM_QUANTILES
    ),
    *(
        Key(
            f"rldk/checkpoint/layer_norm_ratio_{stat}",
            "1",
            "How much a layer has grown since the previous checkpoint.",
            f"{name} over layers without NaN of |W| / |W_previous|, W as for drift",
            "checkpoint",
        )
        for stat, name in EXTREMES
    ),
    *(
        Key(
            f"rldk/checkpoint/stable_rank/{stat}",
            "1",
            'How many directions a weight matrix spreads over. Only at the level "full".',
            f"{name} over matrices without NaN, as they are stored, of |W|_F^2 / |W|_2^2",
            "checkpoint",
        )
        for stat, name in NORM_QUANTILES
    ),
    Key(
        "rldk/checkpoint/norm",
        "1",
        "Size of the saved tensors, of a LoRA adapter its two matrices; absent where one holds NaN or an infinity.",
        "Euclidean norm",
        "checkpoint",
    ),
    Key("rldk/checkpoint/zero_fraction", "1", "Share of the saved weights that are 0.", "share", "checkpoint"),
    Key("rldk/checkpoint/scan_seconds", "s", "Time that reading took.", "wall time", "checkpoint", "lower", "max"),
    Key("rldk/checkpoint/size_gib", GIB, "Size on disk.", "sum over files", "checkpoint", "none", "max"),
    Key(
        "rldk/checkpoint/adapter_norm",
        "1",
        "Size of what a LoRA adapter adds to the weights.",
        "|scale B A|_F over all adapted modules",
        "checkpoint",
    ),
    Key(
        "rldk/checkpoint/adapter_ratio",
        "1",
        "The same against the weights that it is added to, where the base model was loaded from this disk.",
        "|scale B A|_F / |W|_F",
        "checkpoint",
    ),
    Key(
        "rldk/checkpoint/step",
        "steps",
        "Which checkpoint these numbers are of.",
        "its step",
        "checkpoint",
        "none",
        "max",
    ),
    Key(
        "rldk/checkpoint/scanned",
        "1",
        "1 where this checkpoint was looked at, 0 where it was not: deleted too soon, without weights, or not in time.",
        "0 or 1",
        "checkpoint",
        "higher",
        "min",
    ),
    Key(
        "rldk/checkpoint/room_for_saves",
        "checkpoints",
        "How many further checkpoints of this size the disk has room for.",
        "free space / size",
        "checkpoint",
        "higher",
        "min",
    ),
    Key(
        "rldk/checkpoint/disk_short",
        "1",
        "1 where the disk has no room for the checkpoints that are to come.",
        "room_for_saves < saves to come (3 where that is not known)",
        "checkpoint",
        "lower",
        "max",
    ),
)
