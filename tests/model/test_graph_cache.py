"""An exported graph is kept, and never believed when it is damaged."""

from pathlib import Path

import pytest

from crackvae.model.artifact import load_model
from crackvae.model.runtime import graph_cache, onnx


def test_a_graph_is_exported_once(model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(graph_cache.VARIABLE, str(tmp_path / "cache"))
    model = load_model(str(model_dir))
    exported = graph_cache.graph_of(model, 4)
    (kept,) = (tmp_path / "cache").iterdir()
    monkeypatch.setattr(onnx, "network_graph", lambda *_: b"exported again")
    assert graph_cache.graph_of(model, 4) == exported
    assert graph_cache.graph_of(model, 5) == b"exported again"
    kept.write_bytes(kept.read_bytes()[:-1])
    assert graph_cache.graph_of(model, 4) == b"exported again"


def test_a_folder_that_cannot_be_written_to_only_costs_time(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(graph_cache.VARIABLE, str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(onnx, "network_graph", lambda *_: b"graph")
    assert graph_cache.graph_of(load_model(str(model_dir)), 4) == b"graph"


def test_only_the_latest_graphs_are_kept(model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(graph_cache.VARIABLE, str(tmp_path))
    monkeypatch.setattr(onnx, "network_graph", lambda *_: b"graph")
    model = load_model(str(model_dir))
    for batch in range(1, graph_cache.MAX_KEPT + 4):
        graph_cache.graph_of(model, batch)
    assert len(list(tmp_path.iterdir())) == graph_cache.MAX_KEPT
