"""Streaming statistics: constant time and memory a value, state in and out as plain data."""
