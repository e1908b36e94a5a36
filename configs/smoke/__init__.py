"""Configs that train in seconds, for tests."""
