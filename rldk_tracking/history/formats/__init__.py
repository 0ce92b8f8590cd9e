"""Formats of log files, one reader a family; `rldk_tracking.history.files` chooses by content."""
