"""Saved weights: read them within bounded memory, measure them, and say whether they are any good."""
