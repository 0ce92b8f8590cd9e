"""Trainer callbacks that say when to look."""
