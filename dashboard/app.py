"""The dashboard's entry point: ``streamlit run dashboard/app.py``."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import streamlit as st
from starlette.middleware import Middleware
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from dashboard.server.asset_middleware import AssetMiddleware
from dashboard.server.banner import hide_server_name
from dashboard.server.gate import Gate

# Importing these modules takes a second, for which the first visitor would otherwise wait.
_PRELOADED_MODULES = ("plotly.graph_objects", "plotly.io", "dashboard.views.run", "dashboard.views.compare")


@asynccontextmanager
async def _lifespan(_: st.App) -> AsyncIterator[dict[str, Any]]:
    preloading = asyncio.create_task(_preload())
    yield {}
    await preloading


async def _preload() -> None:
    await asyncio.gather(*(asyncio.to_thread(import_module, name) for name in _PRELOADED_MODULES))
    # Streamlit collects garbage after each run of a script. Scanning all imported modules would block the server for a
    # tenth of a second each time, so the objects that exist now are excluded from later collections.
    gc.collect()
    gc.freeze()


def _proxies() -> list[Middleware]:
    """Return what reads the address and the scheme of a browser from the headers of proxies that are trusted."""
    trusted = os.environ.get("DKD_DASHBOARD_TRUSTED_PROXIES", "").replace(",", " ").split()
    return [Middleware(ProxyHeadersMiddleware, trusted_hosts=trusted)] if trusted else []


hide_server_name()
app = st.App(
    Path(__file__).with_name("script.py"),
    lifespan=_lifespan,
    middleware=[*_proxies(), Middleware(Gate), Middleware(AssetMiddleware)],
)
