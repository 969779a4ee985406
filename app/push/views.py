"""The page of the user's devices."""

from __future__ import annotations

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from app.accounts import acting_user, login_required
from app.push import services
from flask_belfry.db import db

pages = Blueprint("devices", __name__, url_prefix="/account/devices")


@pages.get("")
@login_required
def list_() -> ResponseReturnValue:
    """Show the devices that get push messages."""
    page = services.devices_of(acting_user(), cursor=request.args.get("cursor"))
    return render_template("push/devices.html", devices=page.items, next_cursor=page.next_cursor)


@pages.post("/<id:device_id>/remove")
@login_required
def remove(device_id: int) -> ResponseReturnValue:
    """Remove a device."""
    name = services.remove(acting_user(), device_id).name
    db.session.commit()
    flash(f"Device {name} removed." if name else "Device removed.", "success")
    return redirect(url_for("devices.list_"), 303)
