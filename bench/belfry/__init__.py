"""Belfry as a contestant: its root with a job that does nothing, and the steps that a case asks of it."""
