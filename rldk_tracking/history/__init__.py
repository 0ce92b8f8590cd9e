"""Past runs: what they left behind, read, judged by the same rules, and written back."""
