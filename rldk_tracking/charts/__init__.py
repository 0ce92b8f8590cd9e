"""What to look at, as data, and its builders for each backend."""
