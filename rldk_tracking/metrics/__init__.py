"""Tensors and masks in, numbers out: one file for each group of keys."""
