"""Belfry: a transactional job system for Flask. Imports nothing of the application that uses it."""
