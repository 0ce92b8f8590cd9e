"""Readers of trainers: the only place that knows their internals."""
