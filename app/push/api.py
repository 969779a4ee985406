"""The API of the user's devices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.accounts import acting_user
from app.api.web import ApiBlueprint, QueryOfPage, page_response, page_schema
from app.push import services
from app.push.models import Device
from app.push.schemas import DeviceSchema, NewDeviceSchema
from flask_belfry.db import commit_and_keep, db

blueprint = ApiBlueprint("devices", __name__, description="Devices for push messages", area="profile")


@blueprint.route("/me/devices")
@blueprint.arguments(QueryOfPage, location="query")
@blueprint.response(200, page_schema(DeviceSchema))
def list_devices(query: dict[str, Any]) -> Mapping[str, Any]:
    """List your devices, newest first"""
    return page_response(services.devices_of(acting_user(), **query))


@blueprint.route("/me/devices", methods=["POST"])
@blueprint.arguments(NewDeviceSchema)
@blueprint.response(201, DeviceSchema)
def register_device(values: dict[str, Any]) -> Device:
    """Register a device for push messages

    An application calls this at each start: a device that has not been registered for 270 days is dropped. A token that
    is registered already is not registered twice; if it belongs to another user, it becomes yours.
    """
    device = services.register(acting_user(), **values)
    commit_and_keep()
    return device


@blueprint.route("/me/devices/<id:device_id>", methods=["DELETE"])
@blueprint.response(204)
def remove_device(device_id: int) -> None:
    """Remove a device; it gets no more push messages"""
    services.remove(acting_user(), device_id)
    db.session.commit()
