"""``client.layouts`` stores, reads and deletes layouts of Compare's board."""

from __future__ import annotations

from client.connection import API, build_body, path_segment
from client.resources.base import Resource
from core.protocol.layouts import BoardLayout, LayoutList, LayoutRequest, NamedLayout

_PATH = f"{API}/layouts"


class Layouts(Resource):
    """Calls on layouts of Compare's board."""

    def list(self) -> LayoutList:
        """Return the stored layouts by name, without their contents."""
        return self._connection.send("GET", _PATH, LayoutList, idempotent=True)

    def get(self, name: str) -> NamedLayout:
        """Return a stored layout."""
        return self._connection.send("GET", f"{_PATH}/{path_segment(name)}", NamedLayout, idempotent=True)

    def save(self, name: str, layout: BoardLayout, *, replace: bool = False, project: str | None = None) -> NamedLayout:
        """Store a layout. The request is not repeated.

        Args:
            name: Its name.
            layout: The layout.
            replace: Whether a stored layout of this name is replaced; otherwise the backend refuses it with 409.
            project: Name of the project of a new layout; by default as for experiments.

        Raises:
            SpecError: The name has an invalid value.
        """
        # Copied field by field: what was read from a backend may have fields that a request does not.
        content = BoardLayout.model_validate(layout.model_dump())
        body = build_body(LayoutRequest, name=name, layout=content, replace=replace)
        return self._connection.send("POST", _PATH, NamedLayout, body=body, query={"project": project})

    def delete(self, name: str) -> None:
        """Delete a stored layout."""
        self._connection.send_empty("DELETE", f"{_PATH}/{path_segment(name)}")
