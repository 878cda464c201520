"""A trace as it goes to a worker: JSON text, put together from what is stored, not decoded.

``{"info": <TraceInfo.to_dict()>, "spans": [<SqlSpan.content>, ...]}``. The engine never builds the
spans: that is most of the work, and the worker does it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from mlflow.entities import TraceInfo
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.utils.mlflow_tags import MLFLOW_ARTIFACT_LOCATION
from mlflow.utils.uri import append_to_uri_path

from vedette.traces.index import TraceIndex
from vedette.traces.infos import trace_infos
from vedette.traces.matching import Contents


class TracePayloads:
    """Reads traces for workers."""

    def __init__(self, index: TraceIndex, contents: Contents) -> None:
        self._index = index
        self._contents = contents

    def of(self, traces: Mapping[int, str], locations: Mapping[str, str]) -> dict[int, bytes]:
        """The payloads of these traces, but those that have been deleted.

        Args:
            traces: trace id by row of ``traces``.
            locations: where an experiment's artifacts are, by experiment id.

        Raises:
            LakeUnavailable: the lake, which alone has some of the spans, can't be read.
        """
        contents = self._contents.of(list(traces))
        infos = {
            info.trace_id: info for info in trace_infos(self._index.connection(), list(traces))
        }
        found: dict[int, bytes] = {}
        for row, trace_id in traces.items():
            if info := infos.get(trace_id):
                _locate_artifacts(info, locations)
                found[row] = payload(info, contents.get(row, ()))
        return found


def payload(info: TraceInfo, contents: Sequence[str]) -> bytes:
    """One trace for a worker, from its info and its spans' contents."""
    return f'{{"info":{json.dumps(info.to_dict())},"spans":[{",".join(contents)}]}}'.encode()


def _locate_artifacts(info: TraceInfo, locations: Mapping[str, str]) -> None:
    """The tag that the server adds to every trace it gives out: a scorer may look at tags."""
    root = locations.get(str(info.experiment_id))
    if root is not None:
        info.tags[MLFLOW_ARTIFACT_LOCATION] = append_to_uri_path(
            root, SqlAlchemyStore.TRACE_FOLDER_NAME, info.trace_id, "artifacts"
        )
