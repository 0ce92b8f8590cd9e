"""Pages of the rules about whether the training still goes on."""

from __future__ import annotations

from rldk_tracking.health.pages.page import Page

PAGES = {
    "run.crashed": Page(
        "A run that died in the night has cost its hours by the morning, and a curve that ends looks like one that is "
        "late. The process that delivers the journal sees that the training's process is gone, and says so.",
        (
            "An exception: the alert quotes its last line, the evidence its last lines.",
            "Killed: out of host memory (dmesg shows the kernel's killer), the scheduler's time limit, a lost node.",
            "A notebook's cell that was interrupted or failed: the process lives, and no thread is in `train` any "
            "more.",
        ),
        (
            "Resume from the last checkpoint with resume_from_checkpoint=True: the alert ends when steps come again.",
            "memory.high and memory.leak, where they fired before.",
        ),
        "No limit: the process is gone (two looks in a row, a second apart) and the journal has no end, or its end "
        "says that an exception ended it. Critical. Its actions stop and save have nobody left to carry them out, nor "
        "have functions; trackers, Slack and webhooks are told.",
    ),
    "run.hung": Page(
        "A collective that one rank never enters, a reward function that waits for an answer, a save to a disk that is "
        "gone: the process lives, the GPUs are paid for, and nothing moves.",
        (
            "One rank did not arrive: the alert names those whose count of events is behind, by rank and host, and "
            "what their process does.",
            "Sampling waits for an inference server, the reward for a service or for an expression that backtracks.",
            "The process was stopped (SIGSTOP), or a debugger waits at a breakpoint.",
            "An evaluation of your own in a callback, the first time that it takes longer than the limit.",
        ),
        (
            "Read the stacks: the innermost frames of the main thread are in the evidence, every thread is in the file "
            "that it names. Where there are none although the process runs, a single native call keeps the "
            "interpreter to itself, such as a regular expression that backtracks.",
            "Look at the rank that did not arrive first: the others only wait for it.",
            "`run.hung: {stacks: false}` keeps the thread that writes the stacks out of your process. It sleeps, and "
            "reads the stacks while it has the interpreter to itself. Python's own timer "
            "(faulthandler.dump_traceback_later) is not used and yours is left alone: it reads the stacks of threads "
            "that run, which ends the process in one of a few hundred readings.",
        ),
        "The largest of 120 s (threshold), 10 times (times) the 99th percentile of the last 512 durations of the phase "
        "in this run, and twice its longest. Phases are sampling, reward, backward, saving, evaluation, the rest of "
        "the step, and between two steps. A phase that no earlier step had, and the start, have 30 minutes (first), as "
        "a first compilation or evaluation takes long; the end has no limit. A warning, since a slow step may still "
        "come back; critical at twice the limit (critical). strict halves the three numbers, quiet doubles them. "
        "Silence is what the watchdog itself saw pass: a clock that is set, and time in which the machine slept, do "
        "not count.",
    ),
}
