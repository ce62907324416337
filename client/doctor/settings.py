"""Check for environment variables with the prefix ``DKD_`` that no program reads."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping

from client.doctor.runner import Finding

_PREFIX = "DKD_"
_SIMILARITY = 0.75

# Settings of the backend, workers, trainings, the dashboard, the client, and the compose files; a test checks that the
# list is complete.
KNOWN_SETTINGS = frozenset(
    f"{_PREFIX}{name.upper()}"
    for name in re.findall(
        r"\w+",
        """
    admin_token admin_token_file allowed_hosts allowed_origins api_bind api_port api_token api_token_file api_url
    app_image artifact_folder artifacts artifacts_url audit_days backup_folder body_seconds broker_bind broker_folder
    broker_password broker_port broker_url cache_dir checkpoint_seconds cpu_slots dashboard_allow dashboard_bind
    dashboard_host dashboard_idle_hours dashboard_login dashboard_origin dashboard_password_hash dashboard_port
    dashboard_session_hours dashboard_token dashboard_token_file dashboard_trusted_proxies dashboard_user
    data_folder data_roots
    database_password database_url debug device download gpu_seconds gpus_given grace_seconds group_runs heartbeat_file
    heartbeat_seconds home host hosts idempotency_hours index_url labels lease_seconds linger_seconds log_format
    log_level margin_seconds max_attempts max_body_bytes max_retry_delay_seconds max_token_slots max_upload_bytes
    max_weights_gb minio_client_image minio_image minio_port most_threads mps mps_memory_gb mps_thread_percentage name
    oidc_client_id oidc_create oidc_issuer pack_dir plugins port postgres_image project python_image rank ranks
    ranks_dir ranks_parent rate_of_refused rate_per_address rate_per_token reconcile_seconds redis_image report_seconds
    reserve_after_seconds retry_delay_seconds run_owner run_token runs_per_gpu scratch scratch_url secrets
    send_webhooks session_hours session_idle_hours share_gpus shm_size slots stack_mark stalled_minutes stop_grace
    store_seconds target_url teacher_logits_gb threads torch_backend training_command trusted_proxies uploads
    watchdog_seconds webhook_hosts webhook_secret webhook_url worker_image worker_name worker_token worker_token_file
        """,
    )
)


def check_settings(environment: Mapping[str, str] | None = None) -> Iterator[Finding]:
    """Check that every ``DKD_`` variable of the environment is a setting.

    Args:
        environment: The variables; by default this process's environment.
    """
    variables = os.environ if environment is None else environment
    variable_names = sorted(name for name in variables if name.upper().startswith(_PREFIX))
    unknown = [name for name in variable_names if name.upper() not in KNOWN_SETTINGS]
    for name in unknown:
        close = difflib.get_close_matches(name.upper(), KNOWN_SETTINGS, n=1, cutoff=_SIMILARITY)
        action = f"did you mean {close[0]}?" if close else "unset it, or look its name up in docs/operations.md"
        yield Finding(check="settings", status="warning", message=f"{name} is read by no program", action=action)
    if not unknown:
        names = f": {', '.join(variable_names)}" if variable_names else ""
        yield Finding(check="settings", status="ok", message=f"{len(variable_names)} DKD_ variable(s) set{names}")
