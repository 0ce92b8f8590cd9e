"""Detectors, rules and alerts."""
