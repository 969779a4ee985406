"""The API, with Django REST framework's generic view."""

from __future__ import annotations

from typing import Any

from django.db import transaction
from rest_framework import generics, serializers

from desk.models import TRANSITIONS, Reservation, Status


class ReservationSerializer(serializers.ModelSerializer):
    """What a client sees of a reservation, and may change."""

    class Meta:
        model = Reservation
        fields = [
            "id",
            "customer_id",
            "resource_id",
            "start_time",
            "end_time",
            "duration_minutes",
            "party_size",
            "note",
            "status",
            "created_at",
            "updated_at",
        ]
        read_only_fields = ["id", "customer_id", "end_time", "created_at", "updated_at"]

    def validate_status(self, status: str) -> str:
        """Refuses what the table of transitions does not have."""
        if self.instance is not None and status not in TRANSITIONS[Status(self.instance.status)]:
            raise serializers.ValidationError(f"{self.instance.status} does not become {status}")
        return status


class ReservationView(generics.RetrieveUpdateAPIView):
    """One reservation."""

    serializer_class = ReservationSerializer
    queryset = Reservation.objects.all()

    @transaction.atomic
    def update(self, *args: Any, **kwargs: Any) -> Any:
        """Reads, checks and writes in one transaction, with the row locked: as Belfry does."""
        return super().update(*args, **kwargs)

    def get_queryset(self) -> Any:
        """Locked for a change."""
        rows = super().get_queryset()
        return rows if self.request.method == "GET" else rows.select_for_update()
