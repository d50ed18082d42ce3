"""Whether a cluster has an autoscaler, which may bring nodes of other kinds than those there are now."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

_STATUS = b"__autoscaling_status"  # where the first autoscaler (cluster launchers) reports
_UNMANAGED = "node_"  # how Ray names the kind of a node that no autoscaler started, before its id


def autoscales() -> bool:
    """Whether the joined cluster's nodes are of kinds that an autoscaler knows; False if Ray does not say."""
    with contextlib.suppress(Exception):  # what Ray tells of its autoscalers is no fixed interface
        return any(kind and not kind.startswith(_UNMANAGED) for kind in _kinds())
    return False


def _kinds() -> Iterator[str]:
    import ray
    from ray.autoscaler.v2.sdk import get_cluster_status
    from ray.experimental.internal_kv import _internal_kv_get

    report = json.loads(_internal_kv_get(_STATUS) or b"{}").get("autoscaler_report") or {}
    yield from {**(report.get("active_nodes") or {}), **(report.get("idle_nodes") or {})}
    yield from report.get("pending_launches") or {}
    status = get_cluster_status(ray.get_runtime_context().gcs_address)
    for node in (*status.active_nodes, *status.idle_nodes):
        yield node.ray_node_type_name
