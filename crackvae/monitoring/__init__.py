"""Histograms, drift detection and telemetry of scoring runs."""
