"""The FastAPI application. ``create_app`` makes it; importing this module opens and starts nothing."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from datetime import timedelta

from fastapi import Depends, FastAPI
from fastapi_offline import FastAPIOffline

from backend import audit, errors, routes
from backend.access.last_use import LastUse
from backend.access.middleware import AccessControl
from backend.access.rate_limiter import RateLimiter
from backend.access.sign_in_limits import SignInLimits
from backend.api import openapi
from backend.api.body_limits import limits
from backend.api.middleware import AccessLog, HostCheck, SecurityHeaders
from backend.api.single_flight import SingleFlight
from backend.api.strict_query import refuse_unknown
from backend.artifacts.run_files import open_store
from backend.artifacts.run_results import RunResults
from backend.db import Database
from backend.experiments.seed_planner import SeedPlanner
from backend.operations.prometheus_metrics import Monitor
from backend.operations.stored_sizes import StoredSizes
from backend.operations.webhooks import Webhooks
from backend.predictions.image_scores import ScoreCache
from backend.predictions.projections import Projector
from backend.queue.nudge import Nudger
from backend.queue.nudge_debouncer import NudgeDebouncer
from backend.queue.reconciler import Reconciler
from backend.settings import Settings
from backend.sign_in.oidc import IdTokens, OidcService
from backend.sign_in.passwords import Passwords
from backend.sign_in.service import SignInService
from core.catalog import load_plugins

DESCRIPTION = """Knowledge-distillation experiments: submit one, watch its runs converge, compare its methods.

Errors are `application/problem+json` (RFC 9457). Lists are read page by page with `cursor`."""


def create_app(settings: Settings | None = None) -> FastAPI:
    """Return the application.

    Args:
        settings: The backend's settings; by default those of the environment. The database must have been migrated.
    """
    settings = settings or Settings()
    load_plugins(settings.plugins)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        stop = asyncio.Event()
        state = app.state
        services = (
            state.reconciler,
            state.nudges,
            state.webhooks,
            state.seed_planner,
            state.last_use,
            state.refusals,
            state.stored_sizes,
        )
        tasks = [asyncio.create_task(service.run_until(stop)) for service in services]
        yield
        app.state.stopping.set()
        stop.set()
        await asyncio.gather(*tasks)
        await app.state.rate_limiter.close()
        await app.state.sign_in_limits.close()
        app.state.nudger.close()
        app.state.database.dispose()

    app = FastAPIOffline(  # its pages load nothing from other servers
        redoc_url=None,
        static_url="/docs/assets",
        title="DKD Lab",
        version="1",
        description=DESCRIPTION,
        openapi_tags=[{"name": tag} for tag in routes.TAGS],
        lifespan=lifespan,
        generate_unique_id_function=openapi.operation_id,
        # Measurements are at /metrics. Looking for OpenTelemetry takes 2 % of the time of a short request.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.settings = settings
    app.state.limits = limits(settings)
    app.state.database = Database(settings.database_url)
    app.state.refusals = audit.Refusals(app.state.database)
    app.state.store = open_store(settings.artifacts)
    app.state.stored_sizes = StoredSizes(app.state.database, app.state.store, settings)
    app.state.results = RunResults(app.state.store)
    app.state.image_scores = ScoreCache(app.state.results)
    app.state.projector = Projector()
    app.state.flights = SingleFlight()
    app.state.nudger = Nudger(settings)
    app.state.reconciler = Reconciler(app.state.database, app.state.nudger, settings)
    app.state.nudges = NudgeDebouncer(app.state.database, app.state.nudger)
    app.state.seed_planner = SeedPlanner(app.state.database, settings, app.state.nudges.request)
    app.state.webhooks = Webhooks(app.state.database, settings)
    app.state.rate_limiter = RateLimiter(settings)
    app.state.last_use = LastUse(app.state.database, idle=timedelta(hours=settings.session_idle_hours))
    app.state.sign_in_limits = SignInLimits(settings)
    app.state.sign_in = SignInService(app.state.database, settings, Passwords(), app.state.sign_in_limits)
    app.state.oidc = OidcService(
        app.state.database, settings, app.state.sign_in_limits, IdTokens(settings) if settings.oidc_issuer else None
    )
    app.state.monitor = Monitor(app.state.database)
    # The server's runner sets it as soon as the server has to stop: streams then end, and the server need not wait.
    app.state.stopping = threading.Event()
    errors.install(app)
    openapi.install(app)
    # The last one added is the outermost.
    app.add_middleware(AccessControl, database=app.state.database, limiter=app.state.rate_limiter)
    app.add_middleware(HostCheck, allowed=settings.allowed_hosts, origins=settings.allowed_origins)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(AccessLog)
    for router in routes.API:
        app.include_router(router, prefix="/api/v1", dependencies=[Depends(refuse_unknown)])
    for router in routes.ROOT:
        app.include_router(router)
    return app
