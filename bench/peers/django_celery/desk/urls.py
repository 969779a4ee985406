"""The API, under the same addresses as Belfry's."""

from __future__ import annotations

from django.urls import path

from desk.api import ReservationView

urlpatterns = [path("api/v1/reservations/<int:pk>", ReservationView.as_view())]
