"""Adapters to backends: the only place, with charts, that knows them."""
