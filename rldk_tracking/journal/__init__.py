"""The append-only file that a run is, and what reads it while and after it is written."""
