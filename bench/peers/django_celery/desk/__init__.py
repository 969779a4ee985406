"""Reservations in Django and Celery, as their documentation builds such an application: the peer of Belfry's desk."""

from desk.celery import app as celery_app

__all__ = ("celery_app",)
